"""Every query of every dashboard, asked of a Prometheus that scrapes the real processes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from deploy.alerting.known import names_in
from tests.conftest import require
from tests.support.dashboard_expectations import NEVER_HERE, Carries, expectations
from tests.support.dashboard_files import Asked, asked, filled_in, read_all
from tests.support.kafka_server import KafkaServer
from tests.support.observed import ObservedWorld
from tests.support.prometheus_server import Sample
from tests.support.prometheus_tools import INSTALL_HINT, prometheus_available

# The first test waits for a whole rollout.
pytestmark = pytest.mark.timeout(1800)

DASHBOARDS = read_all()
QUERIES = [query for dashboard in DASHBOARDS.values() for query in asked(dashboard)]
EXPECTED = expectations()
NAME = f"watched-{time.time_ns() % 10**9}"


@pytest.fixture(scope="module")
def world(
    kafka_server: KafkaServer, model: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ObservedWorld]:
    """One for all queries: it takes minutes."""
    require(prometheus_available(), INSTALL_HINT)
    with ObservedWorld(kafka_server, tmp_path_factory.mktemp("world"), model, NAME) as made:
        yield made


def answer(world: ObservedWorld, query: Asked) -> Sequence[Sample]:
    """What Grafana would be given: the newest values for a table, else those over the time."""
    now = time.time()
    window = f"{math.ceil(now - world.begun)}s"
    expression = filled_in(query.expression, DASHBOARDS[query.uid], index=world.name, window=window)
    if query.kind == "table":
        return world.prometheus.query(expression)
    return world.prometheus.query_range(expression, world.begun, now, 2)


def problems(found: Sequence[Sample], carries: Carries, world: ObservedWorld) -> list[str]:
    """How series differ from what the query must give, all of them from our own processes."""
    if not found:
        return ["no series"]
    wrong = []
    values: dict[str, set[str]] = {}
    for sample in found:
        labels = {name: one for name, one in sample.labels.items() if name != "__name__"}
        if not (carries.labels <= set(labels) if carries.more else carries.labels == set(labels)):
            wrong.append(f"labels {sorted(labels)}, not {sorted(carries.labels)}")
        for name, one in labels.items():
            values.setdefault(name, set()).add(one)
    # A name that no other index of this Prometheus, or of this machine, has.
    ours = {
        "index": {world.name},
        # Dead letters that are sent once more come by a topic of their own.
        "topic": {world.name, f"{world.name}.dead-letters.replay"},
        "instance": {f"127.0.0.1:{port}" for port in world.ports.values()},
        "version": {world.at.live.name, world.at.candidate.name},
        "live": {world.at.live.name},
        "candidate": {world.at.candidate.name},
        "rollout": {world.at.rollout.rollout_id},
    }
    for name, seen in values.items():
        if "" in seen:
            wrong.append(f"a series without {name}")
        if name in ours and not seen <= ours[name]:
            wrong.append(f"{name} {sorted(seen - ours[name])} is not of our processes")
    for name, wanted in carries.values.items():
        if not wanted <= values.get(name, set()):
            missing = sorted(wanted - values.get(name, set()))
            wrong.append(f"no series with {name} {', '.join(missing)}")
    points = [value for one in found for _, value in one.points or ((0.0, one.value),)]
    numbers = [value for value in points if not math.isnan(value)]
    if not numbers:
        wrong.append("no number")
    elif carries.least is not None and max(numbers) < carries.least:
        wrong.append(f"never {carries.least:g} or more")
    return list(dict.fromkeys(wrong))


def test_what_each_query_must_give_is_written_down() -> None:
    """A new query without an expectation fails, and so does an expectation without a query."""
    assert set(EXPECTED) == {query.name for query in QUERIES if query.part != "variable"}
    for query in QUERIES:
        if query.part != "variable":
            assert query.labels - {"reason"} <= EXPECTED[query.name].labels | {"index"}, query.name


@pytest.mark.parametrize("query", QUERIES, ids=[query.name for query in QUERIES])
def test_gives_series(world: ObservedWorld, query: Asked) -> None:
    """From our own processes, with the labels that the legend, the columns and the links need."""
    if query.part == "variable":
        expression = filled_in(query.expression, DASHBOARDS[query.uid], index=world.name)
        values = set(world.prometheus.label_values(query.label, expression))
        wanted = {world.name}
        if query.label == "version":
            wanted = {world.at.live.name, world.at.candidate.name}
        assert values == wanted
        return
    found = answer(world, query)
    assert problems(found, EXPECTED[query.name], world) == []


def test_every_metric_that_is_named_is_there(world: ObservedWorld) -> None:
    """Also behind an `or` and an `unless`, where a missing one would not show in the answer."""
    stored = world.prometheus.metric_names()
    named = {name for query in QUERIES for name in names_in(query.expression)}
    assert named - stored == set(NEVER_HERE), "what is missing, and what is there after all"


@pytest.mark.parametrize(
    "expression",
    [
        'max by (index, version) (plumbline_golden_recal_ratio{index="$index"})',
        'plumbline:events:rate10m{index="$index"}',
        'max by (index, version) (plumbline_probe_alarm{index="$index", probe="canari"})',
        'max by (index) (plumbline_probe_alarm{index="$index"})',
    ],
)
def test_a_query_on_what_does_not_exist_fails(world: ObservedWorld, expression: str) -> None:
    """A metric, a rule or a value that does not exist gives no series, and that is a failure."""
    query = Asked("plumbline-overview", "any", "A", expression)
    carries = Carries(frozenset({"index", "version"}))
    assert problems(answer(world, query), carries, world) != []


def test_rules_and_scrapes_are_healthy(world: ObservedWorld) -> None:
    """Every recording rule and alert was evaluated without an error."""
    wrong = {
        rule["name"]: rule.get("lastError")
        for rule in world.prometheus.rules()
        if rule["health"] != "ok"
    }
    assert wrong == {}
