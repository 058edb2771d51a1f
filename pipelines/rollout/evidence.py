"""Whether the new version is worse, asked again and again over a soak without fooling oneself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PATTERNS", "SoakTest", "pattern_statistics"]

PATTERNS = 20_000
"""Sign patterns. At a level of .01 two hundred of them are spent over a soak: one in two hours."""

_FIRST = 0.5
"""Of the allowance, what the first run may spend: a version that was always worse is so in the
first hour as in the last."""

_BEYOND = 0.05
"""Of the allowance, what is kept for runs after the planned ones."""

_KEPT_COLUMNS = 2048
_TIE = 1e-5
"""Sums of float32: closer ones are the same."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SoakTest:
    r"""A sequential randomisation test of the difference between two versions, over queries.

    Null hypothesis: for each query, new and old could be exchanged, so that the differences it
    shows over the whole soak, hour by hour, are as likely with all their signs turned. The golden
    set's queries are independent of each other; the runs are not, and need not be: a query's
    whole course is turned at once, never a single run of it.

    The real course is one among `PATTERNS`, the first; in each of the others, chance has decided
    for every query whether it is turned. In each run every pattern has a statistic,

    .. math:: T = \min\left(\frac{\sum_i s_i d_i}{\lVert d \rVert},
              \frac{\sum_i s_i c_i}{\lVert c \rVert}\right)

    where d are the differences, new minus old, c how much they have changed since the first run,
    and s the pattern's signs; a damage that comes later shows in c with far fewer queries, since
    most do not change. The patterns that look worst are taken out, as many as the allowance has
    for this run, and never come back. The version is worse when the real one is taken out.

    Under the null all patterns are alike, so that the chance of that, over the whole soak and at
    whatever run, is at most the share that is taken out in all: the level. This is exact, for any
    number of queries and however few of them differ. Where the means are equal but not the shapes,
    it holds for many queries, as the norms make T pivotal (Janssen 1997).

    Parameters
    ----------
    planned
        Runs that the soak has at its interval.
    level
        Chance that a version which is no worse is ever found to be.
    run
        Runs seen.
    out
        Patterns taken out, shape (PATTERNS,).
    p_value
        Of the last run alone: share of all patterns that look at least as bad.

    Examples
    --------
    >>> queries = [f"q{number}" for number in range(300)]
    >>> same, worse = [0.0] * 300, [-1.0] * 20 + [0.0] * 280
    >>> test = SoakTest(168, 0.01).add(queries, same, same)
    >>> test.worse
    False
    >>> for _ in range(3):
    ...     test = test.add(queries, worse, same)
    >>> test.worse
    True
    """

    planned: int
    level: float
    run: int = 0
    out: Bools = field(default_factory=lambda: np.zeros(PATTERNS, bool), repr=False)
    p_value: float = 1.0

    @property
    def worse(self) -> bool:
        """Whether the new version was found to be worse, in this run or before."""
        return bool(self.out[0])

    @property
    def spent(self) -> float:
        """How much of the level has been spent."""
        return float(self.out.mean())

    def add(
        self, queries: Sequence[str], differences: npt.ArrayLike, first: npt.ArrayLike
    ) -> SoakTest:
        """The test with one more run.

        Parameters
        ----------
        queries
            Ids: a query keeps its signs from run to run, and from process to process.
        differences
            New version minus old, of each query, shape (n,).
        first
            The same of the first run.
        """
        return self.take(pattern_statistics(queries, [differences], first)[0])

    def take(self, statistics: Floats) -> SoakTest:
        """The same, from the run's row of `pattern_statistics`."""
        run = self.run + 1
        return replace(
            self,
            run=run,
            out=self._without_worst(statistics, run),
            p_value=float(np.mean(statistics <= statistics[0] + _TIE)),
        )

    def _without_worst(self, statistics: Floats, run: int) -> Bools:
        allowed = int(PATTERNS * self.level * self._share(run) + _TIE) - int(self.out.sum())
        left = np.flatnonzero(~self.out)
        if allowed <= 0 or not len(left):
            return self.out
        values = statistics[left]
        bound = np.partition(values, allowed - 1)[allowed - 1]
        chosen = values <= bound + _TIE
        if chosen.sum() > allowed:
            # Ties cannot be told apart: none of them goes, and the next run may spend it.
            chosen = values < bound - _TIE
        out = self.out.copy()
        out[left[chosen]] = True
        return out

    def _share(self, run: int) -> float:
        """Of the allowance, what may be spent up to this run, from 1."""
        later = max(1, self.planned - 1)
        if run <= self.planned:
            return _FIRST + (1 - _BEYOND - _FIRST) * (run - 1) / later
        beyond = run - self.planned
        return 1 - _BEYOND + _BEYOND * beyond / (beyond + 1)

    def to_json(self) -> dict[str, Any]:
        """As the rollout's record keeps it."""
        return {
            "planned": self.planned,
            "level": self.level,
            "run": self.run,
            "out": base64.b64encode(np.packbits(self.out).tobytes()).decode("ascii"),
            "p_value": self.p_value,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SoakTest:
        """What `to_json` wrote."""
        bits = np.frombuffer(base64.b64decode(value["out"]), np.uint8)
        return cls(
            int(value["planned"]),
            float(value["level"]),
            int(value["run"]),
            np.unpackbits(bits, count=PATTERNS).astype(bool),
            float(value["p_value"]),
        )


def pattern_statistics(
    queries: Sequence[str], differences: Sequence[npt.ArrayLike], first: npt.ArrayLike
) -> Floats:
    """T of every pattern, in each of some runs; shape (runs, PATTERNS).

    Parameters
    ----------
    queries, first
        As in `SoakTest.add`.
    differences
        Of each run, shape (runs, n).
    """
    now = np.asarray(differences, float)
    change = now - np.asarray(first, float)
    used = np.flatnonzero(now.any(axis=0) | change.any(axis=0))
    if not len(used):
        return np.zeros((len(now), PATTERNS))
    signs = np.stack([_signs(queries[number]) for number in used.tolist()]).astype(np.float32)
    one, other = (_scaled(values[:, used]) @ signs for values in (now, change))
    least: Floats = np.minimum(one, other).astype(np.float64)
    return least


def _scaled(values: Floats) -> npt.NDArray[np.float32]:
    """Rows of unit length; zeros stay zeros, so that T is 0 where no query differs."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(norms > 0, norms, 1), np.float32)


@lru_cache(maxsize=_KEPT_COLUMNS)
def _signs(query: str) -> npt.NDArray[np.int8]:
    """A query's sign in each pattern: drawn by its id, so that every process draws the same."""
    seed = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big")
    bits = np.random.default_rng(seed).integers(0, 2, PATTERNS, dtype=np.int8)
    signs = (2 * bits - 1).astype(np.int8)
    signs[0] = 1  # the real one
    return signs
