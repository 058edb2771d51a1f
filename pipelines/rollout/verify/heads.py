"""Heads of two versions side by side, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.points import HEAD_FIELDS, OURS, Head, head_of, point_id

if TYPE_CHECKING:
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = ["pairs", "read", "scroll"]

_PAGE = 1000
_READ_IDS = 500

Pair = tuple[Head | None, Head | None]
"""One document in the first and in the second version; at least one is there."""


def pairs(qdrant: Qdrant, first: Version, second: Version) -> Iterator[Pair]:
    """Every document that either version has a head of, tombstones too.

    Both are read in the order of their point ids, a page at a time, and merged: a document's head
    has the same id in every version of an index. What is written meanwhile may show as it was, as
    it is, or in one of the two alone: read it again before believing it.
    """
    left, right = scroll(qdrant, first), scroll(qdrant, second)
    mine, theirs = next(left, None), next(right, None)
    while mine is not None or theirs is not None:
        if theirs is None or (mine is not None and mine[0] < theirs[0]):
            assert mine is not None, "one of them is there"
            yield mine[1], None
            mine = next(left, None)
        elif mine is None or theirs[0] < mine[0]:
            yield None, theirs[1]
            theirs = next(right, None)
        else:
            yield mine[1], theirs[1]
            mine, theirs = next(left, None), next(right, None)


def scroll(qdrant: Qdrant, version: Version) -> Iterator[tuple[str, Head]]:
    """Point id and head of every document and tombstone, in the order of the ids."""
    from qdrant_client import models

    heads = models.Filter(
        must=[models.FieldCondition(key=f"{OURS}.chunk", range=models.Range(gte=0, lte=0))]
    )
    offset: Any = None
    while True:
        records, offset = qdrant.call(
            "scroll",
            version.name,
            scroll_filter=heads,
            limit=_PAGE,
            offset=offset,
            with_payload=list(HEAD_FIELDS),
            with_vectors=False,
        )
        for record in records:
            head = head_of(record.payload)
            if head is not None:
                yield str(record.id), head
        if offset is None:
            return


def read(qdrant: Qdrant, version: Version, document_ids: Sequence[str]) -> dict[str, Head]:
    """These documents' heads as they stand now, whole."""
    found: dict[str, Head] = {}
    for start in range(0, len(document_ids), _READ_IDS):
        ids = [point_id(version.index, d, 0) for d in document_ids[start : start + _READ_IDS]]
        for record in qdrant.call(
            "retrieve", version.name, ids=ids, with_payload=list(HEAD_FIELDS), with_vectors=False
        ):
            head = head_of(record.payload)
            if head is not None:
                found[head.document_id] = head
    return found
