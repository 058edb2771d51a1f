"""The freshness probe's arithmetic: how long events have waited, whatever their stamps say."""

from __future__ import annotations

import json
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from monitors.freshness.delays import percentile
from monitors.probes.base import Deadline, Level, ProbeContext
from monitors.probes.freshness import FreshnessProbe
from pipelines.core.errors import ServiceUnavailableError
from pipelines.core.lag import PartitionLag
from pipelines.core.points import OURS
from pipelines.core.settings import Settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OBJECTIVE = 300.0
SETTINGS = Settings()


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


class Runs:
    """Runs of the probe one after another, its state kept as the store keeps it."""

    def __init__(self) -> None:
        self.now = NOW
        self.state = None
        self.incarnation = "one"
        self.heads: list[dict] = []
        self.created = NOW - timedelta(days=1)

    def context(self, lag) -> ProbeContext:
        def call(method, *args, **kwargs):
            assert method == "scroll"
            found = sorted(self.heads, key=lambda ours: -ours["timestamp"])[: kwargs["limit"]]
            return [SimpleNamespace(payload={OURS: ours}) for ours in found], None

        return ProbeContext(
            settings=SETTINGS,
            qdrant=SimpleNamespace(call=call),
            version=SimpleNamespace(
                name="v", incarnation=self.incarnation, created_at=self.created.isoformat()
            ),
            encoder=None,
            unchecked_encoder=None,
            state=self.state,
            baseline=None,
            reference=None,
            keep_reference=None,
            now=self.now,
            deadline=Deadline.after(30),
            random=np.random.default_rng(0),
            lag=None if lag is None else lambda version: lag,
        )

    def run(self, *lag: PartitionLag, after: float = 30.0):
        self.now += timedelta(seconds=after)
        result = FreshnessProbe().run(self.context(list(lag)))
        if result.state is not None:
            self.state = json.loads(json.dumps(result.state))
        return result

    def waiting(self, result) -> float:
        return figure(result, "oldest_unprocessed_seconds")


class Ingest:
    """Events that come at random, and a job that commits all it knows every few seconds."""

    def __init__(self, seed: int, events_per_second: float, skew_seconds: float) -> None:
        self._random = np.random.default_rng(seed)
        self._rate = events_per_second
        self._skew = skew_seconds
        self._arrivals: list[float] = []
        self._committed = 0
        self._next = 0.0
        self._commit_at = 0.0
        self.stalled_at = float("inf")

    def lag(self, now: float) -> tuple[PartitionLag, float]:
        """What the reader sees at that second, and how long its first record has truly waited."""
        while self._next <= now:
            self._arrivals.append(self._next)
            self._next += self._random.exponential(1 / self._rate)
        while self._commit_at <= min(now, self.stalled_at):
            self._committed = bisect_right(self._arrivals, self._commit_at)
            self._commit_at += self._random.uniform(3, 9)
        if self._committed == len(self._arrivals):
            return PartitionLag("t", 0, 0, None, self._committed), 0.0
        arrival = self._arrivals[self._committed]
        skew = self._random.uniform(-self._skew, self._skew)
        return (
            behind(
                self._committed,
                NOW + timedelta(seconds=arrival + skew),
                records=len(self._arrivals) - self._committed,
            ),
            now - arrival,
        )


@pytest.mark.parametrize("rate", [0.02, 2.0], ids=["rare", "busy"])
@pytest.mark.parametrize("skew", [0.0, 20.0, 3600.0])
def test_a_stall_is_caught_in_the_first_run_past_the_objective_and_nothing_before(rate, skew):
    """20 seeds, an hour of ordinary work each; the producers' clocks may be off."""
    for seed in range(20):
        runs, ingest = Runs(), Ingest(seed, rate, skew)
        for _ in range(120):
            now = (runs.now - NOW).total_seconds() + 30
            result = runs.run(ingest.lag(now)[0])
            assert result.level is not Level.ALARM, (seed, result.words)
        ingest.stalled_at = now
        waited = 0.0
        while result.level is not Level.ALARM:
            assert waited <= OBJECTIVE + (30 if skew else 0), (seed, waited)
            now = (runs.now - NOW).total_seconds() + 30
            lag, waited = ingest.lag(now)
            result = runs.run(lag)
        # Stamps that are wrong are bounded by the runs, half a minute apart.
        assert waited > OBJECTIVE - (30 if skew else 0), (seed, waited)


def figure(result, name, labels=()):
    (value,) = [
        f.value
        for f in result.figures
        if f.family.name == f"plumbline_freshness_{name}" and f.labels == labels
    ]
    return value


def caught_up(committed, partition=0):
    return PartitionLag("t", partition, 0, None, committed)


def behind(committed, stamp, records=5, partition=0, expired=0):
    stamped = None if stamp is None else ms(stamp)
    return PartitionLag("t", partition, records, stamped, committed, expired)


@pytest.fixture
def runs() -> Runs:
    return Runs()


def test_caught_up_is_fresh(runs):
    result = runs.run(caught_up(10))
    assert (result.level, result.reason) == (Level.OK, "fresh")
    assert runs.waiting(result) == 0


def test_an_ordinary_backlog_is_fresh_and_its_age_is_told(runs):
    runs.run(caught_up(10))
    result = runs.run(behind(10, runs.now + timedelta(seconds=10)))
    assert result.level is Level.OK
    assert runs.waiting(result) == 20
    assert figure(result, "partition_lag_records", ("t", "0")) == 5


@pytest.mark.parametrize("gap", [310, 600, 86_400])
def test_a_stalled_job_alarms_in_the_first_run_in_which_an_event_is_too_old(runs, gap):
    runs.run(caught_up(10))
    stalled_at = runs.now
    result = runs.run(behind(10, stalled_at + timedelta(seconds=1)), after=gap)
    assert (result.level, result.reason) == (Level.ALARM, "stalled")
    assert figure(result, "stalled_partitions") == 1
    assert "t/0" in result.words


def test_a_stall_alarms_when_the_objective_is_over_and_not_before(runs):
    runs.run(caught_up(10))
    event = runs.now + timedelta(seconds=1)
    levels = [runs.run(behind(10, event)).level for _ in range(12)]
    assert levels[:10] == [Level.OK] * 10
    assert levels[10:] == [Level.ALARM] * 2  # 330 s after the run that saw it caught up


def test_a_job_that_moves_slowly_warns(runs):
    runs.run(behind(10, runs.now - timedelta(hours=1), records=1000))
    result = runs.run(behind(500, runs.now - timedelta(minutes=50), records=510))
    assert (result.level, result.reason) == (Level.WARNING, "behind")


def test_one_partition_that_stands_still_among_moving_ones_alarms(runs):
    old = runs.now - timedelta(hours=1)
    runs.run(behind(10, old, records=100), behind(10, old, partition=1))
    result = runs.run(behind(90, old, records=30), behind(10, old, partition=1))
    assert result.reason == "stalled"
    assert "t/1" in result.words
    assert "1 of 2 partitions" in result.words


def test_backdated_events_after_being_caught_up_are_no_stall(runs):
    """A producer sends last year's events: they have waited since the last run at most."""
    runs.run(caught_up(10))
    result = runs.run(behind(10, runs.now - timedelta(days=365)))
    assert result.level is Level.OK
    assert runs.waiting(result) == 30


def test_stamps_from_the_future_hide_no_stall(runs):
    runs.run(caught_up(10))
    future = runs.now + timedelta(days=2)
    result = [runs.run(behind(10, future)) for _ in range(12)][-1]
    assert result.reason == "stalled"
    assert runs.waiting(result) == 330
    assert "future" in result.words


def test_a_record_without_a_readable_stamp_still_shows_a_stall(runs):
    runs.run(caught_up(10))
    assert [runs.run(behind(10, None)) for _ in range(12)][-1].reason == "stalled"


def test_the_first_run_cannot_tell_a_stall_from_a_replay(runs):
    result = runs.run(behind(None, runs.now - timedelta(days=30)))
    assert (result.level, result.reason) == (Level.WARNING, "first_look")


def test_a_backlog_of_many_runs_keeps_few_marks_and_true_bounds(runs):
    """The job commits one event a run while ten come: the stamps are years old."""
    for number in range(200):
        old = NOW - timedelta(days=3000)
        result = runs.run(behind(number, old, records=1 + 9 * number))
    # Event 199 came in run 20, so it has waited for 180 runs.
    assert 160 * 30 <= runs.waiting(result) <= 200 * 30
    ((_, marks),) = runs.state["partitions"].values()
    assert len(marks) <= 8


def test_a_version_built_anew_starts_from_nothing(runs):
    old = runs.now - timedelta(hours=1)
    runs.run(behind(10, old))
    runs.incarnation = "two"
    assert runs.run(behind(10, old)).reason == "first_look"


def test_a_group_that_never_committed_stalls_too(runs):
    old = runs.now - timedelta(hours=1)
    runs.run(behind(None, old))
    assert runs.run(behind(None, old)).reason == "stalled"


def test_a_new_partition_is_no_stall(runs):
    runs.run(caught_up(10))
    old = runs.now - timedelta(hours=1)
    assert runs.run(caught_up(10), behind(None, old, partition=1)).reason == "behind"


def test_records_that_expired_unread_alarm(runs):
    result = runs.run(behind(10, runs.now, expired=7))
    assert (result.level, result.reason) == (Level.ALARM, "expired")
    assert figure(result, "expired_records") == 7


def test_no_topic_yet_is_undecided(runs):
    result = runs.run()
    assert (result.level, result.reason) == (Level.UNDECIDED, "no_partitions")


def test_without_kafka_the_version_is_looked_at(runs):
    result = FreshnessProbe().run(runs.context(None))
    assert (result.level, result.reason) == (Level.UNDECIDED, "empty")
    runs.heads = [head(NOW - timedelta(seconds=60), 2)]
    result = FreshnessProbe().run(runs.context(None))
    assert (result.level, result.reason) == (Level.UNDECIDED, "no_kafka")
    assert "60 s old" in result.words
    assert figure(result, "newest_event_timestamp_seconds") == NOW.timestamp() - 60


def head(stamp: datetime, seconds: float) -> dict:
    indexed = stamp + timedelta(seconds=seconds)
    return {"timestamp": ms(stamp), "indexed_at": indexed.isoformat(timespec="milliseconds")}


def test_time_until_searchable_counts_events_younger_than_the_version(runs):
    runs.heads = [head(NOW - timedelta(seconds=n), n) for n in range(1, 101)]
    runs.heads += [head(runs.created - timedelta(days=9), 1e6) for _ in range(100)]
    result = runs.run(caught_up(10))
    assert figure(result, "searchable_median_seconds") == 50
    assert figure(result, "searchable_p95_seconds") == 95


def test_clocks_that_differ_a_little_give_zero_and_not_less(runs):
    runs.heads = [head(NOW, -0.9)]
    assert figure(runs.run(caught_up(10)), "searchable_median_seconds") == 0


def test_an_event_that_was_indexed_before_its_stamp_says_nothing(runs):
    """Nobody knows how long it took, and 0 would hide those that were slow."""
    runs.heads = [head(NOW, -3), head(NOW, 20)]
    assert figure(runs.run(caught_up(10)), "searchable_median_seconds") == 20


def test_slow_indexing_warns(runs):
    runs.heads = [head(NOW - timedelta(seconds=n), 400) for n in range(30)]
    assert runs.run(caught_up(10)).reason == "late"


def test_labels_stay_bounded(runs):
    lags = [behind(1, runs.now, records=n, partition=n) for n in range(1000)]
    result = runs.run(*lags)
    labels = {f.labels for f in result.figures if f.family.labels}
    assert len(labels) == 200
    assert ("t", "999") in labels
    assert figure(result, "lag_records") == sum(range(1000))


def test_an_outage_of_kafka_is_raised(runs):
    def down(version):
        raise ServiceUnavailableError("Kafka stayed out of reach")

    context = runs.context([])
    object.__setattr__(context, "lag", down)
    with pytest.raises(ServiceUnavailableError):
        FreshnessProbe().run(context)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5.0], 0.5, 5.0), ([1, 2, 3, 4], 0.5, 2), (list(range(1, 21)), 0.95, 19), ([1, 2], 1.0, 2)],
)
def testpercentile(values, share, expected):
    assert percentile(values, share) == expected
