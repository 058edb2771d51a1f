"""A Kafka record as the job carries it, and the event that is read from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipelines.core.position import Position

__all__ = ["Event", "Record", "metadata_hash", "text_hash"]


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record, bytes untouched. `repr` shows where it stands, never what it says."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since the epoch; -1 where the record has none."""
    key: bytes | None = field(default=None, repr=False)
    value: bytes | None = field(default=None, repr=False)
    headers: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


def _digest(value: object) -> str:
    canonical = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def text_hash(title: str, text: str) -> str:
    """Hash of title and text as they came (no template, no chunks), 32 hex digits."""
    return _digest([title, text])


def metadata_hash(metadata: Mapping[str, Any]) -> str:
    """Hash of the metadata; the order of keys does not matter, 32 hex digits."""
    return _digest(dict(metadata))


@dataclass(frozen=True)
class Event:
    """The whole state of one document at a position, or its deletion.

    Parameters
    ----------
    document_id
        Non-empty string.
    position
        Where the event stands; a replayed dead letter carries its first position.
    deleted
        True for a deletion; title, text and metadata are then empty.
    record
        The record it was read from, for the dead letters: the encoder may still refuse it.
    """

    document_id: str
    position: Position
    title: str = field(default="", repr=False)
    text: str = field(default="", repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    deleted: bool = False
    record: Record | None = field(default=None, repr=False, compare=False)

    @cached_property
    def text_hash(self) -> str:
        """Hash of title and text, 32 hex digits."""
        return text_hash(self.title, self.text)

    @cached_property
    def metadata_hash(self) -> str:
        """Hash of the metadata, 32 hex digits."""
        return metadata_hash(self.metadata)

    @cached_property
    def event_key(self) -> str:
        """See `Position.event_key`."""
        return self.position.event_key
