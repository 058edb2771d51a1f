"""The switch: one alias operation to the candidate, and one back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from pipelines.core.errors import (
    GateError,
    IndexMissingError,
    RolloutConflictError,
    RolloutStateError,
    SettingsError,
)
from pipelines.core.faults import point
from pipelines.core.index import encoder_for
from pipelines.core.lag import LagReader
from pipelines.core.lease import Lease
from pipelines.core.rollout import NEXT_COMMAND, Intent, Rollout, RolloutState, VersionRef
from pipelines.core.settings import ContractSettings, Settings
from pipelines.core.versions import Version, check_process, live_version_name, set_alias
from pipelines.rollout.context import RolloutContext, command_lease
from pipelines.rollout.drop import finish_abort, finish_retire

__all__ = ["finish_intent", "promote", "rollback"]

_FEWEST_WORDS = 3
"""Of a reason for a forced promotion: somebody will read it when things go wrong."""

_ROLLBACK_WAIT_SECONDS = 600.0
_POLL_SECONDS = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class _Checked:
    """What was found right before a switch.

    Parameters
    ----------
    lag
        Records that the version's consumer group has still to write; `None` where not asked.
    why_no_lag
        Why it was not asked; empty where it was.
    """

    version: Version
    document_distance: float
    query_distance: float
    lag: int | None
    why_no_lag: str

    def to_json(self) -> dict[str, Any]:
        return {
            "canary_document_distance": self.document_distance,
            "canary_query_distance": self.query_distance,
            "lag_records": self.lag,
            "lag_skipped": self.why_no_lag,
        }


def promote(
    settings: Settings,
    *,
    force: bool = False,
    reason: str | None = None,
    reader: LagReader | None = None,
) -> Rollout:
    """Points the index's alias at the candidate, in one operation; searches follow.

    Checked right before: the alias is where the rollout found it, the candidate is the collection
    that was verified, this process reproduces its canaries, and its consumer group has caught up.

    Parameters
    ----------
    force
        Switch although the candidate was not shown to be good enough; wants a reason of at least
        three words, which stays in the record.
    reason
        Why, in words.
    reader
        Asks how far a version's consumer group is behind; default: Kafka of the settings.

    Returns
    -------
    Rollout
        In the state `soaking`.

    Raises
    ------
    RolloutStateError
        The state does not allow it, or the candidate lags.
    GateError
        It was verified, and did not pass.
    RolloutConflictError
        Somebody moved the alias or the rollout, and nothing was changed.
    IndexMissingError, StoreConflictError
        The candidate's collection is gone, or is another one.
    ContractMismatchError, CanaryMismatchError, ModelError
        This process does not make the candidate's vectors.
    """
    _check_reason(force, reason)
    context = RolloutContext.open(settings)
    with command_lease(context) as lease:
        before = context.rollout()
        rollout = finish_intent(context, before)
        if _finished(before, rollout, RolloutState.SOAKING):
            return rollout
        forced = _may_promote(rollout, force)
        _check_alias(context, rollout.live.name, rollout)
        checked = _check_version(context, rollout, rollout.candidate, reader)
        if checked.lag is not None and checked.lag > settings.rollout.lag_bound_records:
            raise RolloutStateError(_lags(checked, settings, "promoted"))
        words = reason or ("forced" if forced else "promoted")
        detail = {"forced": forced, "reason": reason or "", **checked.to_json()}
        rollout, seconds = _switch(context, lease, rollout, "promote", words, detail)
        intent = _begun(rollout)
        ended = context.store.move(
            rollout,
            RolloutState.SOAKING,
            words,
            promotion={
                **detail,
                "at": intent.at,
                "by": intent.actor,
                "alias_seconds": round(seconds, 6),
            },
        )
        point("rollout.promote.after_move")
        return ended


def rollback(
    settings: Settings,
    *,
    reason: str | None = None,
    wait: bool = False,
    timeout: float = _ROLLBACK_WAIT_SECONDS,
    reader: LagReader | None = None,
    stop: threading.Event | None = None,
    automatic: bool = False,
) -> Rollout:
    """Points the alias back at the version before, which has received every event since.

    Parameters
    ----------
    reason
        Why, in words.
    wait
        Wait while that version's consumer group is behind, instead of refusing.
    timeout
        How long, seconds.
    reader
        As in `promote`.
    stop
        Ends the wait.
    automatic
        Nobody decided on it but `soak --auto-rollback`; kept in the record.

    Returns
    -------
    Rollout
        In the state `rolled_back`.

    Raises
    ------
    RolloutStateError
        The rollout is not soaking, or that version lags: a switch would lose writes from sight.
    RolloutConflictError
        Somebody moved the alias or the rollout, and nothing was changed.
    IndexMissingError, StoreConflictError
        That version's collection is gone, or is another one.
    ContractMismatchError, CanaryMismatchError, ModelError
        This process does not make its vectors.
    """
    context = RolloutContext.open(settings)
    with command_lease(context) as lease:
        before = context.rollout()
        rollout = finish_intent(context, before)
        if _finished(before, rollout, RolloutState.ROLLED_BACK):
            return rollout
        if rollout.state is not RolloutState.SOAKING:
            raise RolloutStateError(
                f"there is nothing to roll back: the rollout {rollout.rollout_id} of "
                f"{rollout.index} is {rollout.state}, since {rollout.history[-1].at}. A rollback "
                "is possible from the promotion until the previous version is retired. Next: "
                f"`{NEXT_COMMAND[rollout.state]}`."
            )
        _check_alias(context, rollout.candidate.name, rollout)
        checked = _check_version(context, rollout, rollout.live, reader)
        deadline = time.monotonic() + (timeout if wait else 0.0)
        stop = stop or threading.Event()
        while checked.lag is not None and checked.lag > settings.rollout.lag_bound_records:
            left = deadline - time.monotonic()
            if left <= 0 or stop.wait(min(_POLL_SECONDS, left)):
                raise RolloutStateError(_lags(checked, settings, "rolled back to"))
            lease.check()
            checked = _with_lag(context, checked, reader)
        words = reason or "rolled back"
        detail = {"automatic": automatic, "reason": reason or "", **checked.to_json()}
        rollout, seconds = _switch(context, lease, rollout, "rollback", words, detail)
        intent = _begun(rollout)
        ended = context.store.move(
            rollout,
            RolloutState.ROLLED_BACK,
            words,
            rollback={
                **detail,
                "at": intent.at,
                "by": intent.actor,
                "alias_seconds": round(seconds, 6),
            },
        )
        point("rollout.rollback.after_move")
        return ended


def finish_intent(context: RolloutContext, rollout: Rollout) -> Rollout:
    """The rollout without a step that somebody began and did not end.

    A switch that has happened is put on record. One that has not is withdrawn: all that it was
    decided on may be different by now, and the command, repeated, checks it again. What was to be
    dropped is dropped.

    The caller holds the command's lease. Every command calls this before anything else.

    Raises
    ------
    RolloutConflictError
        The alias points at neither version of the rollout, or another process moved the record.
    """
    intent = rollout.intent
    if intent is None:
        return rollout
    _log.warning(
        "rollout_step_left_over",
        index=rollout.index,
        rollout=rollout.rollout_id,
        action=intent.action,
        begun_at=intent.at,
        by=intent.actor,
    )
    finish = _FINISH.get(intent.action)
    if finish is None:
        raise RolloutStateError(
            f"the rollout {rollout.rollout_id} of {rollout.index} is in the middle of "
            f"{intent.action!r}, which this release does not know. Upgrade Plumbline."
        )
    return finish(context, rollout)


def _finish_promote(context: RolloutContext, rollout: Rollout) -> Rollout:
    intent = _begun(rollout)
    if not _switched(context, rollout, rollout.live, rollout.candidate):
        return context.store.settle(rollout)
    return context.store.move(
        rollout,
        RolloutState.SOAKING,
        intent.reason,
        promotion={**intent.detail, "at": intent.at, "by": intent.actor, "resumed": True},
    )


def _finish_rollback(context: RolloutContext, rollout: Rollout) -> Rollout:
    intent = _begun(rollout)
    if not _switched(context, rollout, rollout.candidate, rollout.live):
        return context.store.settle(rollout)
    return context.store.move(
        rollout,
        RolloutState.ROLLED_BACK,
        intent.reason,
        rollback={**intent.detail, "at": intent.at, "by": intent.actor, "resumed": True},
    )


def _begun(rollout: Rollout) -> Intent:
    assert rollout.intent is not None, "asked only of a rollout with a step begun"
    return rollout.intent


def _switched(
    context: RolloutContext, rollout: Rollout, source: VersionRef, target: VersionRef
) -> bool:
    """Whether the alias has moved from the one to the other."""
    alias = live_version_name(context.qdrant, context.index)
    if alias not in (source.name, target.name):
        raise _moved_by_hand(context, rollout, alias, source.name)
    return alias == target.name


_FINISH: Mapping[str, Callable[[RolloutContext, Rollout], Rollout]] = {
    "promote": _finish_promote,
    "rollback": _finish_rollback,
    "retire": finish_retire,
    "abort": finish_abort,
}


def _finished(before: Rollout, after: Rollout, state: RolloutState) -> bool:
    """Whether the step that was left over was this very command's, and is done now."""
    return before.intent is not None and before.state is not state and after.state is state


def _check_reason(force: bool, reason: str | None) -> None:
    if force and len((reason or "").split()) < _FEWEST_WORDS:
        raise SettingsError(
            f"a forced promotion wants a reason, in at least {_FEWEST_WORDS} words: --reason. It "
            "stays in the record of the rollout, for whoever asks why."
        )


def _may_promote(rollout: Rollout, force: bool) -> bool:
    """Whether it must be forced. Raises where it may not be promoted at all."""
    if rollout.state is RolloutState.READY:
        return False
    if rollout.state is not RolloutState.VERIFYING:
        last = rollout.history[-1]
        raise RolloutStateError(
            f"the rollout {rollout.rollout_id} of {rollout.index} cannot be promoted: it is "
            f"{rollout.state}, since {last.at} by {last.actor}; valid is "
            f"{RolloutState.READY}. Next: `{NEXT_COMMAND[rollout.state]}`."
        )
    if force:
        return True
    if rollout.note("verify") or rollout.note("gate"):
        raise GateError(
            f"{rollout.candidate.name} was verified and did not pass: `plumbline rollout status` "
            "says why. Mend it and verify again, or promote it with --force and a written "
            "--reason."
        )
    raise RolloutStateError(
        f"{rollout.candidate.name} is not verified yet. `plumbline rollout verify` does it."
    )


def _check_alias(context: RolloutContext, expected: str, rollout: Rollout) -> None:
    alias = live_version_name(context.qdrant, context.index)
    if alias != expected:
        raise _moved_by_hand(context, rollout, alias, expected)


def _moved_by_hand(
    context: RolloutContext, rollout: Rollout, alias: str | None, expected: str
) -> RolloutConflictError:
    found = "is gone" if alias is None else f"points at {alias}"
    return RolloutConflictError(
        f"the alias {context.index} {found}; the rollout {rollout.rollout_id}, which is "
        f"{rollout.state}, expects {expected}. Somebody moved it by hand, and nothing was "
        f"overwritten. `plumbline index alias {expected}` puts it back; then repeat "
        "this command."
    )


def _check_version(
    context: RolloutContext, rollout: Rollout, ref: VersionRef, reader: LagReader | None
) -> _Checked:
    """The version that the alias is to point at, and that this process makes its vectors."""
    try:
        version = context.opened(ref)
    except IndexMissingError as error:
        raise IndexMissingError(
            f"{ref.name} cannot become live: its collection is gone. {error}"
        ) from None
    if version.fingerprint != ref.fingerprint:
        raise RolloutConflictError(
            f"{ref.name} has the fingerprint {version.fingerprint}, the rollout "
            f"{rollout.rollout_id} recorded {ref.fingerprint}: it is another version now."
        )
    settings = context.settings
    if ref == rollout.candidate:
        # What the candidate's contract was made from finds its model where it was built.
        own = ContractSettings.model_validate(dict(rollout.contract_settings))
        settings = settings.model_copy(update={"contract": own})
    report = check_process(version, encoder_for(version, settings), None)
    return _with_lag(
        context,
        _Checked(version, report.document_distance, report.query_distance, None, ""),
        reader,
    )


def _with_lag(context: RolloutContext, checked: _Checked, reader: LagReader | None) -> _Checked:
    settings = context.settings
    if reader is None:
        if not settings.kafka.names_topics:
            why = "the settings name no topic: nothing could be asked how far it has come"
            _log.info("lag_not_asked", version=checked.version.name, why=why)
            return _Checked(
                checked.version, checked.document_distance, checked.query_distance, None, why
            )
        from pipelines.io.kafka.lag import lag_reader

        reader = lag_reader(settings)
    lag = sum(part.records + part.expired for part in reader(checked.version))
    return _Checked(checked.version, checked.document_distance, checked.query_distance, lag, "")


def _lags(checked: _Checked, settings: Settings, what: str) -> str:
    name = checked.version.name
    return (
        f"{name} is not {what}: its consumer group {checked.version.group_id} is {checked.lag:,} "
        f"records behind, allowed are {settings.rollout.lag_bound_records:,} "
        "(`rollout.lag_bound_records`), and searches would not find what was written since. Let "
        f"its job catch up (`plumbline ingest --version {name}`), or wait for it with --wait "
        "where the command has it."
    )


def _switch(
    context: RolloutContext,
    lease: Lease,
    rollout: Rollout,
    action: str,
    reason: str,
    detail: Mapping[str, Any],
) -> tuple[Rollout, float]:
    """The rollout with its intent after the alias was moved, and how long that took."""
    target = rollout.candidate if action == "promote" else rollout.live
    source = rollout.live if action == "promote" else rollout.candidate
    point(f"rollout.{action}.before_intent")
    rollout = context.store.intend(rollout, action, reason, detail)
    point(f"rollout.{action}.after_intent")
    began = time.perf_counter()
    try:
        # As late as can be: Qdrant has no condition for it.
        lease.check()
        _check_alias(context, source.name, rollout)
        set_alias(context.qdrant, context.index, target.name)
    except Exception:
        # What is known not to have happened leaves nothing to be finished.
        if live_version_name(context.qdrant, context.index) != target.name:
            context.store.settle(rollout)
        raise
    seconds = time.perf_counter() - began
    point(f"rollout.{action}.after_alias")
    return rollout, seconds
