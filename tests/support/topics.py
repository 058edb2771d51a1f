"""Topics in tests: what was produced, what is committed, and what lies in the dead letters."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions

from pipelines.core.records import Record
from tests.support.processes import wait_until
from tests.support.stream import Message

__all__ = ["DeadLetters", "Topic"]

Place = tuple[str, int, int]
"""Topic, partition and offset of a record."""


@dataclass
class Topic:
    """A topic and every record that a test has put into it.

    Parameters
    ----------
    bootstrap
        Of the broker.
    name, partitions
        Of the topic, which exists.
    first_timestamp
        Milliseconds; each second record is a millisecond later, so that ties occur.
    """

    bootstrap: str
    name: str
    partitions: int = 1
    first_timestamp: int = field(default_factory=lambda: int(time.time() * 1000) - 3_600_000)
    records: list[Record] = field(default_factory=list)
    hostile: dict[Place, str] = field(default_factory=dict)
    """Reason of each record that must become a dead letter."""

    def produce(self, messages: Iterable[Message], timestamps: Iterable[int] | None = None) -> None:
        """Append the messages and wait until all are acknowledged.

        A key stays in its partition; a message without one goes to a partition by its value.

        Parameters
        ----------
        timestamps
            Milliseconds of each message; by default rising through the life of the topic.
        """
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, acks="all", linger_ms=20, batch_size=1 << 17
        )
        given = iter(timestamps) if timestamps is not None else None
        sent = []
        for message in messages:
            number = len(self.records) + len(sent)
            stamp = self.first_timestamp + number // 2 if given is None else next(given)
            future = producer.send(
                self.name,
                value=message.value,
                key=message.key,
                headers=list(message.headers),
                partition=self.partition_of(message),
                timestamp_ms=stamp,
            )
            sent.append((message, stamp, future))
        producer.flush(timeout=60)
        for message, stamp, future in sent:
            where = future.get(timeout=60)
            record = Record(
                topic=self.name,
                partition=where.partition,
                offset=where.offset,
                timestamp=stamp,
                key=message.key,
                value=message.value,
                headers=message.headers,
            )
            self.records.append(record)
            if message.hostile is not None:
                self.hostile[self.name, where.partition, where.offset] = message.hostile
        producer.close()

    def partition_of(self, message: Message) -> int:
        """Where a message goes."""
        return zlib.crc32(message.key or message.value or b"") % self.partitions

    def add_partitions(self, count: int) -> None:
        """Grow to `count` partitions; keys change their partition, as they do in life."""
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.create_partitions({self.name: NewPartitions(total_count=count)})
        finally:
            admin.close()
        self.partitions = count

    def ends(self) -> dict[TopicPartition, int]:
        """Offset after the last record of each partition that has any."""
        ends: dict[TopicPartition, int] = {}
        for record in self.records:
            partition = TopicPartition(record.topic, record.partition)
            ends[partition] = max(ends.get(partition, 0), record.offset + 1)
        return ends

    def committed(self, group_id: str) -> dict[TopicPartition, int]:
        """What a consumer group has committed in this topic, as Kafka's own tools see it."""
        # A broker that has just started has no coordinator yet.
        found = wait_until(
            lambda: _group_offsets(self.bootstrap, group_id), what="the group's offsets are known"
        )
        return {
            partition: offset.offset
            for partition, offset in found[group_id].items()
            if partition.topic == self.name and offset.offset >= 0
        }

    def below(self, committed: dict[TopicPartition, int]) -> list[Record]:
        """The records whose offsets are committed."""
        return [
            record
            for record in self.records
            if record.offset < committed.get(TopicPartition(record.topic, record.partition), 0)
        ]


def _group_offsets(bootstrap: str, group_id: str) -> dict[str, Any]:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        found: dict[str, Any] = admin.list_group_offsets(group_id)
    finally:
        admin.close()
    return found


def _place_of(headers: dict[str, bytes]) -> tuple[str, int, int, str]:
    # By the headers' names alone, as any other program would read it.
    topic, partition, offset, reason = (
        headers[f"plumbline.{name}"].decode() for name in ("topic", "partition", "offset", "reason")
    )
    return topic, int(partition), int(offset), reason


class DeadLetters:
    """Reads a dead-letter topic, from its beginning and on from there.

    Parameters
    ----------
    bootstrap, topic
        Where they are.
    """

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._positions: dict[TopicPartition, int] = {}
        self.found: Counter[tuple[str, int, int, str]] = Counter()
        """How often (topic, partition, offset, reason) was found: delivery is at least once."""

    def read(self) -> Counter[tuple[str, int, int, str]]:
        """Everything that is there by now."""
        consumer = KafkaConsumer(
            bootstrap_servers=self._bootstrap, group_id=None, isolation_level="read_committed"
        )
        try:
            numbers = consumer.partitions_for_topic(self._topic) or set()
            partitions = [TopicPartition(self._topic, number) for number in numbers]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions) if partitions else {}
            for partition in partitions:
                consumer.seek(partition, self._positions.get(partition, 0))
            deadline = time.monotonic() + 60
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                assert time.monotonic() < deadline, "the dead letters cannot be read"
                for records in consumer.poll(timeout_ms=200).values():
                    for record in records:
                        self.found[_place_of(dict(record.headers))] += 1
            self._positions = {p: consumer.position(p) for p in partitions}
        finally:
            consumer.close()
        return self.found
