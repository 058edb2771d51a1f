"""`plumbline worker-pool` as a process that tests start beside each task manager, and kill."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.jobs import COMMAND, ENVIRONMENT
from tests.support.processes import REPOSITORY, ServerProcess
from tests.support.scraping import samples

__all__ = ["PoolProcess"]


class PoolProcess:
    """One pool.

    Parameters
    ----------
    host, port
        Where it listens; its metrics get a port of their own.
    log_path
        Where its output and that of its workers goes, appended to.
    command
        In place of `plumbline`.
    environment
        Added to its own.
    """

    def __init__(
        self,
        host: str,
        port: int,
        log_path: Path,
        *,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._log_path = log_path
        self._command = command
        self._environment = dict(environment or {})
        self._process: ServerProcess | None = None

    @property
    def process(self) -> ServerProcess:
        """The running pool."""
        assert self._process is not None, "the pool is not started"
        return self._process

    def start(self, timeout_seconds: float = 60.0) -> Self:
        """Start it, and wait until it serves."""
        self._process = ServerProcess(
            [
                *self._command,
                *("worker-pool", "--host", self.host, "--port", str(self.port)),
                *("--metrics-port", "0"),
            ],
            self._log_path,
            environment={
                **ENVIRONMENT,
                "PYTHONPATH": str(REPOSITORY),  # for steps of tests
                "PLUMBLINE_METRICS__HOST": self.host,
                "PLUMBLINE_LOG_FORMAT": "json",
                **self._environment,
            },
        )
        self._process.wait_ready(lambda: self.events("worker_pool_serving"), timeout_seconds)
        return self

    def kill(self) -> None:
        """SIGKILL; the kernel ends its workers with it."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.stop()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it, or a worker of it, has logged under an event name."""
        found = []
        for line in self.process.log().splitlines():
            if line.startswith("{") and f'"{name}"' in line:
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue  # half a line
                if entry.get("event") == name:
                    found.append(entry)
        return found

    def worker_pids(self) -> list[int]:
        """Workers that it has started and that run."""
        ended = {entry["pid"] for entry in self.events("worker_ended")}
        pids = [e["pid"] for e in self.events("worker_started") if e["pid"] not in ended]
        return [pid for pid in pids if _runs(pid)]

    def samples(self, name: str, **labels: str) -> list[float]:
        """Values of a metric's samples that have these labels, of all of its workers together."""
        port = self.events("worker_pool_serving")[0]["metrics_port"]
        return samples(f"{self.host}:{port}", name, **labels)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
