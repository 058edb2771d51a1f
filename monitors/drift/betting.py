"""From conformal p-values to evidence that grows only when windows are out of the ordinary."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["BETS", "WEIGHTS", "bets", "conformal_p_value"]

_POWERS = (0.2, 0.5)
"""Exponents of the power martingale: a small one wagers on rare ranks, a large one on many
slightly unusual windows."""

_STAKE = 0.75
"""Share of its evidence that the wager on the top ranks stakes each time. With 20 known-good
windows it then pays 16, so three windows in a row reach an average run length of 2,000."""

_LEAST_TOP = 1 / 60
"""It pays at most 45 for one window, however large the baseline is, so that no single window
decides."""

WEIGHTS = (0.8, 0.1, 0.1)
"""How the evidence of the wagers is averaged: the one on the top ranks first. A drift that people
must act on puts every window there; the others are for slow ones."""

BETS = 1 + len(_POWERS)
"""How many wagers are made side by side."""


def conformal_p_value(score: float, known_good: np.ndarray) -> float:
    """(1 + number of known-good scores at least as large) / (1 + their number).

    Uniform or larger when all are exchangeable (Vovk et al. 2005, "Algorithmic Learning in a
    Random World"). Ties count against drift, so a score that never changes gives 1.
    """
    return float((1 + np.count_nonzero(known_good >= score)) / (1 + len(known_good)))


def bets(p_value: float, baseline: int) -> list[float]:
    """What each wager pays for a conformal p-value; none has an expectation above 1 without drift.

    The first stakes three quarters on the top ranks: 1/4 + 3/4 · 1[p ≤ a] / a. The others are
    power martingales, b p^(b−1) (Vovk et al. 2003), divided by their mean over the ranks that the
    baseline allows,
    because p is not continuous.
    """
    ranks = baseline + 1
    top = max(1, int(_LEAST_TOP * ranks)) / ranks
    found = [1 - _STAKE + (_STAKE / top if p_value <= top * (1 + 1e-9) else 0.0)]
    found += [p_value ** (power - 1) / _mean_payment(power, ranks) for power in _POWERS]
    return found


@lru_cache(maxsize=4096)
def _mean_payment(power: float, ranks: int) -> float:
    """Mean of p^(b−1) over p = 1/n … n/n."""
    return float(np.mean((np.arange(1, ranks + 1) / ranks) ** (power - 1)))
