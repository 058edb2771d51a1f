"""Makes room for live events: work in the background slows down while they wait.

The share of the time that the work may take follows additive increase, multiplicative decrease,
as TCP's window does: halved at each look at which live events wait too long, raised by a tenth
of full speed at each look at which they do not. Whatever happened, ten good looks bring it back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from pipelines.core.errors import PlumblineError

__all__ = ["Freshness", "FreshnessReader", "LatestFreshness", "Throttle", "ThrottleTimes"]

LEAST_SHARE = 1 / 32
"""The work never stops for good: whoever watches sees it move, and live may be slow for reasons
of its own."""

_STEP = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
_SHORTEST_PAUSE_SECONDS = 0.001
_CALM = 0.8
"""Below this part of a bound the work may grow; between it and the bound it stays as it is."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Freshness:
    """How live events fare.

    Parameters
    ----------
    lag_records
        Events that wait, over all partitions; `None` when nobody knows.
    searchable_seconds
        How long events take to be searchable, 99th percentile; `None` when nobody knows.
    """

    lag_records: int | None = None
    searchable_seconds: float | None = None


FreshnessReader = Callable[[], Freshness | None]
"""Tells how live fares; `None` when there is nothing new to tell."""


@dataclass(frozen=True, slots=True)
class ThrottleTimes:
    """Where a throttle takes the time from; tests bring their own."""

    monotonic: Callable[[], float] = time.monotonic
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait


@dataclass
class Throttle:
    """Paces the work of one process. Not thread-safe: the working thread asks it.

    Parameters
    ----------
    read
        Asked at most once in `look_seconds`. What it does not know changes nothing.
    freshness_bound_seconds, lag_bound_records
        Above either, live events wait too long.
    look_seconds
        Least time between two looks.
    stop
        Ends a pause.
    """

    read: FreshnessReader
    freshness_bound_seconds: float
    lag_bound_records: int
    look_seconds: float = 2.0
    stop: threading.Event = field(default_factory=threading.Event)
    times: ThrottleTimes = ThrottleTimes()

    def __post_init__(self) -> None:
        self._share = 1.0
        self._looked_at = float("-inf")
        self._paused_seconds = 0.0

    @property
    def share(self) -> float:
        """Of the time that the work may take, `LEAST_SHARE` to 1."""
        return self._share

    @property
    def paused_seconds(self) -> float:
        """Time spent in pauses so far."""
        return self._paused_seconds

    def after(self, worked_seconds: float) -> float:
        """Pauses after a piece of work, as long as the share of that moment asks, and looks.

        Returns
        -------
        Seconds paused.
        """
        begun = self.times.monotonic()
        while not self.stop.is_set():
            self._look()
            paused = self.times.monotonic() - begun
            # Worked out anew at each look: a pause ends early when live has recovered.
            wanted = min(worked_seconds * (1 / self._share - 1), _LONGEST_PAUSE_SECONDS)
            if wanted - paused < _SHORTEST_PAUSE_SECONDS:
                break
            self.times.wait(self.stop, min(wanted - paused, self.look_seconds))
        paused = self.times.monotonic() - begun
        self._paused_seconds += paused
        return paused

    def _look(self) -> None:
        now = self.times.monotonic()
        if now - self._looked_at < self.look_seconds:
            return
        self._looked_at = now
        seen = self.read()
        if seen is None:
            return
        strain = self._strain(seen)
        if strain is None:
            return
        before = self._share
        if strain > 1:
            self._share = max(LEAST_SHARE, self._share / 2)
        elif strain <= _CALM:
            self._share = min(1.0, self._share + _STEP)
        if (before == 1) is not (self._share == 1):
            _log.info(
                "backfill_throttled" if self._share < 1 else "backfill_at_full_speed",
                share=round(self._share, 3),
                lag_records=seen.lag_records,
                searchable_seconds=seen.searchable_seconds,
            )

    def _strain(self, seen: Freshness) -> float | None:
        """The worse of the two figures, as a multiple of its bound."""
        strains = []
        if seen.lag_records is not None:
            strains.append(seen.lag_records / max(1, self.lag_bound_records))
        if seen.searchable_seconds is not None:
            strains.append(seen.searchable_seconds / self.freshness_bound_seconds)
        return max(strains, default=None)


class LatestFreshness:
    """A `FreshnessReader` that never waits: a thread of its own asks, and the newest answer counts.

    Parameters
    ----------
    read
        May take its time, and may fail with an error of ours, which counts as nothing new.
    interval_seconds
        Between two questions.
    """

    def __init__(self, read: FreshnessReader, interval_seconds: float = 2.0) -> None:
        self._read = read
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._newest: Freshness | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="plumbline-freshness", daemon=True)
        self._thread.start()

    def __call__(self) -> Freshness | None:
        """The newest answer, once."""
        with self._lock:
            newest, self._newest = self._newest, None
            return newest

    def close(self) -> None:
        """Ends the thread, without waiting for an answer that is under way."""
        self._stop.set()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                seen = self._read()
            except PlumblineError as error:
                _log.debug("freshness_unknown", error=str(error))
                seen = None
            if seen is not None:
                with self._lock:
                    self._newest = seen
            self._stop.wait(self._interval_seconds)
