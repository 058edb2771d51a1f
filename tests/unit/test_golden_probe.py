"""The golden probe tells damage from harmless change, window by window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from monitors.golden.baseline import DocumentState
from monitors.golden.golden_set import GoldenQuery, GoldenSet
from monitors.golden.run import Pace, unhurried
from monitors.probes.base import Deadline, Level, ProbeTimeoutError
from monitors.probes.golden import GoldenProbe
from tests.support.golden_streams import Material, Stream, synthetic

MATERIAL = synthetic()


def settled(seed: int, windows: int = 3, **more) -> Stream:
    """A stream with its baseline and some harmless windows behind it."""
    stream = Stream(MATERIAL, seed, **more)
    assert stream.window().reason == "baseline_taken"
    for _ in range(windows):
        harmless(stream)
        assert stream.window().level is not Level.ALARM
    return stream


def harmless(stream: Stream) -> None:
    stream.delete(5)
    stream.add(10)
    stream.add(5, late=True)


def test_the_first_run_becomes_the_baseline():
    """Undecided, with figures, and everything the next run needs, as JSON."""
    stream = Stream(MATERIAL, 0)
    result = stream.window()

    assert (result.level, result.reason) == (Level.UNDECIDED, "baseline_taken")
    figures = {(f.family.name, f.labels): f.value for f in result.figures}
    assert 0.7 < figures["plumbline_golden_recall_ratio", ("10", "all")] < 0.95
    assert figures["plumbline_golden_judged_documents", ("present",)] == 300
    json.dumps([result.state, result.baseline])
    assert len(result.baseline["rankings"]) == 300


def test_nothing_that_is_harmless_alarms():
    """Churn, growth with late arrivals, float16, edits and an approximate index, for 20 windows."""
    stream = settled(1, miss_rate=0.01)
    levels = set()
    for number in range(20):
        harmless(stream)
        stream.edit(5, 0.97)
        if number == 5:
            stream.store_as_float16()
        levels.add(stream.window().level)
    assert levels <= {Level.OK, Level.WARNING}


def test_growth_alone_changes_nothing_but_the_raw_figures():
    """A flood of new documents lowers what users see; compared with the baseline nothing has."""
    stream = settled(2, windows=0, share=0.0)
    before = _figure(stream.window(), "recall", "all")
    stream.add(1000)
    result = stream.window()

    assert (result.level, result.reason) == (Level.OK, "unchanged")
    assert result.evidence.effect == 0
    assert _figure(result, "rank_biased_overlap") == 1
    assert _figure(result, "recall", "all") < before - 0.05


DAMAGES = {
    "queries": lambda stream: stream.blur_queries(0.87),
    "documents": lambda stream: stream.blur_documents(0.3, 0.55),
    "lost": lambda stream: stream.lose(0.1),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("seed", range(3))
def test_real_losses_alarm_within_three_windows(damage, seed):
    """Some ten points of recall, with a young baseline, while harmless change goes on."""
    stream = settled(seed)
    DAMAGES[damage](stream)
    results = []
    for _ in range(3):
        harmless(stream)
        results.append(stream.window())
    alarm = next(result for result in results if result.level is Level.ALARM)
    assert alarm.reason == ("documents_lost" if damage == "lost" else "recall_lost")
    assert alarm.evidence.effect >= 0.02
    worst = alarm.details["worst_queries"][0]
    assert worst["query"].startswith("q")
    assert worst["rank_before"] <= 10 < (worst["rank_after"] or 99)


def test_lost_documents_are_named():
    """By id, in the words and in the details."""
    stream = settled(3, windows=1)
    row = stream._row["d7"]
    stream.alive[row] = False
    result = stream.window()
    assert (result.level, result.reason) == (Level.WARNING, "judged_documents_missing")
    assert "d7" in result.words
    assert result.details["lost_documents"] == ["d7"]


def test_deleted_documents_stay_forgiven_when_their_tombstones_are_purged():
    """Deleting a third of the judged documents is no loss, then or later."""
    stream = settled(4, windows=1)
    for document in MATERIAL.golden.judged[:100]:
        stream.alive[stream._row[document]] = False
        stream.tombstones.add(document)
    first = stream.window()
    stream.tombstones.clear()
    second = stream.window()
    for result in (first, second):
        assert (result.level, result.evidence.effect) == (Level.OK, 0)
        assert result.details["deleted_documents"] >= 100


def test_a_changed_golden_set_starts_anew():
    """And says so; the control starts anew too."""
    stream = settled(5)
    changed = list(MATERIAL.golden.queries)
    changed[0] = GoldenQuery(changed[0].id, changed[0].text, {"d0": 2}, 1)
    stream.material = _with_golden(GoldenSet(tuple(changed), Path("golden.yaml")))
    result = stream.window()
    assert (result.level, result.reason) == (Level.UNDECIDED, "golden_set_changed")
    assert "control" not in result.state
    assert stream.window().reason == "unchanged"


def test_undecided_is_neither_alarm_nor_silence():
    """An empty index, half of the judged documents, none judged: each has its reason."""
    stream = Stream(MATERIAL, 6)
    kept, stream.alive = stream.alive, np.zeros_like(stream.alive)
    assert _answer(stream) == (Level.UNDECIDED, "index_empty")
    stream.alive = kept & (np.arange(len(kept)) >= 160)
    assert _answer(stream) == (Level.UNDECIDED, "few_documents")
    stream.alive = kept
    assert _answer(stream) == (Level.UNDECIDED, "baseline_taken")
    for document in MATERIAL.golden.judged[:200]:
        stream.alive[stream._row[document]] = False
        stream.tombstones.add(document)
    assert _answer(stream) == (Level.UNDECIDED, "few_documents_left")

    nothing = GoldenSet((GoldenQuery("q0", "text", {}, 1),), Path("golden.yaml"))
    stream.material = _with_golden(nothing)
    assert _answer(stream) == (Level.UNDECIDED, "no_judgements")
    stream._settings = stream._settings.model_copy(
        update={"monitor": type(stream._settings.monitor)()}
    )
    assert _answer(stream) == (Level.UNDECIDED, "no_golden_file")


def test_an_index_that_lost_everything_alarms():
    """Empty after a baseline, and nobody deleted anything: that is not undecided."""
    stream = settled(7, windows=1)
    stream.alive[:] = False
    assert _answer(stream) == (Level.ALARM, "documents_lost")


def test_every_reason_and_figure_is_declared():
    """What a run gives, the class has announced."""
    stream = settled(8, windows=1)
    stream.lose(0.5)
    result = stream.window()
    assert result.reason in GoldenProbe.REASONS
    for figure in result.figures:
        assert figure.family in GoldenProbe.FAMILIES
        assert len(figure.labels) == len(figure.family.labels)
    assert result.evidence.samples["queries"] > 0


def test_small_sets_say_what_they_cannot_show():
    """Fewer than 200 judged queries: said with the baseline."""
    small = synthetic(queries=60, documents=400)
    assert "200 or more" in Stream(small, 0).window().words


def test_the_pace_is_held_and_the_deadline_too():
    """No more requests than allowed, no burst after a pause, no sleep past the deadline."""
    now = [0.0]
    starts = []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(10, clock=lambda: now[0], sleep=sleep)
    for number in range(30):
        if number == 10:
            now[0] += 60
        pace.wait()
        starts.append(now[0])
    assert np.diff(starts).min() >= 0.1 - 1e-9
    assert starts[9] == pytest.approx(0.9)
    with pytest.raises(ProbeTimeoutError):
        Pace(None, Deadline(at=0)).wait()
    slow = Pace(0.001, Deadline.after(0.05))
    slow.wait()
    with pytest.raises(ProbeTimeoutError):
        slow.wait()


@pytest.mark.parametrize(
    ("queries", "seconds", "rate"),
    [
        (1200, 600.0, 2.5),
        (50, 600.0, 1.0),
        (0, 600.0, 1.0),
        (12_000, 600.0, 20.0),
        (1000, 0.0, 20.0),
        (1000, -5.0, 20.0),
    ],
)
def test_a_set_takes_its_time_and_no_more(queries, seconds, rate):
    """Four fifths of it; small sets are done soon all the same."""
    assert unhurried(queries, seconds) == pytest.approx(rate)


def test_states_have_names_for_the_labels():
    """The label `state` has exactly these values."""
    assert [state.value for state in DocumentState] == ["present", "deleted", "gone"]


def _answer(stream: Stream) -> tuple[Level, str]:
    result = stream.window()
    return result.level, result.reason


def _with_golden(golden: GoldenSet) -> Material:
    return Material(MATERIAL.ids, MATERIAL.documents, MATERIAL.queries, golden)


def _figure(result, name: str, *labels: str) -> float:
    (value,) = (
        figure.value
        for figure in result.figures
        if figure.family.name == f"plumbline_golden_{name}_ratio"
        and set(labels) <= set(figure.labels)
    )
    return value
