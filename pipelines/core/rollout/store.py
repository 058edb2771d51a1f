"""Rollouts in the control collection: one record an index, and what ended before it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from pipelines.core.contract import EmbeddingContract
from pipelines.core.control import Control
from pipelines.core.errors import RolloutConflictError, RolloutStateError
from pipelines.core.process import this_actor
from pipelines.core.rollout.record import Intent, Rollout, Transition, VersionRef
from pipelines.core.rollout.states import NEXT_COMMAND, RolloutState, check_transition

__all__ = ["ROLLOUT", "RolloutStore"]

ROLLOUT = "rollout"
"""Kind of the control record that says where an index's rollout stands; its name is the index."""

_ARCHIVE = "rollout-history"

_log = structlog.get_logger()


def _now() -> datetime:
    return datetime.now(UTC)


class RolloutStore:
    """Reads and moves rollouts. Every write is conditional on the record it was decided on.

    Parameters
    ----------
    control
        The collection they live in.
    actor
        Recorded with every move.
    now
        Injected by tests.
    """

    def __init__(
        self, control: Control, *, actor: str | None = None, now: Callable[[], datetime] = _now
    ) -> None:
        self._control = control
        self._actor = actor if actor is not None else this_actor()
        self._now = now

    def read(self, index: str) -> Rollout | None:
        """The index's rollout that is under way, or the last one; `None` when there was none."""
        record = self._control.read(ROLLOUT, index)
        return None if record is None else Rollout.from_record(record)

    def all(self) -> list[Rollout]:
        """The present or last rollout of every index, by index."""
        return [Rollout.from_record(record) for record in self._control.list(ROLLOUT)]

    def history(self, index: str) -> list[Rollout]:
        """Every rollout of the index, oldest first; it outlives their versions."""
        ended = [
            Rollout.from_record(record)
            for record in self._control.list(_ARCHIVE)
            if record.fields.get("index") == index
        ]
        last = self.read(index)
        if last is not None and all(last.rollout_id != rollout.rollout_id for rollout in ended):
            ended.append(last)
        return sorted(ended, key=lambda rollout: (rollout.history[0].at, rollout.rollout_id))

    def last_ended(self, index: str) -> Rollout | None:
        """The rollout before the next one; `None` when there was none.

        Raises
        ------
        RolloutConflictError
            It is still under way.
        """
        last = self.read(index)
        if last is not None and last.open:
            raise RolloutConflictError(self._under_way(last))
        return last

    def begin(
        self,
        index: str,
        *,
        live: VersionRef,
        candidate: VersionRef,
        contract: EmbeddingContract,
        contract_settings: Mapping[str, Any],
        notes: Mapping[str, Mapping[str, Any]] | None = None,
        reason: str = "planned",
    ) -> Rollout:
        """A new rollout in the state `planned`.

        Raises
        ------
        RolloutConflictError
            One is under way, or another process began one in the same instant.
        """
        last = self.last_ended(index)
        if last is not None:
            # Kept before it is replaced; when another process was quicker, it is there already.
            self._control.swap(
                _ARCHIVE, f"{index}/{last.rollout_id}", seen=None, fields=last.to_fields()
            )
        rollout = Rollout(
            rollout_id=secrets.token_hex(4),
            index=index,
            state=RolloutState.PLANNED,
            live=live,
            candidate=candidate,
            contract=contract,
            contract_settings=contract_settings,
            history=(self._move(None, RolloutState.PLANNED, reason),),
            notes=notes or {},
            record=None if last is None else last.record,
        )
        return self._write(rollout)

    def move(
        self,
        rollout: Rollout,
        after: RolloutState,
        reason: str,
        *,
        candidate: VersionRef | None = None,
        **notes: Mapping[str, Any],
    ) -> Rollout:
        """The rollout in its next state; a step that had begun counts as ended.

        Parameters
        ----------
        rollout
            As it was read: another process that moved it since makes this fail.
        candidate
            Given when its collection has been made.
        notes
            Replace what the steps of these names kept.

        Raises
        ------
        RolloutStateError
            The state may not follow.
        RolloutConflictError
            Somebody else has written the record since.
        """
        check_transition(rollout.state, after)
        moved = replace(
            rollout,
            state=after,
            candidate=candidate or rollout.candidate,
            history=(*rollout.history, self._move(rollout.state, after, reason)),
            intent=None,
            notes={**rollout.notes, **notes},
        )
        written = self._write(moved)
        _log.info(
            "rollout_moved",
            index=written.index,
            rollout=written.rollout_id,
            before=rollout.state.value,
            after=after.value,
            candidate=written.candidate.name,
            reason=reason,
        )
        return written

    def update(
        self, rollout: Rollout, *, candidate: VersionRef | None = None, **notes: Mapping[str, Any]
    ) -> Rollout:
        """The same state with other notes. Raises `RolloutConflictError` as `move` does."""
        return self._write(
            replace(
                rollout,
                candidate=candidate or rollout.candidate,
                notes={**rollout.notes, **notes},
            )
        )

    def intend(
        self, rollout: Rollout, action: str, reason: str, detail: Mapping[str, Any] | None = None
    ) -> Rollout:
        """The rollout with a step begun, before the first write of that step.

        Whoever finds the intent finishes the step; `move` or `settle` takes it away.

        Raises
        ------
        RolloutStateError
            Another step has begun and not ended.
        RolloutConflictError
            Somebody else has written the record since.
        """
        if rollout.intent is not None and rollout.intent.action != action:
            raise RolloutStateError(
                f"the rollout {rollout.rollout_id} of {rollout.index} is in the middle of a "
                f"{rollout.intent.action}, begun by {rollout.intent.actor} at {rollout.intent.at}. "
                f"`plumbline rollout {rollout.intent.action}` finishes it."
            )
        at = self._now().isoformat(timespec="milliseconds")
        intent = Intent(action, at, self._actor, reason, dict(detail or {}))
        return self._write(replace(rollout, intent=intent))

    def settle(self, rollout: Rollout, **notes: Mapping[str, Any]) -> Rollout:
        """The rollout without its intent, in the same state."""
        return self._write(replace(rollout, intent=None, notes={**rollout.notes, **notes}))

    def refresh(self, rollout: Rollout) -> Rollout:
        """The same rollout as it stands now.

        Raises
        ------
        RolloutConflictError
            It is gone, or another one has taken its place.
        """
        now = self.read(rollout.index)
        if now is None or now.rollout_id != rollout.rollout_id:
            raise RolloutConflictError(
                f"the rollout {rollout.rollout_id} of {rollout.index} is no longer the present "
                "one: somebody ended it and began another. `plumbline rollout status` shows it."
            )
        return now

    def _move(self, before: RolloutState | None, after: RolloutState, reason: str) -> Transition:
        at = self._now().isoformat(timespec="milliseconds")
        return Transition(before, after, at, self._actor, reason)

    def _write(self, rollout: Rollout) -> Rollout:
        written = self._control.swap(
            ROLLOUT, rollout.index, seen=rollout.record, fields=rollout.to_fields()
        )
        if written is None:
            now = self.read(rollout.index)
            raise RolloutConflictError(
                f"the rollout of {rollout.index} has moved meanwhile. "
                + (self._under_way(now) if now is not None else "Its record is gone.")
            )
        return Rollout.from_record(written)

    @staticmethod
    def _under_way(rollout: Rollout) -> str:
        last = rollout.history[-1]
        return (
            f"The rollout {rollout.rollout_id} of {rollout.index} to {rollout.candidate.name} is "
            f"{rollout.state}, since {last.at} by {last.actor}. An index has one rollout at a "
            f"time. Next: `{NEXT_COMMAND[rollout.state]}`, or `plumbline rollout abort`."
        )
