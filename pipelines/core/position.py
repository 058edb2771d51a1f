"""Where an event stands in the total order of its document's events."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

__all__ = ["AHEAD_SECONDS", "MAX_COMPARED", "MAX_EXACT", "OrderBy", "Position", "topic_rank"]

AHEAD_SECONDS = 1.0
"""Clocks that are kept in step differ by milliseconds. An event from further ahead has a stamp that
is wrong, or ours is."""

MAX_EXACT = 2**53 - 1
"""Largest integer Qdrant compares exactly: its range conditions use 64-bit floats."""


class OrderBy(StrEnum):
    """What decides which of two events of a document is newer. Fixed for a version."""

    TIMESTAMP = "timestamp"
    VERSION = "version"


MAX_COMPARED = 2**49 - 1
"""Largest integer that a range condition may name.

qdrant-client writes a bound as `9007199254740991.0`, and the server reads sixteen digits and a zero
as an integer above 2**53 first: of 300 random bounds between 2**52 and 2**53, 27 came out wrong by
one on Qdrant 1.18.3, and an equal position counted as older. Below 2**49 the digits fit.
"""


@lru_cache(maxsize=1024)
def topic_rank(topic: str) -> int:
    """A number for a topic, 0 to 2**48 - 1, that settles ties between topics.

    Qdrant has range conditions for numbers and none for strings, so the name itself cannot be
    compared on the server. Which topic wins a tie of timestamp, offset and partition does not
    matter, only that every writer agrees. 48 bits, because of `MAX_COMPARED`.
    """
    return int.from_bytes(hashlib.sha256(topic.encode()).digest()[:6], "big")


@dataclass(frozen=True, slots=True)
class Position:
    """Position of an event; positions of one version are totally ordered by `key`.

    Parameters
    ----------
    topic, partition, offset
        Where the record stands in Kafka (of a replayed dead letter: where it stood at first).
    timestamp
        The record's timestamp, milliseconds since the epoch; -1 where Kafka has none.
    version
        The producer's integer, 0 to 2**53 - 1; `None` unless ordered by version.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    version: int | None = None

    @property
    def key(self) -> tuple[int, int, int, int, int]:
        """Sort key: (version or -1, timestamp, offset, partition, rank of the topic)."""
        return (
            -1 if self.version is None else self.version,
            self.timestamp,
            self.offset,
            self.partition,
            topic_rank(self.topic),
        )

    @property
    def event_key(self) -> str:
        """Hash of topic, partition, offset and timestamp: the identity of the event, 32 hex."""
        text = f"{self.topic}\0{self.partition}\0{self.offset}\0{self.timestamp}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def __lt__(self, other: Position) -> bool:
        return self.key < other.key

    def __le__(self, other: Position) -> bool:
        return self.key <= other.key
