"""The drift probe: which window is tested, what is decided without a test, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from monitors.forgetting import FORGETTING
from monitors.probes.base import Level
from monitors.probes.drift import DriftProbe
from monitors.probes.windows import Window, next_window
from monitors.store import Memory
from pipelines.core.recorded_queries import QueryRecorder
from tests.support.corpora import Document
from tests.support.probing import FIRST_TIMESTAMP, Seeded, Watched, values_of

HOUR = 3_600_000
DRIFT = {
    "minimum_reference": 120,
    "reference": 200,
    "minimum_window": 60,
    "window": 100,
    "permutations": 99,
    "window_seconds": 86_400,
}


class Topics(Seeded):
    """Texts of one topic, their first word, lie around one direction."""

    def _vector(self, text):
        topic = super()._vector(text.strip().split(" ", 1)[0])
        own = super()._vector(text)
        vector = 1.5 * topic + own
        return (self.length * vector / np.linalg.norm(vector)).astype(np.float32)


def _texts(count: int, name: str, topic: str = "a") -> list[Document]:
    return [Document(f"{name}/{n}", "", f"{topic} {name} {n}") for n in range(count)]


def _mixed(count: int, name: str) -> list[Document]:
    return [Document(f"{name}/{n}", "", f"{'abcd'[n % 4]} {name} {n}") for n in range(count)]


@pytest.fixture
def watched(tmp_path) -> Iterator[Watched]:
    with Watched(tmp_path, encoder=Topics(), settings={"monitor": {"drift": DRIFT}}) as index:
        yield index


def _referenced(index: Watched) -> None:
    index.write(_mixed(150, "first"), at=FIRST_TIMESTAMP)
    assert index.run(DriftProbe()).reason == "reference_taken"


def test_what_was_written_before_a_reset_is_not_tested(watched: Watched) -> None:
    """Neither in the run of the reset nor in the next window, which begins behind it."""
    _referenced(watched)
    watched.write(_texts(100, "flood", "z"))
    memory = Memory(1, watched.state["drift"])
    watched.state["drift"] = FORGETTING["drift"].forget(memory, watched.now).state
    assert watched.run(DriftProbe()).reason == "small_window"
    watched.write(_mixed(80, "after"))
    found = watched.run(DriftProbe())
    assert found.evidence is not None
    assert (found.level, found.evidence.samples["current"]) == (Level.OK, 80)
    watched.write(_mixed(60, "later"))
    assert watched.run(DriftProbe()).evidence.samples["current"] == 60


def test_an_empty_index_is_undecided(watched: Watched) -> None:
    result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.UNDECIDED, "empty_index")
    assert result.figures == []


def test_the_first_reference_is_taken_when_there_is_enough(watched: Watched) -> None:
    watched.write(_mixed(50, "first"))
    result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.UNDECIDED, "no_reference")
    assert "50 of 120" in result.words
    watched.write(_mixed(200, "second"))
    result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.UNDECIDED, "reference_taken")
    kept = watched.references["documents"]
    assert kept.vectors.shape == (200, 16)
    assert len(set(kept.document_ids)) == 200


def test_an_old_load_is_no_part_of_the_reference(watched: Watched) -> None:
    """What comes is measured against what came lately; as far back as it takes to have enough."""
    day = 24 * HOUR
    watched.write(_texts(200, "load", "z"), at=FIRST_TIMESTAMP - 400 * day)
    watched.write(_mixed(80, "month"), at=FIRST_TIMESTAMP - 20 * day)
    watched.write(_mixed(70, "week"), at=FIRST_TIMESTAMP)
    assert watched.run(DriftProbe()).reason == "reference_taken"
    kept = watched.references["documents"]
    assert {name.split("/")[0] for name in kept.document_ids} == {"month", "week"}
    assert len(kept.document_ids) == 150


def test_an_old_load_is_the_reference_where_there_is_little_else(watched: Watched) -> None:
    watched.write(_texts(110, "load", "z"), at=FIRST_TIMESTAMP - 400 * 24 * HOUR)
    watched.write(_mixed(70, "week"), at=FIRST_TIMESTAMP)
    assert watched.run(DriftProbe()).reason == "reference_taken"
    assert len(watched.references["documents"].document_ids) == 180


def test_without_automatic_references_somebody_has_to_set_one(watched: Watched) -> None:
    watched.set_settings(drift={"automatic_reference": False})
    watched.write(_mixed(200, "first"))
    result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.UNDECIDED, "no_reference")
    assert "automatic_reference" in result.words
    assert watched.references == {}


def test_a_window_like_the_reference_is_ok(watched: Watched) -> None:
    _referenced(watched)
    watched.write(_mixed(100, "second"))
    result = watched.run(DriftProbe(), seed=4)
    assert (result.level, result.reason) == (Level.OK, "young_baseline")
    assert result.evidence is not None
    assert result.evidence.samples == {"current": 100, "reference": 150}
    assert values_of(result, "plumbline_drift_baseline_trusted") == {("documents",): 0.0}
    assert values_of(result, "plumbline_drift_live_components") == {("documents",): 16.0}


def test_another_topic_warns_while_the_baseline_is_young_and_says_what_came(watched) -> None:
    _referenced(watched)
    watched.write([*_mixed(50, "second"), *_texts(50, "flood", "z")])
    result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.WARNING, "differs_young_baseline")
    assert "flood/" in result.words
    assert values_of(result, "plumbline_drift_unexplained_ratio")[("documents",)] > 0.3
    exemplars = result.details["documents"]["explanation"]["exemplars"]
    assert all(exemplar["document_id"].startswith("flood/") for exemplar in exemplars)


def test_nothing_is_tested_twice(watched: Watched) -> None:
    """A window begins where the last one ended; what is too little waits for more."""
    _referenced(watched)
    watched.write(_mixed(100, "second"))
    assert watched.run(DriftProbe()).reason == "young_baseline"
    end = watched.state["drift"]["documents"]["end"]
    result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.UNDECIDED, "small_window")
    assert "0 vectors" in result.words
    watched.now += timedelta(hours=1)
    watched.write(_mixed(40, "third"))
    result = watched.run(DriftProbe())
    assert result.reason == "small_window"
    assert "40 vectors" in result.words
    assert watched.state["drift"]["documents"]["end"] == end
    watched.now += timedelta(hours=1)
    watched.write(_mixed(40, "fourth"))
    result = watched.run(DriftProbe())
    assert result.reason == "young_baseline"
    assert result.evidence is not None
    assert result.evidence.samples["current"] == 80


def test_what_is_older_than_the_window_is_not_waited_for(watched: Watched) -> None:
    _referenced(watched)
    watched.now += timedelta(hours=1)
    watched.write(_mixed(40, "second"))
    watched.run(DriftProbe())
    watched.now += timedelta(hours=30)
    watched.write(_mixed(40, "third"))
    result = watched.run(DriftProbe())
    assert result.reason == "small_window"
    assert "40 vectors" in result.words


def test_events_of_the_future_are_tested_when_it_has_come(watched: Watched) -> None:
    """A producer's clock is ahead: they are no part of the reference, and not lost either."""
    watched.write(_mixed(150, "first"), at=FIRST_TIMESTAMP)
    now = watched.now
    watched.write(_mixed(70, "ahead"), at=watched.now_ms + HOUR)
    watched.now = now
    assert watched.run(DriftProbe()).reason == "reference_taken"
    assert len(watched.references["documents"].document_ids) == 150
    assert watched.run(DriftProbe()).reason == "small_window"
    watched.now += timedelta(hours=2)
    result = watched.run(DriftProbe())
    assert result.evidence is not None
    assert result.evidence.samples["current"] == 70


def test_events_on_their_way_come_with_the_next_window(watched: Watched) -> None:
    """The job lags: what is stored ends an hour ago, and so does the window."""
    _referenced(watched)
    watched.write(_mixed(70, "second"), at=watched.now_ms + HOUR)
    watched.now += timedelta(hours=1)
    assert watched.run(DriftProbe()).reason == "young_baseline"
    watched.write(_mixed(70, "third"), at=watched.now_ms - HOUR + 1)
    result = watched.run(DriftProbe())
    assert result.reason == "young_baseline"
    assert result.evidence is not None
    assert result.evidence.samples["current"] == 70


def test_a_new_reference_starts_a_new_baseline(watched: Watched) -> None:
    """Statistics against another reference are no peers; nor is what made the reference tested."""
    _referenced(watched)
    for day in range(3):
        watched.write(_mixed(70, f"day-{day}"))
        result = watched.run(DriftProbe())
        watched.now += timedelta(days=1)
    assert values_of(result, "plumbline_drift_baseline_windows") == {("documents",): 2.0}
    vectors = np.stack([watched.encoder._vector(f"a new {n}") for n in range(130)])
    watched.write(_mixed(100, "before"))
    watched.keep_reference("documents", vectors, [f"new/{n}" for n in range(130)], "somebody")
    watched.now += timedelta(hours=1)
    assert watched.run(DriftProbe()).reason == "small_window"
    watched.write(_texts(70, "day-4"))
    result = watched.run(DriftProbe())
    assert values_of(result, "plumbline_drift_baseline_windows") == {("documents",): 0.0}
    assert result.evidence is not None
    assert result.evidence.samples == {"current": 70, "reference": 130}


def test_a_lasting_change_alarms_once_the_baseline_can_be_trusted(watched: Watched) -> None:
    """Within three windows; and the state survives JSON between the runs."""
    watched.set_settings(drift={"average_run_length": 20})
    _referenced(watched)
    for day in range(22):
        watched.write(_mixed(100, f"day-{day}"))
        result = watched.run(DriftProbe())
        watched.now += timedelta(days=1)
        assert result.level is not Level.ALARM
    assert values_of(result, "plumbline_drift_baseline_trusted") == {("documents",): 1.0}
    levels = []
    for day in range(3):
        watched.write([*_mixed(40, f"changed-{day}"), *_texts(60, f"flood-{day}", "z")])
        result = watched.run(DriftProbe())
        levels.append(result.level)
        watched.now += timedelta(days=1)
    assert Level.ALARM in levels
    assert result.reason == "drifted"
    assert values_of(result, "plumbline_drift_alarm") == {("documents",): 1.0}
    assert len(json.dumps(watched.state["drift"])) < 10_000


def test_a_reference_that_is_unlike_all_that_comes_is_said(watched: Watched) -> None:
    """It hides smaller changes; neither an alarm nor silence. A new reference ends it."""
    watched.write(_texts(150, "load", "z"), at=FIRST_TIMESTAMP)
    assert watched.run(DriftProbe()).reason == "reference_taken"
    for day in range(21):
        watched.now += timedelta(days=1)
        watched.write(_mixed(70, f"day {day}"))
        result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.WARNING, "far_reference")
    usual = values_of(result, "plumbline_drift_baseline_statistic")[("documents",)]
    assert f"windows here usually lie {usual:.0f} deviations" in result.words
    assert usual > 10


def test_an_alarm_stands_while_there_is_too_little_to_test(watched: Watched) -> None:
    """A look that came too soon takes nothing back; a window, or a new reference, does."""
    watched.set_settings(drift={"average_run_length": 20})
    _referenced(watched)
    for day in range(22):
        watched.write(_mixed(100, f"day-{day}"))
        watched.run(DriftProbe())
        watched.now += timedelta(days=1)
    for day in range(3):
        watched.write(_texts(100, f"flood-{day}", "z"))
        result = watched.run(DriftProbe())
        watched.now += timedelta(days=1)
    assert result.level is Level.ALARM
    watched.write(_mixed(10, "few"))
    again = watched.run(DriftProbe())
    assert (again.level, again.reason) == (Level.ALARM, "drifted")
    assert "stands: 10 vectors came" in again.words
    assert values_of(again, "plumbline_drift_alarm") == {("documents",): 1.0}
    state = dict(watched.state["drift"])
    kept = watched.references["documents"]
    watched.references["documents"] = replace(kept, created_at=watched.now)
    assert watched.run(DriftProbe()).reason == "small_window"
    watched.references["documents"] = kept
    watched.state["drift"] = state
    levels = []
    for day in range(20):
        watched.write(_mixed(100, f"after-{day}"))
        levels.append(watched.run(DriftProbe()).level)
        watched.now += timedelta(days=1)
    assert levels[-1] is not Level.ALARM


def test_duplicates_alone_are_no_window(watched: Watched) -> None:
    _referenced(watched)
    watched.write([Document(f"copy/{n}", "", "a the same") for n in range(90)])
    result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.UNDECIDED, "small_window")


def test_a_window_of_few_different_vectors_is_too_small(watched: Watched) -> None:
    """Enough for the test itself, and not for the probe; they wait for more."""
    _referenced(watched)
    watched.write([Document(f"copy/{n}", "", f"{'abcd'[n % 25 % 4]} {n % 25}") for n in range(90)])
    result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.UNDECIDED, "small_window")
    assert "25 are different" in result.words
    watched.write(_mixed(60, "second"))
    result = watched.run(DriftProbe())
    assert result.reason == "young_baseline"
    assert values_of(result, "plumbline_drift_window_duplicate_ratio")[("documents",)] > 0.2


def test_a_window_of_another_length_alarms_without_a_test(tmp_path) -> None:
    """On a store that keeps lengths."""
    encoder = Topics(distance="dot")
    with Watched(tmp_path, encoder=encoder, settings={"monitor": {"drift": DRIFT}}) as index:
        _referenced(index)
        index.write(_mixed(100, "second"), encoder=Topics(distance="dot", length=1.2))
        result = index.run(DriftProbe())
        assert (result.level, result.reason) == (Level.ALARM, "norms_changed")
        assert result.details["documents"]["ids"]
        # The window is not passed over: it alarms until it is mended.
        assert index.run(DriftProbe()).reason == "norms_changed"


@pytest.mark.parametrize("direction", ["died", "awoke"])
def test_components_that_die_or_wake_alarm_without_a_test(tmp_path, direction) -> None:
    """A padding or a truncation, or half of the components of another model."""

    class Padded(Topics):
        def _vector(self, text):
            vector = super()._vector(text)
            vector[12:] = 0
            return vector / np.linalg.norm(vector)

    first, second = (Topics(), Padded()) if direction == "died" else (Padded(), Topics())
    with Watched(tmp_path, encoder=first, settings={"monitor": {"drift": DRIFT}}) as index:
        _referenced(index)
        index.write(_mixed(100, "second"), encoder=second)
        result = index.run(DriftProbe())
    assert (result.level, result.reason) == (Level.ALARM, "components_changed")
    assert "12, 13, 14, 15" in result.words


def test_a_reference_of_another_dimension_is_said(watched: Watched) -> None:
    _referenced(watched)
    watched.keep_reference("documents", np.eye(130, 8, dtype=np.float32), ["x"] * 130, "wrong")
    watched.write(_mixed(100, "second"), at=watched.now_ms + 1)
    result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.ALARM, "dimension_changed")


def _record(index: Watched, texts: list[str]) -> None:
    recorder = QueryRecorder(index.qdrant, index.version.index, 1.0, clock=index.now.timestamp)
    recorder._start = lambda: None  # flushed here: this is not about threads
    for text in texts:
        recorder.record(index.version.fingerprint, index.encoder._vector(text))
    recorder.flush()
    index.now += timedelta(minutes=1)


def test_recorded_queries_are_a_kind_of_their_own(watched: Watched) -> None:
    """Their reference, their windows; too few of them are no news beside the documents'."""
    watched.write(_mixed(150, "first"))
    _record(watched, [f"{'abcd'[n % 4]} query {n}" for n in range(30)])
    result = watched.run(DriftProbe())
    assert result.reason == "reference_taken"
    assert result.details["queries"]["reason"] == "no_reference"
    _record(watched, [f"{'abcd'[n % 4]} query {n}" for n in range(30, 160)])
    result = watched.run(DriftProbe())
    assert result.details["queries"]["reason"] == "reference_taken"
    assert len(watched.references["queries"].document_ids) == 160
    watched.write(_mixed(80, "second"))
    _record(watched, [f"z other {n}" for n in range(80)])
    result = watched.run(DriftProbe())
    assert (result.level, result.reason) == (Level.WARNING, "differs_young_baseline")
    assert result.details["documents"]["reason"] == "young_baseline"
    assert result.details["queries"]["reason"] == "differs_young_baseline"
    assert values_of(result, "plumbline_drift_window_vectors") == {
        ("documents",): 80.0,
        ("queries",): 80.0,
    }
    # Queries that stay away leave the documents their say.
    watched.write(_mixed(80, "third"))
    result = watched.run(DriftProbe())
    assert result.level is not Level.UNDECIDED
    assert result.details["queries"]["reason"] == "small_window"


NOW = 1_800_000_000_000


@pytest.mark.parametrize(
    ("state", "newest", "window"),
    [
        (None, NOW - 10, Window(NOW - 9 - HOUR, NOW - 9)),
        ({"end": NOW - 60_000}, NOW - 10, Window(NOW - 60_000, NOW - 9)),
        ({"end": NOW - 2 * HOUR}, NOW - 10, Window(NOW - 9 - HOUR, NOW - 9)),
        # Nothing has come since.
        ({"end": NOW - 9}, NOW - 10, Window(NOW - 9, NOW - 9)),
        # Our clock was set back.
        ({"end": NOW + HOUR}, NOW - 10, Window(NOW - 9 - HOUR, NOW - 9)),
        # No event has a time.
        (None, -1, Window(-HOUR, 0)),
        ({"end": "damaged"}, NOW - 10, Window(NOW - 9 - HOUR, NOW - 9)),
    ],
)
def test_the_next_window(state, newest, window) -> None:
    assert next_window(state, newest=newest, now=NOW, window_seconds=3600) == window


def test_seasons_are_hours_only_where_windows_are_short() -> None:
    friday = round(datetime(2026, 3, 6, 14, tzinfo=UTC).timestamp() * 1000)
    assert Window(friday, friday + HOUR).season == "working day 14"
    assert Window(friday, friday + 24 * HOUR).season == "weekend"
    assert Window(friday - 24 * HOUR, friday).season == "working day"
