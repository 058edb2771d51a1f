"""The freshness probe on an embedded index: what it reads off stored events."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitors.probes.base import Level
from monitors.probes.freshness import FreshnessProbe
from pipelines.core.lag import PartitionLag
from tests.support.corpora import Document
from tests.support.probing import Watched
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def watched(tmp_path, model) -> Iterator[Watched]:
    with Watched(tmp_path / "store", model=model) as watched:
        yield watched


def figures(result: Any) -> dict[str, float]:
    prefix = "plumbline_freshness_"
    return {f.family.name.removeprefix(prefix): f.value for f in result.figures if not f.labels}


def documents(count: int) -> list[Document]:
    return [Document(f"d{number}", "", f"text {number}") for number in range(count)]


def test_an_empty_index_without_kafka_is_undecided(watched):
    result = watched.run(FreshnessProbe())
    assert (result.level, result.reason) == (Level.UNDECIDED, "empty")


def test_an_empty_index_with_kafka_is_fresh_when_nothing_waits(watched):
    result = watched.run(FreshnessProbe(), lag=lambda version: [PartitionLag("t", 0, 0, None)])
    assert (result.level, result.reason) == (Level.OK, "fresh")


def test_events_older_than_the_version_say_nothing_of_its_speed(watched):
    """The documents of these tests carry times of long ago, as a replayed topic does."""
    watched.write(documents(30))
    found = figures(watched.run(FreshnessProbe()))
    assert "searchable_median_seconds" not in found
    assert found["newest_event_timestamp_seconds"] == pytest.approx(watched.now_ms / 1000, abs=1)


def test_the_time_until_an_event_was_indexed(watched):
    """Those that were indexed before they happened, by their stamps, say nothing and hide none."""
    created = datetime.fromisoformat(watched.version.created_at)
    first = round(created.timestamp() * 1000)
    watched.write(documents(40), at=first, step_ms=0)
    result = watched.run(FreshnessProbe())
    assert result.reason == "no_kafka"
    found = figures(result)
    assert 0 <= found["searchable_median_seconds"] <= found["searchable_p95_seconds"] < 120
    watched.delete([f"d{number}" for number in range(30)], at=first + 3_600_000)
    again = figures(watched.run(FreshnessProbe()))
    assert found["searchable_median_seconds"] <= again["searchable_median_seconds"] < 120
    watched.delete([f"d{number}" for number in range(40)], at=first + 7_200_000)
    assert "searchable_median_seconds" not in figures(watched.run(FreshnessProbe()))


def test_events_from_the_future_leave_room_for_the_others(watched):
    """The newest are looked at, and what is stamped tomorrow would always be the newest."""
    created = datetime.fromisoformat(watched.version.created_at)
    first = round(created.timestamp() * 1000)
    watched.write(documents(510), at=first + 86_400_000, step_ms=0)
    watched.now = created
    watched.write([Document("honest", "", "text")], at=first)
    watched.now = created + timedelta(seconds=60)
    found = figures(watched.run(FreshnessProbe()))
    assert found["newest_event_timestamp_seconds"] == pytest.approx(first / 1000)
    assert 0 <= found["searchable_median_seconds"] < 120


def test_a_stall_is_told_with_the_state_kept_between_runs(watched):
    watched.write(documents(5))
    probe = FreshnessProbe()
    watched.run(probe, lag=lambda version: [PartitionLag("t", 0, 0, None, 5)])
    waiting = [PartitionLag("t", 0, 3, watched.now_ms + 1000, 5)]
    watched.now += timedelta(seconds=400)
    result = watched.run(probe, lag=lambda version: waiting)
    assert (result.level, result.reason) == (Level.ALARM, "stalled")
