"""Is every point of the candidate one of ours, under its fingerprint, and searchable?"""

from __future__ import annotations

from typing import Any

from monitors.integrity.counts import Counts, read_counts
from monitors.probes.base import Deadline
from pipelines.core.points import OURS
from pipelines.rollout.verify.base import BUILD_ANEW, CheckResult, Outcome, VerifyContext, named

__all__ = ["NAME", "check_points"]

NAME = "points"

_MEASURES = "points that do not belong"
_PAGE = 1000
_SHOWN = 10


def check_points(context: VerifyContext) -> CheckResult:
    """Counts points of another fingerprint, points of others, and documents without a vector.

    Tombstones have no vector; one that has is told and does not refuse the candidate. Exact counts
    by the store, and where that would read every payload, a scroll.
    """
    counts = read_counts(
        context.qdrant,
        context.candidate,
        Deadline.after(24 * 3600),
        settle_seconds=context.settle_seconds,
    )
    foreign, ids = counts.foreign, list[str]()
    if foreign or foreign is None:
        foreign, ids = _foreign(context)
    wrong = foreign + counts.unknown + counts.vectorless
    details = {
        "points": counts.points,
        "foreign": foreign,
        "unknown": counts.unknown,
        "vectorless": counts.vectorless,
        "tombstone_vectors": counts.tombstone_vectors,
        "ids": ids,
    }
    if not wrong:
        words = (
            f"{counts.points:,} points, all under the fingerprint "
            f"{context.candidate.fingerprint}; every document has its vector{_told(counts)}."
        )
        return CheckResult(NAME, Outcome.PASS, 0, 0, _MEASURES, words, details)
    parts = []
    if foreign:
        parts.append(
            f"{foreign:,} were written under another fingerprint ({named(ids)}"
            f"{', …' if foreign > len(ids) else ''}): find the writer"
        )
    if counts.unknown:
        parts.append(f"{counts.unknown:,} were not written by Plumbline: find the writer")
    if counts.vectorless:
        parts.append(
            f"{counts.vectorless:,} of living documents have no vector and cannot be found"
        )
    words = f"of {counts.points:,} points {'; '.join(parts)}{_told(counts)}. {BUILD_ANEW}."
    return CheckResult(NAME, Outcome.REFUSE, wrong, 0, _MEASURES, words, details)


def _told(counts: Counts) -> str:
    if not counts.tombstone_vectors:
        return ""
    return f" ({counts.tombstone_vectors:,} deleted documents still have one)"


def _foreign(context: VerifyContext) -> tuple[int, list[str]]:
    """How many points carry another fingerprint, and documents of the first ones."""
    version = context.candidate
    fields = [f"{OURS}.document_id", f"{OURS}.fingerprint", f"{OURS}.event_key"]
    count, ids = 0, dict[str, None]()
    offset: Any = None
    while True:
        records, offset = context.qdrant.call(
            "scroll",
            version.name,
            limit=_PAGE,
            offset=offset,
            with_payload=fields,
            with_vectors=False,
        )
        for record in records:
            ours = (record.payload or {}).get(OURS)
            if not isinstance(ours, dict) or "event_key" not in ours:
                continue  # counted as unknown
            if ours.get("fingerprint") != version.fingerprint:
                count += 1
                if len(ids) < _SHOWN:
                    ids[str(ours.get("document_id"))] = None
        if offset is None:
            return count, list(ids)
