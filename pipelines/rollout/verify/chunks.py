"""Does every document of the candidate have its chunks, and is there no other chunk?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.points import OURS, Head, head_of, point_id
from pipelines.core.sweep import CHUNK_FIELDS, ChunkState, chunks, judge, read_heads
from pipelines.rollout.verify import heads
from pipelines.rollout.verify.base import BUILD_ANEW, CheckResult, Outcome, VerifyContext, named

if TYPE_CHECKING:
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = ["NAME", "check_chunks"]

NAME = "chunks"

_PAGE = 1000
_READ_IDS = 500
_SUSPECTS = 5000
_SHOWN = 10
_MEASURES = "chunks that are orphans or missing"

_ORPHANS = (ChunkState.OLDER, ChunkState.BEYOND, ChunkState.HEADLESS)

Key = tuple[str, int]
"""Document id and number, 1 and up."""


def check_chunks(context: VerifyContext) -> CheckResult:
    """Looks at every chunk of the candidate and at everything that its heads count.

    An orphan is older than its head, beyond what its head counts, or without a head
    (`pipelines.core.sweep.judge`). What does not fit is looked at a second time after
    `settle_seconds`: a document in the middle of a write looks damaged.
    """
    version = context.candidate
    if version.contract.chunk is None and not _has_chunks(context.qdrant, version):
        words = "the contract cuts no chunks, and there is none."
        return CheckResult(NAME, Outcome.PASS, 0, 0, _MEASURES, words)
    looked, orphans, more_orphans = _orphans(context)
    expected, missing, more_missing = _missing(context)
    if orphans or missing:
        context.sleep(context.settle_seconds)
        orphans = _orphans_again(context, list(orphans))
        missing = _missing_again(context, list(missing))
    total = len(orphans) + more_orphans + len(missing) + more_missing
    kinds: dict[str, int] = {}
    for state in orphans.values():
        kinds[state.value] = kinds.get(state.value, 0) + 1
    if missing or more_missing:
        kinds["missing"] = len(missing) + more_missing
    ids = sorted({document_id for document_id, _ in [*orphans, *missing]})
    details = {"chunks": looked, "expected": expected, "kinds": kinds, "ids": ids[:_SHOWN]}
    if not total:
        words = (
            f"{looked:,} chunks belong to documents, and {expected:,} that heads count are there."
        )
        return CheckResult(NAME, Outcome.PASS, 0, 0, _MEASURES, words, details)
    found = ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
    advice = []
    if orphans or more_orphans:
        advice.append("`plumbline index sweep` deletes those older than their head.")
    if missing or more_missing:
        advice.append(f"{BUILD_ANEW}.")
    words = (
        f"of {looked:,} chunks and {expected:,} that heads count: {found}. Documents: "
        f"{named(ids)}. {' '.join(advice)}"
    )
    return CheckResult(NAME, Outcome.REFUSE, total, 0, _MEASURES, words, details)


def _has_chunks(qdrant: Qdrant, version: Version) -> bool:
    return bool(qdrant.call("count", version.name, count_filter=chunks(), exact=True).count)


def _pages(qdrant: Qdrant, version: Version) -> Iterator[dict[Key, Head]]:
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
        yield _keyed(records)
        if offset is None:
            return


def _keyed(records: Sequence[Any]) -> dict[Key, Head]:
    found = {}
    for record in records:
        chunk = head_of(record.payload)
        if chunk is not None:
            found[chunk.document_id, int(record.payload[OURS]["chunk"])] = chunk
    return found


def _orphans(context: VerifyContext) -> tuple[int, dict[Key, ChunkState], int]:
    """Chunks looked at, the orphans among them, and how many more there are."""
    looked = more = 0
    orphans: dict[Key, ChunkState] = {}
    for page in _pages(context.qdrant, context.candidate):
        looked += len(page)
        context.watch("looking at chunks", looked, 0)
        for key, state in _judged(context, page).items():
            if len(orphans) < _SUSPECTS:
                orphans[key] = state
            else:
                more += 1
    return looked, orphans, more


def _judged(context: VerifyContext, found: dict[Key, Head]) -> dict[Key, ChunkState]:
    theirs = read_heads(
        context.qdrant, context.candidate, [document_id for document_id, _ in found]
    )
    judged = {key: judge(key[1], chunk, theirs.get(key[0])) for key, chunk in sorted(found.items())}
    return {key: state for key, state in judged.items() if state in _ORPHANS}


def _orphans_again(context: VerifyContext, keys: Sequence[Key]) -> dict[Key, ChunkState]:
    return _judged(context, _read(context, keys))


def _missing(context: VerifyContext) -> tuple[int, dict[Key, None], int]:
    """Chunks that heads count, those that are not there or out of date, and how many more."""
    expected = more = 0
    missing: dict[Key, None] = {}
    batch: dict[str, Head] = {}
    size = 0

    def look() -> None:
        nonlocal more
        for key in _absent(context, batch):
            if len(missing) < _SUSPECTS:
                missing[key] = None
            else:
                more += 1
        batch.clear()

    for _, head in heads.scroll(context.qdrant, context.candidate):
        if head.deleted or head.chunks < 2:
            continue
        batch[head.document_id] = head
        size += head.chunks - 1
        if size >= _PAGE:
            expected += size
            size = 0
            look()
    expected += size
    look()
    return expected, missing, more


def _absent(context: VerifyContext, theirs: dict[str, Head]) -> list[Key]:
    keys = [
        (document_id, number)
        for document_id, head in theirs.items()
        for number in range(1, head.chunks)
    ]
    found = _read(context, keys)
    return [
        key for key in keys if key not in found or found[key].position < theirs[key[0]].position
    ]


def _missing_again(context: VerifyContext, keys: Sequence[Key]) -> dict[Key, None]:
    """Those that are still missing, of documents that nobody wrote while they were read."""
    documents = sorted({document_id for document_id, _ in keys})
    before = {
        document_id: head
        for document_id, head in read_heads(context.qdrant, context.candidate, documents).items()
        if not head.deleted
    }
    absent = set(_absent(context, before))
    after = read_heads(context.qdrant, context.candidate, documents)
    return {
        key: None
        for key in keys
        if key in absent and key[0] in after and after[key[0]].event_key == before[key[0]].event_key
    }


def _read(context: VerifyContext, keys: Sequence[Key]) -> dict[Key, Head]:
    found: dict[Key, Head] = {}
    ids = [point_id(context.candidate.index, document_id, number) for document_id, number in keys]
    for start in range(0, len(ids), _READ_IDS):
        found |= _keyed(
            context.qdrant.call(
                "retrieve",
                context.candidate.name,
                ids=ids[start : start + _READ_IDS],
                with_payload=list(CHUNK_FIELDS),
                with_vectors=False,
            )
        )
    return found
