"""Processes that tests start: free ports, waiting on conditions, logs in files, orderly ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

__all__ = [
    "REPOSITORY",
    "Server",
    "ServerDiedError",
    "ServerProcess",
    "end_with_parent",
    "free_port",
    "free_ports",
    "installed",
    "listening",
    "servers_dir",
    "stamped",
    "wait_until",
]

REPOSITORY = Path(__file__).resolve().parents[2]

# Runs in the child before the server: asks the kernel (PR_SET_PDEATHSIG) for a SIGKILL when the
# thread that forked it ends, then becomes the server under the same pid. A `preexec_fn` would do it
# without a second interpreter, but runs Python between fork and exec, where the threads of gRPC and
# torch in the parent can have left a lock taken.
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""

# Linux hands out 32768 and above; well-known services live below 20000.
_PORTS = (20000, 32768)

T = TypeVar("T")


def end_with_parent() -> None:
    """In a forked child: SIGKILL when the process that forked it ends (PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)


class ServerDiedError(RuntimeError):
    """A server ended, or did not become ready; the message carries the end of its log."""


def servers_dir() -> Path:
    """The cache of installed servers: `PLUMBLINE_SERVERS_DIR`, else `.cache/servers`."""
    return Path(os.environ.get("PLUMBLINE_SERVERS_DIR") or REPOSITORY / ".cache" / "servers")


def stamped(server: str) -> bool:
    """Whether install.py has put the server there, whole."""
    return (servers_dir() / server / "installed.json").exists()


def installed(server: str) -> bool:
    """Whether install.py has put the server there, and there is a Java to run it."""
    return stamped(server) and shutil.which("java") is not None


def free_ports(count: int) -> list[int]:
    """`count` different loopback ports that nothing listens on now.

    From below the range that the kernel gives to outgoing connections: there a client that tries
    to reach a stopped server can be given that very port, take it, and even connect to itself.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As servers bind: a port is free though old connections to it linger.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


def free_port() -> int:
    """One loopback port that nothing listens on now."""
    return free_ports(1)[0]


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False


def wait_until(
    condition: Callable[[], T],
    timeout_seconds: float = 30.0,
    *,
    what: str = "the condition",
    interval_seconds: float = 0.05,
) -> T:
    """The first truthy value of `condition`; `TimeoutError` when none came within the time.

    An exception of `condition` is a no, and the last one is the cause of the `TimeoutError`.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        error: Exception | None = None
        try:
            value = condition()
            if value:
                return value
        except ServerDiedError:
            raise
        except Exception as caught:  # noqa: BLE001  (any failure means not yet)
            error = caught
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what} did not hold within {timeout_seconds:g} s") from error
        time.sleep(interval_seconds)


class ServerProcess:
    """One child process with its output in a file; it dies with the thread that started it.

    The thread, not the process, is what Linux watches: start servers from the main thread, or from
    one that lives as long as they should.

    Parameters
    ----------
    command
        Program and arguments.
    log_path
        Where stdout and stderr go, appended to, so that a restart keeps the history.
    environment
        Added to this process's environment.
    working_directory
        Where it starts; default is the repository.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_path: Path,
        *,
        environment: Mapping[str, str] | None = None,
        working_directory: Path = REPOSITORY,
    ) -> None:
        self.name = log_path.stem
        self.log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=working_directory,
                start_new_session=True,  # a Ctrl-C in the terminal is for the test, not for it
            )

    @property
    def pid(self) -> int:
        """The process id, also after the process has ended."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; `None` while it runs."""
        return self._process.poll()

    def log(self) -> str:
        """What this process has written, without what earlier ones left in the same file."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace")

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return "\n".join(self.log().splitlines()[-lines:])

    def require_running(self) -> None:
        """`ServerDiedError` with the end of the log, unless it runs."""
        if not self.running:
            raise ServerDiedError(
                f"{self.name} ended with status {self.returncode}:\n{self.log_tail()}"
            )

    def wait_ready(
        self, ready: Callable[[], T], timeout_seconds: float, *, what: str | None = None
    ) -> T:
        """Wait for `ready`; `ServerDiedError` with the end of the log when it does not come."""

        def alive_and_ready() -> T:
            self.require_running()
            return ready()

        try:
            return wait_until(
                alive_and_ready, timeout_seconds, what=what or f"{self.name} is ready"
            )
        except TimeoutError as error:
            message = f"{error}:\n{self.log_tail()}"
            self.kill()
            raise ServerDiedError(message) from error

    def stop(self, grace_seconds: float = 10.0) -> None:
        """End it with SIGTERM, and with SIGKILL when it takes longer than the grace."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self.running:
            self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): it holds its connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)


class Server:
    """What the servers of tests share: use as a context manager, and the process that runs.

    A subclass sets `_process` in `start`, and ends and removes everything in `close`.
    """

    _process: ServerProcess | None = None

    def start(self, timeout_seconds: float = 60.0) -> Self:
        """Start it and wait until it answers."""
        raise NotImplementedError

    def close(self) -> None:
        """End it for good, and remove what it kept for itself; also after half a start."""
        raise NotImplementedError

    @property
    def process(self) -> ServerProcess:
        """The running server: its pid, its log, pause and resume."""
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} is not started")
        return self._process

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
