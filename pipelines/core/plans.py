"""What is to become of one document of a batch, decided from what is stored of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pipelines.core.points import Head, StoredChunk
from pipelines.core.records import Event

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Action", "Outcome", "Plan", "decide"]


class Outcome(StrEnum):
    """What became of an event. Every consumed event has exactly one."""

    EMBEDDED = "embedded"
    PAYLOAD_ONLY = "payload_only"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    STALE = "stale"
    DEAD_LETTERED = "dead_lettered"


class Action(StrEnum):
    """What has to be done for a document."""

    EMBED = "embed"
    """New text: encode and write."""
    PAYLOAD = "payload"
    """New metadata under the same text: write with the stored vectors."""
    MOVE = "move"
    """Nothing new but the position: write with the stored vectors."""
    DELETE = "delete"
    """Write the tombstone, also for a document never seen."""
    MOVE_TOMBSTONE = "move_tombstone"
    """Deleted already: the tombstone's position moves."""
    NOTHING = "nothing"
    """The very same event again."""
    STALE = "stale"
    """Older than what is stored."""
    REFUSED = "refused"
    """Every event of the document in the batch was refused, by the encoder or after a purge."""


_OUTCOMES = {
    Action.EMBED: Outcome.EMBEDDED,
    Action.PAYLOAD: Outcome.PAYLOAD_ONLY,
    Action.MOVE: Outcome.UNCHANGED,
    Action.DELETE: Outcome.DELETED,
    Action.MOVE_TOMBSTONE: Outcome.UNCHANGED,
    Action.NOTHING: Outcome.UNCHANGED,
    Action.STALE: Outcome.STALE,
    Action.REFUSED: Outcome.DEAD_LETTERED,
}


@dataclass
class Plan:
    """One document's share of a batch.

    Parameters
    ----------
    event
        The newest event of the document in the batch that can be applied.
    action
        What to do for it.
    older
        The batch's other events of the document, newest first. They count as stale, unless the
        encoder refuses `event`: then the next of them gets its turn.
    stored
        The head as it was when the plan was made; `None` when there was none.
    created_at
        Milliseconds: the document's first event since it last did not exist.
    chunks
        Pieces to write, the head first; of a tombstone one.
    vectors
        Shape (len(chunks), dimension), float32; `None` until they are known, and for a tombstone.
    texts
        What the encoder is given, one text a chunk; empty when nothing needs encoding.
    tokens
        That were encoded for it, up to the model's limit a chunk.
    tokens
        That were encoded for it, up to the model's limit a chunk.
    behind_purge
        Replayed events of the batch that a purged tombstone might have beaten: dead letters.
    """

    event: Event
    action: Action
    older: list[Event] = field(default_factory=list)
    stored: Head | None = None
    created_at: int | None = None
    chunks: list[StoredChunk] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    vectors: NDArray[np.float32] | None = None
    tokens: int = 0
    behind_purge: list[Event] = field(default_factory=list)

    @property
    def writes(self) -> bool:
        """Whether anything is to be written."""
        return self.action not in (Action.NOTHING, Action.STALE, Action.REFUSED)

    @property
    def outcome(self) -> Outcome:
        """What the event counts as once the plan is carried out."""
        return _OUTCOMES[self.action]


def decide(candidates: Sequence[Event], stored: Head | None, fingerprint: str) -> Plan:
    """Plan for one document.

    Parameters
    ----------
    candidates
        The batch's events of the document, newest first, at least one.
    stored
        Its head in the version, or `None`.
    fingerprint
        Fingerprint of the version: vectors of another one are never reused.
    """
    newest, older = candidates[0], list(candidates[1:])
    plan = Plan(newest, Action.EMBED, older=older, stored=stored)
    if stored is not None and newest.event_key == stored.event_key:
        plan.action = Action.NOTHING
    elif stored is not None and newest.position <= stored.position:
        plan.action = Action.STALE
    elif newest.deleted:
        gone = stored is not None and stored.deleted
        plan.action = Action.MOVE_TOMBSTONE if gone else Action.DELETE
        plan.chunks = [StoredChunk(0, 0, 0)]
    elif (
        stored is not None
        and not stored.deleted
        and stored.text_hash == newest.text_hash
        and stored.fingerprint == fingerprint
    ):
        same = stored.metadata_hash == newest.metadata_hash
        plan.action = Action.MOVE if same else Action.PAYLOAD
    if plan.writes and not newest.deleted:
        plan.created_at = _created_at(candidates, stored)
    return plan


def _created_at(candidates: Sequence[Event], stored: Head | None) -> int:
    alive = stored is not None and not stored.deleted
    created = stored.created_at if stored is not None and alive else None
    for event in reversed(candidates):
        if stored is not None and event.position <= stored.position:
            continue
        if event.deleted:
            created = None
        elif created is None:
            created = event.position.timestamp
    assert created is not None, "the newest candidate is no deletion"
    return created
