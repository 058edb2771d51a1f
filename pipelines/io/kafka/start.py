"""Where a consumer group starts, and where its topics end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from pipelines.core.errors import DataLossError, SystemicError, TransientError
from pipelines.core.retry import retrying
from pipelines.core.settings import Settings
from pipelines.io.kafka.admin import check_broker
from pipelines.io.kafka.connection import CONNECT_SECONDS, connect_consumer, watched
from pipelines.io.kafka.errors import translate
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.stop import STOP
from pipelines.io.kafka.topology import Topology, load_topics, look

__all__ = ["end_offsets", "resolve_start", "start_at_beginning", "start_like", "unread_ends"]

T = TypeVar("T")

_TIMEOUT_MS = CONNECT_SECONDS * 1000

_log = structlog.get_logger()


def resolve_start(settings: Settings, group_id: str) -> None:
    """Commit where a new consumer group starts, before anything is read.

    Parameters
    ----------
    settings
        `kafka.start` says where: `earliest`, `latest` or a time for a group that has committed
        nothing yet; `committed` leaves it to the reader, which begins at the earliest record. A
        time that no record reaches means the end.
    group_id
        The group. One that has committed anything at all has started before: its partitions
        without an offset were added since, and are read from their beginning.

    The replay topic starts at its beginning whatever the setting: its events carry their
    original positions, so reading them again is harmless and missing one is not.

    Raises
    ------
    ServiceUnavailableError, ServiceRefusedError, UnknownNameError
        Kafka is out of reach for `kafka.outage_timeout_seconds`, refuses, or has no such topic.
    """
    if settings.kafka.start == "committed":
        return

    def resolve(consumer: KafkaConsumer, feed: Feed, seen: Topology) -> None:
        partitions = sorted(seen.leaders)
        committed = consumer._coordinator.fetch_committed_offsets(
            partitions, timeout_ms=_TIMEOUT_MS
        )
        if committed or not partitions:
            return
        replay = [p for p in partitions if p.topic == feed.replay_topic]
        others = [p for p in partitions if p.topic != feed.replay_topic]
        start = consumer.beginning_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        timestamp = settings.kafka.start_timestamp
        if settings.kafka.start == "latest" or timestamp is not None:
            start.update(consumer.end_offsets(others, timeout_ms=_TIMEOUT_MS) if others else {})
        if timestamp is not None and others:
            found = consumer.offsets_for_times(
                dict.fromkeys(others, timestamp), timeout_ms=_TIMEOUT_MS
            )
            start.update({p: at.offset for p, at in found.items() if at is not None})
        _commit(consumer, seen, start)
        _log.info(
            "kafka_start_resolved",
            group=group_id,
            start=settings.kafka.start,
            partitions=len(others),
            replay_partitions=len(replay),
        )

    _with_consumer(settings, group_id, resolve, "resolving where to start")


def start_like(settings: Settings, group_id: str, other_group_id: str) -> dict[TopicPartition, int]:
    """Commit for a new group what another one has committed; a group that has started keeps its.

    Every event below those offsets is durable in the version that the other group writes, so
    whoever reads that version from now on, and the topics from there on, misses nothing. A
    partition that the other group has not committed starts at its beginning.

    Parameters
    ----------
    group_id
        The candidate's.
    other_group_id
        Live's.

    Returns
    -------
    Where the group starts; empty when it has started before.

    Raises
    ------
    SystemicError
        The other group has committed nothing and `kafka.start` is no beginning: nobody can tell
        yet where it will start.
    ServiceUnavailableError, ServiceRefusedError, UnknownNameError
        See `resolve_start`.
    """

    def ask(
        consumer: KafkaConsumer, _: Feed, seen: Topology
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        return _committed_now(consumer, seen)

    def commit(consumer: KafkaConsumer, _: Feed, seen: Topology) -> dict[TopicPartition, int]:
        partitions = sorted(seen.leaders)
        if not partitions or consumer._coordinator.fetch_committed_offsets(
            partitions, timeout_ms=_TIMEOUT_MS
        ):
            return {}
        start: dict[TopicPartition, int] = consumer.beginning_offsets(
            partitions, timeout_ms=_TIMEOUT_MS
        )
        taken = {p: at for p, at in theirs.items() if p in start}
        start.update({p: at.offset for p, at in taken.items()})
        _commit(consumer, seen, start, {p: at.leader_epoch for p, at in taken.items()})
        _log.info(
            "kafka_start_taken_over",
            group=group_id,
            other=other_group_id,
            partitions=len(start),
            from_beginning=len(start.keys() - theirs.keys()),
        )
        return start

    theirs = _with_consumer(settings, other_group_id, ask, "asking where the live version stands")
    if not theirs and settings.kafka.start not in ("committed", "earliest"):
        raise SystemicError(
            f"the consumer group {other_group_id} has committed nothing yet, and kafka.start is "
            f"{settings.kafka.start!r}: it is not settled which events the live version will "
            "hold. Start its job (`plumbline ingest`) first."
        )
    return _with_consumer(settings, group_id, commit, "committing where the candidate starts")


def start_at_beginning(settings: Settings, group_id: str) -> dict[TopicPartition, int]:
    """Commit the beginning of every partition for a new group; one that has started keeps its.

    The replay topic may have expired: what it held stands in the source topics, where a reading
    from the beginning meets it again.

    Returns
    -------
    Where the group starts; empty when it has started before.

    Raises
    ------
    DataLossError
        A topic has dropped records already, so that replaying it would not give its documents.
        Nothing was committed.
    ServiceUnavailableError, ServiceRefusedError, UnknownNameError
        See `resolve_start`.
    """
    policies = {
        name: report.cleanup_policy for name, report in check_broker(settings).topics.items()
    }

    def commit(consumer: KafkaConsumer, feed: Feed, seen: Topology) -> dict[TopicPartition, int]:
        partitions = sorted(seen.leaders)
        if not partitions or consumer._coordinator.fetch_committed_offsets(
            partitions, timeout_ms=_TIMEOUT_MS
        ):
            return {}
        start: dict[TopicPartition, int] = consumer.beginning_offsets(
            partitions, timeout_ms=_TIMEOUT_MS
        )
        dropped = {
            partition: offset
            for partition, offset in start.items()
            if offset > 0
            and partition.topic != feed.replay_topic
            # Where the broker does not tell its policy, a beginning above 0 speaks for itself.
            and "delete" in (policies.get(partition.topic) or "delete")
        }
        if dropped:
            partition, offset = min(dropped.items())
            raise DataLossError(
                f"{len(dropped)} partitions no longer hold their first records: "
                f"{partition.topic}/{partition.partition} begins at offset {offset} "
                f"(cleanup.policy {policies.get(partition.topic) or 'unknown'}). A replay would "
                "miss documents: build from the live version instead (`--from version`)."
            )
        _commit(consumer, seen, start)
        _log.info("kafka_start_at_beginning", group=group_id, partitions=len(start))
        return start

    return _with_consumer(settings, group_id, commit, "committing where the candidate starts")


def _committed_now(
    consumer: KafkaConsumer, seen: Topology
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Offsets that the group has committed in the topics as they are now.

    The job notes the topic's id with each commit: a topic that was re-created counts its offsets
    again, and the old ones say nothing of it.
    """
    found = consumer._coordinator.fetch_committed_offsets(
        sorted(seen.leaders), timeout_ms=_TIMEOUT_MS
    )
    offsets = {}
    for partition, at in found.items():
        now = seen.topic_ids.get(partition.topic, "")
        if at.offset >= 0 and not (at.metadata and now and at.metadata != now):
            offsets[partition] = at
    return offsets


def _commit(
    consumer: KafkaConsumer,
    seen: Topology,
    start: Mapping[TopicPartition, int],
    epochs: Mapping[TopicPartition, int] | None = None,
) -> None:
    """One request for all partitions, so that a group has started whole or not at all."""
    known = epochs or {}
    consumer.commit(
        {
            partition: OffsetAndMetadata(
                offset, seen.topic_ids[partition.topic], known.get(partition, -1)
            )
            for partition, offset in start.items()
        },
        timeout_ms=_TIMEOUT_MS,
    )


def end_offsets(settings: Settings, group_id: str) -> dict[TopicPartition, int]:
    """End of every partition that the job reads, now.

    With `read_committed` the end of what is readable: the first offset of the oldest open
    transaction counts as the end. Raises as `resolve_start`.
    """

    def ask(consumer: KafkaConsumer, _: Feed, seen: Topology) -> dict[TopicPartition, int]:
        partitions = sorted(seen.leaders)
        found: dict[TopicPartition, int] = (
            consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS) if partitions else {}
        )
        return found

    return _with_consumer(settings, group_id, ask, "asking where the topics end")


def unread_ends(settings: Settings, group_id: str) -> dict[TopicPartition, int]:
    """As `end_offsets`, of the partitions that hold something the group has not committed."""

    def ask(consumer: KafkaConsumer, _: Feed, seen: Topology) -> dict[TopicPartition, int]:
        partitions = sorted(seen.leaders)
        if not partitions:
            return {}
        start = consumer.beginning_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        done = consumer._coordinator.fetch_committed_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        start.update({p: max(start[p], at.offset) for p, at in done.items()})
        end = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        return {p: offset for p, offset in end.items() if offset > start[p]}

    return _with_consumer(settings, group_id, ask, "asking what the group has not read")


def _with_consumer(
    settings: Settings,
    group_id: str,
    operation: Callable[[KafkaConsumer, Feed, Topology], T],
    what: str,
) -> T:
    feed = Feed.of(settings, group_id)

    def attempt() -> T:
        consumer = connect_consumer(settings.kafka, settings.index, group_id)
        try:
            manager = watched(consumer)
            if feed.has_pattern:
                manager.cluster.need_all_topic_metadata = True
            else:
                manager.cluster.set_topics([*feed.listed_topics, feed.replay_topic])
            load_topics(manager, feed, set())
            seen = look(manager, feed, None)
            # A partition without a leader makes the operation time out, and that is tried again.
            return operation(consumer, feed, seen)
        except KeyError as error:
            raise TransientError(f"{what}: a partition was left out of the answer") from error
        except Exception as error:
            raise translate(error, what) from error
        finally:
            consumer.close(autocommit=False, timeout_ms=0)

    return retrying(
        attempt,
        timeout_seconds=settings.kafka.outage_timeout_seconds,
        settings=settings.retry,
        what="Kafka",
        should_stop=STOP.is_set,
    )
