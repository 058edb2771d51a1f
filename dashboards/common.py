"""What all dashboards share: variables, annotations, links, and how panels are laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus as prometheus_builders
from grafana_foundation_sdk.models import dashboard

from dashboards.panels import DATASOURCE
from dashboards.queries import newest, of_index
from deploy.alerting.objectives import Objectives

__all__ = ["COLUMNS", "LINKED", "Section", "dashboard_of"]

COLUMNS = 24
"""Units of Grafana's grid; a row of panels fills them."""

TAG = "plumbline"

LINKED = {
    "plumbline-overview": "Overview",
    "plumbline-ingest": "Ingest",
    "plumbline-quality": "Embedding quality and drift",
    "plumbline-rollout": "Rollout",
    "plumbline-service-levels": "Service levels",
}
"""Every dashboard by its uid, in the order of the links."""


@dataclass(frozen=True)
class Section:
    """A row's title with what stands below it.

    Parameters
    ----------
    title
        Empty for panels at the top, without a row of their own.
    rows
        Panels side by side; their widths fill the grid.
    collapsed
        Opened by a click; its queries run only then.
    """

    title: str
    rows: Sequence[Sequence[Any]]
    collapsed: bool = False


def dashboard_of(
    uid: str,
    description: str,
    sections: Sequence[Section],
    *,
    objectives: Objectives,
    hours: int = 6,
) -> dashboard.Dashboard:
    """The dashboard of a uid in `LINKED`.

    Parameters
    ----------
    sections
        From top to bottom.
    objectives
        What the alerts stand on: names of jobs, and where the runbook is read.
    hours
        That it shows at first.

    Raises
    ------
    ValueError
        The panels of a row do not fill the grid, or are not of one height.
    """
    variables = [variable.build() for variable in _variables(objectives)]
    for variable in variables:
        # Of intervals, and no others.
        variable.auto = variable.auto_min = variable.auto_count = None
        if variable.type_val is dashboard.VariableType.CONSTANT:
            # Its builder cannot say it.
            variable.hide = dashboard.VariableHide.HIDE_VARIABLE
            variable.skip_url_sync = True
    links = [link.build() for link in _links(uid)]
    annotations = [annotation.build() for annotation in _annotations()]
    for shown in (*links, *annotations):
        # The SDK puts them into a menu; in an incident they must be seen.
        shown.placement = None
    made = (
        builders.Dashboard(f"Plumbline / {LINKED[uid]}")
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time(f"now-{hours}h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .editable()
        .build()
    )
    made.templating = dashboard.DashboardDashboardTemplating(list_val=variables)
    made.annotations = dashboard.AnnotationContainer(list_val=annotations)
    made.links = links
    made.panels = _laid_out(sections)
    return made


def _variables(objectives: Objectives) -> list[Any]:
    refresh = dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED
    return [
        builders.DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes Plumbline.")
        .type("prometheus"),
        builders.QueryVariable("index")
        .label("Index")
        .description("What users search.")
        .datasource(DATASOURCE)
        .query(_variable_query("label_values(plumbline_monitor_info, index)"))
        .refresh(refresh)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC),
        builders.QueryVariable("version")
        .label("Version")
        .description("Versions of the index: live, and the one beside it during a rollout.")
        .datasource(DATASOURCE)
        .query(
            _variable_query('label_values(plumbline_monitor_version_role{index="$index"}, version)')
        )
        .refresh(refresh)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all")),
        *(
            builders.ConstantVariable(name).label(label).description(words).value(value)
            for name, label, words, value in _constants(objectives)
        ),
    ]


def _constants(objectives: Objectives) -> list[tuple[str, str, str, str]]:
    """Hidden variables, so that what differs between sites stands in one place."""
    jobs = objectives.scraping.jobs
    job = "Value of the label `job` of"
    return [
        ("ingest_job", "Ingest", f"{job} ingest jobs.", jobs.ingest),
        ("monitor_job", "Monitor", f"{job} monitors.", jobs.monitor),
        ("backfill_job", "Backfill", f"{job} builds of a rollout.", jobs.backfill),
        ("runbook", "Runbook", "Address of the runbook.", objectives.links.runbook),
    ]


def _variable_query(query: str) -> dict[str, object]:
    return {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}


def _annotations() -> list[Any]:
    since = of_index("plumbline_rollout_state_since_timestamp_seconds")
    who = of_index("plumbline_rollout_info", "rollout", "live", "candidate")

    def entered(state: str) -> str:
        return (
            f"1000 * {since}\n* on (index) group_left (rollout, live, candidate) {who}\n"
            f"and on (index) ({of_index('plumbline_rollout_state', state=state)} == 1)"
        )

    return [
        _annotation(
            "Promotion", entered("soaking"), "green", "Promoted: {{candidate}}", "{{rollout}}"
        ),
        _annotation(
            "Rollback", entered("rolled_back"), "red", "Rolled back: {{candidate}}", "{{rollout}}"
        ),
        _annotation(
            "Live version",
            f"1000 * {of_index('plumbline_monitor_version_since_timestamp_seconds', 'version')}",
            "blue",
            "Live from here on: {{version}}",
            "As the monitor saw it first, whoever moved the alias.",
        ),
        _annotation(
            "Reference",
            "1000 * " + newest("plumbline_monitor_reference_created_timestamp_seconds", "kind"),
            "purple",
            "New reference of {{kind}}: {{version}}",
            "What the drift test compares with from here on.",
        ),
    ]


def _annotation(name: str, expression: str, color: str, title: str, text: str) -> Any:
    """Marks the moments that an expression's values name, in milliseconds of Unix time."""
    target = prometheus_builders.Dataquery().expr(expression).ref_id("Anno").interval("60s")
    return (
        builders.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(color)
        .target(target)
        # Grafana before 11 reads these; later ones the target.
        .expr(expression)
        .step("60s")
        .title_format(title)
        .text_format(text)
        .use_value_for_time(True)
    )


def _links(uid: str) -> list[Any]:
    links = [
        builders.DashboardLink(title)
        .type(dashboard.DashboardLinkType.LINK)
        .url(f"/d/{other}")
        .icon("dashboard")
        .tooltip(f"Plumbline / {title}")
        .keep_time(True)
        .include_vars(True)
        for other, title in LINKED.items()
        if other != uid
    ]
    runbook = (
        builders.DashboardLink("Runbook")
        .type(dashboard.DashboardLinkType.LINK)
        .url("${runbook}")
        .icon("doc")
        .tooltip("What each alert means, how to check it and how to mend it")
        .target_blank(True)
    )
    return [*links, runbook]


def _laid_out(sections: Sequence[Section]) -> list[Any]:
    panels: list[Any] = []
    number, line = 0, 0
    for section in sections:
        inside: list[Any] = panels
        if section.title:
            number += 1
            row = dashboard.RowPanel(
                title=section.title,
                collapsed=section.collapsed,
                grid_pos=dashboard.GridPos(x=0, y=line, w=COLUMNS, h=1),
                id_val=number,
            )
            panels.append(row)
            line += 1
            if section.collapsed:
                inside = row.panels
        for members in section.rows:
            number, line = _place(section, members, inside, number, line)
    return panels


def _place(
    section: Section, members: Sequence[Any], inside: list[Any], number: int, line: int
) -> tuple[int, int]:
    widths = [panel.grid_pos.w for panel in members]
    heights = {panel.grid_pos.h for panel in members}
    if sum(widths) != COLUMNS or len(heights) != 1:
        titles = ", ".join(panel.title for panel in members)
        raise ValueError(
            f"{section.title or 'the top'}: {titles} are {widths} wide and {sorted(heights)} high; "
            f"a row is {COLUMNS} wide and of one height"
        )
    column = 0
    for panel in members:
        number += 1
        panel.id_val = number
        panel.grid_pos.x, panel.grid_pos.y = column, line
        column += panel.grid_pos.w
        inside.append(panel)
    return number, line + heights.pop()
