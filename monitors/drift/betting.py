"""From p-values of windows to evidence that grows only when windows are out of the ordinary."""

from __future__ import annotations

import numpy as np

__all__ = ["BETS", "WEIGHTS", "bets", "conformal_p_value"]

_POWERS = (0.2, 0.5)
"""Exponents of the power martingale: a small one wagers on rare windows, a large one on many
slightly unusual ones."""

_LEAST_P_VALUE = 1e-3
"""Smaller p-values pay as this one does: 63 for one window at most, so that no single window
decides. Three in a row that are one in 200 each make an average run length of 2,000."""

WEIGHTS = (0.8, 0.2)
"""How the evidence of the wagers is averaged: the one on rare windows first. A drift that people
must act on makes every window rare; the other is for slow ones."""

BETS = len(_POWERS)
"""How many wagers are made side by side."""


def conformal_p_value(score: float, known_good: np.ndarray) -> float:
    """(1 + number of known-good scores at least as large) / (1 + their number).

    Uniform or larger when all are exchangeable (Vovk et al. 2005, "Algorithmic Learning in a
    Random World"). Ties count against drift, so a score that never changes gives 1.
    """
    return float((1 + np.count_nonzero(known_good >= score)) / (1 + len(known_good)))


def bets(p_value: float) -> list[float]:
    """What each wager pays for a p-value; none has an expectation above 1 without drift.

    They are power martingales, b p^(b−1) (Vovk et al. 2003), with p not below p₀ = .001. Then the
    expectation for a uniform p is 1 − (1 − b) p₀^b, which each is divided by.
    """
    p_value = max(p_value, _LEAST_P_VALUE)
    return [
        power * p_value ** (power - 1) / (1 - (1 - power) * _LEAST_P_VALUE**power)
        for power in _POWERS
    ]
