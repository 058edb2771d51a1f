"""The candidate's ingest job as a process of its own, which outlives the command that starts it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from pipelines.core.control import Control
from pipelines.core.errors import SettingsError, SystemicError
from pipelines.core.lease import LEASE, ingest_lease
from pipelines.core.process import ProcessIdentity
from pipelines.core.settings import Settings

__all__ = ["CandidateJob", "job_directory"]

_MOST_STARTS = 6
"""One soon after another: a job that dies as often will not stay up the next time either."""

_STEADY_SECONDS = 60.0
"""A job that ran as long had started well: what ended it is another matter."""

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0

_log = structlog.get_logger()


def job_directory(settings: Settings, rollout_id: str) -> Path:
    """Where settings and log of a rollout's job go; made when it is not there.

    Raises
    ------
    SettingsError
        `rollout.job_directory` cannot be written.
    """
    folder = (settings.rollout.job_directory / rollout_id).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"rollout.job_directory: {folder} cannot be made: {error.strerror}. The candidate's "
            "job needs a folder for its log; or start it yourself (`plumbline ingest --version "
            "NAME`) and build with --no-job."
        ) from None
    return folder


class CandidateJob:
    """Keeps one ingest job of a version running.

    Whether a job runs is told by the lease it holds, so that a job started by an earlier build,
    by hand or elsewhere is left alone.

    Parameters
    ----------
    settings
        Shared with live's job.
    version
        Name of the version the job writes.
    contract
        The version's contract as `ContractSettings` dumps it.
    control
        Where leases live.
    directory
        For the job's settings file, without secrets, and its log.
    note
        What `note` gave to an earlier build.
    """

    def __init__(
        self,
        settings: Settings,
        version: str,
        contract: Mapping[str, Any],
        control: Control,
        directory: Path,
        note: Mapping[str, Any] | None = None,
    ) -> None:
        self._settings = settings
        self._version = version
        self._contract = contract
        self._control = control
        self._directory = directory
        self._note: dict[str, Any] = dict(note or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._started_at = float("-inf")
        self._next_start = 0.0
        self._me = ProcessIdentity.current()
        self._beat: tuple[int, float] = (-1, 0.0)

    @property
    def note(self) -> dict[str, Any]:
        """Who runs, for the rollout's record: pid, host, log and since when; empty before."""
        return dict(self._note)

    @property
    def log_path(self) -> Path:
        """Where the job's output goes, appended to."""
        return self._directory / "ingest.log"

    def keep(self) -> bool:
        """Starts the job where none runs; True when it did, so that the note is worth keeping.

        Raises
        ------
        SystemicError
            It ended as soon as it was started, or could not be started, again and again.
        """
        now = time.monotonic()
        if now < self._next_start or self.running():
            return False
        if now - self._started_at > _STEADY_SECONDS:
            self._starts = 0
        if self._starts >= _MOST_STARTS:
            raise SystemicError(
                f"the candidate's ingest job ended {self._starts} times. Its log is "
                f"{self.log_path}; the last lines: {self._tail()}"
            )
        self._starts += 1
        pause = min(_FIRST_PAUSE_SECONDS * 2**self._starts, _LONGEST_PAUSE_SECONDS)
        self._started_at, self._next_start = now, now + pause
        try:
            self._start()
        except OSError as error:
            # A full disk, no memory for another process: it may be over by the next try.
            _log.warning("candidate_job_not_started", version=self._version, error=str(error))
            if self._starts < _MOST_STARTS:
                return False
            raise SystemicError(
                f"the candidate's ingest job could not be started {self._starts} times: {error}. "
                "Mend that and build again, or start the job yourself (`plumbline ingest "
                f"--version {self._version}`) and build with --no-job."
            ) from None
        return True

    def running(self) -> bool:
        """Whether a job writes the version, or one was started and has not ended."""
        if self._process is not None:
            if self._process.poll() is None:
                return True
            self._process = None
        started = self._note.get("process")
        if (
            started
            # Of an earlier build. On another machine nobody can tell but by the lease.
            and started.get("host") == self._me.host
            and not ProcessIdentity.from_payload(started).has_ended(seen_by=self._me)
        ):
            return True
        lease = self._control.read(LEASE, ingest_lease(self._version))
        if lease is None or not lease.fields.get("holder"):
            return False
        if ProcessIdentity.from_payload(lease.fields).has_ended(seen_by=self._me):
            return False
        now = time.monotonic()
        if self._beat[0] != lease.epoch:
            self._beat = (lease.epoch, now)
        ttl = lease.fields.get("ttl_seconds")
        # A lease that stands still is a holder that has gone: the next job takes it over.
        return now - self._beat[1] <= float(ttl if isinstance(ttl, int | float) else 15.0)

    def stop(self) -> None:
        """Ends the job that this or an earlier build started on this machine, in order."""
        started = self._note.get("process")
        if not started:
            return
        identity = ProcessIdentity.from_payload(started)
        if started.get("host") != self._me.host or identity.has_ended(seen_by=self._me):
            return
        with contextlib.suppress(OSError):
            os.kill(identity.pid, signal.SIGTERM)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._settings.ingest.drain_seconds)

    def _start(self) -> None:
        config = self._directory / "settings.json"
        values = json.loads(self._settings.public_json())
        values["contract"] = dict(self._contract)
        if self._settings.metrics.port is not None:
            values["metrics"]["port"] = 0  # the other one is live's
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(values, file)
        # The file holds what variables of this environment have set; a flag of ours may have
        # overruled one of them, and in the job it would be the other way round.
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith("PLUMBLINE_")
            or name.upper().startswith("PLUMBLINE_TEST_")
        }
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this program, with settings of ours
                [
                    sys.executable,
                    "-c",
                    "from pipelines.cli import main; main()",
                    "ingest",
                    "--config",
                    str(config),
                    "--version",
                    self._version,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**kept, **self._settings.secret_environment()},
                # Neither Ctrl-C here nor the end of this terminal is meant for it.
                start_new_session=True,
            )
        self._note = {
            "pid": self._process.pid,
            "host": self._me.host,
            "log": str(self.log_path),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "process": ProcessIdentity.of(self._process.pid).to_payload(),
        }
        _log.info(
            "candidate_job_started",
            version=self._version,
            pid=self._process.pid,
            log=str(self.log_path),
        )

    def _tail(self) -> str:
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "(it cannot be read)"
        return " | ".join(line[:300] for line in lines[-3:]) or "(it is empty)"
