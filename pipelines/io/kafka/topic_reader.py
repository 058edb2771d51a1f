"""One topic from its beginning to the end it has now, for those who look and do not consume."""

from __future__ import annotations

import time
from collections.abc import Iterator

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import OffsetOutOfRangeError

from pipelines.core.errors import PlumblineError, TransientError
from pipelines.core.records import Record
from pipelines.core.retry import retrying
from pipelines.core.settings import Settings
from pipelines.io.kafka.connection import connect_consumer
from pipelines.io.kafka.errors import translate

__all__ = ["read_topic"]

_POLL_MS = 500


def read_topic(settings: Settings, topic: str) -> Iterator[Record]:
    """Every record from the earliest offsets to the ends that the partitions have now.

    Belongs to no consumer group and commits nothing. Records of one partition come in their
    order; what is written meanwhile is not read, so a reader that writes to the topic ends. A
    topic that does not exist is empty.

    Raises
    ------
    ServiceUnavailableError
        Kafka stayed out of reach for `kafka.outage_timeout_seconds`.
    TransientError
        Kafka stopped answering half way for `kafka.request_timeout_seconds`.
    ServiceRefusedError, SettingsError
        As `connect_consumer`.
    """
    consumer = retrying(
        lambda: connect_consumer(settings.kafka, settings.index),
        timeout_seconds=settings.kafka.outage_timeout_seconds,
        settings=settings.retry,
        what="Kafka",
    )
    try:
        yield from _read(consumer, topic, settings.kafka.request_timeout_seconds)
    except PlumblineError:
        raise
    except Exception as error:
        raise translate(error, f"reading {topic}") from error
    finally:
        consumer.close(autocommit=False, timeout_ms=0)


def _read(consumer: KafkaConsumer, topic: str, patience_seconds: float) -> Iterator[Record]:
    numbers = consumer.partitions_for_topic(topic)
    partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
    if not partitions:
        return
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    for partition, offset in consumer.beginning_offsets(partitions).items():
        consumer.seek(partition, offset)
    progress_at = time.monotonic()
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        try:
            fetched = consumer.poll(timeout_ms=_POLL_MS)
        except OffsetOutOfRangeError as error:
            # Retention was faster than we are: go on with what is left.
            lost = list(error.args[0]) if error.args else partitions
            for partition, offset in consumer.beginning_offsets(lost).items():
                consumer.seek(partition, offset)
            continue
        if fetched:
            progress_at = time.monotonic()
        elif time.monotonic() - progress_at > patience_seconds:
            raise TransientError(
                f"reading {topic}: no record for {patience_seconds:g} s, short of its end"
            )
        for partition, records in fetched.items():
            for record in records:
                if record.offset < ends[partition]:
                    yield Record(
                        record.topic,
                        record.partition,
                        record.offset,
                        record.timestamp,
                        record.key,
                        record.value,
                        tuple(record.headers),
                    )
