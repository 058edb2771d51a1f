"""The ends of a rollout: the version that lost is dropped, or the whole of it is given up."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from pipelines.core.errors import (
    LeaseHeldError,
    RolloutConflictError,
    RolloutStateError,
    SettingsError,
)
from pipelines.core.faults import point
from pipelines.core.rollout import NEXT_COMMAND, Rollout, RolloutState
from pipelines.core.settings import Settings
from pipelines.core.versions import live_version_name
from pipelines.rollout.context import RolloutContext, command_lease
from pipelines.rollout.drop import finish_abort, finish_retire, retired_ref
from pipelines.rollout.switch import finish_intent

__all__ = ["abort", "retire", "retire_after"]

_ABORTABLE = frozenset(
    {
        RolloutState.PLANNED,
        RolloutState.BUILDING,
        RolloutState.VERIFYING,
        RolloutState.READY,
        RolloutState.FAILED,
    }
)
_ATTEMPTS = 50
"""A build writes its record with every range: an abort finds it moved a few times, not often."""

_ABORT_WAIT_SECONDS = 120.0


def retire_after(settings: Settings, rollout: Rollout) -> datetime:
    """When the previous version may be dropped without naming it.

    The end of the soak, and the tombstone horizon after the switch: until then an event that was
    deleted before the switch can still be replayed, and the previous version is what a candidate
    that took it wrongly is compared with.
    """
    hours = max(settings.rollout.soak_hours, 24 * settings.rollout.tombstone_days)
    return rollout.entered_at + timedelta(hours=hours)


def retire(
    settings: Settings,
    *,
    now: str | None = None,
    reason: str | None = None,
    clock: datetime | None = None,
) -> Rollout:
    """Drops the version that lost, with its leases and reports; its ingest job stops by itself.

    After a promotion that is the previous version, once the soak and the tombstone horizon have
    passed; after a rollback the candidate, at once.

    Parameters
    ----------
    now
        Name of the version that is to be dropped: drop it before its time.
    reason
        Why, in words.
    clock
        The time; injected by tests.

    Returns
    -------
    Rollout
        `completed`, or `rolled_back` with a note of the retirement.

    Raises
    ------
    RolloutStateError
        There is nothing to retire, or it is too early.
    SettingsError
        `now` names another version.
    RolloutConflictError
        The alias points at what is to be dropped, or elsewhere than the rollout left it.
    """
    context = RolloutContext.open(settings)
    with command_lease(context) as lease:
        before = context.rollout()
        rollout = finish_intent(context, before)
        left = before.intent
        if left is not None and left.action == "retire":
            return rollout
        if left is not None and left.action == "rollback":
            raise RolloutStateError(
                f"a rollback, begun at {left.at} by {left.actor}, had not ended; the rollout is "
                f"{rollout.state} now. Look at `plumbline rollout status`, then roll back or "
                "repeat this command."
            )
        _may_retire(settings, rollout, now, clock or datetime.now(UTC))
        expected = rollout.serving.name
        alias = live_version_name(context.qdrant, context.index)
        if alias != expected:
            raise RolloutConflictError(
                f"the alias {context.index} points at {alias}; the rollout "
                f"{rollout.rollout_id}, which is {rollout.state}, expects {expected}. Somebody "
                f"moved it by hand, so nothing is dropped. `plumbline index alias {expected}` "
                "puts it back; then repeat this command."
            )
        point("rollout.retire.before_intent")
        rollout = context.store.intend(rollout, "retire", reason or "retired")
        point("rollout.retire.after_intent")
        lease.check()
        return finish_retire(context, rollout)


def _may_retire(settings: Settings, rollout: Rollout, now: str | None, at: datetime) -> None:
    ref = retired_ref(rollout)
    if rollout.state is RolloutState.ROLLED_BACK and rollout.note("retirement"):
        raise RolloutStateError(
            f"{ref.name} is retired already, at {rollout.note('retirement').get('at')}. Next: "
            f"`{NEXT_COMMAND[RolloutState.COMPLETED]}`."
        )
    if rollout.state not in (RolloutState.SOAKING, RolloutState.ROLLED_BACK):
        raise RolloutStateError(
            f"there is nothing to retire: the rollout {rollout.rollout_id} of {rollout.index} is "
            f"{rollout.state}. Next: `{NEXT_COMMAND[rollout.state]}`."
        )
    if now is not None and now != ref.name:
        raise SettingsError(
            f"--now names {now!r}, and what would be dropped is {ref.name}. Name that one, or "
            "look again at what is live: `plumbline rollout status`."
        )
    due = retire_after(settings, rollout)
    if rollout.state is RolloutState.SOAKING and now is None and at < due:
        raise RolloutStateError(
            f"{ref.name} is kept for a rollback until {due.isoformat(timespec='minutes')}: "
            f"{settings.rollout.soak_hours:g} hours of soak (`rollout.soak_hours`) and the "
            f"tombstone horizon of {settings.rollout.tombstone_days:g} days "
            "(`rollout.tombstone_days`), whichever is later. To drop it now, name it: "
            f"`plumbline rollout retire --now {ref.name}`."
        )


def abort(
    settings: Settings, *, reason: str | None = None, timeout: float = _ABORT_WAIT_SECONDS
) -> Rollout:
    """Gives a rollout up before its switch: the candidate goes, live is never touched.

    A build that runs, here or elsewhere, finds the intent between two of its ranges and stops;
    this waits for it.

    Parameters
    ----------
    reason
        Why, in words.
    timeout
        How long to wait for a command that is running, seconds. The abort stays begun, and every
        later command finishes it.

    Returns
    -------
    Rollout
        In the state `aborted`.

    Raises
    ------
    RolloutStateError
        It has been promoted, or has ended.
    LeaseHeldError
        A promotion is running, or the command that is running did not end in time.
    """
    context = RolloutContext.open(settings)
    _intend_abort(context, reason or "aborted")
    point("rollout.abort.after_intent")
    stop = threading.Event()
    timer = threading.Timer(timeout, stop.set)
    timer.daemon = True
    timer.start()
    try:
        with command_lease(context, wait=True, stop=stop) as lease:
            point("rollout.abort.after_lease")
            rollout = context.rollout()
            if rollout.intent is not None and rollout.intent.action == "abort":
                lease.check()
                return finish_abort(context, rollout)
            return rollout  # another command has finished it
    finally:
        timer.cancel()


def _intend_abort(context: RolloutContext, reason: str) -> None:
    """Puts the intent on record without the lease: whoever holds it must find it."""
    for _ in range(_ATTEMPTS):
        rollout = context.rollout()
        if rollout.intent is not None and rollout.intent.action == "abort":
            return
        if rollout.intent is not None:
            # Of a command that is running, or of one that was killed.
            try:
                with command_lease(context):
                    finish_intent(context, context.store.refresh(rollout))
            except LeaseHeldError as error:
                raise LeaseHeldError(
                    f"nothing was aborted, as a {rollout.intent.action} is under way: {error}"
                ) from None
            continue
        if rollout.state not in _ABORTABLE:
            raise RolloutStateError(_too_late(rollout))
        point("rollout.abort.before_intent")
        try:
            context.store.intend(rollout, "abort", reason)
        except RolloutConflictError:
            continue  # the build has written its progress meanwhile
        return
    raise RolloutConflictError(
        f"the record of the rollout of {context.index} moved {_ATTEMPTS} times while it was to be "
        "aborted. Stop the commands that run (`plumbline rollout status`), then repeat."
    )


def _too_late(rollout: Rollout) -> str:
    last = rollout.history[-1]
    since = f"is {rollout.state}, since {last.at} by {last.actor}"
    if rollout.state is RolloutState.SOAKING:
        return (
            f"the rollout {rollout.rollout_id} of {rollout.index} {since}: its candidate is live. "
            "`plumbline rollout rollback` goes back to the previous version."
        )
    return (
        f"the rollout {rollout.rollout_id} of {rollout.index} {since}: there is nothing to abort. "
        f"Next: `{NEXT_COMMAND[rollout.state]}`."
    )
