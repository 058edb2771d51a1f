"""A paired test of non-inferiority for differences that are mostly zero, discrete and skewed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Decision", "NonInferiority", "enough_queries", "interval", "upper_tail"]

Floats = npt.NDArray[np.float64]
Decision = Literal["pass", "refuse", "undecided"]

_STEPS = (1, 2, 6, 12, 60)
"""Least common multiples: recall of up to six relevant documents is a whole number of 60ths."""

_FINEST = 240
"""Steps where no multiple serves: sharing a value between two adds at most 4e-6 to its variance."""

_REACH = 7.5
"""Standard deviations of the sum on either side that are kept apart: 1e-13 lies beyond."""

_POWER = 0.8
_REASONABLE = 100_000
"""Queries beyond which "judge more" is no advice."""


@dataclass(frozen=True)
class NonInferiority:
    r"""Whether a candidate's mean is shown to be at most a margin below that of live.

    With d the difference of one query (candidate minus live, -1 to 1) and δ the margin, `p_pass`
    tests :math:`H_0: E d \le -\delta`, and `p_refuse` tests :math:`H_0: E d \ge -\delta`.

    Parameters
    ----------
    differences
        Shape (n,): of each query.
    margin
        Above 0.
    level
        Of each of the two tests: the greatest chance that a candidate exactly at the margin
        passes, and that it is refused.

    Examples
    --------
    >>> live = [1.0] * 300
    >>> NonInferiority.of(live, live, margin=0.02, level=0.05).outcome
    'pass'
    >>> few = NonInferiority.of(live[:100], live[:100], margin=0.02, level=0.05)
    >>> few.outcome, few.enough
    ('undecided', 133)
    >>> NonInferiority.of([0.0] * 30 + live[:270], live, margin=0.02, level=0.05).outcome
    'refuse'
    """

    differences: Floats = field(repr=False)
    margin: float
    level: float

    @classmethod
    def of(
        cls, candidate: npt.ArrayLike, live: npt.ArrayLike, *, margin: float, level: float
    ) -> NonInferiority:
        """Of two runs on the same queries, shape (n,) both, values 0 to 1: recall@k."""
        return cls(np.asarray(candidate, float) - np.asarray(live, float), margin, level)

    @cached_property
    def p_pass(self) -> float:
        """Of "it loses the margin or more"."""
        return upper_tail(self.differences, -self.margin)

    @cached_property
    def p_refuse(self) -> float:
        """Of "it loses the margin or less"."""
        return upper_tail(-self.differences, self.margin)

    @property
    def outcome(self) -> Decision:
        """`pass` and `refuse` where the level allows them, else `undecided`.

        Only the side of the margin on which the mean lies can be shown.
        """
        if self.difference > -self.margin:
            return "pass" if self.p_pass <= self.level else "undecided"
        return "refuse" if self.p_refuse <= self.level else "undecided"

    @property
    def queries(self) -> int:
        """How many were compared."""
        return len(self.differences)

    @property
    def difference(self) -> float:
        """Mean; 0 without queries."""
        return float(self.differences.mean()) if len(self.differences) else 0.0

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Means that neither test rejects: `pass` when it lies above -margin, `refuse` below."""
        return interval(self.differences, self.level)

    @property
    def worse(self) -> bool:
        """Whether the candidate is shown to be worse than live, by however little."""
        return self.interval[1] < 0

    @cached_property
    def enough(self) -> int | None:
        """Queries of this kind that would decide, about; `None` when more would hardly help."""
        return enough_queries(self.differences, self.margin, self.level)


def upper_tail(differences: Floats, mean: float) -> float:
    r"""P-value of `E d <= mean` against `E d > mean`, for differences between -1 and 1.

    The probability of a sum as large as the observed one or larger, under the distribution that
    is most likely among those with that mean: empirical likelihood (Owen 1988) on the observed
    values and on the least value that there can be, -1. With counts :math:`c_i` of the values
    :math:`x_i` among n and :math:`\theta` the mean,

    .. math:: w_i = \frac{c_i}{n (1 + \lambda (x_i - \theta))}, \quad \sum_i w_i (x_i - \theta) = 0,

    and where the observed values alone cannot have that mean under a :math:`\lambda` that leaves
    room for -1, -1 gets what is left. This is nonparametric tilting (Efron 1981), and accurate to
    second order (DiCiccio and Romano 1990). Where queries lose all or nothing and none gains, it
    is the exact binomial test; with losses and gains of one, the restricted estimate is that of
    the score test for paired proportions (Tango 1998), and the tail is exact in place of normal.

    The tail is computed, not drawn: by Fourier transform of the distribution of the sum.
    """
    n = len(differences)
    if n == 0:
        return 1.0
    values, counts = np.unique(np.round(differences, 9), return_counts=True)
    values, weights = _restricted(values, counts / n, mean)
    return _tail(values, weights, n, float(np.round(differences, 9).sum()))


def _restricted(values: Floats, shares: Floats, mean: float) -> tuple[Floats, Floats]:
    """Values and probabilities of the likeliest distribution with a mean."""
    observed = float(values @ shares)
    if abs(observed - mean) < 1e-12:
        return values, shares
    # The sum is to be tilted down (its usual use) or up; the far end may take what is missing.
    end = -1.0 if observed > mean else 1.0
    if not abs(mean) < 1 or (values == mean).all():
        return np.array([mean]), np.ones(1)
    centred = values - mean
    sign = float(np.sign(observed - mean))
    limit = 1 / (mean - end)  # 1 + λ (end - mean) is zero there
    at_limit = (values - end) / (mean - end)
    if (at_limit > 0).all() and (centred * shares / at_limit).sum() * sign >= 0:
        tilted = shares / at_limit
        return np.append(values, end), np.append(tilted, max(0.0, 1 - float(tilted.sum())))

    def slope(share_of_limit: float) -> float:
        return float((shares * centred / (1 + share_of_limit * limit * centred)).sum())

    from scipy.optimize import brentq

    # From the observed mean on it goes towards zero, and beyond before the limit, or just there.
    last = 1 - 1e-12
    found = last if slope(last) * sign >= 0 else brentq(slope, 0.0, last, xtol=1e-14)
    tilted = shares / (1 + found * limit * centred)
    return values, tilted / tilted.sum()


def _tail(values: Floats, weights: Floats, n: int, observed: float) -> float:
    """Probability that the sum of n independent draws is at least the observed one."""
    steps = next(
        (step for step in _STEPS if np.abs(values * step - np.round(values * step)).max() < 1e-6),
        _FINEST,
    )
    # A value between two steps is shared between them so that the mean stays.
    below = np.floor(values * steps + 1e-6)
    above_share = np.clip(values * steps - below, 0.0, 1.0)
    above_share[above_share < 1e-5] = 0.0
    below = below.astype(np.int64)
    mean = float(weights @ values)
    deviation = math.sqrt(max(float(weights @ (values - mean) ** 2), 0.0) + 0.25 / steps**2)
    half = math.ceil((_REACH * deviation * math.sqrt(n) + 3) * steps)
    size = 1 << max(4, (2 * half).bit_length())
    single = np.zeros(size)
    np.add.at(single, below % size, weights * (1 - above_share))
    np.add.at(single, (below + 1) % size, weights * above_share)
    whole = np.fft.irfft(_power(np.fft.rfft(single), n), size)
    centre = round(n * mean * steps)
    # Conservative where the observed sum lies between two steps.
    least = math.floor(observed * steps + 1e-6) - centre
    if least > half:
        return 0.0
    offsets = np.arange(max(least, -half), half + 1)
    return float(min(1.0, max(0.0, whole[(offsets + centre) % size].sum())))


def _power(base: npt.NDArray[np.complex128], exponent: int) -> npt.NDArray[np.complex128]:
    """By squaring: numpy's own takes a logarithm of every element, and ten times as long."""
    result = np.ones_like(base)
    while exponent:
        if exponent & 1:
            result = result * base
        base = base * base
        exponent >>= 1
    return result


def interval(differences: Floats, level: float) -> tuple[float, float]:
    """Confidence interval of the mean, of `level` on each side, by inverting both tests.

    -1 to 1 without queries.
    """
    if not len(differences):
        return -1.0, 1.0
    return _lower(differences, level), -_lower(-differences, level)


def _lower(differences: Floats, level: float) -> float:
    low, high = -1.0, float(np.mean(differences))
    while high - low > 1e-5:
        middle = (low + high) / 2
        if upper_tail(differences, middle) <= level:
            low = middle
        else:
            high = middle
    return low


def enough_queries(differences: Floats, margin: float, level: float) -> int | None:
    r"""Queries with which the test would decide with probability .8, were the difference so.

    .. math:: N = \left( \frac{z_{1-\alpha} \sigma_0 + z_{.8} \sigma}{\delta + \min(\bar d, 0)}
        \right)^2

    with σ of the observed differences and :math:`\sigma_0` of the likeliest distribution at the
    margin. A candidate that looks better than live counts as its equal. Beyond the margin it is
    the number that would refuse.

    Returns
    -------
    `None` without queries, and where it is more than 100,000: the difference lies at the margin.
    """
    from scipy.stats import norm

    if not len(differences):
        return None
    mean = float(differences.mean())
    gap = abs(margin + min(mean, 0.0))
    values, counts = np.unique(np.round(differences, 9), return_counts=True)
    values, weights = _restricted(values, counts / len(differences), -margin)
    null = math.sqrt(float(weights @ (values + margin) ** 2))
    here = float(differences.std())
    root = float(norm.ppf(1 - level)) * null + float(norm.ppf(_POWER)) * here
    if gap * math.sqrt(_REASONABLE) <= root:
        return None
    return math.ceil((root / gap) ** 2)
