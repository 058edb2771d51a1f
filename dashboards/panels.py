"""The five kinds of panel that the dashboards use, each with what every panel must have.

A panel says what it shows and what to do about it (`description`), in which unit, from which value
on it is bad, and how its series are called. Where an alert stands on its figure, `alert` names it,
and the panel links to its section of the runbook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import heatmap as heatmap_builders
from grafana_foundation_sdk.builders import prometheus as prometheus_builders
from grafana_foundation_sdk.builders import stat as stat_builders
from grafana_foundation_sdk.builders import statetimeline as timeline_builders
from grafana_foundation_sdk.builders import table as table_builders
from grafana_foundation_sdk.builders import timeseries as timeseries_builders
from grafana_foundation_sdk.models import common, dashboard, heatmap, prometheus
from grafana_foundation_sdk.models import table as table_model
from grafana_foundation_sdk.models.dashboard import Panel

from dashboards.bounds import LEVELS, NEUTRAL, Bounds
from dashboards.queries import Query

__all__ = [
    "DATASOURCE",
    "LEVEL_WORDS",
    "YES_NO",
    "Panel",
    "distribution",
    "graph",
    "number",
    "states",
    "table",
    "words",
]

DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
"""The Prometheus that the dashboard's variable names."""

Words = Mapping[float, tuple[str, str]]
"""Value to its word and its colour."""

LEVEL_WORDS: Words = {0: ("ok", "green"), 1: ("warning", "orange"), 2: ("alarm", "red")}
YES_NO: Words = {0: ("no", "red"), 1: ("yes", "green")}

_MISSING = "no data"


def number(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    bounds: Bounds,
    mapping: Words | None = None,
    decimals: int | None = None,
    missing: str = _MISSING,
    alert: str = "",
    width: int = 6,
    height: int = 4,
    trend: bool = True,
    solid: bool = False,
) -> Panel:
    """One large value; `solid` colours the panel, for what must be seen from across a room."""
    color = common.BigValueColorMode
    graph_mode = common.BigValueGraphMode
    panel = (
        stat_builders.Panel()
        .color_mode(color.BACKGROUND if solid else color.VALUE)
        .graph_mode(graph_mode.AREA if trend else graph_mode.NONE)
        .text_mode(common.BigValueTextMode.VALUE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value(missing)
    )
    if mapping is not None:
        panel.mappings(_mappings(mapping))
    if decimals is not None:
        panel.decimals(decimals)
    return _finished(panel, title, description, [query], unit, bounds, alert, width, height)


def words(
    title: str,
    description: str,
    query: Query,
    *,
    missing: str,
    bounds: Bounds = NEUTRAL,
    alert: str = "",
    width: int = 6,
    height: int = 4,
) -> Panel:
    """The names of the series that the query gives: a state, a version, an answer."""
    panel = (
        stat_builders.Panel()
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
        .text_mode(common.BigValueTextMode.NAME)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value(missing)
    )
    return _finished(panel, title, description, [query], "short", bounds, alert, width, height)


def graph(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str,
    bounds: Bounds = NEUTRAL,
    stacked: bool = False,
    logarithmic: bool = False,
    least: float | None = 0.0,
    most: float | None = None,
    alert: str = "",
    width: int = 8,
    height: int = 8,
) -> Panel:
    """Series over time, with the bounds as dashed lines where there are any."""
    panel = (
        timeseries_builders.Panel()
        .line_width(2)
        .fill_opacity(25 if stacked else 5)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common_builders.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
        .no_value(_MISSING)
    )
    if bounds.steps:
        style = common_builders.GraphThresholdsStyleConfig()
        panel.thresholds_style(style.mode(common.GraphThresholdsStyleMode.DASHED))
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if logarithmic:
        panel.scale_distribution(
            common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        )
    elif least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    return _finished(panel, title, description, queries, unit, bounds, alert, width, height)


def states(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    mapping: Words = LEVEL_WORDS,
    bounds: Bounds = LEVELS,
    alert: str = "",
    width: int = 12,
    height: int = 8,
) -> Panel:
    """One line a series, coloured by its state over time."""
    panel = (
        timeline_builders.Panel()
        .show_value(common.VisibilityMode.NEVER)
        .merge_values(True)
        .row_height(0.8)
        .mappings(_mappings(mapping))
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.SINGLE))
        .no_value(_MISSING)
    )
    return _finished(panel, title, description, queries, "short", bounds, alert, width, height)


def table(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    columns: Mapping[str, str],
    unit: str = "short",
    bounds: Bounds = NEUTRAL,
    units: Mapping[str, str] | None = None,
    mappings: Mapping[str, Words] | None = None,
    links: Mapping[str, tuple[str, str]] | None = None,
    missing: str = _MISSING,
    alert: str = "",
    width: int = 12,
    height: int = 8,
) -> Panel:
    """The newest values, a row for each set of labels.

    Parameters
    ----------
    columns
        Field to the column's head, in order: a label, or `Value` (`Value #A` where several
        queries are joined on their labels). Others are not shown.
    units, mappings, links
        Of single columns, by their head: unit, words for values, and title and address of a link.
    """
    panel = (
        table_builders.Panel()
        .show_header(True)
        .cell_height(common.TableCellHeight.SM)
        .cell_options(common.TableAutoCellOptions())
        .no_value(missing)
    )
    options = panel.build().options
    if isinstance(options, table_model.Options):
        # A default of the SDK's that Grafana has given up.
        options.footer = None
    if len(queries) > 1:
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    order = {field: place for place, field in enumerate(columns)}
    shown = "|".join(columns)
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="filterFieldsByName", options={"include": {"pattern": f"^({shown})$"}}
        )
    )
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {}, "indexByName": order, "renameByName": dict(columns)},
        )
    )
    for head in columns.values():
        properties = []
        if head in (units or {}):
            properties.append(_property("unit", (units or {})[head]))
        if head in (mappings or {}):
            properties.append(_property("mappings", _mappings((mappings or {})[head])))
            properties.append(_property("custom.cellOptions", {"type": "color-text"}))
        if head in (links or {}):
            name, address = (links or {})[head]
            properties.append(_property("links", [{"title": name, "url": address}]))
        if properties:
            panel.override_by_name(head, properties)
    return _finished(
        panel,
        title,
        description,
        queries,
        unit,
        bounds,
        alert,
        width,
        height,
        form=prometheus.PromQueryFormat.TABLE,
    )


def distribution(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    alert: str = "",
    width: int = 12,
    height: int = 8,
) -> Panel:
    """Buckets of a histogram over time, darker where more events fall."""
    panel = (
        heatmap_builders.Panel()
        .calculate(False)
        .cell_gap(1)
        .color(
            heatmap_builders.HeatmapColorOptions()
            .mode(heatmap.HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .fill("dark-blue")
            .exponent(0.5)
            .steps(64)
            .reverse(False)
        )
        .y_axis(heatmap_builders.YAxisConfig().unit(unit).reverse(False))
        .show_value(common.VisibilityMode.NEVER)
        .tooltip(heatmap_builders.HeatmapTooltip().mode(common.TooltipDisplayMode.SINGLE))
        .exemplars_color("rgba(255,0,255,0.7)")
        .show_legend()
        .no_value(_MISSING)
    )
    return _finished(
        panel,
        title,
        description,
        [query],
        unit,
        NEUTRAL,
        alert,
        width,
        height,
        form=prometheus.PromQueryFormat.HEATMAP,
    )


def _finished(
    panel: Any,
    title: str,
    description: str,
    queries: Sequence[Query],
    unit: str,
    bounds: Bounds,
    alert: str,
    width: int,
    height: int,
    *,
    form: prometheus.PromQueryFormat | None = None,
) -> Panel:
    panel.title(title).description(description).datasource(DATASOURCE).unit(unit)
    panel.thresholds(_thresholds(bounds)).span(width).height(height)
    if bounds.steps:
        color = builders.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC)
        if panel.build().type_val in ("stat", "state-timeline", "table"):
            color = builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS)
        panel.color_scheme(color)
    if alert:
        panel.links(
            [
                builders.DashboardLink(f"Runbook: {alert}")
                .type(dashboard.DashboardLinkType.LINK)
                .url(f"${{runbook}}#{alert.lower()}")
                .target_blank(True)
            ]
        )
    for place, query in enumerate(queries):
        target = (
            prometheus_builders.Dataquery()
            .expr(query.expression)
            .legend_format(query.legend)
            .ref_id("ABCDEFGHIJKLMNOP"[place])
            .datasource(DATASOURCE)
            .editor_mode(prometheus.QueryEditorMode.CODE)
        )
        if form is not None:
            target.format(form)
        if form is prometheus.PromQueryFormat.TABLE:
            target.instant()
        else:
            target.range()
        panel.with_target(target)
    built: Panel = panel.build()
    return built


def _thresholds(bounds: Bounds) -> builders.ThresholdsConfig:
    steps = [dashboard.Threshold(value=None, color=bounds.below)]
    steps += [dashboard.Threshold(value=value, color=color) for value, color in bounds.steps]
    config = builders.ThresholdsConfig()
    return config.mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _mappings(mapping: Words) -> list[Any]:
    return [
        dashboard.ValueMap(
            options={
                f"{value:g}": dashboard.ValueMappingResult(text=word, color=color, index=place)
                for place, (value, (word, color)) in enumerate(mapping.items())
            }
        )
    ]


def _property(name: str, value: Any) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue(id_val=name, value=value)
