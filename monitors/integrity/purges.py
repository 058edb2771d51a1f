"""Tombstones that were purged on record: gone, and not lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.core.control import Control
from pipelines.core.purge import PurgeLog

if TYPE_CHECKING:
    from pipelines.core.points import Head
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = ["Purges", "read_purges", "tombstone_keys", "was_purged"]


@dataclass(frozen=True, slots=True)
class Purges:
    """What was purged of a version.

    Parameters
    ----------
    count
        Tombstones, since the version was made.
    newest
        Sort key of the newest of them; empty when there was none.
    least_age_ms
        For so long, at least, each of them could be seen before it went.
    """

    count: int = 0
    newest: tuple[int, ...] = ()
    least_age_ms: int = 0


def read_purges(qdrant: Qdrant, version: Version) -> Purges:
    """What the control collection says, and of a purge that is under way what the store shows."""
    record = PurgeLog(Control(qdrant)).read(version)
    if record is None or record.incarnation != version.incarnation:
        return Purges()
    gone = 0
    if record.pending:
        left = qdrant.call(
            "retrieve",
            version.name,
            ids=list(record.pending),
            with_payload=False,
            with_vectors=False,
        )
        gone = len(record.pending) - len(left)
    return Purges(record.purged + gone, record.newest.key, record.least_age_ms)


def tombstone_keys(heads: Mapping[str, Head]) -> dict[str, list[int]]:
    """Of the deleted ones among these heads, the sort key of the deletion's position."""
    return {
        document_id: list(head.position.key)
        for document_id, head in sorted(heads.items())
        if head.deleted
    }


def was_purged(
    document_id: str,
    tombstones: Mapping[str, Sequence[int]],
    purges: Purges,
    *,
    since_ms: int | None,
) -> bool:
    """Whether a remembered document that is gone was a tombstone that a purge took.

    Parameters
    ----------
    tombstones
        What was a tombstone at the last run.
    since_ms
        How long ago the last run was, milliseconds; `None` when nobody knows. A document that was
        alive then can only have been purged since if that is longer than a tombstone is kept.
    """
    if not purges.newest:
        return False
    key = tombstones.get(document_id)
    if key is not None:
        return tuple(key) <= purges.newest
    return since_ms is None or since_ms >= purges.least_age_ms
