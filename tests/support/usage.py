"""What processes take of the machine, as Linux tells it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Self

__all__ = ["MemoryWatch", "busy_seconds", "cpu_seconds", "peak_mib", "resident_mib"]

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time that these processes have taken so far; those that have ended count nothing.

    Of each process alone, without its children.
    """
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def busy_seconds() -> float:
    """Processor time that the whole machine has taken so far."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _waiting, interrupts, soft = map(int, fields[:7])
    return (user + nice + system + interrupts + soft) / _TICKS


def resident_mib(pid: int) -> float:
    """Resident memory of a process, MiB; 0 once it has ended."""
    return _status(pid, "VmRSS:")


def peak_mib(pid: int) -> float:
    """The most that it ever was."""
    return _status(pid, "VmHWM:")


def _status(pid: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


class MemoryWatch:
    """Watches the resident memory of a process while the block runs.

    Parameters
    ----------
    pid
        Of the process.
    interval_seconds
        From one look to the next.
    """

    def __init__(self, pid: int, interval_seconds: float = 0.2) -> None:
        self._pid = pid
        self._interval = interval_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: list[float] = []
        """MiB at each look."""

    @property
    def most(self) -> float:
        """Greatest of all looks, MiB."""
        return max(self.seen, default=0.0)

    def _watch(self) -> None:
        while not self._done.wait(self._interval):
            now = resident_mib(self._pid)
            if now:
                self.seen.append(now)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
