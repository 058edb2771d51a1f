"""The committed dashboards are what Grafana's own types say a dashboard is."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.conftest import require
from tests.support.dashboard_files import read_all
from tests.support.grafana_types import INSTALL_HINT, npm_available, objections


@pytest.fixture(autouse=True)
def _node() -> None:
    require(npm_available(), INSTALL_HINT)


def test_grafanas_types_accept_every_dashboard() -> None:
    """No field that Grafana does not know, none that it needs is missing, no word that is none."""
    assert objections(read_all()) == []


def test_the_types_can_object() -> None:
    """Each of these mistakes is found, with the panel that has it."""
    dashboard = read_all()["plumbline-overview"]
    shown: list[dict[str, Any]] = [one for one in dashboard["panels"] if one["type"] != "row"]
    kinds = {panel["type"]: panel for panel in reversed(shown)}
    spoilt = {
        "a misspelt option": ("stat", ("options", "colourMode"), "value"),
        "no color mode": ("stat", ("options", "colorMode"), "rainbow"),
        "a misspelt field setting": ("timeseries", ("fieldConfig", "defaults", "units"), "s"),
        "no style": ("timeseries", ("fieldConfig", "defaults", "custom", "drawStyle"), "scribble"),
        "no number": ("table", ("gridPos", "w"), "12"),
        "no query": ("state-timeline", ("targets", 0, "expression"), "up"),
    }
    changed = {}
    for name, (kind, path, value) in spoilt.items():
        panel = copy.deepcopy(kinds[kind])
        place: Any = panel
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        panel["title"] = name
        changed[name] = {**dashboard, "panels": [panel]}
    lost = copy.deepcopy(kinds["stat"])
    del lost["options"]["graphMode"]
    lost["title"] = "nothing where something must be"
    changed[lost["title"]] = {**dashboard, "panels": [lost]}
    # One run of the compiler for all: its start is what takes time.
    found = objections(changed)
    assert {problem.split(" / ")[0] for problem in found} == set(changed)
