"""Processes of the ingest job, forked from one that has imported everything.

Imports are most of what it costs to start a job, and some tests start thirty. The forked process
runs the same command in the same way; what it shares with its siblings is code that was imported
before any thread, connection or model existed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

from tests.support.processes import REPOSITORY, ServerProcess, end_with_parent

__all__ = ["ForkedProcess"]

_PRELOADED = (
    "torch",
    "sentence_transformers",
    "transformers.models.bert.modeling_bert",
    "apache_beam",
    "kafka",
    "qdrant_client",
    "pipelines.cli.app",
    "pipelines.cli.progress",
    "pipelines.cli.signals",
    "pipelines.ingest",
    "tests.support.mutations",
)

_AT_IMPORT = ("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "PYTHONUNBUFFERED")
"""What libraries read when they are imported. The rest is each process's own."""

_context = multiprocessing.get_context("forkserver")


class ForkedProcess(ServerProcess):
    """`plumbline` with these arguments, as `ServerProcess` would start it.

    Parameters
    ----------
    arguments
        Of the command: `["ingest", "--config", ...]`.
    log_path
        Where stdout and stderr go, appended to.
    environment
        Set in the process; what libraries read when they are imported is that of the first one.
        `LD_PRELOAD` is one for what it starts: the process itself is forked.
    mutation
        One of `tests.support.mutations`, put in before the command runs.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log_path: Path,
        *,
        environment: Mapping[str, str],
        mutation: str,
    ) -> None:
        self.name = log_path.stem
        self.log_path = log_path
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        _start_server({name: environment[name] for name in _AT_IMPORT if name in environment})
        self._forked = _context.Process(
            target=_run, args=(list(arguments), str(log_path), dict(environment), mutation)
        )
        self._forked.start()
        self._process = self  # type: ignore[assignment]

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._forked.pid is not None
        return self._forked.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; `None` while it runs."""
        return self._forked.exitcode

    def wait(self, timeout: float | None = None) -> None:
        """As `Popen.wait`."""
        self._forked.join(timeout)
        if self._forked.exitcode is None:
            raise subprocess.TimeoutExpired("plumbline", timeout or 0.0)

    def send_signal(self, number: int) -> None:
        """As `Popen.send_signal`: nothing when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; gone when this returns."""
        self.send_signal(signal.SIGKILL)
        self._forked.join()


def _start_server(environment: Mapping[str, str]) -> None:
    _context.set_forkserver_preload(list(_PRELOADED))
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(arguments: list[str], log_path: str, environment: dict[str, str], mutation: str) -> None:
    # The process that forked this one ends with the tests.
    end_with_parent()
    os.setsid()
    os.chdir(REPOSITORY)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(environment)
    from pipelines.cli.app import run
    from tests.support.child import prepare
    from tests.support.mutations import MUTATIONS

    prepare()
    MUTATIONS[mutation]()
    sys.exit(run(arguments))
