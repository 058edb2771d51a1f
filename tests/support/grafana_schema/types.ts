// What a dashboard's file must be, by Grafana's own types.
//
// Each kind of panel has the options and the field settings of its own plugin, where the type of a
// whole dashboard would take anything. A literal that is checked against these may have no field
// that they do not name.
import type {
  AnnotationQuery,
  Dashboard,
  DataQuery,
  FieldConfigSource,
  Panel,
  RowPanel,
} from '@grafana/schema';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON has words where the types have enumerations.
type Plain<T> = T extends string
  ? `${T}`
  : T extends object
    ? { [K in keyof T]: Plain<T[K]> }
    : T;

// A query of the Prometheus data source: its own type is not in this package.
interface PrometheusQuery extends DataQuery {
  expr: string;
  editorMode: 'code';
  format?: 'table' | 'heatmap';
  instant?: boolean;
  range?: boolean;
  legendFormat: string;
}

type PanelOf<Type, Options, Custom> = Plain<
  Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
    type: Type;
    options: Options;
    fieldConfig: Omit<FieldConfigSource, 'defaults'> & {
      defaults: Omit<FieldConfigSource['defaults'], 'custom'> & { custom?: Custom };
    };
    targets: PrometheusQuery[];
  }
>;

export interface Panels {
  heatmap: PanelOf<'heatmap', heatmap.Options, heatmap.FieldConfig>;
  stat: PanelOf<'stat', stat.Options, never>;
  'state-timeline': PanelOf<'state-timeline', timeline.Options, timeline.FieldConfig>;
  table: PanelOf<'table', table.Options, table.FieldConfig>;
  timeseries: PanelOf<'timeseries', timeseries.Options, timeseries.FieldConfig>;
}

export type Row = Plain<Omit<RowPanel, 'panels'>> & { panels: never[] };

// The Prometheus data source keeps settings of its own beside those of every annotation.
interface PrometheusAnnotation extends AnnotationQuery<DataQuery & { expr: string; interval: string }> {
  expr: string;
  step: string;
  textFormat: string;
  titleFormat: string;
  useValueForTime: boolean;
}

export type Whole = Plain<
  Omit<Dashboard, 'annotations' | 'panels'> & { annotations: { list: PrometheusAnnotation[] } }
>;
