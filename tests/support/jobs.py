"""`plumbline ingest` as processes that tests start, watch, end and kill."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support.forked import ForkedProcess
from tests.support.mutations import command as mutated
from tests.support.processes import ServerProcess, wait_until

__all__ = ["COMMAND", "ENVIRONMENT", "IngestProcess", "write_config"]

COMMAND: tuple[str, ...] = (str(Path(sys.executable).with_name("plumbline")),)
"""The command a user types."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    # Texts are short: more threads would only take the processor from the servers.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


def write_config(path: Path, values: Mapping[str, Any]) -> Path:
    """The settings as the file that `--config` names."""
    path.write_text(yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False))
    return path


class IngestProcess:
    """One process of the ingest job; it runs from the start on.

    Parameters
    ----------
    config
        Its settings.
    arguments
        Further ones of the command: `--until-caught-up`, `--create`, `--standby`.
    log_path
        Where its output goes, appended to.
    mutation
        One of `tests.support.mutations`.
    fresh
        Start the command as a user does, instead of forking it (`tests.support.forked`).
    environment
        Beside that of all jobs of tests.
    """

    def __init__(
        self,
        config: Path,
        *arguments: str,
        log_path: Path,
        mutation: str = "none",
        fresh: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        environment = {**ENVIRONMENT, **(environment or {})}
        given = ["ingest", "--config", str(config), *arguments]
        self._process: ServerProcess
        if fresh:
            start = mutated(mutation) if mutation != "none" else COMMAND
            self._process = ServerProcess([*start, *given], log_path, environment=environment)
        else:
            self._process = ForkedProcess(
                given, log_path, environment=environment, mutation=mutation
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.running

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it has logged under an event name, in order."""
        found = []
        for line in self._process.log().splitlines():
            if not line.startswith("{"):
                continue
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # half a line: it is being written, or the process was killed
            if entry.get("event") == name:
                found.append(entry)
        return found

    def log(self) -> str:
        """All of its output."""
        return self._process.log()

    def wait_for(self, name: str, timeout_seconds: float = 90.0) -> dict[str, Any]:
        """The first event of that name; `ServerDiedError` when the process ends before it."""
        entries: list[dict[str, Any]] = self._process.wait_ready(
            lambda: self.events(name), timeout_seconds, what=f"{name} is logged"
        )
        return entries[0]

    def require_running(self) -> None:
        """`ServerDiedError` with the end of its output, unless it runs."""
        self._process.require_running()

    def wait(self, timeout_seconds: float = 120.0) -> int:
        """The exit status, once it has ended by itself."""
        try:
            wait_until(lambda: not self.running, timeout_seconds, what="the job has ended")
        except TimeoutError as error:
            message = f"{error}:\n{self._process.log_tail()}"
            self.kill()
            raise AssertionError(message) from None
        assert self._process.returncode is not None
        return self._process.returncode

    def done(self, timeout_seconds: float = 120.0) -> dict[str, Any]:
        """Waits for an end in order, and gives the accounting of the run."""
        status = self.wait(timeout_seconds)
        assert status == 0, f"exit status {status}:\n{self._process.log_tail(60)}"
        finished = self.events("job_finished")
        assert finished, self._process.log_tail()
        assert finished[-1]["balanced"], finished[-1]
        return finished[-1]

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._process._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; gone when this returns."""
        self._process.kill()

    def pause(self) -> None:
        """SIGSTOP."""
        self._process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self._process.resume()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.resume()
        self.kill()
