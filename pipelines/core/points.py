"""Points of a version: their ids, their payload, and the conditions that guard them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipelines.core.position import OrderBy, Position, topic_rank
from pipelines.core.records import Event

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = [
    "DENSE",
    "HEAD_FIELDS",
    "OURS",
    "PAYLOAD_INDEXES",
    "POSITION_FIELDS",
    "VECTOR_FIELDS",
    "Head",
    "StoredChunk",
    "chunks_of",
    "head_of",
    "older_chunks",
    "older_than",
    "payload",
    "point_id",
    "stored_position",
]

DENSE = "dense"
"""Name of the vector."""

OURS = "_plumbline"
"""Payload key that holds everything of ours; the document's metadata stands beside it."""

_NAMESPACE = uuid.UUID("5d1c62d1-6f0a-5c38-8e53-7f6f0f0b2f11")

_HALF = 2**27
"""A version has up to 53 bits and is compared in two halves: see `MAX_COMPARED`."""

HEAD_FIELDS = tuple(
    f"{OURS}.{name}"
    for name in (
        "document_id",
        "chunk",
        "chunks",
        "deleted",
        "topic",
        "partition",
        "offset",
        "timestamp",
        "version",
        "event_key",
        "text_hash",
        "metadata_hash",
        "fingerprint",
        "created_at",
    )
)
"""What reconciling reads of a point: all of ours but title and text."""

POSITION_FIELDS = tuple(
    f"{OURS}.{name}"
    for name in ("document_id", "topic", "partition", "offset", "timestamp", "version", "event_key")
)
"""Enough for `head_of` to say whose write has won; what else a head holds is then empty."""

VECTOR_FIELDS = tuple(f"{OURS}.{name}" for name in ("text_hash", "fingerprint", "start", "end"))
"""What a stored vector was made of."""

PAYLOAD_INDEXES: Mapping[str, str] = {
    f"{OURS}.document_id": "keyword",
    f"{OURS}.chunk": "integer",
    f"{OURS}.timestamp": "integer",
    f"{OURS}.offset": "integer",
    f"{OURS}.partition": "integer",
    f"{OURS}.topic_rank": "integer",
    f"{OURS}.version_high": "integer",
    f"{OURS}.version_low": "integer",
    f"{OURS}.event_key": "keyword",
    f"{OURS}.text_hash": "keyword",
    f"{OURS}.fingerprint": "keyword",
    f"{OURS}.deleted": "bool",
}
"""Payload index of each field that is filtered by."""


def point_id(index: str, document_id: str, chunk: int) -> str:
    """UUIDv5 of index, document and chunk number; NUL parts them, which no id may contain."""
    return str(uuid.uuid5(_NAMESPACE, f"{index}\0{document_id}\0{chunk}"))


@dataclass(frozen=True, slots=True)
class Head:
    """What a stored head says of its document."""

    document_id: str
    position: Position
    event_key: str
    deleted: bool
    chunks: int
    text_hash: str
    metadata_hash: str
    fingerprint: str
    created_at: int | None


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """One piece of a document to be written."""

    number: int
    start: int
    end: int


def stored_position(ours: Mapping[str, Any]) -> Position:
    """Position kept in our part of a payload."""
    return Position(
        topic=ours["topic"],
        partition=int(ours["partition"]),
        offset=int(ours["offset"]),
        timestamp=int(ours["timestamp"]),
        version=None if ours.get("version") is None else int(ours["version"]),
    )


def head_of(stored: Mapping[str, Any] | None) -> Head | None:
    """The head a payload describes; `None` when it is not one of ours."""
    ours = (stored or {}).get(OURS)
    if not isinstance(ours, Mapping) or "event_key" not in ours:
        return None
    return Head(
        document_id=ours["document_id"],
        position=stored_position(ours),
        event_key=ours["event_key"],
        deleted=bool(ours.get("deleted", False)),
        chunks=int(ours.get("chunks", 0)),
        text_hash=ours.get("text_hash", ""),
        metadata_hash=ours.get("metadata_hash", ""),
        fingerprint=ours.get("fingerprint", ""),
        created_at=ours.get("created_at"),
    )


def payload(
    event: Event,
    *,
    fingerprint: str,
    chunk: StoredChunk,
    chunks: int,
    created_at: int | None,
    store_text: bool,
) -> dict[str, Any]:
    """Payload of one point of a document, or of its tombstone.

    Parameters
    ----------
    event
        A deletion gives the tombstone's payload: no metadata, `deleted` true, `chunks` 0.
    chunk, chunks
        The piece this point stands for, and how many there are.
    created_at
        Timestamp, in milliseconds, of the first event since the document last did not exist.
    store_text
        Whether the head keeps title and full text.
    """
    position = event.position
    ours: dict[str, Any] = {
        "document_id": event.document_id,
        "chunk": chunk.number,
        "chunks": chunks,
        "topic": position.topic,
        "topic_rank": topic_rank(position.topic),
        "partition": position.partition,
        "offset": position.offset,
        "timestamp": position.timestamp,
        "event_key": event.event_key,
        "fingerprint": fingerprint,
        "indexed_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    if position.version is not None:
        ours["version"] = position.version
        ours["version_high"], ours["version_low"] = divmod(position.version, _HALF)
    if event.deleted:
        ours["deleted"] = True
        return {OURS: ours}
    ours["start"] = chunk.start
    ours["end"] = chunk.end
    ours["text_hash"] = event.text_hash
    ours["metadata_hash"] = event.metadata_hash
    ours["created_at"] = created_at
    if chunk.number == 0 and store_text:
        ours["title"] = event.title
        ours["text"] = event.text
    return {**event.metadata, OURS: ours}


def _ordered_fields(position: Position, order_by: OrderBy) -> list[tuple[str, int]]:
    fields = [
        ("timestamp", position.timestamp),
        ("offset", position.offset),
        ("partition", position.partition),
        ("topic_rank", topic_rank(position.topic)),
    ]
    if order_by is OrderBy.VERSION:
        # Always there: an event without a version is a dead letter in this order.
        assert position.version is not None, "decode refuses events without a version"
        high, low = divmod(position.version, _HALF)
        fields = [("version_high", high), ("version_low", low), *fields]
    return fields


def older_than(position: Position, order_by: OrderBy) -> models.Filter:
    """Condition: the stored position is older than this one. Holds for no other point."""
    from qdrant_client import models

    def number(name: str, value: int, *, equal: bool) -> models.FieldCondition:
        # Equality is a range too: `match` on an integer does not find a number that went through
        # a float on its way.
        bounds = models.Range(gte=value, lte=value) if equal else models.Range(lt=value)
        return models.FieldCondition(key=f"{OURS}.{name}", range=bounds)

    fields = _ordered_fields(position, order_by)
    # A chain, smallest field innermost: a < x or (a = x and (b < y or (b = y and …))).
    name, value = fields[-1]
    condition = models.Filter(must=[number(name, value, equal=False)])
    for name, value in reversed(fields[:-1]):
        condition = models.Filter(
            should=[
                number(name, value, equal=False),
                models.Filter(must=[number(name, value, equal=True), condition]),
            ]
        )
    return condition


def older_chunks(document_id: str, head: Position, order_by: OrderBy) -> models.Filter:
    """Condition: a chunk of this document, other than the head, that is older than its head."""
    from qdrant_client import models

    return models.Filter(
        must=[
            models.FieldCondition(
                key=f"{OURS}.document_id", match=models.MatchValue(value=document_id)
            ),
            models.FieldCondition(key=f"{OURS}.chunk", range=models.Range(gte=1)),
            older_than(head, order_by),
        ]
    )


def chunks_of(document_ids: Sequence[str]) -> models.Filter:
    """Condition: a chunk, other than the head, of one of these documents."""
    from qdrant_client import models

    return models.Filter(
        must=[
            models.FieldCondition(
                key=f"{OURS}.document_id", match=models.MatchAny(any=list(document_ids))
            ),
            models.FieldCondition(key=f"{OURS}.chunk", range=models.Range(gte=1)),
        ]
    )
