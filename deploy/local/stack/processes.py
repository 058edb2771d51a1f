"""Start and end the process of one service."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from deploy.local.stack.errors import NotReadyError
from deploy.local.stack.health import answers
from deploy.local.stack.records import Record, Records

__all__ = ["log_tail", "start", "stop", "wait_ready"]

_LAUNCHER = Path(__file__).with_name("launch.py")
_TAIL_LINES = 20
_TAIL_BYTES = 65_536
_POLL_SECONDS = 0.1
_LAUNCH_SECONDS = 30.0
_KILL_SECONDS = 10.0


def start(
    records: Records, record: Record, folder: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start the service; its output goes to its log, and it outlives this process.

    Parameters
    ----------
    folder
        Where it starts.
    environment
        All of it.

    Raises
    ------
    NotReadyError
        It did not even begin.
    """
    log_path = Path(record.log)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    if log_path.exists():  # of the run before: what is shown of a failure is of this one
        log_path.replace(f"{log_path}.1")
    records.remove(record.name)
    records.draft(record)
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, str(_LAUNCHER), str(records.path(record.name)), str(folder)),
                *record.command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,  # a Ctrl-C in the terminal is for `make up` alone
        )
    deadline = time.monotonic() + _LAUNCH_SECONDS
    while not records.path(record.name).exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise NotReadyError(f"{record.name} could not be started:\n{log_tail(record)}")
        time.sleep(_POLL_SECONDS / 10)
    return process


def wait_ready(
    records: Records,
    record: Record,
    timeout_seconds: float,
    process: subprocess.Popen[bytes] | None,
) -> None:
    """Wait until the service answers.

    Parameters
    ----------
    process
        What `start` gave, where this process has started it.

    Raises
    ------
    NotReadyError
        It ended, or did not answer in time; it has been stopped then.
    """
    started = time.monotonic()
    while not answers(record.health):
        if not records.runs(record):
            records.remove(record.name)
            # Ended, and perhaps not yet asked for its status: that is there at once.
            how = "ended" if process is None else f"ended with status {process.wait()}"
            raise NotReadyError(
                f"{record.name} {how}. The end of {record.log}:\n{log_tail(record)}"
            )
        if time.monotonic() - started > timeout_seconds:
            tail = log_tail(record)
            stop(records, record)
            raise NotReadyError(
                f"{record.name} did not answer at {record.health} within {timeout_seconds:g} s, "
                f"and was stopped. The end of {record.log}:\n{tail}"
            )
        time.sleep(_POLL_SECONDS)


def stop(records: Records, record: Record) -> str:
    """End the service: SIGTERM, and SIGKILL when it takes longer than its grace; forget it then.

    Returns
    -------
    str
        What came of it: `stopped`, `killed` or `had ended`.
    """
    ended = _end(records, record)
    records.remove(record.name)
    return ended


def _end(records: Records, record: Record) -> str:
    assert record.process is not None
    try:
        # It stands for this process even when its number is given to another.
        handle = os.pidfd_open(record.process.pid)
    except ProcessLookupError:
        return "had ended"
    try:
        if not records.runs(record):
            return "had ended"
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        # One that somebody has frozen could not end in order.
        signal.pidfd_send_signal(handle, signal.SIGCONT)
        if _has_ended(handle, record.grace_seconds):
            return "stopped"
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        _has_ended(handle, _KILL_SECONDS)
        return "killed"
    except ProcessLookupError:
        return "stopped"
    finally:
        os.close(handle)


def _has_ended(handle: int, timeout_seconds: float) -> bool:
    """Whether the process behind the handle ends within the time."""
    watch = select.poll()
    watch.register(handle, select.POLLIN)
    return bool(watch.poll(timeout_seconds * 1000))


def log_tail(record: Record) -> str:
    """The last lines that the service has written, indented."""
    try:
        with Path(record.log).open("rb") as log:
            log.seek(max(0, Path(record.log).stat().st_size - _TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        lines = []
    return "\n".join(f"    {line}" for line in lines) or "    (it has written nothing)"
