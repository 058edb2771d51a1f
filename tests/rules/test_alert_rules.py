"""Every alert: silent just before its `for`, firing just after it, and silent where it must be."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import yaml

from deploy.alerting.alerts import alerts_of
from deploy.alerting.known import names_in
from deploy.alerting.objectives import Alerts, Objectives
from deploy.alerting.recording import recordings
from tests.conftest import require
from tests.rules.cases import CASES, Case
from tests.rules.promtool import Expected, check_alerts, fired
from tests.rules.quiet import KINDS, NEVER, Never
from tests.rules.world import STEP, healthy
from tests.support.prometheus_tools import INSTALL_HINT, prometheus_available

OBJECTIVES = Objectives()
NAMES = sorted(Alerts.model_fields)
COMPONENTS = {alert.name: alert.component for alert in alerts_of(OBJECTIVES)}
DASHBOARDS = {alert.name: alert.dashboard for alert in alerts_of(OBJECTIVES)}
REQUIRED = {
    "deploy",
    "empty index",
    "counter reset",
    "version switch",
    "missing scrape",
    "two replicas",
}


WORDS = yaml.safe_load((Path(__file__).parent / "words.yml").read_text("utf-8"))
"""Summary and description of each, as a person reads them."""


def _name(case: Case | Never) -> str:
    return f"{case.alert}, {case.what}" if case.what else case.alert


def test_every_alert_has_every_kind_of_test() -> None:
    """An alert without a damage that fires it, or a week that must not, is not tested."""
    assert {case.alert for case in CASES} == set(NAMES)
    assert set(KINDS) == REQUIRED
    assert {case.alert for case in NEVER} <= set(NAMES)
    assert {case.name for case in CASES} == set(WORDS)
    assert all(case.what for case in CASES if sum(c.alert == case.alert for c in CASES) > 1)


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_it_fires_after_its_wait_and_not_before(case: Case, tmp_path: Path) -> None:
    """Once, whatever the number of replicas, with its labels and words."""
    require(prometheus_available(), INSTALL_HINT)
    world = healthy(case.minutes, replicas=2)
    case.change(world)
    objective = OBJECTIVES.alerts.of(case.alert)
    fires_at = case.true_at + objective.wait
    labels = {
        "severity": objective.severity,
        "component": COMPONENTS[case.alert],
        **case.static,
        **case.labels,
    }
    index = case.labels.get("index", "")
    links = OBJECTIVES.links
    annotations = {
        **WORDS[case.name],
        "dashboard_url": f"{links.dashboards}/d/{DASHBOARDS[case.alert]}?var-index={index}",
        "runbook_url": f"{links.runbook}#{case.alert.lower()}",
    }
    expected = [
        Expected(case.alert, fires_at - STEP),
        Expected(case.alert, fires_at + STEP, [(labels, annotations)]),
    ]
    assert check_alerts(tmp_path, world, [one for one in expected if one.seconds >= 0]) == ""


@cache
def _fired_in(kind: str, folder: Path) -> frozenset[str]:
    return frozenset(fired(folder, KINDS[kind]()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_silent_while_nothing_is_wrong(
    name: str, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Deploys, holes and switches are no damage."""
    require(prometheus_available(), INSTALL_HINT)
    folder = tmp_path_factory.getbasetemp() / kind.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    assert name not in _fired_in(kind, folder)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"empty index"}))
@pytest.mark.parametrize("name", NAMES)
def test_the_quiet_worlds_hold_what_the_alert_reads(name: str, kind: str) -> None:
    """Else its silence would say nothing."""
    recorded = {rule.name: rule.expression for rule in recordings(OBJECTIVES)}
    left = {one for a in alerts_of(OBJECTIVES) if a.name == name for one in names_in(a.expression)}
    read = set[str]()
    while left:
        one = left.pop()
        if one in recorded:
            left |= names_in(recorded[one])
        else:
            read.add(one)
    assert read
    assert read <= KINDS[kind]().names()


@pytest.mark.parametrize("case", NEVER, ids=_name)
def test_it_is_silent_about_what_is_no_damage(case: Never, tmp_path: Path) -> None:
    """What looks like it and is not."""
    require(prometheus_available(), INSTALL_HINT)
    world = healthy(case.minutes)
    case.change(world)
    assert fired(tmp_path, world, but=case.others) == set()
    if case.others:
        assert fired(tmp_path, world) == set(case.others)
