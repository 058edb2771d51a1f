"""Documents as a version keeps them: read back as the events that they came from.

The head of a document (chunk 0) holds its position, its metadata and, unless `ingest.store_text`
is off, its title and text. That is a whole event again, under the position that it had.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.core.points import OURS, stored_position
from pipelines.core.qdrant import Qdrant
from pipelines.core.records import Event

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = [
    "IdRange",
    "MissingTexts",
    "StoredDocument",
    "count_heads",
    "heads",
    "id_ranges",
    "missing_texts",
    "read_heads_of",
    "stored_document",
]

_IDS = 1 << 128

_LISTED = 10

_LOCAL_PAGE = 2000
"""Heads of one read on the embedded engine, at most: it sorts and looks through the whole
collection for each."""

_MARGIN = 1.2
"""Of a slice's expected number of heads: what is read beyond the slice is copied for nothing, and
too few make a second read."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """A slice of the space of point ids, `first` to `last` exclusive, as 128-bit numbers.

    Ids of heads are hashes, spread evenly: equal slices hold about equally many, and the
    documents of one are a random sample of all.
    """

    number: int
    first: int
    last: int

    @property
    def start_id(self) -> str:
        """The least id of the slice, which need not exist."""
        return str(uuid.UUID(int=self.first))

    @property
    def share(self) -> float:
        """Of all ids, and so of all documents but for chance."""
        return (self.last - self.first) / _IDS

    def holds(self, point_id: str) -> bool:
        """Whether the id lies in the slice."""
        return self.first <= uuid.UUID(point_id).int < self.last


def id_ranges(count: int) -> list[IdRange]:
    """The whole space in `count` slices, without gap or overlap."""
    borders = [_IDS * number // count for number in range(count + 1)]
    return [IdRange(n, borders[n], borders[n + 1]) for n in range(count)]


@dataclass(frozen=True)
class StoredDocument:
    """What a head says: its event, and when the document came to be.

    Parameters
    ----------
    created_at
        Milliseconds, as stored; `None` for a tombstone.
    altered
        The stored text is not the one that the stored hash was made of.
    """

    event: Event
    created_at: int | None
    altered: bool = False


@dataclass(frozen=True)
class MissingTexts:
    """Living documents of which a version keeps no text.

    Parameters
    ----------
    document_ids
        Ten of them at most.
    """

    count: int
    document_ids: tuple[str, ...]


def stored_document(payload: Mapping[str, Any]) -> StoredDocument:
    """The document of a head's payload."""
    ours: Mapping[str, Any] = payload[OURS]
    position = stored_position(ours)
    document_id = str(ours["document_id"])
    if ours.get("deleted", False):
        return StoredDocument(Event(document_id, position, deleted=True), None)
    event = Event(
        document_id,
        position,
        title=str(ours.get("title", "")),
        text=str(ours.get("text", "")),
        metadata={key: value for key, value in payload.items() if key != OURS},
    )
    kept = ours.get("metadata_hash")
    if kept:
        # Of the metadata as it came from Kafka. A server may give a number back in another form;
        # with a hash of that, the next event of the same metadata would look like a change.
        vars(event)["metadata_hash"] = kept
    return StoredDocument(event, ours.get("created_at"), event.text_hash != ours.get("text_hash"))


def read_heads_of(
    qdrant: Qdrant,
    collection: str,
    within: IdRange,
    *,
    page: int,
    fields: tuple[str, ...] | bool = True,
) -> Iterator[list[Any]]:
    """The heads in a slice, tombstones too, by id, in pages that are never empty.

    Parameters
    ----------
    page
        Heads of one read, at most; the embedded engine reads a slice of up to 2,000 at once.
    fields
        Of the payload; default is all.

    Yields
    ------
    Records of qdrant-client, without vectors.
    """
    offset: Any = within.start_id
    size = page
    if qdrant.local:
        expected = within.share * qdrant.call("count", collection).count
        size = max(page, min(_LOCAL_PAGE, round(_MARGIN * expected)))
    while offset is not None:
        records, offset = qdrant.call(
            "scroll",
            collection,
            scroll_filter=heads(),
            limit=size,
            offset=offset,
            with_payload=fields if isinstance(fields, bool) else list(fields),
            with_vectors=False,
        )
        # Scrolling has no end but the collection's.
        inside = [record for record in records if within.holds(str(record.id))]
        for start in range(0, len(inside), page):
            yield inside[start : start + page]
        if len(inside) < len(records):
            return


def count_heads(qdrant: Qdrant, collection: str) -> tuple[int, int]:
    """Living documents and tombstones of a version, counted exactly."""
    every = qdrant.call("count", collection, count_filter=heads(), exact=True).count
    alive = qdrant.call("count", collection, count_filter=heads(deleted=False), exact=True).count
    return int(alive), int(every - alive)


def missing_texts(qdrant: Qdrant, collection: str) -> MissingTexts:
    """Which living documents have no stored text."""
    from qdrant_client import models

    empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=f"{OURS}.text"))
    condition = heads(deleted=False)
    assert isinstance(condition.must, list)
    condition.must.append(empty)
    count = int(qdrant.call("count", collection, count_filter=condition, exact=True).count)
    if not count:
        return MissingTexts(0, ())
    records, _ = qdrant.call(
        "scroll",
        collection,
        scroll_filter=condition,
        limit=_LISTED,
        with_payload=[f"{OURS}.document_id"],
        with_vectors=False,
    )
    return MissingTexts(count, tuple(record.payload[OURS]["document_id"] for record in records))


def heads(*, deleted: bool | None = None) -> models.Filter:
    """Condition: a head; with `deleted`, a tombstone or a living document alone."""
    from qdrant_client import models

    # A range: `match` on an integer does not find a number that went through a float on its way.
    must: list[Any] = [models.FieldCondition(key=f"{OURS}.chunk", range=models.Range(gte=0, lte=0))]
    tombstone = models.FieldCondition(key=f"{OURS}.deleted", match=models.MatchValue(value=True))
    if deleted:
        must.append(tombstone)
    return models.Filter(must=must, must_not=[tombstone] if deleted is False else None)
