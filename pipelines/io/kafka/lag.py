"""How far a version's consumer group is behind: asked by the monitor, committed by nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import OffsetOutOfRangeError

from pipelines.core.lag import PartitionLag
from pipelines.core.settings import Settings
from pipelines.core.versions import Version
from pipelines.io.kafka.connection import CONNECT_SECONDS
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.start import _committed_now, _with_consumer
from pipelines.io.kafka.topology import Topology

__all__ = ["lag_reader"]

_TIMEOUT_MS = CONNECT_SECONDS * 1000

_POLL_MS = 200

_PARTITION_BYTES = 16 * 1024
"""One record of each partition is wanted. A broker sends a larger batch whole when it comes first
in a fetch, and every partition does in its turn."""

_FETCH_BYTES = 1024 * 1024


def lag_reader(
    settings: Settings, *, read_seconds: float = 5.0, patience_seconds: float = 10.0
) -> Callable[[Version], Sequence[PartitionLag]]:
    """A function that tells the lag of a version's consumer group, by partition.

    Each call opens a consumer of its own, joins no group, commits nothing and closes it. It reads
    one record of each partition that lags. Topics are those the job reads: listed or by pattern,
    and the replay topic once it exists; partitions are looked up at each call.

    Parameters
    ----------
    settings
        `kafka` and `index`; the group is the version's.
    read_seconds
        How long to read first records, in all. What was not read by then has no timestamp.
    patience_seconds
        How long the broker may be out of reach; the job's own patience would outlast a probe.

    Returns
    -------
    function
        Version to its partitions, sorted by topic and number; empty where no topic of a pattern
        exists. It raises `ServiceUnavailableError` when Kafka is out of reach,
        `ServiceRefusedError` for login and permission, and `UnknownNameError` for a listed topic
        that does not exist.
    """
    kafka = settings.kafka.model_copy(
        update={
            "outage_timeout_seconds": min(patience_seconds, settings.kafka.outage_timeout_seconds),
            "max_partition_fetch_bytes": _PARTITION_BYTES,
            "fetch_max_bytes": _FETCH_BYTES,
        }
    )
    brief = settings.model_copy(update={"kafka": kafka})

    def read(version: Version) -> Sequence[PartitionLag]:
        def ask(consumer: KafkaConsumer, _: Feed, seen: Topology) -> list[PartitionLag]:
            return _read(consumer, seen, read_seconds)

        return _with_consumer(brief, version.group_id, ask, "asking how far the group is behind")

    return read


def _read(consumer: KafkaConsumer, seen: Topology, read_seconds: float) -> list[PartitionLag]:
    partitions = sorted(seen.leaders)
    if not partitions:
        return []
    # Committed before ends: what is committed in between must not look like a lag below zero.
    committed = {p: at.offset for p, at in _committed_now(consumer, seen).items()}
    first = consumer.beginning_offsets(partitions, timeout_ms=_TIMEOUT_MS)
    # With `read_committed` this is the last stable offset, the end of what can be read.
    end = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)
    next_offset = {p: max(first[p], committed.get(p, 0)) for p in partitions}
    lagging = {p: next_offset[p] for p in partitions if next_offset[p] < end[p]}
    stamps = _first_timestamps(consumer, lagging, end, read_seconds)
    return [
        PartitionLag(
            topic=partition.topic,
            partition=partition.partition,
            # Only the marks of transactions, or what compaction has left of them, may lie between.
            records=(
                end[partition] - lagging[partition]
                if partition in lagging and stamps.get(partition, -1) is not None
                else 0
            ),
            oldest_timestamp=stamps.get(partition),
            committed=committed.get(partition),
            expired=(
                max(0, first[partition] - committed[partition]) if partition in committed else 0
            ),
        )
        for partition in partitions
    ]


def _first_timestamps(
    consumer: KafkaConsumer,
    start: Mapping[TopicPartition, int],
    end: Mapping[TopicPartition, int],
    read_seconds: float,
) -> dict[TopicPartition, int | None]:
    """Timestamp of the first record at or after each offset.

    Returns
    -------
    dict
        `None` where there is no record before the end; a partition that was not reached within
        the time is left out. A record without a timestamp counts as left out.
    """
    found: dict[TopicPartition, int | None] = {}
    waiting = set(start)
    if not waiting:
        return found
    consumer.assign(sorted(waiting))
    for partition, offset in start.items():
        consumer.seek(partition, offset)
    until = time.monotonic() + read_seconds
    while waiting and time.monotonic() < until:
        try:
            fetched = consumer.poll(timeout_ms=_POLL_MS)
        except OffsetOutOfRangeError as error:
            # Retention was faster than we are: look at what is left.
            lost = list(error.args[0]) if error.args else sorted(waiting)
            for partition, offset in consumer.beginning_offsets(lost).items():
                consumer.seek(partition, offset)
            continue
        for partition, records in fetched.items():
            if partition in waiting:
                waiting.discard(partition)
                stamp = records[0].timestamp
                if records[0].offset >= end[partition]:
                    found[partition] = None
                elif stamp is not None and stamp >= 0:
                    found[partition] = int(stamp)
        for partition in [p for p in waiting if consumer.position(p) >= end[p]]:
            waiting.discard(partition)
            found[partition] = None
        consumer.pause(*(p for p in start if p not in waiting))
    return found
