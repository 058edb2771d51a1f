"""The candidate's job: what it is given, when it is started, and when it is given up on."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.control import Control
from pipelines.core.errors import SettingsError, SystemicError
from pipelines.core.lease import LEASE
from pipelines.core.process import ProcessIdentity
from pipelines.core.settings import Settings, load_settings
from pipelines.rollout import candidate_job
from pipelines.rollout.candidate_job import CandidateJob, job_directory
from tests.support.processes import wait_until

VERSION = "docs--m--0123456789ab"


class Records:
    """A control collection of one lease."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] | None = None
        self.epoch = 1

    def read(self, kind: str, name: str) -> Any:
        assert (kind, name) == (LEASE, f"ingest:{VERSION}")
        if self.fields is None:
            return None
        return type("Record", (), {"fields": self.fields, "epoch": self.epoch})


class Starts:
    """Stands for `subprocess.Popen`: a process that waits, or one that ends at once."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.given: list[tuple[list[str], dict[str, str]]] = []
        self.made: list[subprocess.Popen[bytes]] = []

    def __call__(self, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        self.given.append((command, more["env"]))
        made = _POPEN([sys.executable, "-c", self.program], stdin=subprocess.PIPE)
        self.made.append(made)
        return made


_POPEN = subprocess.Popen


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    made = Starts("import sys; sys.stdin.read()")
    monkeypatch.setattr(candidate_job.subprocess, "Popen", made)
    yield made
    for process in made.made:
        process.kill()
        process.wait()


def settings(tmp_path: Path, **more: Any) -> Settings:
    return Settings(
        index="docs",
        kafka={
            "topics": ["t"],
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_username": "u",
            "sasl_password": "hunter2",
        },
        qdrant={"url": "http://localhost:1", "api_key": "key-of-the-kingdom"},
        rollout={"job_directory": str(tmp_path / "jobs")},
        **more,
    )


def job(tmp_path: Path, records: Any = None, note: Any = None, **more: Any) -> CandidateJob:
    control: Control = records or Records()
    contract = {"model": "the-candidates-model"}
    return CandidateJob(settings(tmp_path, **more), VERSION, contract, control, tmp_path, note)


def test_secrets_travel_in_the_environment_alone(
    tmp_path: Path, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the command line nor the settings file holds one; what the file says is not undone
    by a variable that a flag had overruled."""
    monkeypatch.setenv("PLUMBLINE_INDEX", "another")
    job(tmp_path).keep()
    ((command, environment),) = starts.given
    file = tmp_path / "settings.json"
    text = file.read_text()
    for secret in ("hunter2", "key-of-the-kingdom"):
        assert secret not in text
        assert secret not in " ".join(command)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert environment["PLUMBLINE_KAFKA__SASL_PASSWORD"] == "hunter2"
    assert environment["PLUMBLINE_QDRANT__API_KEY"] == "key-of-the-kingdom"
    assert "PLUMBLINE_INDEX" not in environment
    assert command[-2:] == ["--version", VERSION]


def test_its_settings_are_lives_but_for_contract_and_port(
    tmp_path: Path, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that it is given loads, and says what live's says."""
    job(tmp_path).keep()
    for name, value in starts.given[0][1].items():
        monkeypatch.setenv(name, value)
    loaded = load_settings(tmp_path / "settings.json")
    ours = settings(tmp_path)
    assert loaded.contract.model == "the-candidates-model"
    assert loaded.metrics.port == 0
    assert loaded.kafka == ours.kafka
    assert loaded.qdrant == ours.qdrant
    assert json.loads((tmp_path / "settings.json").read_text())["index"] == "docs"


def test_one_job_at_a_time(tmp_path: Path, starts: Starts) -> None:
    """While it runs no second one is started, nor by the next build, which finds it by its note."""
    first = job(tmp_path)
    assert first.keep()
    assert not first.keep()
    second = job(tmp_path, note=first.note)
    assert second.running()
    assert not second.keep()
    assert len(starts.given) == 1


def test_a_job_that_runs_elsewhere_is_left_alone(tmp_path: Path, starts: Starts) -> None:
    """Whoever holds the lease writes the version."""
    records = Records()
    elsewhere = {"host": "far", "boot_id": "b", "pid_namespace": "n", "pid": 7, "started": 1}
    records.fields = {"holder": "x", "ttl_seconds": 15.0, **elsewhere}
    assert not job(tmp_path, records).keep()
    assert starts.given == []


def test_a_dead_holder_counts_for_nothing(tmp_path: Path, starts: Starts) -> None:
    """A lease whose holder was killed on this machine, or stands still elsewhere, is free."""
    records = Records()
    dead = ProcessIdentity.current().to_payload() | {"started": 1}
    records.fields = {"holder": "x", "ttl_seconds": 15.0, **dead}
    assert job(tmp_path, records).keep()
    records.fields = {"holder": "x", "ttl_seconds": 0.01, **dead, "host": "far"}
    other = job(tmp_path, records)
    assert other.running()
    wait_until(lambda: not other.running(), 5, what="the lease has stood still for its time")
    assert other.keep()


def test_a_job_that_dies_is_started_again_and_given_up_on(
    tmp_path: Path, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later and later, and no more than six times; the error shows the end of its log."""
    now = [1000.0]
    monkeypatch.setattr(candidate_job.time, "monotonic", lambda: now[0])
    starts.program = "raise SystemExit(3)"
    one = job(tmp_path)
    (tmp_path / "ingest.log").write_text("settings: no such topic\n")
    for number in range(6):
        assert one.keep(), number
        starts.made[-1].wait()
        assert not one.keep()
        now[0] += 31
    with pytest.raises(SystemicError, match=r"ended 6 times.*no such topic"):
        one.keep()
    assert len(starts.given) == 6


def test_stop_ends_what_an_earlier_build_started(tmp_path: Path, starts: Starts) -> None:
    """An aborted rollout leaves no job behind that has nothing to write."""
    first = job(tmp_path)
    first.keep()
    job(tmp_path, note=first.note).stop()
    assert starts.made[0].wait(10) == -15
    job(tmp_path, note=first.note).stop()  # gone already
    job(tmp_path).stop()  # never was


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Said before anything is started, with what to do."""
    (tmp_path / "jobs").write_text("a file")
    with pytest.raises(SettingsError, match=r"rollout\.job_directory.*--no-job"):
        job_directory(settings(tmp_path), "abcd")


def test_a_full_disk_is_waited_for_and_then_said(
    tmp_path: Path, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings file cannot be written: nothing is started, and no trace ends the build."""
    config = tmp_path / "settings.json"
    config.symlink_to("/dev/full")
    kept = job(tmp_path)
    clock = iter(range(0, 10_000, 31))
    monkeypatch.setattr(candidate_job.time, "monotonic", lambda: float(next(clock)))
    assert [kept.keep() for _ in range(2)] == [False, False]
    config.unlink()
    assert kept.keep()
    for process in starts.made:
        process.kill()
        process.wait()
    config.unlink()
    config.symlink_to("/dev/full")
    with pytest.raises(SystemicError, match=r"No space left.*--no-job"):
        _keep_on(kept)
    assert len(starts.made) == 1


def _keep_on(kept: CandidateJob) -> None:
    """As a build does, while nothing is started."""
    for _ in range(10):
        assert not kept.keep()
