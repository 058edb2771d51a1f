"""Makes two versions agree on when their documents came to be.

A document's `created_at` is the timestamp of its first event since it last did not exist, and a
writer takes it from the head that it finds. The job of a version that is still being filled finds
none where the backfill has not been yet, and takes the update that it is writing for the first
event. Newest wins keeps the backfill from mending that: its event is the older one. So it is
mended once the version is full: where both versions hold a document at the same event, the
source's `created_at` counts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.core.points import HEAD_FIELDS, OURS, Head, head_of, point_id
from pipelines.core.qdrant import Qdrant
from pipelines.core.stored_documents import id_ranges, read_heads_of

if TYPE_CHECKING:
    from pipelines.core.versions import Version

__all__ = ["Settled", "settle_created_at"]

_PAGE = 1000
_LISTED = 10


@dataclass(frozen=True)
class Settled:
    """What a settling found.

    Parameters
    ----------
    documents
        Heads of the source, tombstones too, that were compared.
    mended
        Documents whose `created_at` was set right.
    differing
        Documents that never stood at the same event in both versions while this looked, or that
        the target lacks; `differing_ids` lists ten.
    """

    documents: int
    mended: int
    differing: int
    differing_ids: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For records and programs."""
        return {
            "documents": self.documents,
            "mended": self.mended,
            "differing": self.differing,
            "differing_ids": list(self.differing_ids),
        }


def settle_created_at(
    qdrant: Qdrant,
    source: Version,
    target: Version,
    *,
    stop: threading.Event | None = None,
    rounds: int = 12,
    round_seconds: float = 1.0,
) -> Settled:
    """Compares all heads once, and those that differed or were mended until they stand.

    Safe beside the jobs of both versions: a document is mended on condition that it still stands
    at the event that was read. A job that had read the head before that may write the old value
    once more, with its next event; hence the next look.

    Parameters
    ----------
    stop
        Ends it early.
    rounds
        Looks at what differed, at most; under a stream of updates some document always does.
    round_seconds
        Between two looks: longer than a job takes from its read of a head to its write.
    """
    stop = stop or threading.Event()
    documents = 0
    mended: set[str] = set()
    again: dict[str, str] = {}
    (everything,) = id_ranges(1)
    for page in read_heads_of(
        qdrant, source.name, everything, page=_PAGE, fields=tuple(HEAD_FIELDS)
    ):
        if stop.is_set():
            break
        heads = [head for head in (head_of(record.payload) for record in page) if head is not None]
        documents += len(heads)
        differing, fixed = _compare(qdrant, target, heads)
        mended |= fixed
        again.update(dict.fromkeys([*differing, *fixed], ""))
    differing = set()
    for _ in range(rounds):
        if not again or stop.wait(round_seconds):
            break
        differing, fixed = set(), set()
        for heads in _heads(qdrant, source, again):
            found, repaired = _compare(qdrant, target, heads)
            differing |= found
            fixed |= repaired
        mended |= fixed
        again = dict.fromkeys([*differing, *fixed], "")
    return Settled(documents, len(mended), len(differing), tuple(sorted(differing)[:_LISTED]))


def _heads(qdrant: Qdrant, version: Version, document_ids: Iterable[str]) -> Iterator[list[Head]]:
    wanted = list(document_ids)
    for start in range(0, len(wanted), _PAGE):
        ids = [point_id(version.index, one, 0) for one in wanted[start : start + _PAGE]]
        records = qdrant.call(
            "retrieve",
            version.name,
            ids=ids,
            with_payload=list(HEAD_FIELDS),
            with_vectors=False,
        )
        yield [head for head in (head_of(record.payload) for record in records) if head is not None]


def _compare(qdrant: Qdrant, target: Version, heads: list[Head]) -> tuple[set[str], set[str]]:
    """Documents that stand at another event in the target, and those that were mended."""
    there = {
        head.document_id: head
        for page in _heads(qdrant, target, [head.document_id for head in heads])
        for head in page
    }
    differing, mended = set(), set()
    for head in heads:
        found = there.get(head.document_id)
        if found is None or found.event_key != head.event_key:
            differing.add(head.document_id)
        elif not head.deleted and found.created_at != head.created_at:
            _mend(qdrant, target, found, head.created_at)
            mended.add(head.document_id)
    return differing, mended


def _mend(qdrant: Qdrant, target: Version, head: Head, created_at: int | None) -> None:
    from qdrant_client import models

    ids: list[Any] = [point_id(target.index, head.document_id, n) for n in range(head.chunks)]
    condition = models.Filter(
        must=[
            models.HasIdCondition(has_id=ids),
            models.FieldCondition(
                key=f"{OURS}.event_key", match=models.MatchValue(value=head.event_key)
            ),
        ]
    )
    qdrant.call(
        "set_payload",
        target.name,
        payload={"created_at": created_at},
        key=OURS,
        points=condition,
        wait=True,
    )
