"""A producer at a steady pace, and how far a job is behind it by the broker's own answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from kafka import KafkaConsumer, TopicPartition

from tests.support.meanwhile import meanwhile
from tests.support.scenario import Scenario
from tests.support.stream import Stream

__all__ = ["Backlog", "Paced", "pace"]


_PORTION_SECONDS = 0.4


@dataclass
class Paced:
    """What a producer has sent so far, and the seconds until the last of it."""

    sent: int = 0
    seconds: float = 0.0


@contextmanager
def pace(it: Scenario, stream: Stream, per_second: float) -> Iterator[Paced]:
    """Produces events with the time of day as their timestamps while the block runs.

    Parameters
    ----------
    it, stream
        Where to, and what.
    per_second
        How many, as near as the broker lets.
    """
    so_far = Paced()
    began = time.monotonic()

    def produce(done: threading.Event) -> None:
        while not done.is_set():
            due = round((time.monotonic() - began) * per_second) - so_far.sent
            if due > 0:
                now = int(time.time() * 1000)
                it.topic.produce(stream.take(due), [now] * due)
                so_far.sent += due
                so_far.seconds = time.monotonic() - began
            done.wait(_PORTION_SECONDS)

    with meanwhile(produce):
        yield so_far


class Backlog:
    """End offsets minus committed ones, asked of the broker by a client of its own.

    Parameters
    ----------
    it
        The topic and the job's group.
    """

    def __init__(self, it: Scenario) -> None:
        self._it = it
        self._consumer = KafkaConsumer(bootstrap_servers=it.topic.bootstrap)
        self.seen: list[tuple[float, int]] = []
        """Monotonic seconds and records, of each answer."""

    def ask(self) -> int:
        """Records that are in the topic and not committed."""
        partitions = [
            TopicPartition(self._it.topic.name, number)
            for number in range(self._it.topic.partitions)
        ]
        committed = self._it.committed()
        ends = self._consumer.end_offsets(partitions)
        behind = sum(ends[place] - committed.get(place, 0) for place in partitions)
        self.seen.append((time.monotonic(), behind))
        return behind

    def within(self, seconds: float) -> tuple[int, int]:
        """Least and greatest answer of the last seconds."""
        since = time.monotonic() - seconds
        found = [behind for at, behind in self.seen if at >= since]
        return min(found), max(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close(autocommit=False)
