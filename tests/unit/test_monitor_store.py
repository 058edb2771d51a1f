"""The monitor's store on SQLite, and what its settings may say."""

from __future__ import annotations

import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from monitors.store import Outcome, open_database, open_store
from monitors.store.engine import DEFAULT_URL
from pipelines.core import redact
from pipelines.core.errors import (
    ServiceRefusedError,
    SettingsError,
    StoreConflictError,
    TransientError,
)
from pipelines.core.monitor_settings import MonitorSettings
from tests.support.monitor_store_suite import StoreSuite, key, new_run, settings_for


class TestSqlite(StoreSuite):
    """The store's promises on SQLite."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'monitor.db'}"

    def test_it_writes_ahead_and_checks_foreign_keys(self, store) -> None:
        """Every connection has both, not the first one alone."""
        with store._database.engine.connect() as one, store._database.engine.connect() as two:
            for connection in (one, two):
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
                assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1

    def test_a_reader_does_not_wait_for_a_writer(self, store) -> None:
        """Metrics are served while a run is being written."""
        store.record(new_run(), 0)
        answers: list[int] = []
        with store._database.writing() as connection:
            connection.exec_driver_sql("DELETE FROM runs")
            reader = threading.Thread(
                target=lambda: answers.append(len(store.history("docs"))), daemon=True
            )
            reader.start()
            reader.join(10)
            assert answers == [1]

    def test_who_reads_before_writing_is_not_overtaken(self, store) -> None:
        """A transaction that will write holds the lock from its start."""
        other = threading.Thread(
            target=lambda: store.count("docs", "ann", Outcome.FAILED), daemon=True
        )
        with store._database.writing() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM runs").scalar()
            other.start()
            other.join(0.5)
            connection.exec_driver_sql("DELETE FROM runs")
            assert other.is_alive()
        other.join(30)
        assert store.counts("docs") == {("ann", "failed", ""): 1}

    def test_threads_count_without_losing_one(self, store) -> None:
        """Probes end at the same time, each on its own thread."""
        threads = [
            threading.Thread(
                target=lambda: [store.count("docs", "ann", Outcome.FAILED) for _ in range(20)]
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert store.counts("docs") == {("ann", "failed", ""): 80}


def test_the_default_is_a_file_in_the_working_folder(tmp_path, monkeypatch) -> None:
    """Without settings the history is in `plumbline-monitor.db`."""
    monkeypatch.chdir(tmp_path)
    open_store(MonitorSettings()).close()
    assert DEFAULT_URL.endswith("plumbline-monitor.db")
    assert (tmp_path / "plumbline-monitor.db").is_file()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////nowhere/at/all/x.db", "there is no folder /nowhere/at/all"),
        ("mysql://u:hunter22@h/d", "names mysql"),
        ("postgresql+asyncpg://u:hunter22@h/d", "the driver asyncpg"),
        ("hunter22 is no url", "not a database's URL"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    """The message says what is valid and shows no part of a login."""
    with pytest.raises(SettingsError, match=words) as caught:
        open_database(settings_for(url))
    assert "hunter22" not in str(caught.value)


def test_a_url_from_a_file(tmp_path) -> None:
    """`database_url_file` keeps it out of the settings."""
    (tmp_path / "secret").write_text(f"sqlite:///{tmp_path}/x.db\n")
    open_store(MonitorSettings(database_url_file=tmp_path / "secret")).close()
    assert (tmp_path / "x.db").exists()


def test_the_password_is_never_shown(monkeypatch) -> None:
    """Not in the name of the place, not in an error, not through a log line."""
    monkeypatch.setattr(redact, "_values", ())
    database = open_database(settings_for("postgresql://ann:hunter22@127.0.0.1:1/monitor"))
    assert database.where == "PostgreSQL at 127.0.0.1:1/monitor"
    with pytest.raises(TransientError) as caught, database.reading():
        pass
    assert "hunter22" not in str(caught.value)
    assert caught.value.__cause__ is None, "the driver's own error would be shown with it"
    assert "hunter22" not in redact.redact_text("password hunter22 is wrong")


def test_a_missing_driver_says_what_to_install(monkeypatch) -> None:
    """PostgreSQL is an extra."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match=r"pip install 'plumbline\[postgres\]'"):
        open_database(settings_for("postgresql://h/d"))


def test_a_file_that_is_no_database(tmp_path) -> None:
    """Somebody else's file is not touched."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    with pytest.raises((StoreConflictError, TransientError, ServiceRefusedError)) as caught:
        open_store(settings_for(f"sqlite:///{path}"))
    assert "is no SQLite database" in str(caught.value)
    assert path.read_text() == "not a database, " * 100


def test_a_write_waits_for_another_process(tmp_path) -> None:
    """A lock that is held for a moment is waited for, not an error."""
    path = tmp_path / "monitor.db"
    store = open_store(settings_for(f"sqlite:///{path}"))
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.5, lambda: other.execute("ROLLBACK"))
    timer.start()
    store.record(new_run(), 0)
    timer.join()
    assert store.memory(key(), "drift").runs == 1
    other.close()
    store.close()
