"""How live fares, told from lags and from the job's own histogram."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from pipelines.core.lag import PartitionLag
from pipelines.core.metrics import JobMetrics
from pipelines.io.freshness import SearchableQuantile, WaitingTime


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lag(committed: int, end: int, partition: int = 0) -> PartitionLag:
    return PartitionLag("t", partition, end - committed, None, committed)


def test_an_unread_record_waits_since_it_was_seen() -> None:
    """By the watcher's own clock: a producer's timestamp may lie years back."""
    clock = Clock()
    waiting = WaitingTime(clock)
    assert waiting.look([lag(0, 0)]) == 0
    clock.now = 2.0
    assert waiting.look([lag(0, 10)]) == 0
    clock.now = 5.0
    assert waiting.look([lag(4, 20)]) == 3
    clock.now = 6.0
    assert waiting.look([lag(10, 20)]) == 1
    clock.now = 9.0
    assert waiting.look([lag(20, 20)]) == 0


def test_the_slowest_partition_counts() -> None:
    """One partition that stands still is seen beside others that move."""
    clock = Clock()
    waiting = WaitingTime(clock)
    waiting.look([lag(0, 5), lag(0, 5, 1)])
    clock.now = 7.0
    assert waiting.look([lag(5, 9), lag(0, 9, 1)]) == 7


class Job:
    """A job's page of metrics."""

    def __init__(self, version: str = "v") -> None:
        self.registry = CollectorRegistry()
        self.metrics = JobMetrics(self.registry)
        self.metrics.encoder_info.labels("i", version, "f", "m", "cpu", "float32").set(1)

    def wrote(self, seconds: float, count: int = 1) -> None:
        for _ in range(count):
            self.metrics.searchable_seconds.observe(seconds)

    def page(self) -> str:
        return generate_latest(self.registry).decode()


def test_the_quantile_is_of_late() -> None:
    """What was slow an hour ago says nothing of now."""
    clock = Clock()
    job, quantile = Job(), SearchableQuantile(lambda: None, "v", now=clock)
    job.wrote(300.0, 1000)
    assert quantile.take(job.page()) is None
    clock.now = 2.0
    job.wrote(0.3, 100)
    assert quantile.take(job.page()) == pytest.approx(0.5, abs=0.26)
    clock.now = 20.0
    assert quantile.take(job.page()) is not None
    clock.now = 80.0
    assert quantile.take(job.page()) is None


def test_a_slow_tail_shows() -> None:
    """Two events in a hundred that take long are the 99th percentile."""
    clock = Clock()
    job, quantile = Job(), SearchableQuantile(lambda: None, "v", now=clock)
    quantile.take(job.page())
    clock.now = 2.0
    job.wrote(0.3, 98)
    job.wrote(7.0, 2)
    found = quantile.take(job.page())
    assert found is not None
    assert 5 <= found <= 10


def test_another_jobs_figures_are_not_lives() -> None:
    """The port may be somebody else's."""
    job, quantile = Job("other"), SearchableQuantile(lambda: None, "v")
    quantile.take(job.page())
    job.wrote(0.3, 10)
    assert quantile.take(job.page()) is None


def test_a_job_that_was_started_anew_begins_at_zero() -> None:
    """Counts that fall are a new process's, not events that were unwritten."""
    clock = Clock()
    first, quantile = Job(), SearchableQuantile(lambda: None, "v", now=clock)
    first.wrote(0.3, 50)
    quantile.take(first.page())
    second = Job()
    second.wrote(0.3, 2)
    assert quantile.take(second.page()) is None
    second.wrote(0.3, 2)
    assert quantile.take(second.page()) is not None


def test_nobody_answers() -> None:
    """A job that serves no metrics is no error."""
    assert SearchableQuantile(lambda: None, "v").look() is None
