"""Two versions of one index, compared document by document."""

from __future__ import annotations

from typing import Any

from pipelines.core.points import OURS
from pipelines.core.qdrant import Qdrant
from pipelines.core.stored_documents import heads
from pipelines.core.versions import Version

__all__ = ["differences", "heads_of"]

_SAME = (
    *("document_id", "deleted", "topic", "partition", "offset", "timestamp", "version"),
    *("event_key", "text_hash", "metadata_hash", "created_at", "title", "text"),
)


def heads_of(qdrant: Qdrant, version: Version) -> dict[str, dict[str, Any]]:
    """Payload of every head, tombstones too, by document id."""
    found = {}
    offset = None
    while True:
        records, offset = qdrant.call(
            "scroll",
            version.name,
            scroll_filter=heads(),
            limit=2000,
            offset=offset,
            with_payload=True,
        )
        found.update({record.payload[OURS]["document_id"]: record.payload for record in records})
        if offset is None:
            return found


def differences(qdrant: Qdrant, live: Version, candidate: Version) -> list[str]:
    """A line for each difference: ids, positions, hashes, texts, metadata, when they came to be."""
    left, right = heads_of(qdrant, live), heads_of(qdrant, candidate)
    problems = [f"{one!r}: not in the candidate" for one in sorted(left.keys() - right.keys())]
    problems += [f"{one!r}: only in the candidate" for one in sorted(right.keys() - left.keys())]
    for document_id in sorted(left.keys() & right.keys()):
        ours, theirs = left[document_id], right[document_id]
        problems += [
            f"{document_id!r}: {name} is {new!r}, in live {old!r}"
            for name in _SAME
            if (new := theirs[OURS].get(name)) != (old := ours[OURS].get(name))
        ]
        metadata = [{k: v for k, v in one.items() if k != OURS} for one in (ours, theirs)]
        if metadata[0] != metadata[1]:
            problems.append(f"{document_id!r}: metadata differs")
    return problems
