"""Control over time: many windows, one alarm rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

import numpy as np

from monitors.drift.betting import BETS, WEIGHTS, bets
from monitors.drift.pool import Pool, Window, spreads
from monitors.drift.tail import tail_p_value
from pipelines.core.errors import SettingsError

__all__ = ["Decision", "SequentialControl"]

_FORMAT = 2

_QUARANTINE = 3
"""Windows that wait before they join the baseline. A drift that is not yet certain must not make
itself part of what is normal: it is to be caught within three."""

_RECENT = 3
"""Windows whose distances are looked at together: a drift is to be caught within so many."""

_MOST_DISTANCE = 1e6
"""In place of an infinite one, above known-good windows that do not vary: JSON has no infinity."""

_RESET = "`plumbline monitor reset PROBE --reason TEXT` begins a new baseline."

_DAY = 86_400.0

_WARNING_SHARE = 0.1
"""A warning at this share of the evidence that an alarm needs, and the end of an alarm below it."""

_MOST_EVIDENCE = 10.0
"""Evidence stops growing at this multiple of what an alarm needs, so that it can fall again."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the control says after a window.

    Parameters
    ----------
    alarm
        Evidence for an alarm, the least effect, and a baseline to trust.
    warning
        Something is unusual, and there is no alarm: the evidence is above a tenth of what an
        alarm needs, or it is enough and the baseline or the distance is too small.
    e_value
        The detector's evidence, divided by the windows of a day where there are several; an alarm
        needs the average run length.
    p_value
        How unusual this window is among the known-good ones (`tail.tail_p_value`). 1 when there
        are none.
    baseline_size
        Known-good windows it was ranked among.
    trusted
        The baseline is large and long enough for alarms.
    spreads
        The window's effect in spreads of the known-good windows' effects above their median
        (`pool.spreads`); 0 when there are too few to say.
    usual
        Median score of the known-good windows; 0 when there are none.
    counted
        `False` for a window that overlaps the last one counted: it was ranked, and nothing else.
    """

    alarm: bool
    warning: bool
    e_value: float
    p_value: float
    baseline_size: int
    trusted: bool
    spreads: float = 0.0
    usual: float = 0.0
    counted: bool = True


@dataclass
class SequentialControl:
    """A Shiryaev-Roberts e-detector over the scores of successive windows.

    Each window's score is ranked among known-good windows, after the usual level of its season
    and what the window before lets one expect are taken off; above the highest of them their tail
    is continued (`tail`). The p-values are wagered on (`betting`), each wager runs as
    R ← (1 + R) e, and their weighted mean is an e-detector: without drift it takes at least
    `average_run_length` windows on average until it reaches that value, where the tail is not
    heavier than exponential. Only windows whose effect is large enough can raise it, and an alarm
    needs a least distance from the known-good windows as well: both can only lengthen the run.
    Where there are several windows a day, the run is counted in days: hourly ones need 24 times
    the evidence. Windows join the known-good ones three windows later, unless there was an alarm.

    Sources: Vovk 2021, "Testing Randomness Online"; Shin, Ramdas and Rinaldo, "E-detectors".

    Parameters
    ----------
    average_run_length
        Windows until a false alarm, on average, at least; days where there are several windows a
        day. At least 20.
    minimum_baseline, minimum_span
        What the baseline must have before it is trusted: windows, and the time from its first to
        its last one.
    minimum_spreads
        How far beyond the known-good windows' median the last windows must lie for an alarm, after
        season and predecessor are taken off, in spreads of their upper half (`pool.spreads`): the
        last one alone, or the last two or three together, their sum divided by √2 or √3, as a sum
        of independent ones scatters.
    window_seconds
        Length of a window: one that begins less than nine tenths of it after the last counted one
        overlaps it, and is no new evidence. 0 counts all.
    """

    average_run_length: float = 2000.0
    minimum_baseline: int = 20
    minimum_span: timedelta = timedelta(days=13)
    minimum_spreads: float = 3.5
    window_seconds: float = 0.0
    _pool: Pool = field(default_factory=Pool, repr=False)
    _pending: list[Window] = field(default_factory=list, repr=False)
    _last: Window | None = field(default=None, repr=False)
    _evidence: list[float] = field(default_factory=lambda: [0.0] * BETS, repr=False)
    _distances: list[float] = field(default_factory=list, repr=False)
    _alarm: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if self.average_run_length < 20:
            raise SettingsError(
                f"an average run length of {self.average_run_length} windows is too short; "
                "give at least 20"
            )

    @classmethod
    def from_json(cls, state: Mapping[str, Any] | None, **parameters: Any) -> Self:
        """The control as `to_json` left it; a new one for `None`.

        Parameters
        ----------
        parameters
            As of the class. They are settings, not state: they may differ from the last run's.

        Raises
        ------
        SettingsError
            The state is not one that this release wrote.
        """
        control = cls(**parameters)
        if state is None:
            return control
        if state.get("format") != _FORMAT:
            raise SettingsError(
                f"the control's state has format {state.get('format')!r}; this release reads "
                f"{_FORMAT}. {_RESET}"
            )
        try:
            control._pool = Pool.from_json(state["pool"])
            control._pending = [Window.from_json(window) for window in state["pending"]]
            last = state["last"]
            control._last = None if last is None else Window.from_json(last)
            control._evidence = [float(value) for value in state["evidence"]]
            control._distances = [float(value) for value in state["distances"]][-_RECENT:]
            control._alarm = bool(state["alarm"])
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                f"the control's state is damaged ({type(error).__name__}). {_RESET}"
            ) from error
        if len(control._evidence) != BETS:
            raise SettingsError(
                f"the control's state holds {len(control._evidence)} wagers; this release makes "
                f"{BETS}. {_RESET}"
            )
        return control

    def to_json(self) -> dict[str, Any]:
        """The state, for the store. Bounded: the pool holds at most `pool.MOST_WINDOWS`."""
        return {
            "format": _FORMAT,
            "pool": self._pool.to_json(),
            "pending": [window.to_json() for window in self._pending],
            "last": None if self._last is None else self._last.to_json(),
            "evidence": self._evidence,
            "distances": self._distances,
            "alarm": self._alarm,
        }

    @property
    def baseline_size(self) -> int:
        """Known-good windows."""
        return len(self._pool)

    @property
    def trusted(self) -> bool:
        """Whether the baseline is large and long enough for alarms."""
        return len(self._pool) >= self.minimum_baseline and self._pool.span >= self.minimum_span

    def reset(self) -> None:
        """Takes back an alarm and its evidence, and keeps the baseline: somebody has looked."""
        self._alarm = False
        self._evidence = [0.0] * BETS
        self._distances = []
        self._pending = []

    def update(
        self,
        score: float,
        *,
        effect: float,
        minimum_effect: float,
        at: datetime,
        season: str | None = None,
    ) -> Decision:
        """Takes in one window.

        Parameters
        ----------
        score
            Larger is worse, on one scale for all windows.
        effect, minimum_effect
            Size of the change and the least one that may raise the evidence, in the probe's units.
        at
            The window's time, with a time zone; not before the last one's.
        season
            What it is like: the hour, or hour and weekday. Its own usual level is taken off.

        Raises
        ------
        SettingsError
            A score or an effect is not finite, or the time has no zone.
        """
        if not (math.isfinite(score) and math.isfinite(effect)):
            raise SettingsError(f"a window's score ({score}) and effect ({effect}) must be finite")
        if at.tzinfo is None:
            raise SettingsError("a window's time must have a time zone")
        window = Window(at.timestamp(), float(score), float(effect), season or "")
        surprise, known_good = self._pool.surprise(window, self._last)
        value = tail_p_value(surprise, known_good)
        trusted = self.trusted
        counted = self._last is None or window.at - self._last.at >= 0.9 * self.window_seconds
        if counted:
            distance = min(spreads(surprise, known_good), _MOST_DISTANCE)
            self._distances = [*self._distances, distance][-_RECENT:]
            self._count(window, bets(value), enough=effect >= minimum_effect, trusted=trusted)
        evidence = self._mean_evidence()
        return Decision(
            alarm=self._alarm,
            warning=not self._alarm
            and evidence >= _WARNING_SHARE * self.average_run_length
            and self._far(),
            e_value=evidence,
            p_value=value,
            baseline_size=len(known_good),
            trusted=trusted,
            spreads=self._pool.spreads(window),
            usual=self._pool.usual,
            counted=counted,
        )

    def _count(self, window: Window, paid: Sequence[float], *, enough: bool, trusted: bool) -> None:
        """Moves the evidence, the alarm and the baseline by one window."""
        most = _MOST_EVIDENCE * self.average_run_length * self._windows_a_day()
        self._evidence = [
            min(most, (1 + before) * (factor if enough else min(factor, 1.0)))
            for before, factor in zip(self._evidence, paid, strict=True)
        ]
        evidence = self._mean_evidence()
        if evidence < _WARNING_SHARE * self.average_run_length:
            self._alarm = False
        elif evidence >= self.average_run_length and enough and trusted and self._far():
            self._alarm = True
        self._last = window
        if self._alarm:
            self._pending = []
            return
        self._pending.append(window)
        # A young baseline takes windows at once: there is nothing yet to protect.
        waiting = _QUARANTINE if trusted else 0
        while len(self._pending) > waiting:
            self._pool.add(self._pending.pop(0))

    def _mean_evidence(self) -> float:
        return float(np.dot(WEIGHTS, self._evidence)) / self._windows_a_day()

    def _windows_a_day(self) -> float:
        """By the known-good ones; 1 where they are longer than a day."""
        seconds = self._pool.span.total_seconds()
        return max(1.0, _DAY * (len(self._pool) - 1) / seconds) if seconds > 0 else 1.0

    def _far(self) -> bool:
        """Whether the last windows lie far enough from the known-good ones."""
        last = self._distances[::-1]
        sums = np.cumsum(last) / np.sqrt(np.arange(1, len(last) + 1))
        return bool(len(sums) and sums.max() >= self.minimum_spreads)
