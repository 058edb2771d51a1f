"""What the integrity probe says of what it found."""

from __future__ import annotations

from dataclasses import dataclass

from monitors.integrity.chunks import ChunkFacts
from monitors.integrity.counts import Counts
from monitors.integrity.known import Missing
from monitors.integrity.vectors import VectorFacts
from monitors.probes.base import Level
from pipelines.core.sweep import ChunkState

__all__ = ["Finding", "chunk_findings", "count_findings", "loss", "vector_findings"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be; `reason` is one of the probe's."""

    level: Level
    reason: str
    words: str


def loss(lost: int, missing: Missing, fallen: int) -> list[Finding]:
    """What is gone.

    Parameters
    ----------
    lost
        Documents, at least.
    missing
        Of the remembered ones.
    fallen
        By how much there are fewer heads than there were.
    """
    if not lost:
        return []
    parts = []
    if fallen:
        parts.append(f"documents and tombstones together are {fallen} fewer than they were")
    if missing.document_ids:
        parts.append(
            f"{len(missing.document_ids)} of {missing.looked} remembered documents have neither "
            "head nor tombstone"
        )
    words = f"{lost} documents or more are lost: {' and '.join(parts)}."
    return [Finding(Level.ALARM, "lost_documents", words)]


def count_findings(counts: Counts, foreign: int) -> list[Finding]:
    """What the counts say; `foreign` may be of the sample."""
    found = []
    if foreign:
        where = "of the sampled" if counts.foreign is None else f"of {counts.points}"
        words = f"{foreign} {where} points were written under another fingerprint."
        found.append(Finding(Level.ALARM, "foreign_fingerprints", words))
    if counts.unknown:
        words = f"{counts.unknown} points were not written by Plumbline."
        found.append(Finding(Level.ALARM, "unknown_points", words))
    if counts.vectorless:
        words = f"{counts.vectorless} points of living documents have no vector."
        found.append(Finding(Level.ALARM, "vectorless", words))
    if counts.tombstone_vectors:
        words = f"{counts.tombstone_vectors} deleted documents still have a vector."
        found.append(Finding(Level.WARNING, "tombstone_vectors", words))
    return found


def chunk_findings(chunks: ChunkFacts) -> list[Finding]:
    """What the sample of chunks says."""
    found = []
    if chunks.missing:
        words = (
            f"{len(chunks.missing)} of {chunks.expected} chunks that heads count are missing or "
            "out of date."
        )
        found.append(Finding(Level.ALARM, "missing_chunks", words))
    if chunks.orphans:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(chunks.orphans.items()))
        words = f"Of {chunks.sampled} sampled chunks these belong to no document: {kinds}."
        if chunks.orphans.get(ChunkState.OLDER):
            words += " `plumbline index sweep` deletes the older ones."
        found.append(Finding(Level.WARNING, "orphan_chunks", words))
    return found


def vector_findings(vectors: VectorFacts, allowed: float) -> list[Finding]:
    """What the sample of vectors says; `allowed` is the share of duplicates that passes."""
    found = []
    if vectors.zeros:
        words = f"{vectors.zeros} of {vectors.vectors} sampled vectors are zero."
        found.append(Finding(Level.ALARM, "zero_vectors", words))
    if vectors.revived:
        words = f"Stored vectors use {len(vectors.revived)} dimensions that the model never uses."
        found.append(Finding(Level.ALARM, "revived_dimensions", words))
    if vectors.died:
        words = f"No stored vector uses {len(vectors.died)} dimensions that the model uses."
        found.append(Finding(Level.ALARM, "died_dimensions", words))
    if vectors.duplicate_ratio > allowed:
        words = (
            f"{vectors.duplicate_ratio:.0%} of the sampled vectors equal another one (expected at "
            f"most {allowed:.0%})."
        )
        found.append(Finding(Level.WARNING, "duplicates", words))
    return found
