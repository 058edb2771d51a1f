"""Whole documents as a version stores them: the text of the head and every chunk's vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from monitors.sampling import live_points, sample_points
from pipelines.core.points import DENSE, OURS, head_of, point_id
from pipelines.core.records import Event

if TYPE_CHECKING:
    import numpy.typing as npt

    from monitors.probes.base import Deadline
    from pipelines.core.position import Position
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = ["Piece", "StoredDocument", "read_documents", "sample_documents"]

_PAGE = 128

_FIELDS = tuple(
    f"{OURS}.{name}"
    for name in (
        *("document_id", "chunk", "chunks", "start", "end", "deleted", "event_key"),
        *("topic", "partition", "offset", "timestamp", "version", "title", "text"),
    )
)


@dataclass(frozen=True)
class Piece:
    """One stored chunk: code points of the text, half-open, and its vector as it is stored."""

    number: int
    start: int
    end: int
    vector: npt.NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class StoredDocument:
    """One document.

    Parameters
    ----------
    event_key
        Of the event that wrote the head: another one when it was written again.
    title, text
        `None` where the version keeps no texts.
    pieces
        By number; those that were written by the same event as the head.
    torn
        Whether a chunk was written by another event than the head: a write is under way, or its
        writer has ended half way.
    """

    id: str
    position: Position
    event_key: str
    title: str | None = field(repr=False)
    text: str | None = field(repr=False)
    pieces: Sequence[Piece] = field(repr=False)
    torn: bool = False

    def event(self) -> Event:
        """The event that the job would have read it from, without its metadata."""
        return Event(self.id, self.position, title=self.title or "", text=self.text or "")


def sample_documents(
    qdrant: Qdrant,
    version: Version,
    size: int,
    random: np.random.Generator,
    deadline: Deadline,
) -> list[StoredDocument]:
    """Documents drawn at random, each with all of its chunks.

    Raises
    ------
    ProbeTimeoutError
        The deadline has passed.
    """
    heads = sample_points(
        qdrant,
        version.name,
        size,
        where=live_points(heads=True),
        random=random,
        with_payload=_FIELDS,
        with_vectors=True,
        # A head carries its text too, which may be long.
        dimension=4 * version.contract.dimension,
        deadline=deadline,
    )
    found = []
    page: list[Any] = []
    for head in heads:
        page.append(head)
        if len(page) == _PAGE:
            found.extend(_complete(qdrant, version, page))
            page = []
    found.extend(_complete(qdrant, version, page))
    return found


def read_documents(
    qdrant: Qdrant, version: Version, document_ids: Sequence[str]
) -> dict[str, StoredDocument]:
    """These documents as they stand now; deleted ones are left out."""
    found: dict[str, StoredDocument] = {}
    for start in range(0, len(document_ids), _PAGE):
        ids = [
            point_id(version.index, document_id, 0)
            for document_id in document_ids[start : start + _PAGE]
        ]
        heads = qdrant.call(
            "retrieve", version.name, ids=ids, with_payload=list(_FIELDS), with_vectors=[DENSE]
        )
        found.update({read.id: read for read in _complete(qdrant, version, heads)})
    return found


def _complete(qdrant: Qdrant, version: Version, heads: Iterable[Any]) -> list[StoredDocument]:
    """The documents of these heads, with their other chunks from one more request."""
    known: dict[str, tuple[Any, dict[int, Piece]]] = {}
    torn: set[str] = set()
    wanted: list[str] = []
    for point in heads:
        ours = (point.payload or {}).get(OURS) or {}
        head = head_of(point.payload)
        if head is None or head.deleted:
            continue
        pieces: dict[int, Piece] = {}
        known[head.document_id] = (ours, pieces)
        _add(pieces, point)
        wanted.extend(
            point_id(version.index, head.document_id, number) for number in range(1, head.chunks)
        )
    for start in range(0, len(wanted), _PAGE):
        for point in qdrant.call(
            "retrieve",
            version.name,
            ids=wanted[start : start + _PAGE],
            with_payload=list(_FIELDS),
            with_vectors=[DENSE],
        ):
            ours = (point.payload or {}).get(OURS) or {}
            found = known.get(str(ours.get("document_id")))
            if found is None:
                continue
            if ours.get("event_key") == found[0]["event_key"]:
                _add(found[1], point)
            else:
                torn.add(str(ours["document_id"]))
    documents = []
    for document_id, (ours, pieces) in known.items():
        head = head_of({OURS: ours})
        assert head is not None, "it was one above"
        documents.append(
            StoredDocument(
                id=document_id,
                position=head.position,
                event_key=head.event_key,
                title=ours.get("title"),
                text=ours.get("text"),
                pieces=[pieces[number] for number in sorted(pieces)],
                torn=document_id in torn,
            )
        )
    return documents


def _add(pieces: dict[int, Piece], point: Any) -> None:
    ours = point.payload[OURS]
    vector = (point.vector or {}).get(DENSE)
    if vector is not None:
        number = int(ours["chunk"])
        pieces[number] = Piece(
            number, int(ours["start"]), int(ours["end"]), np.asarray(vector, np.float32)
        )
