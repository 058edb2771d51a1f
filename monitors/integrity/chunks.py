"""Whether documents have the chunks that their heads count, and no others."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.core.points import OURS, Head, head_of, point_id
from pipelines.core.sweep import CHUNK_FIELDS, ChunkState, judge, read_heads

if TYPE_CHECKING:
    from monitors.probes.base import Deadline
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = ["ChunkFacts", "look_at_chunks"]

Chunk = tuple[str, int]
"""Document id and number, 1 and up."""

_READ_IDS = 500

_MAXIMUM_CHUNKS = 4000
"""Chunks that are looked up because a head counts them, at most."""

_ORPHANS = (ChunkState.OLDER, ChunkState.BEYOND, ChunkState.HEADLESS)


@dataclass(frozen=True)
class ChunkFacts:
    """What a sample showed.

    Parameters
    ----------
    sampled
        Chunks other than heads in the sample.
    orphans
        Of them, how many are what no document has: by `ChunkState`.
    expected
        Chunks that the heads of sampled documents count and that were looked up.
    missing
        Of them, those that are absent, or older than their head.
    """

    sampled: int
    orphans: Mapping[ChunkState, int]
    expected: int
    missing: tuple[Chunk, ...]


def look_at_chunks(
    qdrant: Qdrant,
    version: Version,
    sample: Mapping[Chunk, Head],
    document_ids: Sequence[str],
    *,
    settle_seconds: float,
    deadline: Deadline,
) -> ChunkFacts:
    """Compares chunks with heads, and looks a second time at what does not fit.

    Chunks are written before their head and swept after it, so that a document in the middle of a
    write looks damaged. The second look comes after a pause in which a write ends.

    Parameters
    ----------
    sample
        Chunks other than heads, drawn at random.
    document_ids
        Documents whose chunks are looked up.
    settle_seconds
        The pause; taken only where something does not fit.
    """
    heads = read_heads(qdrant, version, [*document_ids, *(chunk for chunk, _ in sample)])
    suspects = {
        key for key, chunk in sample.items() if judge(key[1], chunk, heads.get(key[0])) in _ORPHANS
    }
    expected = _expected(heads, document_ids)
    missing = _missing(qdrant, version, expected, heads, deadline)
    found: dict[ChunkState, int] = {}
    if suspects or missing:
        time.sleep(max(0.0, min(settle_seconds, deadline.remaining)))
        deadline.check()
        again = sorted(suspects)
        still = _read(qdrant, version, again, deadline)
        now = read_heads(qdrant, version, [document_id for document_id, _ in again])
        for key, chunk in still.items():
            state = judge(key[1], chunk, now.get(key[0]))
            if state in _ORPHANS:
                found[state] = found.get(state, 0) + 1
        documents = sorted({document_id for document_id, _ in missing})
        before = read_heads(qdrant, version, documents)
        asked = [key for key in sorted(missing) if _counts(before, key)]
        missing = _missing(qdrant, version, asked, before, deadline)
        after = read_heads(qdrant, version, documents)
        # Rewritten between the two reads: it was never seen as a whole.
        missing = {
            (document_id, number)
            for document_id, number in missing
            if document_id in after
            and after[document_id].event_key == before[document_id].event_key
        }
    return ChunkFacts(len(sample), found, len(expected), tuple(sorted(missing)))


def _expected(heads: Mapping[str, Head], document_ids: Iterable[str]) -> list[Chunk]:
    expected: list[Chunk] = []
    for document_id in dict.fromkeys(document_ids):
        head = heads.get(document_id)
        if head is None or head.deleted:
            continue
        expected.extend((document_id, number) for number in range(1, head.chunks))
        if len(expected) >= _MAXIMUM_CHUNKS:
            break
    return expected[:_MAXIMUM_CHUNKS]


def _counts(heads: Mapping[str, Head], chunk: Chunk) -> bool:
    head = heads.get(chunk[0])
    return head is not None and not head.deleted and chunk[1] < head.chunks


def _missing(
    qdrant: Qdrant,
    version: Version,
    expected: Sequence[Chunk],
    heads: Mapping[str, Head],
    deadline: Deadline,
) -> set[Chunk]:
    found = _read(qdrant, version, expected, deadline)
    return {
        key for key in expected if key not in found or found[key].position < heads[key[0]].position
    }


def _read(
    qdrant: Qdrant, version: Version, chunks: Sequence[Chunk], deadline: Deadline
) -> dict[Chunk, Head]:
    found: dict[Chunk, Head] = {}
    ids = [point_id(version.index, document_id, number) for document_id, number in chunks]
    for start in range(0, len(ids), _READ_IDS):
        deadline.check()
        for record in qdrant.call(
            "retrieve",
            version.name,
            ids=ids[start : start + _READ_IDS],
            with_payload=list(CHUNK_FIELDS),
            with_vectors=False,
        ):
            chunk = head_of(record.payload)
            if chunk is not None:
                found[chunk.document_id, int(record.payload[OURS]["chunk"])] = chunk
    return found
