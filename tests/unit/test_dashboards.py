"""The committed dashboards: what the code gives, complete, readable, and of what there is."""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.models import units

import dashboards
from dashboards import GENERATED, LINKED, all_dashboards, text_of
from dashboards.bounds import NEUTRAL, Bounds
from dashboards.common import COLUMNS, Section, dashboard_of
from dashboards.generate import write
from dashboards.panels import graph, number
from dashboards.queries import Query
from deploy.alerting.known import check_expression, exported_metrics, names_in
from deploy.alerting.objectives import Alerts, Objectives
from deploy.alerting.recording import recordings
from pipelines.core.errors import SettingsError
from tests.support.dashboard_files import Asked, asked, panels_of, read_all
from tests.support.grafana_models import problems

ALL = read_all()
PANELS = [
    pytest.param(panel, id=f"{uid}: {panel['title']}")
    for uid, dashboard in ALL.items()
    for panel in panels_of(dashboard)
]
QUERIES = [
    pytest.param(query, id=query.name) for dashboard in ALL.values() for query in asked(dashboard)
]

OTHERS = {
    "up": "by Prometheus, for each target",
    "ALERTS": "by Prometheus, for each alert",
    "process_resident_memory_bytes": "by prometheus-client, for each process",
    "process_cpu_seconds_total": "by prometheus-client, for each process",
}
"""Metrics that are not ours."""


def test_committed_is_what_the_code_gives(tmp_path: Path) -> None:
    """A change of code without `make generate` fails here."""
    write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in GENERATED.iterdir()}
    for path in tmp_path.iterdir():
        committed = (GENERATED / path.name).read_text("utf-8")
        assert committed == path.read_text("utf-8"), f"{path.name}: run `make generate`"


def test_a_dashboard_that_is_gone_is_removed(tmp_path: Path) -> None:
    """No file stays behind that nobody generates any more."""
    (tmp_path / "plumbline-of-old.json").write_text("{}")
    write(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(LINKED)


def test_objectives_reach_the_dashboards() -> None:
    """A site's jobs, runbook and burn rates stand in what is generated for it."""
    objectives = Objectives.model_validate(
        {
            "scraping": {"jobs": {"ingest": "search/ingest"}},
            "links": {"runbook": "https://wiki.example/plumbline"},
            "freshness": {"ratio": 0.9},
        }
    )
    texts = {uid: text_of(made) for uid, made in all_dashboards(objectives).items()}
    for text in texts.values():
        assert '"search/ingest"' in text
        assert '"https://wiki.example/plumbline"' in text
        assert "plumbline.example" not in text
    assert '"value": 0.6\n' in texts["plumbline-service-levels"], "six times an allowance of 0.1"


@pytest.mark.parametrize("uid", ALL)
def test_the_sdks_models_accept_it(uid: str) -> None:
    """Every field exists in Grafana's schema and has a value of its type."""
    assert problems(ALL[uid]) == []


def test_the_models_can_object() -> None:
    """An unknown field, a wrong type and a word that is none are found, each by its path."""
    changes: dict[str, tuple[tuple[str | int, ...], Any]] = {
        "panels[0].titel is no field": (("panels", 0, "titel"), "Misspelt"),
        "panels[0].grid_pos.w is 'wide', no int": (("panels", 0, "gridPos", "w"), "wide"),
        "panels[0].options.color_mode is 'rainbow'": (
            ("panels", 0, "options", "colorMode"),
            "rainbow",
        ),
        "panels[0].targets[0].expr is 3, no str": (("panels", 0, "targets", 0, "expr"), 3),
        "templating.list_val[1].multi is 'yes', no bool": (
            ("templating", "list", 1, "multi"),
            "yes",
        ),
    }
    for words, (path, value) in changes.items():
        content = copy.deepcopy(ALL["plumbline-overview"])
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (problem,) = problems(content)
        assert problem.startswith(f"dashboard.{words}")


def _check(query: Asked) -> None:
    recorded = [rule.name for rule in recordings(Objectives())]
    # A selector in front of its braces: what is not ours must be on the list.
    named = set(re.findall(r"([a-zA-Z_:][\w:]*)\{", query.expression))
    unknown = {name for name in named if not name.startswith("plumbline")} - set(OTHERS)
    if unknown:
        raise SettingsError(f"{query.name} reads {', '.join(unknown)}")
    check_expression(query.name, query.expression, recorded, exported_metrics())


@pytest.mark.parametrize("query", QUERIES)
def test_names_only_what_exists(query: Asked) -> None:
    """Every metric is exported by our code or recorded by our rules, with the labels selected."""
    assert names_in(query.expression) | set(re.findall("|".join(OTHERS), query.expression))
    _check(query)


def test_a_name_that_does_not_exist_is_found() -> None:
    """A metric, a rule or a label that was renamed in code fails the test above."""
    for expression in (
        'plumbline_golden_recal_ratio{index="$index"}',
        'plumbline:events:rate10m{index="$index"}',
        'max by (index) (plumbline_probe_alarm{index="$index", prob="canary"})',
        'node_load1{index="$index"}',
    ):
        with pytest.raises(SettingsError):
            _check(Asked("any", "any", "A", expression))


def test_every_metric_is_shown() -> None:
    """No family of the code is missing from the dashboards: in an incident any may be needed."""
    text = "\n".join(query.expression for d in ALL.values() for query in asked(d))
    # A recording rule shows what it reads.
    read = names_in(text)
    for rule in reversed(recordings(Objectives())):
        if rule.name in read:
            read |= names_in(rule.expression)
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in read}
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in exported_metrics()}
    assert families - shown == set()


def test_uids_are_those_that_links_name() -> None:
    """Every dashboard is where the others, and the alerts, look for it."""
    assert {uid: d["uid"] for uid, d in ALL.items()} == {uid: uid for uid in LINKED}
    assert len({d["title"] for d in ALL.values()}) == len(ALL)


@pytest.mark.parametrize("uid", ALL)
def test_links_lead_somewhere(uid: str) -> None:
    """To every other dashboard, to the runbook, and from panels to sections of it that exist."""
    dashboard = ALL[uid]
    links = {link["url"] for link in dashboard["links"]}
    assert links == {*(f"/d/{other}" for other in LINKED if other != uid), "${runbook}"}
    assert all(link["includeVars"] and link["keepTime"] for link in dashboard["links"][:-1])
    sections = {name.lower() for name in Alerts.model_fields}
    for panel in panels_of(dashboard):
        for link in panel.get("links", []):
            page, _, anchor = link["url"].partition("#")
            assert page == "${runbook}"
            assert anchor in sections, panel["title"]
        for override in panel["fieldConfig"].get("overrides", []):
            for change in override["properties"]:
                for link in change["value"] if change["id"] == "links" else []:
                    known = link["url"] == "${runbook}" or link["url"].split("?")[0][3:] in LINKED
                    assert known, link


def test_panels_name_the_alerts_that_stand_on_them() -> None:
    """Whoever looks at a figure finds what its alert means: every alert is linked from a panel."""
    linked = {
        link["url"].partition("#")[2]
        for dashboard in ALL.values()
        for panel in panels_of(dashboard)
        for link in panel.get("links", [])
    }
    assert {name for name in Alerts.model_fields if name.lower() not in linked} == set()


@pytest.mark.parametrize("panel", PANELS)
def test_says_what_it_shows(panel: dict[str, Any]) -> None:
    """Description, unit, thresholds, names of series, and a word for nothing, on every panel."""
    assert len(panel["description"].split()) >= 8, panel["description"]
    assert panel["description"].endswith(".")
    defaults = panel["fieldConfig"]["defaults"]
    known = {value for value in vars(units).values() if isinstance(value, str)}
    assert defaults["unit"] in known
    steps = defaults["thresholds"]["steps"]
    assert steps[0]["value"] is None
    assert [step["value"] for step in steps[1:]] == sorted(step["value"] for step in steps[1:])
    assert defaults["noValue"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert panel["type"] == "table" or target["legendFormat"]
        assert bool(target.get("instant")) is (panel["type"] == "table")
    legends = [target["legendFormat"] for target in panel["targets"]]
    if panel["type"] != "table":
        assert len(set(legends)) == len(legends), "two queries with series of one name"
    if panel["type"] in ("timeseries", "state-timeline"):
        assert panel["options"]["legend"]["showLegend"]


# At 1366 pixels Grafana leaves 1,098 beside its menu, or 1,332 with the menu closed, and a unit of
# the grid is the smaller one's 24th part; 38 pixels are one of its lines.
UNIT_PIXELS, LINE_PIXELS = 1098 / COLUMNS, 38
LEAST = {
    "stat": (6, 4),
    "timeseries": (8, 7),
    "state-timeline": (12, 7),
    "heatmap": (12, 7),
    "table": (12, 6),
}
"""Columns and lines of each kind of panel, at least: as seen on a screen of 1366 pixels."""


@pytest.mark.parametrize("panel", PANELS)
def test_is_readable_at_1366_pixels(panel: dict[str, Any]) -> None:
    """No panel is small, no title is cut off, and graphs keep room beside their legends."""
    place = panel["gridPos"]
    width, height = LEAST[panel["type"]]
    assert place["w"] >= width
    assert place["h"] >= height
    # 14 px type is about 7 px a character; the description's mark and the link take 60.
    assert 7 * len(panel["title"]) <= UNIT_PIXELS * place["w"] - 60, panel["title"]
    for head in _heads(panel):
        # Columns share the width; a long head in a narrow one is cut off.
        assert 7 * len(head) <= UNIT_PIXELS * place["w"] / len(_heads(panel)) + 40, head


def _heads(panel: dict[str, Any]) -> list[str]:
    organized = [one for one in panel.get("transformations", []) if one["id"] == "organize"]
    return [head for one in organized for head in one["options"]["renameByName"].values()]


@pytest.mark.parametrize("uid", ALL)
def test_the_grid_is_filled_and_nothing_overlaps(uid: str) -> None:
    """At most four panels side by side, no holes, and ids that links can rely on."""
    every = list(panels_of(ALL[uid], rows=True))
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    lines: dict[int, list[dict[str, int]]] = {}
    for panel in every:
        lines.setdefault(panel["gridPos"]["y"], []).append(panel["gridPos"])
    for members in lines.values():
        assert len(members) <= 4
        assert sum(one["w"] for one in members) == COLUMNS
        assert len({one["h"] for one in members}) == 1
    for one, other in itertools.combinations([panel["gridPos"] for panel in every], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@pytest.mark.parametrize("uid", ALL)
def test_answers_come_first(uid: str) -> None:
    """The first row is large values, and what is below the first screens is folded away."""
    shown = [panel for panel in ALL[uid]["panels"] if panel["type"] != "row"]
    assert [panel["type"] for panel in shown[:4]] == ["stat"] * 4
    rows = [panel for panel in ALL[uid]["panels"] if panel["type"] == "row"]
    assert any(row["collapsed"] for row in rows)
    open_height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in shown)
    assert open_height - 1 <= 45, "queries of more than two screens run at every refresh"


@pytest.mark.parametrize("uid", ALL)
def test_variables_and_annotations(uid: str) -> None:
    """Data source, index and version can be chosen, and every variable is used somewhere."""
    dashboard = ALL[uid]
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert list(variables)[:3] == ["datasource", "index", "version"]
    text = str(list(panels_of(dashboard))) + str(dashboard["links"])
    for name, variable in variables.items():
        if variable["type"] != "constant":
            assert re.search(rf"\${{?{name}\b", text), name
    used = set(re.findall(r"\$([a-z]\w*)", "".join(q.expression for q in asked(dashboard))))
    assert used <= set(variables)
    names = [one["name"] for one in dashboard["annotations"]["list"]]
    assert names == ["Promotion", "Rollback", "Live version", "Reference"]


def test_a_row_that_does_not_fill_the_grid_is_refused() -> None:
    """A layout that would leave holes never reaches a file."""
    panel = number("One", "What it is.", Query("up", "up"), unit="short", bounds=NEUTRAL)
    tall = graph("Two", "What it is.", [Query("up", "up")], unit="short", width=18)
    for members in ([panel], [panel, tall]):
        with pytest.raises(ValueError, match="a row is 24 wide"):
            dashboard_of(
                "plumbline-overview", "…", [Section("", [members])], objectives=Objectives()
            )


def test_bounds_ascend() -> None:
    """Colours that Grafana would sort otherwise than they are written are refused."""
    with pytest.raises(ValueError, match="do not ascend"):
        Bounds("green", ((2.0, "red"), (1.0, "orange")))


def test_public_names() -> None:
    """The package gives exactly what its catalogue lists."""
    assert all(hasattr(dashboards, name) for name in dashboards.__all__)
