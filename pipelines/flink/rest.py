"""Flink's REST API: the jobs of a cluster, and their stop with a savepoint."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.core.errors import (
    ServiceUnavailableError,
    SettingsError,
    SystemicError,
    TransientError,
)
from pipelines.core.retry import retrying
from pipelines.core.settings import RetrySettings

__all__ = ["ENDED", "Checkpoint", "FlinkJob", "FlinkRest", "JobGoneError"]

ENDED = frozenset({"FINISHED", "CANCELED", "FAILED"})
"""States of a job that will not run again."""

_TIMEOUT_SECONDS = 10.0
_LONGEST_REASON = 300
_METRIC_TRIES, _METRIC_PAUSE = 6, 0.25


class JobGoneError(SystemicError):
    """Flink does not know the job: its job manager was lost, or it has forgotten what ended."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has completed.

    Parameters
    ----------
    at
        Seconds since the epoch, of its completion.
    seconds
        How long it took.
    bytes
        Size of the state.
    path
        Where it lies; empty when Flink keeps it to itself.
    """

    at: float
    seconds: float
    bytes: int
    path: str


@dataclass(frozen=True)
class FlinkJob:
    """A job as Flink tells it.

    Parameters
    ----------
    job_id, name
        Flink's id, and the name that was given at submission.
    state
        RUNNING, RESTARTING, FAILED, …; INITIALIZING also while some subtask does not run yet.
    started
        Seconds since the epoch.
    seconds
        How long it has existed, restarts included.
    restarts
        How often Flink started it again; `None` when it does not tell.
    parallelism
        Of the subtasks that read and write.
    checkpoint
        The last one that has completed.
    failure
        Newest cause of a restart or of the end, one line; empty when there was none.
    tasks
        Name of each task to the states of its subtasks.
    """

    job_id: str
    name: str
    state: str
    started: float
    seconds: float
    restarts: int | None
    parallelism: int
    checkpoint: Checkpoint | None
    failure: str
    tasks: Mapping[str, Mapping[str, int]]

    @property
    def ended(self) -> bool:
        """Whether it will not run again."""
        return self.state in ENDED

    @property
    def running(self) -> bool:
        """Whether all of its subtasks run."""
        return self.state == "RUNNING" and all(
            count == 0 or state == "RUNNING"
            for states in self.tasks.values()
            for state, count in states.items()
        )


class FlinkRest:
    """A cluster by its REST API.

    Parameters
    ----------
    url
        `flink.rest_url`.
    outage_timeout_seconds
        How long a call waits for an API that does not answer.
    """

    def __init__(
        self, url: str, *, outage_timeout_seconds: float = 30.0, retry: RetrySettings | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._patience = outage_timeout_seconds
        self._retry = retry or RetrySettings(max_seconds=2.0)

    def job_ids(self, name: str) -> dict[str, str]:
        """Id to state of every job of this name that Flink remembers, the newest first."""
        found = [job for job in self._overview() if job["name"] == name]
        return {job["jid"]: job["state"] for job in found}

    def jobs(self, wanted: Callable[[str], bool]) -> list[FlinkJob]:
        """The jobs whose names are wanted, the newest first."""
        return [self.job(job["jid"]) for job in self._overview() if wanted(job["name"])]

    def job(self, job_id: str) -> FlinkJob:
        """One job.

        Raises
        ------
        JobGoneError
            There is none of this id.
        ServiceUnavailableError
            The API does not answer.
        """
        found = self._call(f"/jobs/{job_id}")
        config = self._call(f"/jobs/{job_id}/config")
        vertices = found.get("vertices", [])
        return FlinkJob(
            job_id=job_id,
            name=found["name"],
            state=found["state"],
            started=found["start-time"] / 1000,
            seconds=found["duration"] / 1000,
            restarts=self._restarts(job_id, running=found["state"] == "RUNNING"),
            parallelism=max((vertex["parallelism"] for vertex in vertices), default=0)
            or int(config.get("execution-config", {}).get("job-parallelism", 0)),
            checkpoint=self._checkpoint(job_id),
            failure=self._failure(job_id),
            tasks={vertex["name"]: vertex["tasks"] for vertex in vertices},
        )

    def stop(self, job_id: str, directory: str | None) -> str:
        """Begins a stop with a savepoint; gives the id that `savepoint` asks for."""
        # The id makes a repeated request the same one.
        body: dict[str, Any] = {"drain": False, "triggerId": uuid.uuid4().hex}
        if directory is not None:
            body["targetDirectory"] = directory
        return str(self._call(f"/jobs/{job_id}/stop", "POST", body)["request-id"])

    def savepoint(self, job_id: str, request_id: str) -> str | None:
        """Path of the savepoint that was begun; `None` while it is under way.

        Raises
        ------
        SystemicError
            There will be none; the message says why.
        """
        found = self._call(f"/jobs/{job_id}/savepoints/{request_id}")
        if found["status"]["id"] != "COMPLETED":
            return None
        operation = found.get("operation") or {}
        if "location" in operation:
            return str(operation["location"])
        cause = operation.get("failure-cause", {}).get("stack-trace", "no reason given")
        raise SystemicError(f"Flink made no savepoint: {_reason(cause)}")

    def cancel(self, job_id: str) -> None:
        """Cancels a job; nothing when it has ended."""
        self._call(f"/jobs/{job_id}?mode=cancel", "PATCH")

    def _overview(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = self._call("/jobs/overview")["jobs"]
        return sorted(jobs, key=lambda job: -job["start-time"])

    def _restarts(self, job_id: str, *, running: bool) -> int | None:
        # The API begins to gather a job's metrics when it is asked for them, and answers meanwhile.
        for number in range(_METRIC_TRIES if running else 1):
            if number:
                time.sleep(_METRIC_PAUSE)
            found = self._call(f"/jobs/{job_id}/metrics?get=numRestarts")
            with contextlib.suppress(LookupError, ValueError):
                return int(found[0]["value"])
        return None

    def _checkpoint(self, job_id: str) -> Checkpoint | None:
        latest = (self._call(f"/jobs/{job_id}/checkpoints").get("latest")) or {}
        found = [latest[kind] for kind in ("completed", "savepoint") if latest.get(kind)]
        if not found:
            return None
        last = max(found, key=lambda one: one["latest_ack_timestamp"])
        path = str(last.get("external_path") or "")
        return Checkpoint(
            at=last["latest_ack_timestamp"] / 1000,
            seconds=last["end_to_end_duration"] / 1000,
            bytes=last["state_size"],
            # Flink's word for a checkpoint that nobody can start from.
            path="" if path.startswith("<") else path,
        )

    def _failure(self, job_id: str) -> str:
        history = self._call(f"/jobs/{job_id}/exceptions").get("exceptionHistory") or {}
        entries = history.get("entries") or []
        return _reason(entries[0].get("stacktrace") or "") if entries else ""

    def _call(self, path: str, method: str = "GET", body: Any = None) -> Any:
        return retrying(
            lambda: self._once(path, method, body),
            timeout_seconds=self._patience,
            settings=self._retry,
            what="Flink",
        )

    def _once(self, path: str, method: str, body: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the scheme is the settings'
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
                content = answer.read()
            return json.loads(content) if content else {}
        except urllib.error.HTTPError as error:
            raise self._translated(error, path) from None
        except ssl.SSLError as error:
            raise SettingsError(f"flink.rest_url: no TLS connection: {error.reason}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise TransientError(f"Flink at {self.url} does not answer: {reason}") from None

    def _translated(self, error: urllib.error.HTTPError, path: str) -> Exception:
        text = error.read().decode("utf-8", "replace")
        with contextlib.suppress(ValueError, LookupError, TypeError):
            text = "\n".join(json.loads(text)["errors"])
        # A job manager that starts answers 404 or 503 for a moment, without JSON or a job's name.
        if error.code == 404 and ("not find Flink job" in text or "NotFoundException" in text):
            return JobGoneError(f"Flink at {self.url} does not know the job of {path}")
        if error.code >= 500 or error.code == 404:
            return TransientError(f"Flink at {self.url} answered {error.code}: {_reason(text)}")
        if error.code in (401, 403):
            return ServiceUnavailableError(f"Flink at {self.url} refused: {error.code}")
        return SystemicError(f"Flink at {self.url} answered {error.code}: {_reason(text)}")


def _reason(trace: str) -> str:
    """The last cause of a Java stack trace, in one line."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by:")] or lines[:1]
    # Of an error of ours in a worker Python's own last line says more than Java's first.
    ours = [line for line in lines if line.startswith("pipelines.core.errors.")]
    chosen = (ours or causes or ["no reason given"])[-1]
    return chosen.removeprefix("Caused by:").strip()[:_LONGEST_REASON]
