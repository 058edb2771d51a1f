"""What is forgotten, and when: in small transactions, so that nobody waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, and_, delete, exists, not_, or_, select

from monitors.store.tables import (
    baselines,
    live_versions,
    references_in_force,
    runs,
    states,
    vector_references,
)

if TYPE_CHECKING:
    from monitors.store.engine import Database

__all__ = ["prune"]


def prune(database: Database, before: datetime, *, batch: int) -> Mapping[str, int]:
    """Removes what was last of use before a moment; gives the rows removed by table.

    Runs go by their age, but for the last one and the last completed one of each probe. What a
    version's probes remember, and its references, go once the version is not live and no probe
    has run on it since. The history of references stays.

    Parameters
    ----------
    batch
        Rows of one transaction, at most.
    """
    in_use = exists().where(
        or_(states.c.last_run_id == runs.c.id, states.c.completed_run_id == runs.c.id)
    )
    old_runs = select(runs.c.id).where(runs.c.started_at < before, not_(in_use)).limit(batch)
    removed = {"runs": 0}
    while True:
        with database.writing() as connection:
            ids = list(connection.execute(old_runs).scalars())
            if ids:
                connection.execute(delete(runs).where(runs.c.id.in_(ids)))
        removed["runs"] += len(ids)
        if len(ids) < batch:
            break
    for table in (references_in_force, vector_references, baselines, states):
        with database.writing() as connection:
            condition = _out_of_use(table, before)
            removed[table.name] = connection.execute(delete(table).where(condition)).rowcount
    with database.writing() as connection:
        # Replaced ones of versions that are in use.
        removed["vector_references"] += connection.execute(
            delete(vector_references).where(
                vector_references.c.created_at < before,
                not_(exists().where(references_in_force.c.reference_id == vector_references.c.id)),
            )
        ).rowcount
    return removed


def _out_of_use(table: Table, before: datetime) -> Any:
    live = exists().where(
        live_versions.c.index_name == table.c.index_name,
        live_versions.c.version == table.c.version,
        live_versions.c.incarnation == table.c.incarnation,
    )
    # The memory itself goes last, row by row; what hangs on it asks for any row of the version.
    if table is states:
        return and_(states.c.updated_at < before, not_(live))
    used = exists().where(
        states.c.index_name == table.c.index_name,
        states.c.version == table.c.version,
        states.c.incarnation == table.c.incarnation,
        states.c.updated_at >= before,
    )
    stamp = {
        "vector_references": vector_references.c.created_at,
        "references_in_force": references_in_force.c.since,
        "baselines": baselines.c.set_at,
    }[table.name]
    return and_(stamp < before, not_(live), not_(used))
