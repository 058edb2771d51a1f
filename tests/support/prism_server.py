"""Prism, Beam's own portable runner, as a process of its own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Self

from tests.support.processes import (
    Server,
    ServerProcess,
    free_ports,
    listening,
    servers_dir,
    stamped,
)

__all__ = ["INSTALL_HINT", "PrismServer", "prism_available"]

INSTALL_HINT = "Prism is not installed: python deploy/local/install.py prism"


def _program() -> Path:
    return servers_dir() / "prism" / "bin" / "prism"


def prism_available() -> bool:
    """Whether install.py has put it there."""
    return stamped("prism") and _program().exists()


class PrismServer(Server):
    """Takes pipelines by Beam's job API and runs them; its jobs end with it."""

    def __init__(self) -> None:
        self._port, self._web_port = free_ports(2)
        self._folder = Path(tempfile.mkdtemp(prefix="plumbline-prism-"))

    @property
    def endpoint(self) -> str:
        """`host:port` for `--job_endpoint`."""
        return f"127.0.0.1:{self._port}"

    def options(self) -> list[str]:
        """Flags for `PipelineOptions` that run a pipeline here, with its workers in its process."""
        return [f"--job_endpoint={self.endpoint}", "--environment_type=LOOPBACK"]

    def start(self, timeout_seconds: float = 60.0) -> Self:
        """Start it and wait until it takes jobs."""
        command = [
            str(_program()),
            f"-job_port={self._port}",
            f"-web_port={self._web_port}",
            "-serve_http=false",
        ]
        self._process = ServerProcess(
            command, self._folder / "prism.log", working_directory=self._folder
        )
        self._process.wait_ready(lambda: listening(self._port), timeout_seconds)
        return self

    def close(self) -> None:
        """End it at once, and its jobs with it."""
        if self._process is not None:
            self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
