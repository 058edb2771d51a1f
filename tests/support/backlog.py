"""A producer at a steady pace, and how far a job is behind it by the broker's own answer."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from kafka import KafkaConsumer, TopicPartition

from tests.support.scenario import Scenario
from tests.support.stream import Stream

__all__ = ["Backlog", "Pace"]


class Pace:
    """Produces events with the time of day as their timestamps while the block runs.

    Parameters
    ----------
    it, stream
        Where to, and what.
    per_second
        How many, as near as the broker lets.
    """

    _PORTION_SECONDS = 0.4

    def __init__(self, it: Scenario, stream: Stream, per_second: float) -> None:
        self._it = it
        self._stream = stream
        self._per_second = per_second
        self._done = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._produce)
        self.sent = 0
        self.seconds = 0.0

    def _produce(self) -> None:
        began = time.monotonic()
        try:
            while not self._done.is_set():
                due = round((time.monotonic() - began) * self._per_second) - self.sent
                if due > 0:
                    now = int(time.time() * 1000)
                    self._it.topic.produce(self._stream.take(due), [now] * due)
                    self.sent += due
                    self.seconds = time.monotonic() - began
                self._done.wait(self._PORTION_SECONDS)
        except BaseException as error:  # noqa: BLE001 - shown when the block ends
            self._failed.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        assert kind or not self._failed, self._failed


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
