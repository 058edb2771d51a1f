"""Dropping a version for good: its collection, and everything that is kept beside it."""

from __future__ import annotations

from enum import StrEnum

import structlog

from pipelines.core.backfill_progress import BACKFILL
from pipelines.core.errors import IndexMissingError, RolloutConflictError, StoreConflictError
from pipelines.core.faults import point
from pipelines.core.lease import end_lease, ingest_lease
from pipelines.core.rollout import Rollout, RolloutState, VersionRef
from pipelines.core.versions import live_version_name, open_version
from pipelines.core.worker_reports import CANARY_REPORT, read_reports
from pipelines.rollout.context import RolloutContext

__all__ = ["Dropped", "drop_version", "finish_abort", "finish_retire", "retired_ref"]

_log = structlog.get_logger()


class Dropped(StrEnum):
    """What became of a version that was to be dropped."""

    DROPPED = "dropped"
    GONE = "gone already"
    KEPT = "kept: it was there before the rollout"
    OTHER = "kept: another collection has its name now"


def drop_version(context: RolloutContext, rollout: Rollout, ref: VersionRef, why: str) -> Dropped:
    """Drops a version that nobody searches. Safe to repeat after an end at any moment.

    Its ingest job, wherever it runs, loses its lease and stops with `why`.

    Raises
    ------
    RolloutConflictError
        The alias points at it.
    """
    qdrant, control = context.qdrant, context.control
    if live_version_name(qdrant, context.index) == ref.name:
        raise RolloutConflictError(
            f"{ref.name} is live: the alias {context.index} points at it, so it is not dropped. "
            "Somebody moved the alias by hand: `plumbline rollout status` shows where it should "
            "be."
        )
    try:
        version = open_version(qdrant, ref.name)
        outcome = Dropped.DROPPED
        if ref.incarnation and version.incarnation != ref.incarnation:
            outcome = Dropped.OTHER
    except IndexMissingError:
        outcome = Dropped.GONE
    except StoreConflictError:
        outcome = Dropped.OTHER
    if outcome is Dropped.OTHER:
        _log.warning("version_kept", version=ref.name, rollout=rollout.rollout_id, why=outcome)
        _remove_backfill(context, rollout)
        return outcome
    job = ingest_lease(ref.name)
    end_lease(control, job, why)
    point("rollout.drop.after_fence")
    if outcome is Dropped.DROPPED:
        qdrant.call("delete_collection", ref.name)
        _log.info("version_dropped", version=ref.name, rollout=rollout.rollout_id, why=why)
    point("rollout.drop.after_collection")
    # Again: a job that stood by may have claimed the lease in between.
    end_lease(control, job, why)
    control.remove(CANARY_REPORT, [report.name for report in read_reports(control, ref.name)])
    _remove_backfill(context, rollout)
    point("rollout.drop.after_records")
    return outcome


def _remove_backfill(context: RolloutContext, rollout: Rollout) -> None:
    own = rollout.rollout_id
    context.control.remove(
        BACKFILL,
        [
            record.name
            for record in context.control.list(BACKFILL)
            if record.name == own or record.name.startswith((f"{own}/", f"{own}-"))
        ],
    )


def retired_ref(rollout: Rollout) -> VersionRef:
    """The version that `retire` drops: the one that lost."""
    return rollout.candidate if rollout.state is RolloutState.ROLLED_BACK else rollout.live


def finish_retire(context: RolloutContext, rollout: Rollout) -> Rollout:
    """Drops the version that lost, and moves on. The record holds the intent."""
    intent = rollout.intent
    assert intent is not None, "called for an intent"
    ref = retired_ref(rollout)
    why = (
        f"{ref.name} was retired by the rollout {rollout.rollout_id} of {rollout.index} at "
        f"{intent.at} ({intent.actor}): there is nothing left for this job to write. Stop "
        "deploying it."
    )
    outcome = drop_version(context, rollout, ref, why)
    note = {"version": ref.name, "outcome": outcome.value, "at": intent.at, "by": intent.actor}
    if rollout.state is RolloutState.ROLLED_BACK:
        ended = context.store.settle(rollout, retirement=note)
    else:
        ended = context.store.move(rollout, RolloutState.COMPLETED, intent.reason, retirement=note)
    point("rollout.retire.after_move")
    return ended


def finish_abort(context: RolloutContext, rollout: Rollout) -> Rollout:
    """Drops what there is of the candidate, and moves on. The record holds the intent."""
    intent = rollout.intent
    assert intent is not None, "called for an intent"
    ref = rollout.candidate
    why = (
        f"the rollout {rollout.rollout_id} of {rollout.index} to {ref.name} was aborted at "
        f"{intent.at} ({intent.actor}): there is nothing left for this job to write. Stop "
        "deploying it."
    )
    if rollout.note("plan").get("existing"):
        # Somebody made it, with `plumbline index create` or an earlier rollout: it is not ours.
        outcome = Dropped.KEPT
        _remove_backfill(context, rollout)
        _log.warning("version_kept", version=ref.name, rollout=rollout.rollout_id, why=outcome)
    else:
        outcome = drop_version(context, rollout, ref, why)
    ended = context.store.move(
        rollout,
        RolloutState.ABORTED,
        intent.reason,
        retirement={
            "version": ref.name,
            "outcome": outcome.value,
            "at": intent.at,
            "by": intent.actor,
        },
    )
    point("rollout.abort.after_move")
    return ended
