"""Ranges, counts and the ETA of a backfill."""

from __future__ import annotations

import itertools
import random
import statistics
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from pipelines.core.backfill_metrics import BackfillMetrics
from pipelines.core.backfill_progress import BackfillPlan, BackfillProgress, Eta, RangeCounts
from pipelines.core.points import point_id
from pipelines.core.stored_documents import id_ranges

SEED = 20_261_127


@given(st.integers(1, 300), st.integers(0, 2**128 - 1))
def test_every_id_lies_in_one_range(count: int, number: int) -> None:
    """No id is left out, and none is done twice."""
    ranges = id_ranges(count)
    one = str(uuid.UUID(int=number))
    assert sum(within.holds(one) for within in ranges) == 1
    assert ranges[0].first == 0
    assert ranges[-1].last == 2**128
    assert all(a.last == b.first for a, b in itertools.pairwise(ranges))


def test_ranges_hold_about_equally_many_heads() -> None:
    """Ids are hashes: equal slices of them are equal shares of the work."""
    ids = [point_id("docs", f"kb/{number}", 0) for number in range(20_000)]
    held = [sum(within.holds(one) for one in ids) for within in id_ranges(10)]
    assert sum(held) == len(ids)
    # Five standard deviations of a binomial(20000, 1/10).
    assert max(abs(count - 2000) for count in held) < 5 * (20_000 * 0.1 * 0.9) ** 0.5


def test_counts_add_up_and_survive_json() -> None:
    """A range's record says what a later run must know of it."""
    total = RangeCounts()
    for number in range(30):
        counts = RangeCounts(documents=3, embedded=2, tokens=50)
        counts.refuse(f"d{number}", "NaN")
        total.add(RangeCounts.from_json(counts.to_json()))
    assert (total.documents, total.embedded, total.refused, total.tokens) == (90, 60, 30, 1500)
    assert len(total.refusals) == 10


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(plan: BackfillPlan, clock: Clock, before: RangeCounts | None = None):
    metrics = BackfillMetrics(CollectorRegistry())
    return BackfillProgress(
        plan, before or RangeCounts(), ("docs", "v"), now=clock, metrics=metrics
    )


def test_nobody_knows_before_anything_is_done() -> None:
    """No ETA is better than a made-up one."""
    clock = Clock()
    made = progress(BackfillPlan(10, 1000, 0, 40.0), clock)
    assert made.snapshot()["eta_seconds"] is None
    assert made.snapshot()["tokens_total"] == 40_000


def test_done_is_done() -> None:
    """At the end nothing is left, whatever the estimate was."""
    clock = Clock()
    made = progress(BackfillPlan(1, 90, 10, 77.0), clock)
    clock.now += 10
    made.add(RangeCounts(documents=100, embedded=90, tombstones=10, tokens=4000))
    at = made.snapshot()
    assert (at["tokens_done"], at["tokens_total"], at["eta_seconds"]) == (4000, 4000, 0.0)


def test_what_an_earlier_run_did_counts() -> None:
    """A run that takes over begins where the other one ended, at its own rate."""
    clock = Clock()
    before = RangeCounts(documents=500, embedded=500, tokens=20_000)
    made = progress(BackfillPlan(10, 1000, 0, 40.0), clock, before)
    clock.now += 10
    made.add(RangeCounts(documents=100, embedded=100, tokens=4000))
    at = made.snapshot()
    assert at["tokens_done"] == 24_000
    assert at["eta_seconds"] == pytest.approx(40.0, rel=0.05)


def test_pauses_are_time_that_passes() -> None:
    """The throttle's pauses are in the rate: the ETA says when it will be done."""
    eta = Eta(0.0)
    for second in range(1, 61):
        eta.add(float(second), 100.0 * second if second <= 30 else 3000.0 + 50.0 * (second - 30))
    assert eta.rate == pytest.approx(50.0)


def _errors(seed: int, drift: float) -> list[float]:
    """Relative errors of the ETA over the second half of a simulated backfill."""
    chance = random.Random(seed)
    clock = Clock()
    batches = 120
    plan = BackfillPlan(12, 256 * batches, 0, 90.0 * chance.uniform(0.7, 1.4))
    made = progress(plan, clock)
    # Lengths of documents scatter by half; batches, by what else the machine does.
    tokens = [sum(chance.lognormvariate(4.3, 0.5) for _ in range(16)) * 16 for _ in range(batches)]
    seconds = [
        amount / (2000.0 * (1 - drift * row / batches)) * chance.lognormvariate(0, 0.3)
        for row, amount in enumerate(tokens)
    ]
    told = []
    for amount, took in zip(tokens, seconds, strict=True):
        clock.now += took
        made.add(RangeCounts(documents=256, embedded=256, tokens=round(amount)))
        told.append((clock.now, made.snapshot()["eta_seconds"]))
    end = clock.now
    second_half = [(at, eta) for at, eta in told if 100 + (end - 100) / 2 <= at < end]
    return [abs(eta - (end - at)) / (end - at) for at, eta in second_half if end - at > 1]


def test_the_eta_is_honest_over_the_second_half() -> None:
    """Its median error stays below 15 % for each of twenty seeds, batches scattering by a half."""
    medians = [statistics.median(_errors(SEED + number, 0.0)) for number in range(20)]
    assert max(medians) < 0.15


def test_the_eta_follows_a_machine_that_slows_down() -> None:
    """Where the rate falls by a third on the way, the median over the seeds still does."""
    medians = [statistics.median(_errors(SEED + number, 0.3)) for number in range(20)]
    assert statistics.median(medians) < 0.15


def test_metrics_follow() -> None:
    """A scrape sees documents by outcome, tokens, what is left, and the throttle."""
    registry = CollectorRegistry()
    clock = Clock()
    made = BackfillProgress(
        BackfillPlan(2, 190, 10, 10.0),
        RangeCounts(),
        ("docs", "v"),
        now=clock,
        metrics=BackfillMetrics(registry),
    )
    clock.now += 5
    made.add(RangeCounts(documents=100, embedded=90, tombstones=5, stale=5, tokens=900))
    made.throttled(0.5, 1.5)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"index": "docs", "version": "v", **labels})

    assert value("plumbline_backfill_documents_total", outcome="embedded") == 90
    assert value("plumbline_backfill_documents_total", outcome="stale") == 5
    assert value("plumbline_backfill_tokens_total") == 900
    assert value("plumbline_backfill_remaining_documents") == 100
    assert value("plumbline_backfill_throttle_seconds_total") == 1.5
    assert value("plumbline_backfill_speed_ratio") == 0.5
    eta = value("plumbline_backfill_eta_seconds")
    assert eta is not None
    assert 4 < eta < 7
