"""The process-wide wish to stop reading."""

from __future__ import annotations

import threading

__all__ = ["STOP", "StopSignal"]


class StopSignal:
    """Once set, every reader of the process ends after what it has given out.

    A reader then reports the maximal watermark: the runner finishes its bundle, finalises the
    last checkpoint (offsets are committed) and `run()` returns. For the in-process runner: on
    Flink the maximal watermark would mark the split done for ever, and a stop is a savepoint
    (`plumbline ingest stop`).
    Safe to set from a signal handler's thread.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask every reader to end."""
        self._event.set()

    @property
    def event(self) -> threading.Event:
        """The event itself, for those who wait on it."""
        return self._event

    def clear(self) -> None:
        """Forget it: before another run in the same process."""
        self._event.clear()

    def is_set(self) -> bool:
        """Whether readers should end."""
        return self._event.is_set()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until it is set; False when the time is over."""
        return self._event.wait(timeout_seconds)


STOP = StopSignal()
"""The signal that the readers of this process obey."""
