"""The oracle: what an index must hold after a topic was read, and how what it holds differs.

It knows nothing of batches, plans or conditions: the newest valid event of a document wins. Its
reading of events is its own, so that a fault of `pipelines.core.decode` is not repeated here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from pipelines.core.points import DENSE, OURS, point_id, stored_position
from pipelines.core.position import OrderBy, Position, topic_rank
from pipelines.core.records import Event, Record, metadata_hash, text_hash

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.core.chunker import Chunker
    from pipelines.core.encoder import Encoder
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import Settings
    from pipelines.core.versions import Version

__all__ = ["Expected", "compare", "newest", "read_event", "replay"]

_PAGE_POINTS = 1000
TOLERANCE = 1e-5
"""Largest difference of a component between a stored unit vector and a fresh one."""


@dataclass(frozen=True)
class Expected:
    """What an index must hold of one document.

    Parameters
    ----------
    created_at
        Milliseconds; `None` for a deleted document, and where it depends on the order in which
        events arrive (late events, several partitions, events the encoder refuses).
    """

    document_id: str
    position: Position
    deleted: bool = False
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: int | None = None

    @property
    def text_hash(self) -> str:
        """Hash of title and text."""
        return text_hash(self.title, self.text)


def replay(
    records: Iterable[Record],
    settings: Settings,
    *,
    hostile: Collection[tuple[str, int, int]] = (),
    refused: Callable[[Event], bool] | None = None,
) -> dict[str, Expected]:
    """What the index must hold after these records, in whatever order they are given.

    Parameters
    ----------
    hostile
        (topic, partition, offset) of the records that must become dead letters. Every other one
        must be a valid JSON event: a test that says otherwise of its own records fails here.
    refused
        Whether the encoder refuses an event; the document's next newest one counts then.
    """
    bad = frozenset(hostile)
    events = [
        read_event(record, settings.kafka.order_by)
        for record in records
        if (record.topic, record.partition, record.offset) not in bad
    ]
    return newest(events, refused=refused)


def newest(
    events: Iterable[Event], *, refused: Callable[[Event], bool] | None = None
) -> dict[str, Expected]:
    """The same for events that were read elsewhere."""
    grouped: dict[str, dict[str, Event]] = {}
    for event in events:
        grouped.setdefault(event.document_id, {})[event.event_key] = event
    expected = {}
    for document_id, found in grouped.items():
        ordered = sorted(found.values(), key=lambda event: event.position.key)
        valid = [event for event in ordered if refused is None or not refused(event)]
        if not valid:
            continue
        last = valid[-1]
        created = None
        if not last.deleted and len(valid) == len(ordered) and _arrive_in_order(ordered):
            created = _created_at(ordered)
        expected[document_id] = Expected(
            document_id,
            last.position,
            last.deleted,
            last.title,
            last.text,
            last.metadata,
            created,
        )
    return expected


def _arrive_in_order(events: Sequence[Event]) -> bool:
    places = {(event.position.topic, event.position.partition) for event in events}
    offsets = [event.position.offset for event in events]
    return len(places) == 1 and offsets == sorted(offsets)


def _created_at(events: Sequence[Event]) -> int:
    first = max((row + 1 for row, event in enumerate(events) if event.deleted), default=0)
    return events[first].position.timestamp


def read_event(record: Record, order_by: OrderBy) -> Event:
    """The event of a valid JSON record of a source topic; fails on any other."""
    body = {} if record.value is None else json.loads(record.value)
    assert isinstance(body, dict), f"not a valid event: {record}"
    deleted = record.value is None or body.get("deleted") is True
    document_id = body.get("id")
    if record.value is None:
        assert record.key is not None, f"a null value without a key: {record}"
        document_id = record.key.decode()
    assert isinstance(document_id, str), f"no id: {record}"
    version = None
    if order_by is OrderBy.VERSION:
        version = body.get("version")
        if version is None:
            stamps = [value for name, value in record.headers if name == "plumbline-version"]
            assert stamps, f"no version: {record}"
            version = int(stamps[-1])
    position = Position(record.topic, record.partition, record.offset, record.timestamp, version)
    if deleted:
        return Event(document_id, position, deleted=True, record=record)
    return Event(
        document_id,
        position,
        title=body.get("title") or "",
        text=body["text"],
        metadata=body.get("metadata") or {},
        record=record,
    )


@dataclass
class _Stored:
    """One point as it is stored."""

    id: str
    ours: Mapping[str, Any]
    metadata: Mapping[str, Any]
    vector: NDArray[np.float32] | None


def compare(
    qdrant: Qdrant,
    version: Version,
    expected: Mapping[str, Expected],
    encoder: Encoder | None = None,
    *,
    store_text: bool = True,
) -> list[str]:
    """Every difference between a version and what it must hold, a line each; empty when equal.

    Parameters
    ----------
    encoder
        Of the version's contract. With one, the stored vectors are compared with a fresh encoding
        of the same texts (kept for the next comparison), and chunks with a fresh cut. Without one
        a version that chunks is only checked for consistency within each document.
    store_text
        Whether the heads must hold title and text.
    """
    problems: list[str] = []
    stored = _read(qdrant, version, problems)
    chunker = _chunker(version, encoder)
    to_encode: list[tuple[str, str, _Stored]] = []
    extra = sorted(stored.keys() - expected.keys())
    problems.extend(f"{document_id!r}: stored, and no event says so" for document_id in extra)
    for document_id, wanted in expected.items():
        points = stored.get(document_id)
        if points is None:
            problems.append(f"{document_id!r}: nothing is stored")
            continue
        checks = _check_document(version, wanted, points, chunker, store_text=store_text)
        problems.extend(f"{document_id!r}: {problem}" for problem in checks)
        if encoder is not None and not wanted.deleted:
            for number, point in points.items():
                start, end = point.ours.get("start", 0), point.ours.get("end", 0)
                rendered = version.contract.render(wanted.title, wanted.text[start:end])
                to_encode.append((f"{document_id!r} chunk {number}", rendered, point))
    if encoder is not None:
        problems.extend(_check_vectors(encoder, to_encode))
    return problems


def _chunker(version: Version, encoder: Encoder | None) -> Chunker | None:
    if encoder is None:
        return None
    from pipelines.core.chunker import chunker_for

    return chunker_for(version.contract, encoder)


def _read(qdrant: Qdrant, version: Version, problems: list[str]) -> dict[str, dict[int, _Stored]]:
    """Points of each document by chunk number."""
    documents: dict[str, dict[int, _Stored]] = {}
    for record in _scroll(qdrant, version.name):
        payload = dict(record.payload or {})
        ours = payload.pop(OURS, None)
        if not isinstance(ours, Mapping):
            problems.append(f"point {record.id}: it is not one of ours")
            continue
        vector = (record.vector or {}).get(DENSE)
        point = _Stored(
            str(record.id),
            ours,
            payload,
            None if vector is None else np.asarray(vector, dtype=np.float32),
        )
        document_id, chunk = ours["document_id"], int(ours["chunk"])
        if point.id != point_id(version.index, document_id, chunk):
            problems.append(f"{document_id!r}: chunk {chunk} stands under a foreign id {point.id}")
            continue
        documents.setdefault(document_id, {})[chunk] = point
    return documents


def _scroll(qdrant: Qdrant, collection: str) -> Iterator[Any]:
    offset = None
    while True:
        records, offset = qdrant.call(
            "scroll",
            collection,
            limit=_PAGE_POINTS,
            offset=offset,
            with_payload=True,
            with_vectors=True,
        )
        yield from records
        if offset is None:
            return


def _check_document(
    version: Version,
    wanted: Expected,
    points: Mapping[int, _Stored],
    chunker: Chunker | None,
    *,
    store_text: bool,
) -> Iterator[str]:
    head = points.get(0)
    if head is None:
        yield f"orphan chunks {sorted(points)} without a head"
        return
    position = stored_position(head.ours)
    if position != wanted.position:
        yield f"position is {position}, expected {wanted.position}"
        return
    deleted = bool(head.ours.get("deleted", False))
    if deleted is not wanted.deleted:
        yield f"deleted is {deleted}, expected {wanted.deleted}"
        return
    for number, point in points.items():
        yield from _check_point(version, wanted, number, point)
    if wanted.deleted:
        if points.keys() != {0}:
            yield f"deleted, and chunks {sorted(points.keys() - {0})} are left"
        if head.ours.get("chunks") != 0 or {"title", "text", "text_hash"} & head.ours.keys():
            yield "its tombstone says more than that it is deleted"
        return
    yield from _check_chunks(wanted, head, points, chunker)
    created = head.ours.get("created_at")
    if wanted.created_at is not None and created != wanted.created_at:
        yield f"created_at is {created}, expected {wanted.created_at}"
    for name in ("title", "text"):
        kept = head.ours.get(name)
        if kept != (getattr(wanted, name) if store_text else None):
            yield f"{name} is not that of the newest event"


def _check_chunks(
    wanted: Expected,
    head: _Stored,
    points: Mapping[int, _Stored],
    chunker: Chunker | None,
) -> Iterator[str]:
    count = head.ours.get("chunks")
    if sorted(points) != list(range(len(points))) or count != len(points):
        yield f"chunks {sorted(points)} are stored, its head says {count}"
    if chunker is None:
        return
    pieces = chunker.chunk(wanted.title, wanted.text)
    cut = [(piece.number, piece.start, piece.end) for piece in pieces]
    kept = [
        (number, point.ours.get("start"), point.ours.get("end"))
        for number, point in sorted(points.items())
    ]
    if cut != kept:
        yield f"stored are the chunks {kept[:5]}… ({len(kept)}), expected {cut[:5]}… ({len(cut)})"


def _check_point(version: Version, wanted: Expected, number: int, point: _Stored) -> Iterator[str]:
    ours = point.ours
    facts = {
        "event_key": wanted.position.event_key,
        "topic_rank": topic_rank(wanted.position.topic),
        "fingerprint": version.fingerprint,
    }
    if not wanted.deleted:
        facts["text_hash"] = wanted.text_hash
        facts["metadata_hash"] = metadata_hash(wanted.metadata)
    for name, value in facts.items():
        if ours.get(name) != value:
            yield f"chunk {number}: {name} is {ours.get(name)!r}, expected {value!r}"
    if stored_position(ours) != wanted.position:
        yield f"chunk {number}: position is {stored_position(ours)}, expected {wanted.position}"
    if point.metadata != wanted.metadata:
        yield f"chunk {number}: metadata is not that of the newest event"
    if (point.vector is None) is not wanted.deleted:
        yield f"chunk {number}: {'a' if point.vector is not None else 'no'} vector"


_fresh: WeakKeyDictionary[Any, dict[str, NDArray[np.float32] | str]] = WeakKeyDictionary()
"""Fresh vectors of each encoder, or why there is none: tests compare the same texts many times."""


def _check_vectors(encoder: Encoder, wanted: Sequence[tuple[str, str, _Stored]]) -> Iterator[str]:
    known = _fresh.setdefault(encoder, {})
    missing = list(dict.fromkeys(text for _, text, _ in wanted if text not in known))
    if missing:
        encoded = encoder.encode_documents(missing)
        for row, text in enumerate(missing):
            known[text] = encoded.refused.get(row) or _unit(encoded.vectors[row])
    for what, text, point in wanted:
        fresh = known[text]
        if isinstance(fresh, str):
            yield f"{what}: the encoder refuses its text: {fresh}"
        elif point.vector is not None:
            found = _unit(point.vector)
            distance = np.inf
            if found.shape == fresh.shape:
                distance = float(np.max(np.abs(found - fresh)))
            if not distance <= TOLERANCE:
                yield f"{what}: its vector differs by {distance:.2g} from a fresh one"


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    # Both engines normalise the vectors of cosine collections as they are written.
    return np.asarray(vector / np.linalg.norm(vector.astype(np.float64)), dtype=np.float32)
