"""The integrity probe's gauges."""

from __future__ import annotations

from monitors.integrity.chunks import ChunkFacts
from monitors.integrity.counts import Counts
from monitors.integrity.vectors import VectorFacts
from monitors.probes.base import Figure, FigureFamily

__all__ = ["FAMILIES", "figures_of"]


def _family(name: str, help_text: str, unit: str) -> FigureFamily:
    return FigureFamily(f"plumbline_integrity_{name}", help_text, unit=unit)


POINTS = _family("points", "Points in the version: chunks and tombstones.", "points")
DOCUMENTS = _family("documents", "Documents in the version.", "documents")
TOMBSTONES = _family("tombstones", "Records of deleted documents.", "documents")
LOST = _family(
    "lost_documents",
    "Documents that were there and left neither head nor tombstone, at least.",
    "documents",
)
FOREIGN = _family(
    "foreign_points",
    "Points written under another fingerprint than the version's; of the sample where counting "
    "all would read every payload.",
    "points",
)
UNKNOWN = _family("unknown_points", "Points that Plumbline did not write.", "points")
VECTORLESS = _family(
    "vectorless_points", "Chunks of living documents that have no vector.", "points"
)
TOMBSTONE_VECTORS = _family(
    "tombstone_vectors", "Deleted documents that still have a vector.", "documents"
)
MISSING = _family(
    "missing_chunk_ratio", "Share of the chunks that heads count and that are not there.", "ratio"
)
ORPHANS = _family(
    "orphan_chunk_ratio", "Share of sampled chunks that belong to no document any more.", "ratio"
)
ORPHAN_CHUNKS = _family(
    "orphan_chunks",
    "Chunks of the version that belong to no document any more, estimated from the sample.",
    "points",
)
ZEROS = _family("zero_vector_ratio", "Share of sampled vectors that are zero.", "ratio")
LIVE = _family("live_dimensions", "Dimensions that some sampled vector uses.", "dimensions")
DEAD = _family("dead_dimensions", "Dimensions that no sampled vector uses.", "dimensions")
REVIVED = _family(
    "revived_dimensions",
    "Dimensions that the model never uses, by its canaries, and stored vectors do.",
    "dimensions",
)
DUPLICATES = _family(
    "duplicate_vector_ratio", "Share of sampled vectors that equal another one.", "ratio"
)
SAMPLE = _family("sampled_points", "Points read with their vectors in this run.", "points")
FAMILIES: tuple[FigureFamily, ...] = (
    *(POINTS, DOCUMENTS, TOMBSTONES, LOST, FOREIGN, UNKNOWN, VECTORLESS, TOMBSTONE_VECTORS),
    *(MISSING, ORPHANS, ORPHAN_CHUNKS, ZEROS, LIVE, DEAD, REVIVED, DUPLICATES, SAMPLE),
)


def figures_of(
    counts: Counts, foreign: int, lost: int, chunks: ChunkFacts, vectors: VectorFacts
) -> list[Figure]:
    """A figure for everything that this run could measure."""
    figures = [
        Figure(POINTS, counts.points),
        Figure(DOCUMENTS, counts.documents),
        Figure(TOMBSTONES, counts.tombstones),
        Figure(LOST, lost),
        Figure(FOREIGN, foreign),
        Figure(UNKNOWN, counts.unknown),
        Figure(VECTORLESS, counts.vectorless),
        Figure(TOMBSTONE_VECTORS, counts.tombstone_vectors),
        Figure(SAMPLE, vectors.vectors),
    ]
    if chunks.expected:
        figures.append(Figure(MISSING, len(chunks.missing) / chunks.expected))
    orphans = sum(chunks.orphans.values())
    share = orphans / chunks.sampled if chunks.sampled else 0.0
    figures.append(Figure(ORPHANS, share))
    figures.append(Figure(ORPHAN_CHUNKS, round(share * max(0, counts.points - counts.heads))))
    if vectors.vectors:
        figures.append(Figure(ZEROS, vectors.zeros / vectors.vectors))
        figures.append(Figure(LIVE, vectors.live))
        figures.append(Figure(DEAD, vectors.dead))
        figures.append(Figure(REVIVED, len(vectors.revived)))
        figures.append(Figure(DUPLICATES, vectors.duplicate_ratio))
    return figures
