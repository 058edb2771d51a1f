"""The monitor's history and memory."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from monitors.store import references, resets
from monitors.store.engine import Database, open_database
from monitors.store.migrate import upgrade
from monitors.store.records import (
    LiveVersion,
    Memory,
    NewReference,
    NewReset,
    Outcome,
    ReferenceEvent,
    ReferenceSummary,
    ResetEvent,
    Run,
    StoredRun,
    VersionKey,
)
from monitors.store.retention import prune
from monitors.store.rows import columns, of_version, run_values, stored_run, text
from monitors.store.tables import baselines, live_versions, run_counts, runs, states
from monitors.store.values import storable
from pipelines.core.errors import StoreConflictError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

    from monitors.probes.base import Reference
    from pipelines.core.monitor_settings import MonitorSettings

__all__ = ["Store", "SupersededError", "open_store"]


class SupersededError(StoreConflictError):
    """Another process has written a run of this probe since its memory was read."""


def open_store(settings: MonitorSettings) -> Store:
    """The store of the settings, its schema brought up to this release's.

    Raises
    ------
    SettingsError, ServiceRefusedError, StoreConflictError, TransientError
        It cannot be opened; the message says why and shows no login.
    """
    database = open_database(settings)
    try:
        upgrade(database)
    except BaseException:
        database.close()
        raise
    return Store(database)


class Store:
    """Reads and writes; every method is one transaction. Safe to share between threads.

    Raises
    ------
    TransientError
        Any method: the database does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.where = database.where
        self.shared = database.shared

    def ping(self) -> None:
        """Raises when the database does not answer."""
        with self._database.reading() as connection:
            connection.execute(select(states.c.runs).limit(1))

    def close(self) -> None:
        """Closes its connections."""
        self._database.close()

    def memory(self, key: VersionKey, probe: str) -> Memory:
        """What the probe has kept of this version."""
        with self._database.reading() as connection:
            row = connection.execute(
                select(states.c.runs, states.c.state).where(
                    of_version(states, key), states.c.probe == probe
                )
            ).one_or_none()
            baseline = connection.execute(
                select(baselines.c.baseline).where(
                    of_version(baselines, key), baselines.c.probe == probe
                )
            ).scalar_one_or_none()
        return Memory(0, None, baseline) if row is None else Memory(row[0], row[1], baseline)

    def record(
        self,
        run: Run,
        expected_runs: int,
        *,
        counted: bool = True,
        reset: NewReset | None = None,
    ) -> int:
        """Writes a run with its state, baseline, references and counts: all of it or nothing.

        Parameters
        ----------
        expected_runs
            `Memory.runs` that the run began with.
        counted
            False where the index's counts of runs are not about this version.
        reset
            Removes first what the probe has kept of this version: what the run leaves is all that
            it remembers then. A run that began before is superseded, and cannot bring it back.

        Returns
        -------
        Id of the run.

        Raises
        ------
        SupersededError
            Another run was written since.
        ValueError, TypeError
            State or baseline hold what JSON does not have, such as NaN.
        """
        state, baseline = storable(run.state), storable(run.baseline)
        with self._database.writing() as connection:
            self._claim(connection, run, expected_runs)
            run_id = int(
                connection.execute(
                    insert(runs).values(**run_values(run)).returning(runs.c.id)
                ).scalar_one()
            )
            if reset is not None:
                resets.forget(connection, run, reset, run_id)
            changed: dict[str, Any] = {"last_run_id": run_id}
            if run.outcome is Outcome.COMPLETED:
                changed["completed_run_id"] = run_id
            if state is not None:
                changed["state"] = state
            connection.execute(
                update(states)
                .where(of_version(states, run.key), states.c.probe == run.probe)
                .values(**changed)
            )
            if baseline is not None:
                self._keep_baseline(connection, run, baseline, run_id)
            for reference in run.references:
                references.keep(connection, run.key, reference)
            if counted:
                self._count(connection, run.key.index, run.probe, run.outcome, run.failure)
        return run_id

    def _claim(self, connection: Connection, run: Run, expected_runs: int) -> None:
        """Moves the row's count on; on PostgreSQL it also locks the row."""
        if expected_runs == 0:
            row = {
                **columns(run.key),
                "probe": run.probe,
                "runs": 1,
                "updated_at": run.started_at,
            }
            claim = self._insert(states).values(**row).on_conflict_do_nothing()
        else:
            claim = (
                update(states)
                .where(
                    of_version(states, run.key),
                    states.c.probe == run.probe,
                    states.c.runs == expected_runs,
                )
                .values(runs=expected_runs + 1, updated_at=run.started_at)
            )
        # Not the count of rows: the driver of PostgreSQL does not give it for every insert.
        if connection.execute(claim.returning(states.c.runs)).one_or_none() is None:
            raise SupersededError(
                f"another process has written a run of the probe {run.probe} on {run.key.version} "
                "meanwhile: this one's result is dropped"
            )

    def _keep_baseline(
        self, connection: Connection, run: Run, baseline: Mapping[str, Any], run_id: int
    ) -> None:
        kept = {"baseline": baseline, "run_id": run_id, "set_at": run.started_at}
        connection.execute(
            self._insert(baselines)
            .values(**columns(run.key), probe=run.probe, **kept)
            .on_conflict_do_update(
                index_elements=["index_name", "version", "incarnation", "probe"], set_=kept
            )
        )

    def count(self, index: str, probe: str, outcome: Outcome, failure: str = "") -> None:
        """Counts a run that leaves nothing else behind."""
        with self._database.writing() as connection:
            self._count(connection, index, probe, outcome, failure)

    def _count(
        self, connection: Connection, index: str, probe: str, outcome: Outcome, failure: str
    ) -> None:
        # An update takes a lock, so that two processes cannot count the same number.
        connection.execute(
            self._insert(run_counts)
            .values(index_name=index, probe=probe, outcome=outcome.value, failure=failure, runs=1)
            .on_conflict_do_update(
                index_elements=["index_name", "probe", "outcome", "failure"],
                set_={"runs": run_counts.c.runs + 1},
            )
        )

    def counts(self, index: str) -> Mapping[tuple[str, str, str], int]:
        """Runs on live versions since the store was made, by probe, outcome and failure."""
        with self._database.reading() as connection:
            rows = connection.execute(select(run_counts).where(run_counts.c.index_name == index))
            return {(row.probe, row.outcome, row.failure): int(row.runs) for row in rows}

    def latest(self, key: VersionKey) -> tuple[dict[str, StoredRun], dict[str, StoredRun]]:
        """By probe: its last run, and its last run that completed."""
        with self._database.reading() as connection:
            last = connection.execute(
                select(runs)
                .join(states, states.c.last_run_id == runs.c.id)
                .where(of_version(states, key))
            )
            completed = connection.execute(
                select(runs)
                .join(states, states.c.completed_run_id == runs.c.id)
                .where(of_version(states, key))
            )
            return (
                {row.probe: stored_run(row) for row in last},
                {row.probe: stored_run(row) for row in completed},
            )

    def history(self, index: str, *, probe: str | None = None, limit: int = 50) -> list[StoredRun]:
        """The newest runs of an index, the newest first."""
        query: Select[Any] = select(runs).where(runs.c.index_name == index)
        if probe is not None:
            query = query.where(runs.c.probe == probe)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(runs.c.id.desc()).limit(limit))
            return [stored_run(row) for row in rows]

    def live(self, index: str) -> LiveVersion | None:
        """What the holder of the lease last saw behind the alias; `None` before the first look."""
        with self._database.reading() as connection:
            row = connection.execute(
                select(live_versions).where(live_versions.c.index_name == index)
            ).one_or_none()
        if row is None:
            return None
        key = VersionKey(row.index_name, row.version, row.incarnation)
        return LiveVersion(key, row.problem, row.since)

    def set_live(self, key: VersionKey, problem: str, now: datetime) -> None:
        """Keeps what is behind the alias; nothing happens where nothing has changed."""
        kept = {
            "version": key.version,
            "incarnation": key.incarnation,
            "problem": text(problem),
            "since": now,
        }
        moved = or_(
            live_versions.c.version != key.version,
            live_versions.c.incarnation != key.incarnation,
            live_versions.c.problem != text(problem),
        )
        with self._database.writing() as connection:
            connection.execute(
                self._insert(live_versions)
                .values(index_name=key.index, **kept)
                .on_conflict_do_update(index_elements=["index_name"], set_=kept, where=moved)
            )

    def keep_reference(self, key: VersionKey, reference: NewReference) -> ReferenceSummary:
        """Stores a reference and puts it in force.

        Raises
        ------
        StoreConflictError
            The version has one of this kind and name: references do not change.
        """
        with self._database.writing() as connection:
            return references.keep(connection, key, reference)

    def reference(self, key: VersionKey, kind: str) -> Reference | None:
        """The reference in force, `None` where there is none."""
        with self._database.reading() as connection:
            return references.in_force(connection, key, kind)

    def references(self, key: VersionKey) -> list[ReferenceSummary]:
        """Every reference of a version, without its vectors, the newest first."""
        with self._database.reading() as connection:
            return references.summaries(connection, key)

    def reference_events(self, index: str, limit: int = 100) -> list[ReferenceEvent]:
        """Who put what in force, the newest first."""
        with self._database.reading() as connection:
            return references.events(connection, index, limit)

    def resets(self, index: str, *, probe: str | None = None, limit: int = 100) -> list[ResetEvent]:
        """Who took back what a probe remembered, the newest first."""
        with self._database.reading() as connection:
            return resets.events(connection, index, probe, limit)

    def prune(self, before: datetime, *, batch: int = 500) -> Mapping[str, int]:
        """Removes what is older, in small transactions; see `monitors.store.retention`."""
        return prune(self._database, before, batch=batch)

    def _insert(self, table: Table) -> Any:
        """Both dialects have the same `ON CONFLICT`, under names of their own."""
        return (postgresql.insert if self.shared else sqlite.insert)(table)
