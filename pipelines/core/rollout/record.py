"""The record of one rollout, as the control collection keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipelines.core.contract import EmbeddingContract
from pipelines.core.errors import StoreConflictError
from pipelines.core.rollout.states import OPEN, RolloutState

if TYPE_CHECKING:
    from pipelines.core.control import ControlRecord
    from pipelines.core.versions import Version

__all__ = ["Intent", "Rollout", "Transition", "VersionRef"]

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class VersionRef:
    """Which version, and which collection under that name.

    Parameters
    ----------
    incarnation
        Empty while the collection has not been made.
    """

    name: str
    fingerprint: str
    incarnation: str = ""

    @classmethod
    def of(cls, version: Version) -> VersionRef:
        """The reference to a version that exists."""
        return cls(version.name, version.fingerprint, version.incarnation)


@dataclass(frozen=True, slots=True)
class Transition:
    """One move: ISO 8601 time (UTC), `user@host` of who made it, and why, in words."""

    before: RolloutState | None
    after: RolloutState
    at: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Intent:
    """A step of several writes that has begun: whoever finds it finishes it.

    Parameters
    ----------
    action
        `promote`, `rollback`, `retire` or `abort`.
    detail
        What the action needs to be finished by another process.
    """

    action: str
    at: str
    actor: str
    reason: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """One rollout of one index.

    Parameters
    ----------
    rollout_id
        Eight hex digits.
    live
        The version that was live when the rollout was planned: after the switch, the previous one.
    candidate
        The version that is to take its place; its incarnation is empty until it is built.
    contract
        The candidate's contract.
    contract_settings
        What the candidate's contract was made from, as `ContractSettings` dumps it: names the
        model so that another process can load it.
    history
        Every move, the first one from nothing to `planned`.
    intent
        A step that has begun and has not been seen to end.
    notes
        What the steps keep, JSON values, one mapping each: `plan`, `build`, `verify`, `gate`,
        `promotion`, `soak`, `retirement`.
    record
        As it was read, for the next conditional write.
    """

    rollout_id: str
    index: str
    state: RolloutState
    live: VersionRef
    candidate: VersionRef
    contract: EmbeddingContract
    contract_settings: Mapping[str, Any]
    history: tuple[Transition, ...]
    intent: Intent | None = None
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    record: ControlRecord | None = field(default=None, compare=False, repr=False)

    @property
    def open(self) -> bool:
        """Whether it is under way."""
        return self.state in OPEN

    @property
    def serving(self) -> VersionRef:
        """The version that the index's alias points at, by this record."""
        switched = self.state in (RolloutState.SOAKING, RolloutState.COMPLETED)
        return self.candidate if switched else self.live

    @property
    def epoch(self) -> int:
        """How often the record has been written; 0 before the first time."""
        return 0 if self.record is None else self.record.epoch

    @property
    def entered_at(self) -> datetime:
        """When it came to its state, by the clock of whoever moved it."""
        return datetime.fromisoformat(self.history[-1].at)

    def note(self, name: str) -> dict[str, Any]:
        """What a step keeps; empty when it kept nothing."""
        return dict(self.notes.get(name, {}))

    def to_fields(self) -> dict[str, Any]:
        """The record's fields, JSON values."""
        return {
            "schema": _SCHEMA,
            "rollout_id": self.rollout_id,
            "index": self.index,
            "state": self.state.value,
            "live": asdict(self.live),
            "candidate": asdict(self.candidate),
            "contract": self.contract.to_json(),
            "contract_settings": dict(self.contract_settings),
            "history": [
                {
                    **asdict(move),
                    "before": None if move.before is None else move.before.value,
                    "after": move.after.value,
                }
                for move in self.history
            ],
            "intent": None if self.intent is None else asdict(self.intent),
            "notes": {name: dict(note) for name, note in self.notes.items()},
        }

    @classmethod
    def from_record(cls, record: ControlRecord) -> Rollout:
        """The rollout that `to_fields` described.

        Raises
        ------
        StoreConflictError
            A newer release wrote it, or it was edited.
        """
        fields = record.fields
        if fields.get("schema") != _SCHEMA:
            raise StoreConflictError(
                f"the rollout of {record.name} was recorded by another release: schema "
                f"{fields.get('schema')!r}, this one reads {_SCHEMA}. Upgrade Plumbline."
            )
        try:
            intent = fields["intent"]
            return cls(
                rollout_id=fields["rollout_id"],
                index=fields["index"],
                state=RolloutState(fields["state"]),
                live=VersionRef(**fields["live"]),
                candidate=VersionRef(**fields["candidate"]),
                contract=EmbeddingContract.from_json(fields["contract"]),
                contract_settings=dict(fields["contract_settings"]),
                history=_history(fields["history"]),
                intent=None if intent is None else Intent(**intent),
                notes={name: dict(note) for name, note in fields["notes"].items()},
                record=record,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreConflictError(
                f"the rollout of {record.name} in the control collection cannot be read "
                f"({type(error).__name__}: {error}): it was edited. Remove the record of kind "
                "'rollout' to start anew."
            ) from error


def _history(moves: list[Mapping[str, Any]]) -> tuple[Transition, ...]:
    """The moves; a rollout has at least the one that began it."""
    if not moves:
        raise ValueError("it has no history")
    return tuple(
        Transition(
            before=None if move["before"] is None else RolloutState(move["before"]),
            after=RolloutState(move["after"]),
            at=move["at"],
            actor=move["actor"],
            reason=move["reason"],
        )
        for move in moves
    )
