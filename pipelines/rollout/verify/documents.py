"""Does the candidate hold the documents that live holds?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.core.points import Head
from pipelines.rollout.verify import heads
from pipelines.rollout.verify.base import (
    BUILD_ANEW,
    FILL_AGAIN,
    CheckResult,
    Outcome,
    VerifyContext,
    named,
)
from pipelines.rollout.verify.offsets import Horizon, fix_horizon, with_ends

__all__ = ["NAME", "Difference", "check_documents", "compare_heads"]

NAME = "documents"

_SUSPECTS = 5000
"""Documents that are looked at again, at most: more than that is no matter of timing."""

_SHOWN = 10

Difference = str
"""Kind: a key of `_WORDS`."""

_WORDS: Mapping[Difference, str] = {
    "missing": "in live and not in the candidate",
    "extra": "in the candidate and not in live",
    "stale": "older in the candidate",
    "ahead": "newer in the candidate",
    "deleted": "deleted in one of the two",
    "text": "of another text",
    "metadata": "of other metadata",
    "created_at": "of another first event",
    "lost_tombstone": "deleted in live, without a record of it in the candidate",
}

_ALLOWED_FROM_TOPIC = frozenset({"created_at", "lost_tombstone"})
"""A compacted topic has lost the events that these come from."""

_FILLED_AGAIN = frozenset({"missing", "stale", "lost_tombstone", "created_at"})
"""What another backfill mends, without a new collection."""


@dataclass
class _Tally:
    """What was seen so far."""

    documents: int = 0
    tombstones: int = 0
    beyond: int = 0
    purged: int = 0
    suspects: dict[str, Difference] = field(default_factory=dict)
    unread: dict[Difference, int] = field(default_factory=dict)

    def suspect(self, document_id: str, kind: Difference, *, beyond: bool) -> None:
        if len(self.suspects) < _SUSPECTS:
            self.suspects[document_id] = kind
        elif beyond:
            self.beyond += 1
        else:
            self.unread[kind] = self.unread.get(kind, 0) + 1


def check_documents(context: VerifyContext) -> CheckResult:
    """Compares every document of both versions, deleted ones too, up to a fixed vector of offsets.

    The vector is what live's consumer group has committed when the check begins; the candidate's
    must have committed as much. Position, deletion, hashes of text and metadata and the time of
    the first event must be equal; the number of chunks may differ. A difference that concerns an
    event beyond the vector is none. Others are read again until they are gone, or have stood still
    for `settle_seconds`: then they are differences.

    Two things are allowed and told: a deletion that live has forgotten and the candidate has not;
    and, in a candidate that was built from the topic, a deletion or a first event that compaction
    has removed.

    Memory is bounded: two pages of heads, and 5,000 documents that differ.
    """
    horizon = fix_horizon(context)
    if horizon.behind:
        return _behind(context, horizon)
    tally = _scan(context, horizon)
    found, unsettled = _settle(context, horizon, tally)
    allowed = _ALLOWED_FROM_TOPIC if context.source == "topic" else frozenset[str]()
    counts = {
        kind: len(ids) + tally.unread.get(kind, 0) for kind, ids in _by_kind(found, tally).items()
    }
    wrong = sum(number for kind, number in counts.items() if kind not in allowed)
    listed = {kind: sorted(ids)[:_SHOWN] for kind, ids in _by_kind(found, tally).items()}
    details = {
        "documents": tally.documents,
        "tombstones": tally.tombstones,
        "differences": counts,
        "ids": listed,
        "beyond": tally.beyond,
        "unsettled": sorted(unsettled)[:_SHOWN],
        "offsets": [[*partition, offset] for partition, offset in sorted(horizon.offsets.items())],
    }
    compared = (
        f"{tally.documents:,} documents and {tally.tombstones:,} deletions compared"
        f"{_up_to(horizon)}"
    )
    told = [
        f"{counts[kind]:,} {_WORDS[kind]}, which compaction explains"
        for kind in counts
        if kind in allowed
    ]
    if tally.purged:
        told.append(f"{tally.purged:,} deletions are recorded in the candidate alone")
    aside = f" ({'; '.join(told)})" if told else ""
    if wrong:
        kinds = "; ".join(
            f"{counts[kind]:,} {_WORDS[kind]}: {named(listed[kind])}"
            + (", …" if counts[kind] > len(listed[kind]) else "")
            for kind in counts
            if kind not in allowed
        )
        fill = context.source != "topic" and counts.keys() - allowed <= _FILLED_AGAIN
        advice = FILL_AGAIN if fill else BUILD_ANEW
        words = f"{compared}: {wrong:,} differ. {kinds}{aside}. {advice}."
        return CheckResult(NAME, Outcome.REFUSE, wrong, 0, _MEASURES, words, details)
    if unsettled:
        words = (
            f"{compared}; {len(unsettled):,} change so often that they could not be compared: "
            f"{named(sorted(unsettled))}. Run it again."
        )
        return CheckResult(NAME, Outcome.UNDECIDED, len(unsettled), 0, _MEASURES, words, details)
    if not tally.documents:
        words = "live holds no document: there is nothing to compare, and nothing to gain."
        return CheckResult(NAME, Outcome.UNDECIDED, 0, 0, _MEASURES, words, details)
    return CheckResult(
        NAME, Outcome.PASS, 0, 0, _MEASURES, f"{compared}: all agree{aside}", details
    )


_MEASURES = "documents that differ"


def compare_heads(live: Head | None, candidate: Head | None) -> Difference | None:
    """The kind of difference between two heads of one document; `None` without one.

    A deletion in the candidate that live knows nothing of is none.
    """
    if live is None:
        return None if candidate is None or candidate.deleted else "extra"
    if candidate is None:
        return "lost_tombstone" if live.deleted else "missing"
    if candidate.position < live.position:
        return "stale"
    if live.position < candidate.position:
        return "ahead"
    if live.deleted != candidate.deleted:
        return "deleted"
    if live.deleted:
        return None
    if live.text_hash != candidate.text_hash:
        return "text"
    if live.metadata_hash != candidate.metadata_hash:
        return "metadata"
    return "created_at" if live.created_at != candidate.created_at else None


def _scan(context: VerifyContext, horizon: Horizon) -> _Tally:
    tally = _Tally()
    for live, candidate in heads.pairs(context.qdrant, context.live, context.candidate):
        if live is not None:
            tally.documents += not live.deleted
            tally.tombstones += live.deleted
        elif candidate is not None and candidate.deleted:
            tally.purged += not horizon.beyond(candidate.position)
        if (tally.documents + tally.tombstones) % 1000 == 0:
            context.watch("comparing documents", tally.documents + tally.tombstones, 0)
        kind = compare_heads(live, candidate)
        if kind is None:
            continue
        known = live or candidate
        assert known is not None, "a pair has one"
        # Also what lies beyond: whether it can, is known once the partitions' ends are.
        tally.suspect(known.document_id, kind, beyond=_beyond(horizon, live, candidate))
    return tally


def _beyond(horizon: Horizon, live: Head | None, candidate: Head | None) -> bool:
    return any(head is not None and horizon.beyond(head.position) for head in (live, candidate))


def _settle(
    context: VerifyContext, horizon: Horizon, tally: _Tally
) -> tuple[dict[str, Difference], set[str]]:
    """Differences that have stood still between two looks, and documents that never did."""
    found: dict[str, Difference] = {}
    waiting = dict.fromkeys(tally.suspects)
    seen: dict[str, tuple[str, str, Difference]] = {}
    until = time.monotonic() + context.patience_seconds
    looks = 0
    while waiting:
        looks += 1
        ids = list(waiting)
        live = heads.read(context.qdrant, context.live, ids)
        candidate = heads.read(context.qdrant, context.candidate, ids)
        horizon = with_ends(context, horizon)
        for document_id in ids:
            one, other = live.get(document_id), candidate.get(document_id)
            kind = compare_heads(one, other)
            if kind is None or _beyond(horizon, one, other):
                tally.beyond += kind is not None
                del waiting[document_id]
                continue
            now = (_event(one), _event(other), kind)
            if seen.get(document_id) == now:
                found[document_id] = kind
                del waiting[document_id]
            seen[document_id] = now
        if not waiting or (looks > 1 and time.monotonic() >= until):
            break
        context.watch("reading differences again", len(tally.suspects) - len(waiting), 0)
        context.sleep(context.settle_seconds)
    return found, set(waiting)


def _event(head: Head | None) -> str:
    return "" if head is None else head.event_key


def _by_kind(found: Mapping[str, Difference], tally: _Tally) -> dict[Difference, list[str]]:
    kinds: dict[Difference, list[str]] = {}
    for kind in _WORDS:
        ids = [document_id for document_id, their in found.items() if their == kind]
        if ids or tally.unread.get(kind):
            kinds[kind] = ids
    return kinds


def _up_to(horizon: Horizon) -> str:
    if not horizon.offsets:
        return ", as they stand (no Kafka is set up)"
    partitions = len(horizon.offsets)
    return f" up to what live's job has committed in {partitions:,} partitions"


def _behind(context: VerifyContext, horizon: Horizon) -> CheckResult:
    worst = sorted(horizon.behind, key=lambda p: horizon.behind[p] - horizon.offsets[p])
    (topic, partition), *_ = worst
    words = (
        f"the candidate's consumer group is {horizon.lacking:,} offsets behind what live's had "
        f"committed when the check began, most in {topic}/{partition} (at "
        f"{horizon.behind[topic, partition]:,} of {horizon.offsets[topic, partition]:,}): nothing "
        "was compared. Is the candidate's job running (`plumbline ingest --version "
        f"{context.candidate.name}`)?"
    )
    details = {
        "behind": [
            [*key, at, horizon.offsets[key]] for key, at in sorted(horizon.behind.items())[:_SHOWN]
        ]
    }
    return CheckResult(
        NAME, Outcome.UNDECIDED, horizon.lacking, 0, "offsets behind live", words, details
    )
