"""An event that cannot be applied, and how its topic holds it.

The record in the dead-letter topic is the original one (key, value and headers as they came) with
a fixed block of headers behind its own, so that a program that knows nothing of Plumbline can still
read the document and a person can read why it was refused with any Kafka tool.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pipelines.core.decode import Origin, origin_of, without_origin_headers
from pipelines.core.errors import BadRecordError
from pipelines.core.records import Record
from pipelines.core.settings import Settings

__all__ = ["HEADER_NAMES", "DeadLetter", "NotADeadLetterError", "WireRecord", "parse_dead_letter"]

FORMAT = "1"

HEADER_NAMES = tuple(
    f"plumbline.{name}"
    for name in (
        "format",
        "reason",
        "message",
        "topic",
        "partition",
        "offset",
        "timestamp",
        "replays",
        "time",
        "index",
        "value_bytes",
        "value_sha256",
        "omitted",
        "nulls",
    )
)
"""The last headers of a dead letter, all of them, in this order.

`timestamp` is in milliseconds since the epoch, `time` (of the refusal) ISO 8601 in UTC. `omitted`
lists what was too large for the broker, of `value`, `headers`, `key`; `nulls` lists what is empty
in the dead letter and was null in the original: `value` beside a null key, and `header.<n>` (Kafka
knows both, the client can send neither).
"""

_INTEGER = re.compile(rb"-?[0-9]{1,20}")
_MESSAGE_LENGTH = 1000
"""Characters of a message that are kept: headers count towards the broker's limit."""

Headers = tuple[tuple[str, bytes], ...]


class NotADeadLetterError(ValueError):
    """A record of the dead-letter topic that Plumbline did not write, or a later version did."""


@dataclass(frozen=True, slots=True)
class WireRecord:
    """A record to be produced."""

    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: Headers = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that cannot be applied. `repr` shows where it stands and why, not what it says.

    Parameters
    ----------
    origin
        First position of the event, and how often it has been replayed.
    reason
        Value of a `Reason`; a letter of a later Plumbline may carry one unknown here.
    message
        For people; never quotes the document.
    time
        Seconds since the epoch, when it was refused.
    index
        The index it was refused for.
    key, value, headers
        Of the original, bytes untouched; `None` or empty where `omitted` says so.
    value_bytes, value_sha256
        Size and hash (hex) of the original value, `None` counting as empty.
    omitted
        What was too large for the broker, of `value`, `headers`, `key`.
    stored_at
        Partition and offset in the dead-letter topic, once it is there.
    """

    origin: Origin
    reason: str
    message: str
    time: float
    index: str
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: Headers = field(repr=False)
    value_bytes: int
    value_sha256: str
    omitted: tuple[str, ...] = ()
    stored_at: tuple[int, int] | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls, record: Record, error: BadRecordError, settings: Settings, *, now: float
    ) -> DeadLetter:
        """The dead letter of a record.

        Parameters
        ----------
        record
            As it came from Kafka. One of the replay topic is traced to its first position, and
            loses the headers that the replay gave it.
        error
            Why it cannot be applied.
        settings
            The index and the replay topic count.
        now
            Seconds since the epoch.
        """
        headers = record.headers
        try:
            origin = origin_of(record, settings)
        except BadRecordError:
            # Somebody else's record in the replay topic: where it stands is all there is.
            origin = Origin(record.topic, record.partition, record.offset, record.timestamp)
        else:
            if record.topic == settings.replay_topic:
                headers = without_origin_headers(headers)
        value = record.value or b""
        return cls(
            origin=origin,
            reason=error.reason.value,
            message=error.message,
            time=now,
            index=settings.index,
            key=record.key,
            value=record.value,
            headers=headers,
            value_bytes=len(value),
            value_sha256=hashlib.sha256(value).hexdigest(),
        )

    @property
    def event(self) -> tuple[str, int, int]:
        """Topic, partition and offset where the event stood first: the same for every letter of it.

        Dead letters are delivered at least once, and an event that is replayed may come back.
        """
        return self.origin.topic, self.origin.partition, self.origin.offset

    def shortened(self) -> DeadLetter | None:
        """The letter without the next part that can be spared; `None` when nothing is left.

        The value goes first, then the headers, then the key; hash, size and position stay.
        """
        if "value" not in self.omitted:
            return replace(self, value=None, omitted=("value",))
        if "headers" not in self.omitted:
            return replace(self, headers=(), omitted=("value", "headers"))
        if "key" not in self.omitted:
            return replace(self, key=None, omitted=("value", "headers", "key"))
        return None

    def to_wire(self) -> WireRecord:
        """What is produced to the dead-letter topic."""
        nulls = [f"header.{n}" for n, (_, held) in enumerate(self.headers) if held is None]
        value = self.value
        if value is None and self.key is None:
            # Clients refuse to send a record without both.
            value = b""
            nulls.insert(0, "value")
        moment = datetime.fromtimestamp(self.time, UTC)
        texts = (
            FORMAT,
            self.reason,
            self.message[:_MESSAGE_LENGTH],
            self.origin.topic,
            str(self.origin.partition),
            str(self.origin.offset),
            str(self.origin.timestamp),
            str(self.origin.replays),
            moment.isoformat(timespec="microseconds"),
            self.index,
            str(self.value_bytes),
            self.value_sha256,
            ",".join(self.omitted),
            ",".join(nulls),
        )
        ours = tuple(
            # Names of fields reach messages from outside: whatever they hold, a letter is written.
            (name, text.encode("utf-8", "backslashreplace"))
            for name, text in zip(HEADER_NAMES, texts, strict=True)
        )
        kept = tuple((name, b"" if held is None else held) for name, held in self.headers)
        return WireRecord(self.key, value, kept + ours)


def parse_dead_letter(record: Record) -> DeadLetter:
    """The dead letter that a record of the dead-letter topic holds.

    Raises
    ------
    NotADeadLetterError
        Its last headers are not the block that Plumbline writes.
    """
    size = len(HEADER_NAMES)
    block = record.headers[-size:]
    if tuple(name for name, _ in block) != HEADER_NAMES:
        raise NotADeadLetterError(
            f"the record at {record.topic}/{record.partition}/{record.offset} does not end with "
            "the headers of a dead letter"
        )
    held = {name.removeprefix("plumbline."): value or b"" for name, value in block}
    if held["format"] != FORMAT.encode():
        raise NotADeadLetterError(
            f"the dead letter at {record.topic}/{record.partition}/{record.offset} has the format "
            f"{held['format'][:20]!r}; this Plumbline reads {FORMAT}"
        )
    try:
        numbers = {
            name: _integer(held[name])
            for name in ("partition", "offset", "timestamp", "replays", "value_bytes")
        }
        text = {name: value.decode() for name, value in held.items()}
        time = datetime.fromisoformat(text["time"]).timestamp()
        omitted = tuple(part for part in text["omitted"].split(",") if part)
        nulls = {part for part in text["nulls"].split(",") if part}
        null_headers = {int(part.removeprefix("header.")) for part in nulls - {"value"}}
    except (ValueError, OverflowError):
        raise NotADeadLetterError(
            f"the headers of the dead letter at {record.topic}/{record.partition}/"
            f"{record.offset} do not read as they should"
        ) from None
    headers: list[tuple[str, bytes]] = [
        (name, None if n in null_headers else value)  # type: ignore[misc]  # Kafka has null ones
        for n, (name, value) in enumerate(record.headers[:-size])
    ]
    return DeadLetter(
        origin=Origin(
            text["topic"],
            numbers["partition"],
            numbers["offset"],
            numbers["timestamp"],
            numbers["replays"],
        ),
        reason=text["reason"],
        message=text["message"],
        time=time,
        index=text["index"],
        key=record.key,
        value=None if "value" in nulls or "value" in omitted else record.value,
        headers=tuple(headers),
        value_bytes=numbers["value_bytes"],
        value_sha256=text["value_sha256"],
        omitted=omitted,
        stored_at=(record.partition, record.offset),
    )


def _integer(value: bytes) -> int:
    if not _INTEGER.fullmatch(value):
        raise ValueError("not an integer")
    return int(value)
