"""Chunks that belong to no document any more: found on sight, deleted by the protocol's own rule.

A writer that dies after everyone else has finished can leave chunks behind that are older than
their head (`pipelines.core.writing`, step 4, did not run again). Search never shows them, but they
take places among the nearest neighbours. The rule that deletes them is the writer's own: older
than a head that was read. A head never goes back, so the rule stays true whatever is written
meanwhile, and the sweep is safe beside any job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import structlog

from pipelines.core.points import (
    OURS,
    POSITION_FIELDS,
    Head,
    head_of,
    older_chunks,
    point_id,
)
from pipelines.core.qdrant import Qdrant
from pipelines.core.versions import Version

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = [
    "CHUNK_FIELDS",
    "ChunkState",
    "SweepReport",
    "chunks",
    "judge",
    "read_heads",
    "sweep",
]

_log = structlog.get_logger()

CHUNK_FIELDS = (*POSITION_FIELDS, f"{OURS}.chunk", f"{OURS}.chunks", f"{OURS}.deleted")
"""What `judge` needs of a chunk and of a head."""

_PAGE = 1000

_READ_IDS = 500


class ChunkState(StrEnum):
    """What a chunk other than a head is to its document."""

    CURRENT = "current"
    """Written by the head's event."""
    NEWER = "newer"
    """Its head is on its way, or its writer died: the event comes again, and settles it."""
    OLDER = "older"
    """Left behind by a writer that died: the sweep deletes it."""
    BEYOND = "beyond"
    """At the head's position, with a number that the head does not count: no writer does that."""
    HEADLESS = "headless"
    """No head: a first write that is under way, or somebody deleted the head by hand."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep saw and did.

    Parameters
    ----------
    chunks
        Chunks other than heads that were looked at.
    older
        Of them, those older than their head.
    headless
        Those without a head. They stay: no rule says that nobody is writing that document.
    documents
        Documents with older chunks.
    deleted
        Older chunks that were deleted; 0 on a dry run.
    """

    chunks: int
    older: int
    headless: int
    documents: int
    deleted: int


def judge(number: int, chunk: Head, head: Head | None) -> ChunkState:
    """What a chunk is, by what its head says.

    Parameters
    ----------
    number
        Of the chunk, 1 and up.
    chunk, head
        As `pipelines.core.points.head_of` reads them.
    """
    if head is None:
        return ChunkState.HEADLESS
    if chunk.position < head.position:
        return ChunkState.OLDER
    if head.position < chunk.position:
        return ChunkState.NEWER
    return ChunkState.CURRENT if number < head.chunks else ChunkState.BEYOND


def read_heads(qdrant: Qdrant, version: Version, document_ids: Iterable[str]) -> dict[str, Head]:
    """The heads of these documents, tombstones too; absent where there is none."""
    ids = [point_id(version.index, document_id, 0) for document_id in dict.fromkeys(document_ids)]
    found = {}
    for start in range(0, len(ids), _READ_IDS):
        for record in qdrant.call(
            "retrieve",
            version.name,
            ids=ids[start : start + _READ_IDS],
            with_payload=list(CHUNK_FIELDS),
            with_vectors=False,
        ):
            head = head_of(record.payload)
            if head is not None:
                found[head.document_id] = head
    return found


def sweep(
    qdrant: Qdrant,
    version: Version,
    *,
    dry_run: bool = False,
    pause_seconds: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> SweepReport:
    """Deletes every chunk that is older than its head, and nothing else.

    Reads all chunks of the version, a page at a time, without texts and vectors.

    Parameters
    ----------
    dry_run
        Only look.
    pause_seconds
        Between pages, so that the index has time for others.
    progress
        Called after each page with the chunks looked at so far.

    Raises
    ------
    ServiceUnavailableError, ServiceRefusedError, IndexMissingError
        See `Qdrant.call`. What was deleted by then was rightly deleted; run it again.
    """
    looked = older = headless = deleted = 0
    documents: set[str] = set()
    offset: Any = None
    while True:
        records, offset = qdrant.call(
            "scroll",
            version.name,
            scroll_filter=chunks(),
            limit=_PAGE,
            offset=offset,
            with_payload=list(CHUNK_FIELDS),
            with_vectors=False,
        )
        looked += len(records)
        found = _by_document(records)
        heads = read_heads(qdrant, version, found)
        for document_id, theirs in found.items():
            states = [judge(number, chunk, heads.get(document_id)) for number, chunk in theirs]
            headless += states.count(ChunkState.HEADLESS)
            left = states.count(ChunkState.OLDER)
            if not left:
                continue
            older += left
            documents.add(document_id)
            if not dry_run:
                qdrant.call(
                    "delete",
                    version.name,
                    points_selector=older_chunks(
                        document_id, heads[document_id].position, version.order_by
                    ),
                    wait=True,
                )
                deleted += left
        if progress is not None:
            progress(looked)
        if offset is None:
            break
        time.sleep(pause_seconds)
    report = SweepReport(looked, older, headless, len(documents), deleted)
    _log.info(
        "orphans_swept",
        version=version.name,
        dry_run=dry_run,
        chunks=looked,
        older=older,
        headless=headless,
        deleted=deleted,
    )
    return report


def _by_document(records: Iterable[Any]) -> Mapping[str, list[tuple[int, Head]]]:
    found: dict[str, list[tuple[int, Head]]] = {}
    for record in records:
        chunk = head_of(record.payload)
        if chunk is not None:
            number = int(record.payload[OURS]["chunk"])
            found.setdefault(chunk.document_id, []).append((number, chunk))
    return found


def chunks() -> models.Filter:
    """Condition: a chunk other than a head."""
    from qdrant_client import models

    return models.Filter(
        must=[models.FieldCondition(key=f"{OURS}.chunk", range=models.Range(gte=1))]
    )
