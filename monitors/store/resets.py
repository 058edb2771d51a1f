"""Resets: what a probe remembered and somebody took back, with who, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, null, select, update

from monitors.probes.base import Level
from monitors.store.records import NewReset, ResetEvent, Run, VersionKey
from monitors.store.rows import columns, of_version, text
from monitors.store.tables import baselines, probe_resets, states

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["events", "forget"]

_NAME_LENGTH = 200


def forget(connection: Connection, run: Run, reset: NewReset, run_id: int) -> None:
    """Removes state and baseline of the run's probe, with a line in the history of resets."""
    connection.execute(
        update(states)
        .where(of_version(states, run.key), states.c.probe == run.probe)
        .values(state=null())
    )
    connection.execute(
        delete(baselines).where(of_version(baselines, run.key), baselines.c.probe == run.probe)
    )
    connection.execute(
        insert(probe_resets).values(
            **columns(run.key),
            probe=run.probe,
            at=run.started_at,
            by=text(reset.by)[:_NAME_LENGTH],
            reason=text(reset.reason),
            level=None if reset.level is None else reset.level.value,
            words=text(reset.words) or None,
            run_id=run_id,
        )
    )


def events(connection: Connection, index: str, probe: str | None, limit: int) -> list[ResetEvent]:
    """The resets of an index's probes, or of one of them, the newest first."""
    query = select(probe_resets).where(probe_resets.c.index_name == index)
    if probe is not None:
        query = query.where(probe_resets.c.probe == probe)
    rows = connection.execute(query.order_by(probe_resets.c.id.desc()).limit(limit))
    return [
        ResetEvent(
            key=VersionKey(row.index_name, row.version, row.incarnation),
            probe=row.probe,
            at=row.at,
            by=row.by,
            reason=row.reason,
            level=None if row.level is None else Level(row.level),
            words=row.words or "",
            run_id=int(row.run_id),
        )
        for row in rows
    ]
