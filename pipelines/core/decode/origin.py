"""Where an event stood first: in the record itself, or in the headers of a replayed one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.position import MAX_COMPARED, OrderBy, Position
from pipelines.core.records import Record
from pipelines.core.settings import Settings

__all__ = [
    "Origin",
    "origin_headers",
    "origin_of",
    "read_origin",
    "without_origin_headers",
]

_NAMES = (
    "plumbline.origin.topic",
    "plumbline.origin.partition",
    "plumbline.origin.offset",
    "plumbline.origin.timestamp",
    "plumbline.origin.replays",
)
_TOPIC = re.compile(rb"[A-Za-z0-9._-]{1,249}")
_INTEGER = re.compile(rb"-?[0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class Origin:
    """First position of an event in Kafka, and how often it was replayed since.

    Parameters
    ----------
    topic, partition, offset, timestamp
        As in `Position`.
    replays
        0 for a record of a source topic.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    replays: int = 0

    def position(self, version: int | None = None) -> Position:
        """The position that orders the event."""
        return Position(self.topic, self.partition, self.offset, self.timestamp, version)


def origin_headers(origin: Origin) -> tuple[tuple[str, bytes], ...]:
    """The block that a replayed record carries behind its own headers."""
    values = (origin.topic, origin.partition, origin.offset, origin.timestamp, origin.replays)
    return tuple((name, str(value).encode()) for name, value in zip(_NAMES, values, strict=True))


def without_origin_headers(
    headers: tuple[tuple[str, bytes], ...],
) -> tuple[tuple[str, bytes], ...]:
    """Headers as the first record had them: the final block taken off, if there is one."""
    if tuple(name for name, _ in headers[-len(_NAMES) :]) == _NAMES:
        return headers[: -len(_NAMES)]
    return headers


def origin_of(record: Record, settings: Settings) -> Origin:
    """First position of a record, whether or not it can order an event.

    Raises
    ------
    BadRecordError
        `invalid_origin`: a record of the replay topic without the block that
        `plumbline dead-letters replay` writes as its last headers, or with another one.
    """
    if record.topic == settings.replay_topic:
        return _from_headers(record.headers)
    return Origin(record.topic, record.partition, record.offset, record.timestamp)


def read_origin(record: Record, settings: Settings) -> Origin:
    """First position of a record, fit to order its event.

    Raises
    ------
    BadRecordError
        As `origin_of`; and `invalid_timestamp`: below -1, above 2**53 - 1 (Qdrant compares 64-bit
        floats), or -1 (no timestamp) where timestamps order the events: such an event would lose
        to every other without a sound.
    """
    origin = origin_of(record, settings)
    timestamp = origin.timestamp
    if not -1 <= timestamp <= MAX_COMPARED:
        raise BadRecordError(
            Reason.INVALID_TIMESTAMP,
            f"the record's timestamp is {timestamp}: valid are 0 to {MAX_COMPARED} milliseconds "
            "since the epoch; look at the producer's clock and unit",
        )
    if timestamp == -1 and settings.kafka.order_by is OrderBy.TIMESTAMP:
        raise BadRecordError(
            Reason.INVALID_TIMESTAMP,
            "the record has no timestamp, and `order_by: timestamp` orders by it: have the "
            "producer set one, give the topic `message.timestamp.type=LogAppendTime`, or use "
            "`order_by: version`",
        )
    return origin


def _from_headers(headers: tuple[tuple[str, bytes], ...]) -> Origin:
    block = headers[-len(_NAMES) :]
    if tuple(name for name, _ in block) != _NAMES:
        raise BadRecordError(
            Reason.INVALID_ORIGIN,
            "a record of the replay topic must end with the headers "
            f"{', '.join(_NAMES)}; only `plumbline dead-letters replay` writes to this topic",
        )
    topic, *numbers = (value for _, value in block)
    if topic is None or not _TOPIC.fullmatch(topic):
        raise BadRecordError(
            Reason.INVALID_ORIGIN, f"header {_NAMES[0]} does not hold a topic's name"
        )
    read = []
    for name, value in zip(_NAMES[1:], numbers, strict=True):
        # A header's value may be null in Kafka, whatever the type says.
        number = int(value) if value is not None and _INTEGER.fullmatch(value) else None
        if number is None or number > MAX_COMPARED or number < (-1 if name == _NAMES[3] else 0):
            raise BadRecordError(
                Reason.INVALID_ORIGIN,
                f"header {name} must hold a decimal integer from 0 to {MAX_COMPARED}",
            )
        read.append(number)
    return Origin(topic.decode("ascii"), *read)
