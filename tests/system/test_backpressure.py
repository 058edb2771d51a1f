"""A producer ten times as fast as the encoder: what grows is the topic, and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.io.kafka.lag import lag_reader
from tests.support.backlog import Backlog, pace
from tests.support.processes import free_port, wait_until
from tests.support.scenario import Scenario
from tests.support.scraping import samples
from tests.support.stream import Stream
from tests.support.usage import MemoryWatch

SEED = 20_261_127
SHORT_SECONDS, LONG_SECONDS = 20.0, 600.0

BATCH_EVENTS = 10
ENCODED_PER_SECOND = 50
"""The slow encoder takes a fifth of a second for a batch."""

BUNDLE_EVENTS = 100
GAUGE_SECONDS = 6.0
"""Age of what the job's gauge says: a bundle, and the pace at which ends are asked for."""

GROWN_MIB = 64.0
"""What the job may hold on top of what it had in the first quarter: two fetches of the default
16 MiB, and as much again for what Python keeps of freed memory."""


def gauge(port: int, name: str) -> float:
    """Sum of a metric's samples in the job's own answer."""
    return sum(samples(f"127.0.0.1:{port}", name))


@pytest.mark.acceptance
@pytest.mark.alone
@pytest.mark.timeout(3000)
def test_a_producer_ten_times_as_fast_as_the_encoder(
    scenario: Callable[..., Scenario], acceptance: bool
) -> None:
    """Memory stays flat, both lags are what the broker says, and the job catches up afterwards."""
    seconds = LONG_SECONDS if acceptance else SHORT_SECONDS
    port = free_port()
    it = scenario(
        partitions=4,
        settings={
            "contract": {"chunk": None},
            "ingest": {
                "batch_events": BATCH_EVENTS,
                "bundle_events": BUNDLE_EVENTS,
                "bundle_seconds": 1.0,
                "lease_seconds": 15,
            },
            "metrics": {"port": port},
        },
    )
    stream = Stream(SEED, 400, sentences=2, hostile_share=0.0, unchanged_share=0.0)
    with it.job(mutation="slow-encoder") as job, Backlog(it) as backlog:
        it.topic.produce(stream.take(100))
        it.wait_caught_up(job)
        before = gauge(port, "plumbline_events_total")
        with (
            MemoryWatch(job.pid) as memory,
            pace(it, stream, 10.5 * ENCODED_PER_SECOND) as producer,
        ):
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                job.require_running()
                backlog.ask()
                if time.monotonic() - began > GAUGE_SECONDS:
                    least, most = backlog.within(GAUGE_SECONDS)
                    said = gauge(port, "plumbline_consumer_lag_records")
                    assert least - BUNDLE_EVENTS <= said <= most + BUNDLE_EVENTS
                time.sleep(0.2)
            settled = gauge(port, "plumbline_events_total") - before
            assert producer.sent / producer.seconds >= 10 * settled / (time.monotonic() - began)
        flat(memory.seen)

        assert it.version is not None
        read = lag_reader(it.settings)
        most = backlog.ask()
        lags = read(it.version)
        assert backlog.ask() <= sum(lag.records for lag in lags) <= most
        stamps = [lag.oldest_timestamp for lag in lags if lag.oldest_timestamp is not None]
        waited = time.time() - min(stamps) / 1000
        assert seconds / 2 < waited < seconds + 60

        with MemoryWatch(job.pid) as memory_after:
            os.kill(job.pid, signal.SIGUSR1)
            it.wait_caught_up(job, 1200 if acceptance else 120)
        assert memory_after.most - max(first_quarter(memory.seen)) < GROWN_MIB
        wait_until(
            lambda: gauge(port, "plumbline_consumer_lag_records") == 0, 30, what="the lag is 0"
        )
        assert not [lag for lag in read(it.version) if lag.oldest_timestamp is not None]
        now = time.monotonic()
        it.topic.produce(stream.take(1), [int(time.time() * 1000)])
        it.wait_caught_up(job, 30)
        fresh = time.monotonic() - now
        assert fresh < 15
        # With `pytest -s`: what the guide to production says.
        early, late = max(first_quarter(memory.seen)), memory_after.most
        print(
            f"{producer.sent} events in {producer.seconds:.0f} s, {settled:.0f} settled; "
            f"{most} behind, the oldest for {waited:.0f} s; memory {early:.0f}, {memory.most:.0f} "
            f"and {late:.0f} MiB; afterwards committed after {fresh:.1f} s"
        )
        job.terminate()
        job.done()
    problems = it.problems()
    assert not problems, problems[:10]


def first_quarter(seen: list[float]) -> list[float]:
    """Of the looks."""
    return seen[: max(1, len(seen) // 4)]


def flat(seen: list[float]) -> None:
    """Fails when memory has grown since the first quarter of the looks."""
    grown = max(seen) - max(first_quarter(seen))
    assert grown < GROWN_MIB, f"grown by {grown:.0f} MiB: {seen[:: max(1, len(seen) // 20)]}"


def test_the_gauge_counts_what_came_after_the_fetch(
    scenario: Callable[..., Scenario],
) -> None:
    """A reader that works off what it has fetched knows of the records that came since."""
    from pipelines.core.metrics import job_metrics
    from pipelines.io.kafka import KafkaSource, close_consumers
    from pipelines.io.kafka.feed import Feed

    it = scenario()
    stream = Stream(SEED, 50, sentences=1, hostile_share=0.0)
    it.topic.produce(stream.take(700))
    reader: Any = KafkaSource(Feed.of(it.settings, it.topic.name), it.topic.name).create_reader(
        None, None
    )
    try:
        wait_until(reader.advance, 30, what="the first record is read")
        it.topic.produce(stream.take(300))
        reader.get_checkpoint_mark()
        samples = [
            sample.value
            for family in job_metrics().lag.collect()
            for sample in family.samples
            if sample.labels == {"topic": it.topic.name, "partition": "0"}
        ]
        assert samples == [999]
    finally:
        reader.close()
        close_consumers()
