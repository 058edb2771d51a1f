"""Where a rollout stands, what it waits for, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.core.lease import LEASE
from pipelines.core.rollout import NEXT_COMMAND, Rollout, RolloutState
from pipelines.core.settings import Settings
from pipelines.core.versions import live_version_name
from pipelines.rollout.context import RolloutContext, lease_name
from pipelines.rollout.retire import retire_after

__all__ = ["RolloutStatus", "status"]

_FRESH_SECONDS = 60.0


@dataclass(frozen=True)
class RolloutStatus:
    """What `plumbline rollout status` answers.

    Parameters
    ----------
    alias
        The version that searches reach; `None` without an index.
    running
        Who runs a rollout command now, in words; empty when nobody does.
    waits_for
        In words; empty when nothing is waited for.
    progress
        What the build keeps of its progress: tokens, documents, rate, ETA.
    """

    index: str
    rollout: Rollout | None
    alias: str | None
    running: str = ""
    waits_for: str = ""
    next_command: str = "plumbline rollout plan --contract FILE"
    progress: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Rollout] = ()

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        rollout = self.rollout
        return {
            "index": self.index,
            "alias": self.alias,
            "rollout": None if rollout is None else rollout.rollout_id,
            "state": None if rollout is None else rollout.state.value,
            "live": None if rollout is None else rollout.live.name,
            "candidate": None if rollout is None else rollout.candidate.name,
            "running": self.running or None,
            "waits_for": self.waits_for or None,
            "next": self.next_command,
            "progress": dict(self.progress),
            "notes": {} if rollout is None else {k: dict(v) for k, v in rollout.notes.items()},
            "moves": [] if rollout is None else moves(rollout),
            "history": [
                {
                    "rollout": past.rollout_id,
                    "state": past.state.value,
                    "live": past.live.name,
                    "candidate": past.candidate.name,
                    "began_at": past.history[0].at,
                    "ended_at": past.history[-1].at if not past.open else None,
                }
                for past in self.history
            ],
        }


def moves(rollout: Rollout) -> list[dict[str, Any]]:
    """Every move of a rollout, oldest first."""
    return [
        {
            "before": None if move.before is None else move.before.value,
            "after": move.after.value,
            "at": move.at,
            "actor": move.actor,
            "reason": move.reason,
        }
        for move in rollout.history
    ]


def status(settings: Settings, *, now: datetime | None = None) -> RolloutStatus:
    """Reads the records, and writes nothing."""
    context = RolloutContext.open(settings)
    rollout = context.store.read(settings.index)
    alias = live_version_name(context.qdrant, settings.index)
    running = _running(context)
    if rollout is None:
        return RolloutStatus(settings.index, None, alias, running)
    return RolloutStatus(
        settings.index,
        rollout,
        alias,
        running,
        _waits_for(rollout, settings, running, now or datetime.now(UTC)),
        _next(rollout),
        rollout.note("progress") or rollout.note("build"),
        context.store.history(settings.index),
    )


def _running(context: RolloutContext) -> str:
    lease = context.control.read(LEASE, lease_name(context.index))
    if lease is None or not lease.fields.get("holder"):
        return ""
    beat = lease.fields.get("beat_at")
    return (
        f"process {lease.fields.get('pid')} on {lease.fields.get('host')}, since "
        f"{lease.fields.get('acquired_at')}, last seen {beat}"
    )


def _next(rollout: Rollout) -> str:
    if rollout.intent is not None:
        return f"plumbline rollout {rollout.intent.action}"
    if rollout.state is RolloutState.ROLLED_BACK and rollout.note("retirement"):
        return NEXT_COMMAND[RolloutState.COMPLETED]
    return NEXT_COMMAND[rollout.state]


def _waits_for(rollout: Rollout, settings: Settings, running: str, now: datetime) -> str:
    if rollout.intent is not None:
        intent = rollout.intent
        return f"{intent.action}, begun at {intent.at} by {intent.actor}, to be finished"
    state = rollout.state
    if state is RolloutState.BUILDING:
        return "the backfill" if running else "somebody to go on building: no build is running"
    if state is RolloutState.VERIFYING:
        verdict = rollout.note("gate").get("outcome")
        return f"a passed verification; the last gate said {verdict}" if verdict else "verification"
    if state is RolloutState.READY:
        return "your decision to promote"
    if state is RolloutState.SOAKING:
        until = rollout.entered_at + timedelta(hours=settings.rollout.soak_hours)
        if now < until:
            return f"the soak, until {until.isoformat(timespec='minutes')}"
        due = retire_after(settings, rollout)
        if now < due:
            return f"the tombstone horizon, until {due.isoformat(timespec='minutes')}"
        return "your decision to retire the previous version"
    if state is RolloutState.FAILED:
        return f"a repair: {rollout.history[-1].reason}"
    if state is RolloutState.ROLLED_BACK and not rollout.note("retirement"):
        return "your decision to drop the candidate"
    return ""
