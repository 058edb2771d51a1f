"""Reads and commits the offsets of consumer groups, on a connection of its own for each."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from pipelines.core.errors import CommitError, PlumblineError, TransientError
from pipelines.core.metrics import job_metrics
from pipelines.core.retry import retrying
from pipelines.io.kafka.connection import CONNECT_SECONDS, connect_consumer, watched
from pipelines.io.kafka.errors import translate
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.pool import readers_of
from pipelines.io.kafka.positions import Place, ledger_of

__all__ = ["close_committer", "commit", "committed"]

T = TypeVar("T")

_log = structlog.get_logger()


class _Committer:
    """The consumer of one group that commits; it is never assigned a partition.

    Finalisation runs in a thread of the runner's choice while a reader polls in another, and
    kafka-python's consumer is not thread-safe: hence a consumer apart from those that read.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._lock = threading.Lock()
        self._consumer: KafkaConsumer | None = None

    def call(self, operation: Callable[[KafkaConsumer], T], what: str) -> T:
        """One try of an operation; raises our errors and starts anew after one."""
        with self._lock:
            try:
                if self._consumer is None:
                    self._consumer = connect_consumer(
                        self._feed.kafka, self._feed.index, self._feed.group_id
                    )
                return operation(self._consumer)
            except Exception as error:
                self._close()
                raise translate(error, what) from error

    def close(self) -> None:
        """Close its connection; a later call opens another."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(Exception):
                consumer.close(autocommit=False, timeout_ms=0)


_lock = threading.Lock()
_committers: dict[str, _Committer] = {}


def _committer(feed: Feed) -> _Committer:
    with _lock:
        return _committers.setdefault(feed.to_json(), _Committer(feed))


def close_committer(feed: Feed) -> None:
    """Close the group's connection, when no reader of this process is left."""
    with _lock:
        committer = _committers.pop(feed.to_json(), None)
    if committer is not None:
        committer.close()


def committed(feed: Feed, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Place]:
    """What the group has committed; a partition without a committed offset is left out.

    Raises
    ------
    TransientError
        No answer: try again.
    ServiceRefusedError
        The group or a topic is not permitted.
    """
    wanted = list(partitions)
    if not wanted:
        return {}
    timeout_ms = CONNECT_SECONDS * 1000

    def fetch(consumer: KafkaConsumer) -> dict[TopicPartition, OffsetAndMetadata]:
        # The public method asks for one partition at a time: a thousand round trips.
        offsets: dict[TopicPartition, OffsetAndMetadata] = (
            consumer._coordinator.fetch_committed_offsets(wanted, timeout_ms=timeout_ms)
        )
        return offsets

    found = _committer(feed).call(fetch, f"reading the offsets of group {feed.group_id}")
    return {
        partition: Place(value.offset, _topic_id(value.metadata), leader_epoch=value.leader_epoch)
        for partition, value in found.items()
    }


def commit(feed: Feed, places: Mapping[TopicPartition, Place]) -> None:
    """Commit positions for the group, where they are further than what is committed.

    Waits out a broker that does not answer for `kafka.outage_timeout_seconds`. Each offset
    carries the topic's id as its metadata, so that a job that starts later knows the offset of a
    topic that has been re-created since, and the leader's epoch, by which it knows a log that has
    lost its end since. Partitions of topics that are gone are left out.

    Raises
    ------
    CommitError
        The broker refused, or stayed out of reach. Kept in the group's ledger as well.
    """
    ledger = ledger_of(feed.group_id)
    due = ledger.due(places)
    try:
        if due:
            retrying(
                lambda: _commit_once(feed, due),
                timeout_seconds=feed.kafka.outage_timeout_seconds,
                settings=feed.retry,
                what="Kafka",
            )
    except PlumblineError as error:
        failure = CommitError(
            f"offsets of consumer group {feed.group_id} could not be committed: {error}"
        )
        ledger.fail(failure)
        job_metrics().commit_failures.inc()
        _log.error(
            "kafka_commit_failed",
            group=feed.group_id,
            partitions=len(due),
            error=type(error).__name__,
        )
        raise failure from error
    finally:
        # The last mark of a run is finalised after its reader has been closed.
        if not readers_of(feed):
            close_committer(feed)


def _commit_once(feed: Feed, due: dict[TopicPartition, Place]) -> None:
    offsets = {
        partition: OffsetAndMetadata(place.position, place.topic_id, place.leader_epoch)
        for partition, place in due.items()
    }
    timeout_ms = min(CONNECT_SECONDS, feed.kafka.request_timeout_seconds) * 1000
    committer = _committer(feed)
    try:
        committer.call(
            lambda consumer: consumer.commit(offsets, timeout_ms=timeout_ms),
            f"committing {len(offsets)} partitions",
        )
    except TransientError:
        # A topic that is gone looks to kafka-python like a broker that has not heard of it yet.
        topics = {partition.topic for partition in due}
        gone = topics - committer.call(lambda consumer: _existing(consumer, topics), "metadata")
        for partition in [partition for partition in due if partition.topic in gone]:
            _log.warning(
                "kafka_commit_left_out",
                reason="topic_gone",
                group=feed.group_id,
                topic=partition.topic,
                partition=partition.partition,
                offset=due.pop(partition).position,
            )
        if not due:
            return
        raise
    ledger_of(feed.group_id).committed(due)
    gauge = job_metrics().committed
    for partition, place in due.items():
        gauge.labels(partition.topic, str(partition.partition)).set(place.position)


def _existing(consumer: KafkaConsumer, topics: set[str]) -> set[str]:
    manager = watched(consumer)
    manager.cluster.need_all_topic_metadata = True
    future = manager.cluster.request_update()
    manager.run(manager.wait_for, future, CONNECT_SECONDS * 1000)
    existing: set[str] = manager.cluster.topics()
    return topics & existing


def _topic_id(metadata: str | None) -> str:
    text = metadata or ""
    # Other tools may write their own metadata, and a reset writes none.
    return text if len(text) == 32 and all(c in "0123456789abcdef" for c in text) else ""
