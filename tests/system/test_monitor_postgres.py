"""The monitor's store on a real PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitors.probes.base import Level
from monitors.store import Store, open_store
from pipelines.core.errors import ServiceRefusedError, TransientError
from pipelines.core.points import point_id
from pipelines.core.qdrant import connect
from pipelines.core.settings import load_settings
from tests.conftest import require
from tests.support.jobs import COMMAND, ENVIRONMENT
from tests.support.monitor_probes import fill_version, make_settings, make_version
from tests.support.monitor_process import MonitorProcess
from tests.support.monitor_store_suite import StoreSuite, key, new_run, settings_for
from tests.support.postgres_server import (
    INSTALL_HINT,
    PASSWORD,
    PostgresServer,
    postgres_available,
)
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    require(postgres_available(), INSTALL_HINT)
    with PostgresServer() as server:
        yield server


class TestPostgres(StoreSuite):
    """The store's promises on PostgreSQL."""

    @pytest.fixture
    def url(self, postgres: PostgresServer) -> str:
        return postgres.create_database()

    def test_of_two_that_write_at_once_one_is_kept(self, store: Store, url: str) -> None:
        """Two processes that began with the same memory: one run, whoever is quicker."""
        other = open_store(settings_for(url))
        outcomes: list[str] = []
        barrier = threading.Barrier(2)

        def write(mine: Store, number: int) -> None:
            barrier.wait(30)
            try:
                mine.record(new_run(state={"by": number}), 0)
                outcomes.append("kept")
            except Exception as error:  # noqa: BLE001 - its kind is what is looked at
                outcomes.append(type(error).__name__)

        threads = [
            threading.Thread(target=write, args=(mine, number))
            for number, mine in enumerate((store, other))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(outcomes) == ["SupersededError", "kept"]
        assert store.memory(key(), "drift").runs == 1
        other.close()

    def test_a_wrong_password_is_refused_and_not_shown(self, postgres: PostgresServer) -> None:
        """A login that does not hold is no outage: the message says what to check."""
        with pytest.raises(ServiceRefusedError, match=r"monitor\.database_url") as caught:
            open_store(settings_for(postgres.url("postgres", "battery-staple")))
        assert "battery-staple" not in str(caught.value)

    def test_a_database_that_is_not_there(self, postgres: PostgresServer) -> None:
        """Named as such."""
        with pytest.raises(ServiceRefusedError, match="no such database"):
            open_store(settings_for(postgres.url("nowhere")))

    def test_it_is_used_again_after_a_restart(self, postgres: PostgresServer) -> None:
        """An outage is an error that may pass; afterwards the same store goes on."""
        store = open_store(settings_for(postgres.create_database()))
        store.record(new_run(), 0)
        postgres.stop()
        with pytest.raises(TransientError):
            store.memory(key(), "drift")
        postgres.start()
        assert store.memory(key(), "drift").runs == 1
        store.close()


@pytest.fixture
def values(store: Any, model: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of a filled index, without the database."""
    index = f"monitor-{uuid.uuid4().hex[:8]}"
    every = {"interval_seconds": 1, "timeout_seconds": 120}
    off = {"enabled": False}
    values = {
        "index": index,
        "qdrant": {"url": store.url},
        "contract": {"model": str(model)},
        "monitor": {
            "lease_seconds": 15,
            **dict.fromkeys(("canary", "integrity"), every),
            **dict.fromkeys(("golden", "drift", "fidelity", "ann", "geometry"), off),
        },
    }
    settings = make_settings(tmp_path, model, **{key: values[key] for key in ("index", "qdrant")})
    fill_version(settings, make_version(settings)[1], 60)
    return values


def test_replicas_on_one_store(
    postgres: PostgresServer, values: dict[str, Any], tmp_path: Path
) -> None:
    """One runs the probes and both serve; after SIGKILL the other takes over."""
    url = postgres.create_database()
    secrets = {"PLUMBLINE_MONITOR__DATABASE_URL": url}
    run = "plumbline_probe_last_run_timestamp_seconds"
    with (
        MonitorProcess(tmp_path, "first", values, secrets) as first,
        MonitorProcess(tmp_path, "second", values, secrets) as second,
    ):
        for one in (first, second):
            one.wait_ready()
        leaders = wait_until(
            lambda: [one for one in (first, second) if one.value("plumbline_monitor_leader") == 1],
            60,
        )
        assert len(leaders) == 1
        leader = leaders[0]
        other = second if leader is first else first
        wait_until(lambda: leader.value(run, probe="integrity"), 60)
        wait_until(lambda: (other.value(run, probe="integrity") or 0) > 0, 30)
        assert "held by process" in other.checks()["probes"]
        assert other.value("plumbline_monitor_leader") == 0
        assert other.value("plumbline_integrity_documents") == 60
        seen = other.value(run, probe="integrity")
        wait_until(lambda: other.value(run, probe="integrity") > seen, 30)
        assert "probe_run" in leader.process.log()
        assert "probe_run" not in other.process.log(), "only the holder runs probes"

        runs = "plumbline_probe_runs_total"
        leader.process.kill()
        before = other.value(runs, probe="integrity", outcome="completed")
        wait_until(lambda: other.value("plumbline_monitor_leader") == 1, 30)
        wait_until(lambda: other.value(runs, probe="integrity", outcome="completed") > before, 60)
        wait_until(lambda: other.value(runs, probe="canary", outcome="completed") >= 2, 120)
        assert other.value("plumbline_monitor_leader") == 1

        other.process.stop(30)
        assert other.process.returncode == 0
        for one in (first, second):
            assert PASSWORD not in one.process.log()
    store = open_store(settings_for(url))
    history = store.history(values["index"], limit=100_000)
    live = store.live(values["index"])
    assert live is not None
    for probe in ("canary", "integrity"):
        kept = [one for one in history if one.probe == probe]
        assert len(kept) == store.memory(live.key, probe).runs
        assert len(kept) >= 2
    superseded = [count for count in store.counts(values["index"]) if count[1] == "superseded"]
    assert superseded == [], "no two processes ran a probe at once"
    store.close()


def test_a_reset_under_a_monitor_that_runs(
    postgres: PostgresServer, values: dict[str, Any], tmp_path: Path
) -> None:
    """By a command of its own: the alarm ends within seconds, stays away, and a new loss counts."""
    url = postgres.create_database()
    secrets = {"PLUMBLINE_MONITOR__DATABASE_URL": url}
    index, alarm, runs = values["index"], "plumbline_probe_alarm", "plumbline_probe_runs_total"
    qdrant = connect(load_settings(None, {key: values[key] for key in ("index", "qdrant")}))

    def lose(numbers: range) -> None:
        ids = [point_id(index, f"d{number}", 0) for number in numbers]
        qdrant.call("delete", index, points_selector=ids, wait=True)

    def completed() -> float:
        return monitor.value(runs, probe="integrity", outcome="completed") or 0

    with MonitorProcess(tmp_path, "only", values, secrets) as monitor:
        monitor.wait_ready()
        wait_until(lambda: monitor.value(alarm, probe="integrity") == 0, 60)
        lose(range(20))
        wait_until(lambda: monitor.value(alarm, probe="integrity") == 1, 60)
        command = ["monitor", "reset", "integrity", "--reason", "as agreed", "--by", "ann"]
        done = subprocess.run(
            [*COMMAND, *command, "--config", str(tmp_path / "only.yaml"), "--json"],
            env={**os.environ, **ENVIRONMENT, **secrets},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["last"]["words"].startswith("20 documents or more are lost")
        wait_until(lambda: monitor.value(alarm, probe="integrity") == 0, 60)
        seen = completed()
        wait_until(lambda: completed() >= seen + 3, 60)
        assert monitor.value(alarm, probe="integrity") == 0
        lose(range(20, 25))
        wait_until(lambda: monitor.value(alarm, probe="integrity") == 1, 60)
        monitor.process.stop(30)
    store = open_store(settings_for(url))
    (reset,) = store.resets(index)
    assert (reset.by, reset.reason, reset.level) == ("ann", "as agreed", Level.ALARM)
    (newest, *_) = store.history(index, probe="integrity")
    assert newest.words.startswith("5 documents or more are lost")
    store.close()


def test_an_outage_of_the_store(
    postgres: PostgresServer, values: dict[str, Any], tmp_path: Path
) -> None:
    """Last good values stay, and are said to be old; afterwards runs are kept again."""
    secrets = {"PLUMBLINE_MONITOR__DATABASE_URL": postgres.create_database()}
    run = "plumbline_probe_last_run_timestamp_seconds"
    with MonitorProcess(tmp_path, "only", values, secrets) as monitor:
        monitor.wait_ready()
        wait_until(lambda: monitor.value(run, probe="integrity"), 60)
        postgres.stop()
        wait_until(lambda: monitor.value("plumbline_monitor_store_up") == 0, 60)
        seen = monitor.value(run, probe="integrity")
        assert monitor.value("plumbline_integrity_documents") == 60
        assert monitor.page("/readyz")[0] == 503
        assert monitor.page("/healthz")[0] == 200
        postgres.start()
        wait_until(lambda: monitor.value("plumbline_monitor_store_up") == 1, 60)
        wait_until(lambda: monitor.value(run, probe="integrity") > seen, 60)
        assert PASSWORD not in monitor.process.log()
