"""Documents that were there before, and must still be: as a head or as a tombstone.

A count of heads alone says nothing when new documents come in faster than old ones are lost. So a
sample of document ids is remembered from run to run and looked up in each. It turns over slowly,
by a share drawn at random, so that it stands for new documents as well as for old ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monitors.sampling import sample_points
from pipelines.core.points import OURS
from pipelines.core.sweep import read_heads

if TYPE_CHECKING:
    import numpy as np
    from qdrant_client import models

    from monitors.probes.base import Deadline
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = ["KNOWN_DOCUMENTS", "Missing", "find_missing", "renew"]

KNOWN_DOCUMENTS = 1500
"""A loss of 1 % of all documents hits none of these in 3 of 10 million cases."""

_RENEWED_DOCUMENTS = 30
"""In one run: the whole sample within about fifty."""

_MAXIMUM_ID = 200
"""Characters of an id that is remembered: the state is stored with each run."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Known documents that have neither head nor tombstone.

    Parameters
    ----------
    document_ids
        Sorted.
    looked
        How many were looked up.
    """

    document_ids: tuple[str, ...]
    looked: int


def find_missing(qdrant: Qdrant, version: Version, known: Sequence[str]) -> Missing:
    """Looks the known documents up, and those that are not there once more."""
    absent = set(known) - read_heads(qdrant, version, known).keys()
    if absent:
        absent -= read_heads(qdrant, version, sorted(absent)).keys()
    return Missing(tuple(sorted(absent)), len(known))


def renew(
    qdrant: Qdrant,
    version: Version,
    known: Sequence[str],
    missing: Missing,
    *,
    random: np.random.Generator,
    deadline: Deadline,
) -> list[str]:
    """The documents to remember next.

    What is missing stays, so that the loss goes on showing until the documents are back.
    """
    lost = set(missing.document_ids)
    kept = [document_id for document_id in known if document_id not in lost]
    random.shuffle(kept)
    space = KNOWN_DOCUMENTS - len(lost)
    renewed = min(_RENEWED_DOCUMENTS, space)
    kept = kept[: max(0, space - renewed)]
    wanted = space - len(kept)
    fresh: dict[str, None] = {}
    for point in sample_points(
        qdrant,
        version.name,
        # Some of those drawn are remembered already.
        wanted + len(kept) if wanted > renewed else wanted,
        where=_heads(),
        random=random,
        with_payload=[f"{OURS}.document_id"],
        with_vectors=False,
        deadline=deadline,
    ):
        document_id = str(point.payload[OURS]["document_id"])
        if len(document_id) <= _MAXIMUM_ID:
            fresh[document_id] = None
    for document_id in [*kept, *lost]:
        fresh.pop(document_id, None)
    return sorted([*lost, *kept, *list(fresh)[:wanted]])


def _heads() -> models.Filter:
    from qdrant_client import models

    return models.Filter(
        must=[models.FieldCondition(key=f"{OURS}.chunk", range=models.Range(gte=0, lte=0))]
    )
