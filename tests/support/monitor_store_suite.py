"""What the monitor's store promises, on whichever database a test class names."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import event, select, text

from monitors.probes.base import Level
from monitors.store import (
    NewReference,
    NewReset,
    Outcome,
    Run,
    Store,
    StoredFigure,
    SupersededError,
    VersionKey,
    open_database,
    open_store,
    upgrade,
)
from monitors.store.migrate import MIGRATIONS, schema_version
from monitors.store.tables import metadata, runs, states, vector_references
from pipelines.core.errors import StoreConflictError
from pipelines.core.monitor_settings import MonitorSettings

__all__ = ["NOW", "StoreSuite", "key", "new_reference", "new_run", "settings_for"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

LATER_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("runs", sa.Column("host", sa.String(100)))
    op.execute("UPDATE runs SET host = 'unknown'")
    {more}
"""


def settings_for(url: str) -> MonitorSettings:
    return MonitorSettings(database_url=SecretStr(url))


def key(version: str = "docs--m--1", incarnation: str = "a", index: str = "docs") -> VersionKey:
    return VersionKey(index, version, incarnation)


def new_run(probe: str = "drift", **changes) -> Run:
    run = Run(
        key=key(),
        probe=probe,
        started_at=NOW,
        seconds=1.5,
        outcome=Outcome.COMPLETED,
        level=Level.OK,
        reason="same",
        words="Nothing has changed.",
        evidence={"p_value": 0.5, "samples": {"current": 500}},
        figures=[StoredFigure("plumbline_x_ratio", 0.25, ("10",))],
        details={"worst": ["q1"]},
        state={"windows": 1},
    )
    return replace(run, **changes)


def new_reference(name: str = "first", rows: int = 5, **changes) -> NewReference:
    vectors = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
    reference = NewReference(
        kind="documents",
        name=name,
        vectors=vectors,
        document_ids=[f"d{number}" for number in range(rows)],
        created_at=NOW,
        created_by="ann@host",
        reason="the catalogue is in",
    )
    return replace(reference, **changes)


def later_migrations(folder: Path, more: str = "") -> Path:
    """This release's migrations and one more, as a later release would have it."""
    target = folder / "migrations"
    shutil.copytree(MIGRATIONS, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "versions" / "later.py").write_text(LATER_REVISION.format(more=more))
    return target


def first_migrations(folder: Path) -> Path:
    """The migrations of the first release."""
    target = folder / "first"
    later = shutil.ignore_patterns("__pycache__", "r0002*")
    shutil.copytree(MIGRATIONS, target, ignore=later)
    return target


def _open_and_count(url: str, barrier, results) -> None:
    barrier.wait(60)
    try:
        store = open_store(settings_for(url))
        for _ in range(10):
            store.count("docs", "drift", Outcome.FAILED, "timeout")
        store.close()
        results.put("")
    except BaseException as error:  # noqa: BLE001 - the parent shows it
        results.put(repr(error))


def _write_until_killed(url: str, begun) -> None:
    store = open_store(settings_for(url))
    number = store.memory(key(), "drift").runs
    while True:
        number += 1
        store.record(
            new_run(
                state={"windows": number},
                baseline={"windows": number},
                references=[new_reference(f"r{number}", 200)],
            ),
            number - 1,
        )
        begun.set()


class StoreSuite:
    """The tests. A class derived from this has a fixture `url` that names an empty database."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = open_store(settings_for(url))
        yield store
        store.close()

    def test_a_run_comes_back_with_all_its_parts(self, store: Store, url: str) -> None:
        """Result, figures, evidence, details, times, state and baseline survive a restart."""
        run = new_run(baseline={"recall": [0.5, 1.0]})
        assert store.memory(run.key, "drift") == store.memory(run.key, "other")
        store.record(run, 0)
        store.close()
        again = open_store(settings_for(url))
        memory = again.memory(run.key, "drift")
        assert (memory.runs, memory.state, memory.baseline) == (
            1,
            {"windows": 1},
            {"recall": [0.5, 1.0]},
        )
        last, completed = again.latest(run.key)
        kept = completed["drift"]
        assert last == completed
        assert (kept.level, kept.reason, kept.words) == (Level.OK, run.reason, run.words)
        assert (kept.started_at, kept.seconds) == (NOW, 1.5)
        assert kept.evidence == {"p_value": 0.5, "samples": {"current": 500}}
        assert kept.figures == (StoredFigure("plumbline_x_ratio", 0.25, ("10",)),)
        assert kept.details == {"worst": ["q1"]}
        again.close()

    def test_a_failed_run_leaves_the_last_good_one(self, store: Store) -> None:
        """State, baseline and last completed run stay; the failure is the last run."""
        store.record(new_run(), 0)
        failed = new_run(
            outcome=Outcome.FAILED, failure="timeout", message="too slow", level=None, state=None
        )
        store.record(replace(failed, started_at=NOW + timedelta(hours=1)), 1)
        last, completed = store.latest(key())
        assert (last["drift"].outcome, last["drift"].failure) == (Outcome.FAILED, "timeout")
        assert completed["drift"].started_at == NOW
        assert store.memory(key(), "drift").state == {"windows": 1}
        assert store.counts("docs") == {
            ("drift", "completed", ""): 1,
            ("drift", "failed", "timeout"): 1,
        }

    def test_of_two_runs_that_began_alike_one_is_kept(self, store: Store) -> None:
        """Who writes second learns that its memory was old, and changes nothing."""
        for began_with in (0, 1):
            store.record(new_run(state={"windows": began_with + 1}), began_with)
            with pytest.raises(SupersededError):
                store.record(new_run(state={"windows": 99}), began_with)
        assert store.memory(key(), "drift").runs == 2
        assert store.memory(key(), "drift").state == {"windows": 2}
        assert len(store.history("docs")) == 2

    def test_a_reset_leaves_what_its_run_found(self, store: Store) -> None:
        """State and baseline go, the run's take their place; who, what and why outlive the runs."""
        others = {"drift": key(incarnation="b"), "ann": key()}
        for probe, other in others.items():
            store.record(new_run(probe, key=other, baseline={"n": 7}), 0)
        store.record(new_run(baseline={"n": 1}), 0)
        reset = NewReset("ann@host", "the archive is gone on purpose", Level.ALARM, "20 are lost.")
        store.record(new_run(state={"windows": 9}, started_at=NOW), 1, reset=reset)
        memory = store.memory(key(), "drift")
        assert (memory.runs, memory.state, memory.baseline) == (2, {"windows": 9}, None)
        store.record(new_run(state=None, baseline={"n": 2}), 2, reset=reset)
        memory = store.memory(key(), "drift")
        assert (memory.runs, memory.state, memory.baseline) == (3, None, {"n": 2})
        for probe, other in others.items():
            kept = store.memory(other, probe)
            assert (kept.state, kept.baseline) == ({"windows": 1}, {"n": 7})
        store.set_live(key(), "", NOW)
        store.prune(NOW + timedelta(days=1))
        assert len(store.history("docs")) < 5
        newest, oldest = store.resets("docs")
        assert (oldest.key, oldest.probe, oldest.at) == (key(), "drift", NOW)
        assert (oldest.by, oldest.reason) == ("ann@host", "the archive is gone on purpose")
        assert (oldest.level, oldest.words) == (Level.ALARM, "20 are lost.")
        assert newest.run_id == store.latest(key())[0]["drift"].id
        assert (store.resets("docs", probe="ann"), store.resets("cats")) == ([], [])
        assert store.resets("docs", limit=1) == [newest]

    def test_a_run_that_began_before_a_reset_is_dropped(self, store: Store) -> None:
        """It would bring back what was given up; of two resets at once one is kept."""
        store.record(new_run(baseline={"n": 1}), 0)
        began_with = store.memory(key(), "drift").runs
        reset = NewReset("ann@host", "as agreed")
        store.record(new_run(state={"windows": 0}), began_with, reset=reset)
        for late in (None, reset):
            with pytest.raises(SupersededError):
                store.record(new_run(baseline={"n": 1}), began_with, reset=late)
        memory = store.memory(key(), "drift")
        assert (memory.state, memory.baseline) == ({"windows": 0}, None)
        assert len(store.resets("docs")) == 1

    def test_versions_and_incarnations_have_a_memory_each(self, store: Store) -> None:
        """A collection made anew under the same name starts from nothing."""
        for other in (key(), key(incarnation="b"), key("docs--m--2")):
            assert store.memory(other, "drift").runs == 0
            store.record(new_run(key=other, state={"of": other.incarnation}), 0)
            store.keep_reference(other, new_reference())
        assert store.memory(key(), "drift").state == {"of": "a"}
        assert store.memory(key(incarnation="b"), "drift").state == {"of": "b"}
        assert store.reference(key(incarnation="c"), "documents") is None

    def test_runs_that_are_not_counted(self, store: Store) -> None:
        """Of a version that is not live: kept and remembered, beside the index's counts."""
        store.record(new_run(), 0)
        other = replace(new_run(), key=replace(key(), version="docs--m--2"))
        store.record(other, 0, counted=False)
        assert store.counts("docs") == {("drift", "completed", ""): 1}
        assert len(store.history("docs")) == 2
        assert store.memory(other.key, "drift").runs == 1

    @pytest.mark.parametrize("statement", ["runs", "baselines", "reference_events", "run_counts"])
    def test_a_write_that_breaks_off_leaves_nothing(self, store: Store, statement: str) -> None:
        """Run, state, baseline, reference and counts are one transaction, wherever it breaks."""
        store.record(new_run(baseline={"n": 1}), 0)
        engine = store._database.engine

        def break_off(_connection, _cursor, sql, *_) -> None:
            if sql.startswith(f"INSERT INTO {statement} "):
                raise RuntimeError("the process ends here")

        event.listen(engine, "before_cursor_execute", break_off)
        second = new_run(
            state={"windows": 2}, baseline={"n": 2}, references=[new_reference()], reason="moved"
        )
        with pytest.raises(RuntimeError):
            store.record(second, 1)
        event.remove(engine, "before_cursor_execute", break_off)
        memory = store.memory(key(), "drift")
        assert (memory.runs, memory.state, memory.baseline) == (1, {"windows": 1}, {"n": 1})
        assert store.reference(key(), "documents") is None
        assert store.reference_events("docs") == []
        assert len(store.history("docs")) == 1
        store.record(second, 1)
        assert store.memory(key(), "drift").baseline == {"n": 2}

    def test_a_reset_that_breaks_off_leaves_the_memory(self, store: Store) -> None:
        """Nothing is given up without the line that says who did it."""
        store.record(new_run(baseline={"n": 1}), 0)
        engine = store._database.engine

        def break_off(_connection, _cursor, sql, *_) -> None:
            if sql.startswith("INSERT INTO probe_resets "):
                raise RuntimeError("the process ends here")

        event.listen(engine, "before_cursor_execute", break_off)
        with pytest.raises(RuntimeError):
            store.record(new_run(state={"windows": 9}), 1, reset=NewReset("ann", "as agreed"))
        event.remove(engine, "before_cursor_execute", break_off)
        memory = store.memory(key(), "drift")
        assert (memory.runs, memory.state, memory.baseline) == (1, {"windows": 1}, {"n": 1})
        assert store.resets("docs") == []

    def test_a_writer_that_is_killed_leaves_whole_runs(self, store: Store, url: str) -> None:
        """After SIGKILL at any moment, runs, state, baseline and reference agree."""
        context = multiprocessing.get_context("spawn")
        for _ in range(3):
            begun = context.Event()
            writer = context.Process(target=_write_until_killed, args=(url, begun))
            writer.start()
            assert begun.wait(60)
            os.kill(writer.pid, 9)
            writer.join(30)
            memory = store.memory(key(), "drift")
            assert memory.state == memory.baseline == {"windows": memory.runs}
            assert len(store.history("docs", limit=100_000)) == memory.runs
            assert store.reference(key(), "documents").name == f"r{memory.runs}"
            assert len(store.references(key())) == memory.runs
            assert store.counts("docs") == {("drift", "completed", ""): memory.runs}

    def test_numbers_that_json_has_not(self, store: Store) -> None:
        """NaN is left out of what people read, and refused in what a probe is given again."""
        run = new_run(
            evidence={"effect": float("nan"), "p_value": np.float64(0.5)},
            figures=[StoredFigure("a", float("inf")), StoredFigure("b", np.float32(2.0))],
            details={"cosines": np.array([1.0, np.nan]), "ids": {"b", "a"}, "n": np.int64(3)},
            state={"counts": np.arange(3), "sum": np.float64(1.5)},
        )
        store.record(run, 0)
        kept = store.latest(key())[0]["drift"]
        assert kept.evidence == {"effect": None, "p_value": 0.5}
        assert kept.figures == (StoredFigure("b", 2.0),)
        assert kept.details == {"cosines": [1.0, None], "ids": ["a", "b"], "n": 3}
        assert store.memory(key(), "drift").state == {"counts": [0, 1, 2], "sum": 1.5}
        for bad in (new_run(state={"e": float("nan")}), new_run(baseline={"e": float("-inf")})):
            with pytest.raises(ValueError, match="JSON"):
                store.record(bad, 1)
        assert store.memory(key(), "drift").runs == 1

    def test_text_that_a_database_refuses(self, store: Store) -> None:
        """NUL and half of a surrogate pair do not stop a run from being kept."""
        odd = "a\0b\ud800c"
        run = new_run(words=odd, message=odd, details={odd: odd}, state={odd: odd})
        store.record(run, 0)
        assert store.memory(key(), "drift").state == {odd: odd}
        store.keep_reference(key(), new_reference(reason=odd, document_ids=[odd] * 5))
        assert store.reference(key(), "documents").document_ids == (odd,) * 5
        store.set_live(key(), odd, NOW)

    def test_references(self, store: Store) -> None:
        """The newest is in force, bytes come back as they were, and the history stays."""
        first, second = new_reference("first", 5), new_reference("second", 7)
        store.keep_reference(key(), first)
        store.keep_reference(key(), second)
        found = store.reference(key(), "documents")
        assert found.name == "second"
        np.testing.assert_array_equal(found.vectors, second.vectors)
        assert found.vectors.dtype == np.float32
        assert list(found.document_ids) == list(second.document_ids)
        assert (found.created_at, found.created_by) == (NOW, "ann@host")
        assert [(one.name, one.in_force) for one in store.references(key())] == [
            ("second", True),
            ("first", False),
        ]
        assert [(line.name, line.by, line.rows) for line in store.reference_events("docs")] == [
            ("second", "ann@host", 7),
            ("first", "ann@host", 5),
        ]
        with pytest.raises(StoreConflictError, match="another name"):
            store.keep_reference(key(), first)
        with pytest.raises(StoreConflictError, match="NaN"):
            store.keep_reference(
                key(), new_reference("third", vectors=np.full((5, 4), np.nan, np.float32))
            )
        assert store.reference(key(), "documents").name == "second"

    def test_a_damaged_reference_is_not_used(self, store: Store) -> None:
        """Bytes that are not those that were written are said, not compared with."""
        store.keep_reference(key(), new_reference())
        with store._database.writing() as connection:
            connection.execute(vector_references.update().values(vectors=b"\0" * 80))
        with pytest.raises(StoreConflictError, match="damaged"):
            store.reference(key(), "documents")

    def test_retention_keeps_what_is_in_use(self, store: Store) -> None:
        """Old runs go in small transactions; last good values, memory and references stay."""
        live, gone = key(), key("docs--m--0")
        store.set_live(live, "", NOW)
        for one in (live, gone):
            for number in range(25):
                moment = NOW - timedelta(days=200 - number)
                store.record(new_run(key=one, started_at=moment, baseline={"n": 1}), number)
            store.keep_reference(one, new_reference("old", created_at=NOW - timedelta(days=200)))
        sizes: list[int] = []

        def note(_connection, cursor, sql, *_) -> None:
            if sql.startswith("DELETE FROM runs"):
                sizes.append(cursor.rowcount)

        event.listen(store._database.engine, "after_cursor_execute", note)
        removed = store.prune(NOW - timedelta(days=90), batch=10)
        assert max(sizes) == 10
        assert removed["runs"] == 48
        assert len(store.history("docs")) == 2
        assert store.memory(live, "drift").runs == 25
        assert store.memory(live, "drift").baseline == {"n": 1}
        assert store.reference(live, "documents").name == "old"
        assert set(store.latest(live)[1]) == {"drift"}
        assert store.memory(gone, "drift").runs == 0
        assert store.reference(gone, "documents") is None
        assert len(store.reference_events("docs")) == 2, "the history outlives what it tells of"
        assert store.counts("docs") == {("drift", "completed", ""): 50}
        store.prune(NOW - timedelta(days=90), batch=10)
        assert len(store.history("docs")) == 1

    def test_what_is_live(self, store: Store) -> None:
        """The moment is that of the change, not of the last look."""
        assert store.live("docs") is None
        store.set_live(key(), "", NOW)
        store.set_live(key(), "", NOW + timedelta(hours=1))
        assert store.live("docs").since == NOW
        store.set_live(key(incarnation="b"), "", NOW + timedelta(hours=2))
        assert (store.live("docs").key.incarnation, store.live("other")) == ("b", None)
        assert store.live("docs").since == NOW + timedelta(hours=2)

    def test_the_migrations_make_the_tables(self, store: Store) -> None:
        """What the migrations make is what this release reads and writes."""
        from alembic.autogenerate import compare_metadata
        from alembic.runtime.migration import MigrationContext

        with store._database.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []

    def test_an_older_schema_is_brought_up(self, store: Store, url: str, tmp_path: Path) -> None:
        """A later release's upgrade keeps the data; this release then refuses, and says why."""
        store.record(new_run(baseline={"n": 1}), 0)
        store.keep_reference(key(), new_reference())
        database = open_database(settings_for(url))
        assert upgrade(database, later_migrations(tmp_path)) == "later"
        with database.reading() as connection:
            assert connection.execute(text("SELECT host FROM runs")).scalars().all() == ["unknown"]
            assert connection.execute(select(states.c.runs)).scalars().all() == [1]
            assert len(connection.execute(select(vector_references)).all()) == 1
        database.close()
        with pytest.raises(StoreConflictError, match=r"schema later.*knows up to 0002.*Upgrade"):
            open_store(settings_for(url))

    def test_the_first_release_s_schema_is_brought_up(self, url: str, tmp_path: Path) -> None:
        """What it remembers stays, and can be taken back."""
        database = open_database(settings_for(url))
        assert upgrade(database, first_migrations(tmp_path)) == "0001"
        Store(database).record(new_run(baseline={"n": 1}), 0)
        database.close()
        store = open_store(settings_for(url))
        assert store.memory(key(), "drift").baseline == {"n": 1}
        assert store.resets("docs") == []
        store.record(new_run(), 1, reset=NewReset("ann@host", "as agreed"))
        assert store.memory(key(), "drift").baseline is None
        assert len(store.resets("docs")) == 1
        store.close()

    def test_an_upgrade_that_fails_changes_nothing(
        self, store: Store, url: str, tmp_path: Path
    ) -> None:
        """Half an upgrade is none: the schema and the data are as before."""
        store.record(new_run(), 0)
        broken = later_migrations(tmp_path, 'raise RuntimeError("half way")')
        database = open_database(settings_for(url))
        with pytest.raises(RuntimeError, match="half way"):
            upgrade(database, broken)
        with database.reading() as connection:
            assert schema_version(connection) == "0002"
            columns = connection.execute(select(runs)).keys()
            names = connection.execute(text("SELECT * FROM runs")).keys()
        assert set(columns) == set(names)
        database.close()
        assert store.memory(key(), "drift").runs == 1

    def test_processes_that_open_an_empty_database_at_once(self, url: str) -> None:
        """One makes the tables, the others wait for it; then all count and none is lost."""
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(4), context.Queue()
        processes = [
            context.Process(target=_open_and_count, args=(url, barrier, results)) for _ in range(4)
        ]
        for process in processes:
            process.start()
        assert [results.get(timeout=120) for _ in processes] == [""] * 4
        for process in processes:
            process.join(30)
        store = open_store(settings_for(url))
        assert store.counts("docs") == {("drift", "failed", "timeout"): 40}
        store.close()
