"""Hostile events through the whole job: none is lost, none stops it, each has its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pipelines.core.decode import Ignored, decode
from pipelines.core.errors import BadRecordError
from pipelines.core.position import OrderBy
from pipelines.core.records import Record
from pipelines.core.settings import Settings
from tests.support.hostile_stream import HostileStream
from tests.support.processes import wait_until
from tests.support.scenario import Scenario
from tests.support.stream import Message
from tests.support.usage import peak_mib

SEED = 20_261_128
SHORT, LONG = 2_500, 100_000
MOST_MIB = 1200
"""Of the job: twice what it takes with a tiny model, and far less than what it reads."""


def judged(messages: Iterator[Message], settings: Settings) -> Iterator[Message]:
    """The same with the reason that each must be refused for, as decode gives it alone."""
    for message in messages:
        if message.key is None and message.value is None:
            continue  # the client that tests produce with sends no such record
        record = Record("t", 0, 0, 1_000, message.key, message.value, message.headers)
        try:
            event = decode(record, settings)
        except BadRecordError as error:
            yield replace(message, hostile=error.reason.value)
        else:
            if not isinstance(event, Ignored):
                yield message


@pytest.mark.acceptance
@pytest.mark.timeout(3000)
def test_hostile_events_through_the_whole_job(
    scenario: Callable[..., Scenario], acceptance: bool
) -> None:
    """A stream that is mostly broken: the index is that of the good events, each other one is a
    dead letter with its reason, everything is committed, and memory stays where it is."""
    it = scenario(partitions=4, settings={"limits": {"text_bytes": 100_000}})
    stream = HostileStream(SEED, order_by=OrderBy.TIMESTAMP, text_bytes=100_000)
    count = LONG if acceptance else SHORT
    it.topic.produce(judged(stream.take(count), it.settings))
    assert len(it.topic.hostile) > count / 4
    with it.job("--until-caught-up", "--json") as job:
        peak = 0.0

        def ended() -> bool:
            nonlocal peak
            peak = max(peak, peak_mib(job.pid))
            return not job.running

        wait_until(ended, 2500 if acceptance else 240, what="the job has ended")
        assert job.wait(1) == 0, job.log()[-3000:]
    assert 0 < peak < MOST_MIB
    problems = it.problems()
    assert not problems, problems[:10]
