"""How far this process has read and committed, by consumer group."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kafka import TopicPartition

from pipelines.core.errors import CommitError

__all__ = [
    "Ledger",
    "Place",
    "commit_failure",
    "ledger_of",
    "position_report",
]


class Place(NamedTuple):
    """A position in one incarnation of a partition.

    Parameters
    ----------
    position
        Offset of the next record to read.
    topic_id
        Kafka's id of the topic, 32 hex digits; empty where the broker tells none.
    generation
        How often the partition was begun anew since the first reader of the run: a topic that is
        re-created, or truncated, counts offsets again.
    leader_epoch
        Of the leader that wrote the record before the position; -1 where nobody knows. A broker
        that is asked where this epoch ended tells a log that has lost its end.
    """

    position: int
    topic_id: str = ""
    generation: int = 0
    leader_epoch: int = -1

    @property
    def order(self) -> tuple[int, int]:
        """What a later place has more of: generation first, then position."""
        return self.generation, self.position


class Ledger:
    """Positions of one consumer group in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._emitted: dict[TopicPartition, Place] = {}
        self._committed: dict[TopicPartition, Place] = {}
        self._topic_ids: dict[str, str] = {}
        self._failure: CommitError | None = None

    def begin(
        self, partitions: Iterable[TopicPartition], committed: Mapping[TopicPartition, Place]
    ) -> None:
        """Take what the broker has committed as the start of a run, whatever was known before."""
        with self._lock:
            for partition in partitions:
                self._emitted.pop(partition, None)
                self._committed.pop(partition, None)
                if partition in committed:
                    self._committed[partition] = committed[partition]

    def know_topic(self, topic: str, topic_id: str) -> None:
        """Note which incarnation of a topic exists now."""
        with self._lock:
            self._topic_ids[topic] = topic_id

    def emit(self, places: Mapping[TopicPartition, Place]) -> None:
        """Note positions that a checkpoint mark was cut at."""
        with self._lock:
            for partition, place in places.items():
                known = self._emitted.get(partition)
                if known is None or place.order >= known.order:
                    self._emitted[partition] = place

    def forget(self, partition: TopicPartition) -> None:
        """A partition that exists no more owes nothing."""
        with self._lock:
            self._emitted.pop(partition, None)
            self._committed.pop(partition, None)

    def due(self, places: Mapping[TopicPartition, Place]) -> dict[TopicPartition, Place]:
        """Those of the places that are further than what is committed, and of living topics."""
        with self._lock:
            return {
                partition: place
                for partition, place in places.items()
                if self._lives(partition.topic, place)
                and ((known := self._committed.get(partition)) is None or place.order > known.order)
            }

    def committed(self, places: Mapping[TopicPartition, Place]) -> None:
        """Note positions that the broker acknowledged."""
        with self._lock:
            self._committed.update(places)

    def fail(self, error: CommitError) -> None:
        """Keep a failed commit until a reader or the end of the run raises it."""
        with self._lock:
            self._failure = error

    @property
    def failure(self) -> CommitError | None:
        """The last commit that failed and was not raised yet."""
        with self._lock:
            return self._failure

    def raise_failure(self) -> None:
        """Raise the failed commit, once; after that the next mark commits all that is due."""
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def report(self) -> dict[tuple[str, int], tuple[int | None, int | None]]:
        """See `position_report`."""
        with self._lock:
            return {
                (partition.topic, partition.partition): (
                    place.position,
                    committed.position
                    if (committed := self._committed.get(partition)) is not None
                    and committed.generation == place.generation
                    else None,
                )
                for partition, place in sorted(self._emitted.items())
            }

    def _lives(self, topic: str, place: Place) -> bool:
        known = self._topic_ids.get(topic, "")
        return not known or not place.topic_id or known == place.topic_id


_lock = threading.Lock()
_ledgers: dict[str, Ledger] = {}


def ledger_of(group_id: str) -> Ledger:
    """The ledger of a consumer group in this process."""
    with _lock:
        return _ledgers.setdefault(group_id, Ledger())


def position_report(group_id: str) -> dict[tuple[str, int], tuple[int | None, int | None]]:
    """How far the job read and committed, for the comparison at the end of a run.

    Parameters
    ----------
    group_id
        Consumer group of the job.

    Returns
    -------
    dict
        (topic, partition) to (position of the last checkpoint mark, position that the broker
        acknowledged for this incarnation of the partition, `None` when there is none). Equal in
        every partition after a run that ended well.
    """
    return ledger_of(group_id).report()


def commit_failure(group_id: str) -> CommitError | None:
    """The failed commit that no reader has raised yet: the last one of a run may be such."""
    return ledger_of(group_id).failure
