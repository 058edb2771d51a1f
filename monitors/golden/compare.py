"""Paired tests of two runs on the same queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from monitors.golden.measures import Floats

__all__ = [
    "Alternative",
    "PairedTest",
    "compare",
    "holm",
    "mean_interval",
    "permutation_p",
    "sign_p",
    "wilcoxon_p",
]

Alternative = Literal["two-sided", "less"]
"""`less`: the later run is worse."""

Method = Literal["wilcoxon", "sign", "permutation"]

_RESAMPLES = 2000
_PERMUTATIONS = 9999


@dataclass(frozen=True, slots=True)
class PairedTest:
    """One measure before and after, on the same queries.

    Parameters
    ----------
    before, after
        Means over the queries.
    interval
        Of the mean change, 95 %, by bootstrap over queries.
    p_value
        Of this test alone.
    adjusted_p
        By Holm, over the measures that were compared together.
    """

    measure: str
    method: Method
    queries: int
    before: float
    after: float
    interval: tuple[float, float]
    p_value: float
    adjusted_p: float

    @property
    def change(self) -> float:
        """Mean of after minus before."""
        return self.after - self.before


def compare(
    pairs: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
    methods: Mapping[str, Method],
    *,
    alternative: Alternative,
    tolerance: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, PairedTest]:
    """Compares each measure, and corrects for their number by Holm.

    The null hypothesis of each: queries change in either direction alike.

    Parameters
    ----------
    pairs
        Measure to its values before and after, shape (n,) both, a query a row.
    tolerance
        Measure to the change below which a query counts as unchanged; default 0.
    seed
        Of the bootstrap and the permutations.
    """
    tolerances = tolerance or {}
    values = {
        measure: (np.asarray(before, float), np.asarray(after, float))
        for measure, (before, after) in pairs.items()
    }
    p_values = {}
    for measure, (before, after) in values.items():
        difference = after - before
        difference[np.abs(difference) <= tolerances.get(measure, 1e-12)] = 0.0
        p_values[measure] = _p_value(difference, methods[measure], alternative, seed)
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {
        measure: PairedTest(
            measure=measure,
            method=methods[measure],
            queries=len(before),
            before=float(before.mean()) if len(before) else 0.0,
            after=float(after.mean()) if len(after) else 0.0,
            interval=mean_interval(after - before, seed=seed),
            p_value=p_values[measure],
            adjusted_p=adjusted[measure],
        )
        for measure, (before, after) in values.items()
    }


def _p_value(difference: Floats, method: Method, alternative: Alternative, seed: int) -> float:
    if method == "sign":
        return sign_p(difference, alternative)
    if method == "wilcoxon":
        return wilcoxon_p(difference, alternative)
    return permutation_p(difference, alternative, seed=seed)


def sign_p(difference: Floats, alternative: Alternative) -> float:
    """Exact sign test of paired differences; exact McNemar where both runs are 0 or 1.

    The number of queries that lost, among those that changed at all, is binomial with 1/2.
    """
    from scipy.stats import binomtest

    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, 0.5, alternative=alternative).pvalue)


def wilcoxon_p(difference: Floats, alternative: Alternative) -> float:
    """Wilcoxon's signed-rank test of paired differences; unchanged queries are left out.

    Exact up to 50 changes without ties, else the normal approximation, which errs on the safe
    side in the tails.
    """
    from scipy.stats import wilcoxon

    changed = difference[difference != 0]
    if not len(changed):
        return 1.0
    return float(wilcoxon(changed, alternative=alternative).pvalue)


def permutation_p(difference: Floats, alternative: Alternative, *, seed: int = 0) -> float:
    """Permutation test of the mean difference: signs flip at random, each query by itself.

    All sign patterns where there are at most 9,999 of them, else so many at random.
    """
    from scipy.stats import permutation_test

    changed = difference[difference != 0]
    if not len(changed):
        return 1.0
    if len(changed) == 1:
        # Two patterns, which SciPy refuses to count.
        return 0.5 if alternative == "less" and changed[0] < 0 else 1.0
    result = permutation_test(
        (changed,),
        lambda sample, axis=-1: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm 1979, in their order.

    Examples
    --------
    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def mean_interval(values: npt.ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over queries, by percentiles of 2,000 resamples.

    The mean itself, twice, where all values are the same; two zeros without any.
    """
    from scipy.stats import bootstrap

    sample = np.asarray(values, float)
    if not len(sample):
        return 0.0, 0.0
    if len(sample) == 1 or np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    found: Any = bootstrap(
        (sample,),
        np.mean,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
