"""A wall clock that a test sets for processes that it starts, by libfaketime."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import servers_dir, stamped

__all__ = ["INSTALL_HINT", "SLEEP", "FakeClock", "faketime_available", "sleep_by_select"]

INSTALL_HINT = "libfaketime is not installed: python deploy/local/install.py faketime"

SLEEP = "PLUMBLINE_TEST_SLEEP_BY_SELECT"
"""Set in the environment of a process whose `time.sleep` is `sleep_by_select`'s."""

_SHARED = Path("/dev/shm")


def _library() -> Path | None:
    found = sorted(servers_dir().glob("faketime/usr/lib/*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


def faketime_available() -> bool:
    """Whether install.py has put it there."""
    return stamped("faketime") and _library() is not None


def sleep_by_select() -> None:
    """Puts `time.sleep` on another system call, as it was before Python 3.11.

    It sleeps until a moment of the monotonic clock (`clock_nanosleep`, `TIMER_ABSTIME`), and
    libfaketime 0.9.10 takes that moment for one of the faked wall clock: the sleep fails or lasts
    for as long as the clock is behind, though the monotonic clock is not to be faked.
    """

    def sleep(seconds: float) -> None:
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        select.select([], [], [], seconds)

    time.sleep = sleep


class FakeClock:
    """The wall clock of programs that are started with `environment`; it goes on as time does.

    Their monotonic clock is left alone, as it is when somebody sets the time of a machine. Starts
    at the right time.

    Parameters
    ----------
    file
        That the processes read again once in two seconds at most.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    @property
    def environment(self) -> Mapping[str, str]:
        """For a program that is started; one that is forked keeps its clock, unlike its children.

        They also need what `tests.support.child` gives.
        """
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # "Fixed", a wait until a moment of the monotonic clock is moved by the faked offset.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            # Somebody sets a clock; the times of files stay what they are.
            "NO_FAKE_STAT": "1",
            SLEEP: "1",
        }

    def set(self, ahead_seconds: int) -> None:
        """So far ahead of this machine's clock; negative for behind."""
        part = self._file.with_suffix(".part")
        part.write_text(f"{ahead_seconds:+d}\n")
        part.rename(self._file)

    @staticmethod
    def sweep() -> None:
        """Removes what killed processes have left, on which one of the same pid would not start."""
        for left in (*_SHARED.glob("faketime_shm_*"), *_SHARED.glob("sem.faketime_sem_*")):
            pid = left.name.rpartition("_")[2]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(OSError):
                    left.unlink()
