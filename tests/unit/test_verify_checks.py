"""Single checks of a candidate, on stores that say what they are told."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.core.points import OURS, point_id
from pipelines.core.position import Position
from pipelines.core.settings import Settings
from pipelines.rollout.verify import CheckResult, Outcome, VerifyContext, VerifyReport, run_checks
from pipelines.rollout.verify.documents import check_documents, compare_heads
from pipelines.rollout.verify.latency import latency_bounds
from pipelines.rollout.verify.offsets import Horizon
from pipelines.rollout.verify.optimiser import check_optimiser


class Collection:
    """A server whose collection passes through the given states."""

    local = False

    def __init__(self, *states: str, error: str = "") -> None:
        self._states = list(states)
        self._error = error

    def call(self, method: str, name: str) -> Any:
        assert method == "get_collection"
        status = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        return SimpleNamespace(
            status=SimpleNamespace(value=status),
            optimizer_status=SimpleNamespace(error=self._error) if self._error else "ok",
            indexed_vectors_count=1200,
            segments_count=2,
        )


def context(qdrant: Any, **changes: Any) -> VerifyContext:
    version: Any = SimpleNamespace(name="docs--m--0123456789ab", index="docs")
    values: dict[str, Any] = {
        "settings": Settings(index="docs"),
        "qdrant": qdrant,
        "live": version,
        "candidate": version,
        "load": lambda _: None,
        "sleep": lambda _: None,
        **changes,
    }
    return VerifyContext(**values)


def test_an_idle_optimiser_passes() -> None:
    """Green, also when it comes to be green while somebody waits."""
    found = check_optimiser(context(Collection("yellow", "yellow", "green")))
    assert found.outcome is Outcome.PASS
    assert "1,200 vectors" in found.words


@pytest.mark.parametrize("state", ["yellow", "grey"])
def test_an_optimiser_that_goes_on_is_undecided(state: str) -> None:
    """Still working when the patience ends: another run will tell."""
    found = check_optimiser(context(Collection(state), patience_seconds=0.0))
    assert found.outcome is Outcome.UNDECIDED
    assert state in found.words


def test_an_optimiser_with_an_error_refuses() -> None:
    """What the server says of it is passed on."""
    found = check_optimiser(context(Collection("green", error="no space left")))
    assert found.outcome is Outcome.REFUSE
    assert "no space left" in found.words
    assert check_optimiser(context(Collection("red"))).outcome is Outcome.REFUSE


def test_the_ratio_s_bound_is_kept_by_noise() -> None:
    """Two equally slow versions: the lower bound lies above 1 in at most a few of 40 draws."""
    random = np.random.default_rng(11)
    wrong = 0
    for _ in range(40):
        live, candidate = (random.lognormal(-7, 0.4, (100, 3)) for _ in range(2))
        low, high, _ = latency_bounds(live.tolist(), candidate.tolist(), random)
        assert low <= high
        wrong += low > 1
    assert wrong <= 3


def test_the_ratio_s_bound_sees_what_is_slower() -> None:
    """Twice as slow is shown to be more than 1.5 times as slow."""
    random = np.random.default_rng(12)
    live = random.lognormal(-7, 0.2, (100, 3))
    candidate = 2 * random.lognormal(-7, 0.2, (100, 3))
    low, _, seconds = latency_bounds(live.tolist(), candidate.tolist(), random)
    assert low > 1.5
    assert 0 < seconds < np.quantile(candidate, 0.95)


def test_what_lies_beyond_the_vector() -> None:
    """Offsets at or behind it, and new partitions of its topics; a topic nobody reads counts."""
    horizon = Horizon({("a", 0): 10})
    beyond = {
        (topic, partition, offset): horizon.beyond(Position(topic, partition, offset, 1))
        for topic, partition, offset in [("a", 0, 9), ("a", 0, 10), ("a", 1, 0), ("old", 0, 99)]
    }
    assert beyond == {
        ("a", 0, 9): False,
        ("a", 0, 10): True,
        ("a", 1, 0): True,
        ("old", 0, 99): False,
    }
    assert not Horizon().beyond(Position("a", 0, 10, 1))
    ended = Horizon({("a", 0): 10}, ends={("a", 0): 12})
    assert [ended.beyond(Position("a", 0, offset, 1)) for offset in (9, 11, 12)] == [
        False,
        True,
        False,
    ]


def test_two_absent_heads_are_no_difference() -> None:
    """A document that is in neither version any more agrees."""
    assert compare_heads(None, None) is None


class Heads:
    """Two versions that hold the same heads, made page by page; the first `changed` differ."""

    local = True

    def __init__(self, count: int, changed: int = 0) -> None:
        self.ids = sorted((point_id("docs", f"d{n}", 0), n) for n in range(count))
        self._changed = changed

    def call(self, method: str, name: str, **named: Any) -> Any:
        if method == "retrieve":
            wanted = dict(self.ids)
            return [self._point(name, one, wanted[one]) for one in named["ids"] if one in wanted]
        assert method == "scroll"
        start = named["offset"] or 0
        end = start + named["limit"]
        page = [self._point(name, *row) for row in self.ids[start:end]]
        return page, end if end < len(self.ids) else None

    def _point(self, name: str, identity: str, number: int) -> Any:
        changed = name == "candidate" and number < self._changed
        ours = {
            "document_id": f"d{number}",
            "chunk": 0,
            "chunks": 1,
            "topic": "t",
            "partition": 0,
            "offset": number,
            "timestamp": 1,
            "event_key": f"{number:032x}",
            "metadata_hash": "0",
            "text_hash": f"{number + changed:032x}",
            "fingerprint": name,
            "created_at": 1,
        }
        return SimpleNamespace(id=identity, payload={OURS: ours}, vector=None)


def compared(heads: Heads) -> CheckResult:
    live, candidate = (SimpleNamespace(name=name, index="docs") for name in ("live", "candidate"))
    return check_documents(context(heads, live=live, candidate=candidate, patience_seconds=1.0))


def test_memory_does_not_grow_with_the_documents() -> None:
    """Six times the documents take at most a tenth more memory to compare."""

    def peak(count: int) -> int:
        heads = Heads(count)
        tracemalloc.start()
        assert compared(heads).outcome is Outcome.PASS
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = peak(2500), peak(15_000)
    assert many < 1.1 * few, (few, many)


def test_more_differences_than_are_read_again_are_counted() -> None:
    """7,000 texts differ: all are counted, and ten are named."""
    found = compared(Heads(8000, changed=7000))
    assert (found.outcome, found.figure) == (Outcome.REFUSE, 7000)
    assert found.details["differences"] == {"text": 7000}
    assert len(found.details["ids"]["text"]) == 10


def result(outcome: Outcome, name: str = "x") -> CheckResult:
    return CheckResult(name, outcome, 1.0, 0.0, "things", "words.")


@pytest.mark.parametrize(
    ("outcomes", "ok"),
    [
        ([Outcome.PASS, Outcome.SKIPPED], True),
        ([Outcome.PASS, Outcome.UNDECIDED], False),
        ([Outcome.REFUSE, Outcome.PASS], False),
    ],
)
def test_every_check_has_a_say(outcomes: list[Outcome], ok: bool) -> None:
    """A candidate goes on when every check passes or does not apply."""
    checks = {
        f"check{number}": (lambda _, outcome=outcome, number=number: result(outcome, f"c{number}"))
        for number, outcome in enumerate(outcomes)
    }
    report: VerifyReport = run_checks(context(Collection("green")), checks=checks)
    assert report.ok is ok
    assert report.to_json()["ok"] is ok
    assert [row.outcome for row in report.rows] == [outcome.value for outcome in outcomes]
    assert ("passed every check" in report.words) is ok
