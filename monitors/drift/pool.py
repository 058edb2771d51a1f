"""Known-good windows: what is normal, by season and by what came just before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_WINDOWS", "Pool", "Window", "spreads"]

MOST_WINDOWS = 2000
"""Eleven weeks of hourly windows; the oldest leave. Some 80 kB as JSON."""

_SEASON_PRIOR = 4.0
"""A season's own level counts as much as the common one when it rests on so many windows."""

_LEAST_FOR_MEMORY = 20
"""Windows from which on it is estimated how much a window is like the one before: as many as an
alarm needs. Until 40 it was not, and daily streams that correlate at .5 alarmed twice as often."""

_MOST_MEMORY = 0.9

_LEAST_FOR_SPREAD = 5


@dataclass(frozen=True, slots=True)
class Window:
    """One window's time (seconds since the epoch), score, effect and season (may be empty)."""

    at: float
    score: float
    effect: float
    season: str

    def to_json(self) -> list[Any]:
        """As a list, in the order of the fields."""
        return [self.at, self.score, self.effect, self.season]

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        """From `to_json`; `ValueError` or `TypeError` for anything else."""
        at, score, effect, season = values
        return cls(float(at), float(score), float(effect), str(season))


class Pool:
    """The known-good windows, in the order of time; at most `MOST_WINDOWS`."""

    def __init__(self) -> None:
        self._at = np.empty(0)
        self._scores = np.empty(0)
        self._effects = np.empty(0)
        self._codes = np.empty(0, dtype=np.intp)
        self._seasons: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._scores)

    @property
    def span(self) -> timedelta:
        """From the first window to the last."""
        return timedelta(seconds=float(self._at[-1] - self._at[0]) if len(self) else 0.0)

    @property
    def usual(self) -> float:
        """Median score; 0 of no window."""
        return float(np.median(self._scores)) if len(self) else 0.0

    def add(self, window: Window) -> None:
        """Takes a window in; the oldest leaves when there are too many."""
        code = self._seasons.setdefault(window.season, len(self._seasons))
        self._at = np.append(self._at, window.at)[-MOST_WINDOWS:]
        self._scores = np.append(self._scores, window.score)[-MOST_WINDOWS:]
        self._effects = np.append(self._effects, window.effect)[-MOST_WINDOWS:]
        self._codes = np.append(self._codes, code)[-MOST_WINDOWS:]

    def surprise(
        self, window: Window, before: Window | None
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """How far a window lies above what was to be expected, and the same of the known-good ones.

        Of each score, its season's level is taken off (the mean over the season's other windows,
        drawn towards the common mean), and then the part of the predecessor's deviation that may
        carry over (autocorrelation at lag 1, as much as it can well be: `_memory`). Each known-good
        window is treated as the new one is: its season's level is that of the others.

        Parameters
        ----------
        before
            The last window counted, known-good or not. Its deviation counts at most as much as
            the largest known-good one, so that a lasting drift stays surprising.
        """
        if not len(self):
            return 0.0, np.empty(0)
        deviations = self._deviations()
        memory = _memory(deviations)
        surprises = deviations.copy()
        surprises[1:] -= memory * deviations[:-1]
        expected = 0.0
        if before is not None:
            low, high = float(deviations.min()), float(deviations.max())
            expected = memory * min(max(self._deviation(before), low), high)
        return self._deviation(window) - expected, surprises

    def spreads(self, window: Window) -> float:
        """How many spreads the effect lies above the known-good windows' median; see `spreads`."""
        return spreads(window.effect, self._effects)

    def _deviations(self) -> npt.NDArray[np.float64]:
        """Of each known-good window from the level of the others."""
        common = (self._scores.sum() - self._scores) / max(len(self) - 1, 1)
        if len(self._seasons) == 1:
            return np.asarray(self._scores - common)
        sums = np.bincount(self._codes, self._scores)[self._codes] - self._scores
        counts = np.bincount(self._codes)[self._codes] - 1
        return np.asarray(self._scores - (sums + _SEASON_PRIOR * common) / (counts + _SEASON_PRIOR))

    def _deviation(self, window: Window) -> float:
        """Of a window that is not among the known-good ones."""
        common = float(self._scores.mean())
        code = self._seasons.get(window.season)
        if len(self._seasons) == 1 and code is not None:
            return window.score - common
        own = self._scores[self._codes == code] if code is not None else self._scores[:0]
        level = (float(own.sum()) + _SEASON_PRIOR * common) / (len(own) + _SEASON_PRIOR)
        return window.score - level

    def to_json(self) -> Mapping[str, Any]:
        """Columns; numbers to seven digits, which ranks do not notice."""
        return {
            "at": [round(value) for value in self._at.tolist()],
            "score": [float(f"{value:.7g}") for value in self._scores.tolist()],
            "effect": [float(f"{value:.7g}") for value in self._effects.tolist()],
            "seasons": list(self._seasons),
            "season": self._codes.tolist(),
        }

    @classmethod
    def from_json(cls, columns: Mapping[str, Any]) -> Self:
        """From `to_json`; `KeyError`, `TypeError` or `ValueError` for anything else."""
        pool = cls()
        pool._at = np.array(columns["at"], dtype=np.float64)
        pool._scores = np.array(columns["score"], dtype=np.float64)
        pool._effects = np.array(columns["effect"], dtype=np.float64)
        pool._codes = np.array(columns["season"], dtype=np.intp)
        pool._seasons = {str(season): code for code, season in enumerate(columns["seasons"])}
        sizes = {len(column) for column in (pool._at, pool._scores, pool._effects, pool._codes)}
        if len(sizes) != 1:
            raise ValueError("columns of unequal length")
        if len(pool) and not 0 <= pool._codes.min() <= pool._codes.max() < len(pool._seasons):
            raise ValueError("a window of an unknown season")
        return pool


def spreads(value: float, known_good: npt.NDArray[np.float64]) -> float:
    """Distance from the known-good values' median in spreads of their upper half.

    The spread is the root mean square distance to the median of the values above it: the standard
    deviation where values are symmetric, and wider where the upper tail is long, as that of a
    distance is. 0 with fewer than 5 values; infinite above values that do not vary.
    """
    if len(known_good) < _LEAST_FOR_SPREAD:
        return 0.0
    middle = float(np.median(known_good))
    above = known_good[known_good >= middle] - middle
    spread = float(np.sqrt(np.mean(above * above)))
    distance = value - middle
    if spread <= 1e-12 * max(1.0, abs(distance)):
        return 0.0 if distance <= 1e-12 else float("inf")
    return distance / spread


def _memory(deviations: npt.NDArray[np.float64]) -> float:
    """How much may carry over to the next window: an upper bound of the autocorrelation at lag 1.

    Between 0 and .9; 0 while there are too few windows to say.

    Estimated about a mean that is estimated too, it is too small by (1 + 3r) / n on average
    (Marriott and Pope 1954, "Bias in the Estimation of Autocorrelations"); that is made good, and
    two standard errors, 2 / √n, are added: too little memory makes false alarms, and too much costs
    a drift's later windows a part of one known-good window's deviation. On both sets' streams of
    60 days with 30 days of baseline and a correlation of .5, .06 and .07 of 400 alarmed without
    drift with one standard error and .03 and .05 with two; of 198 floods none was found less
    often beyond what so many can tell.
    """
    if len(deviations) < _LEAST_FOR_MEMORY:
        return 0.0
    power = float(deviations @ deviations)
    if power <= 0:
        return 0.0
    windows = len(deviations)
    found = float(deviations[1:] @ deviations[:-1]) / power
    found = (windows * found + 1) / (windows - 3) + 2 / math.sqrt(windows)
    return min(max(found, 0.0), _MOST_MEMORY)
