"""How rare a value is among known-good ones, beyond the largest of them too."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from monitors.drift.betting import conformal_p_value

__all__ = ["tail_p_value"]

_LEAST_WINDOWS = 20
"""With fewer the tail is not looked at: ranks alone."""

_LEAST_EXCESSES = 6
"""Of 30 known-good windows the highest fifth, of 60 and more the highest tenth."""

_SHARE = 0.1


def tail_p_value(score: float, known_good: npt.NDArray[np.float64]) -> float:
    """The conformal p-value, continued beyond the largest known-good score.

    With n known-good scores a rank cannot be rarer than 1 / (n + 1), however far a window lies
    above all of them. So where it is the highest, the k largest known-good scores say how the tail
    falls: if their excesses over the next one, u, are exponential, the probability of a new score
    at least as large is exactly

        (k + 1) / (n + 1) · (1 + (score − u) / (k m))^(−k),

    m their mean: the ratio of a new excess to m is F-distributed with 2 and 2k degrees of freedom,
    so that what is not known of m is in it. The tails of the statistics here are exponential or
    lighter (MMD² under the null hypothesis is a weighted sum of χ² variables). A heavier one has
    excesses that scatter more than exponential ones do, for which the mean and the standard
    deviation are equal: the larger of mean and root mean square / √2 is taken for m, which errs to
    the safe side then. Never below what the formula gives, never above the conformal p-value.

    Null hypothesis: the score is one more of the known-good ones. Sources: Pickands 1975,
    "Statistical inference using extreme order statistics"; Siffer et al. 2017, "Anomaly Detection
    in Streams with Extreme Value Theory".
    """
    conformal = conformal_p_value(score, known_good)
    windows = len(known_good)
    if windows < _LEAST_WINDOWS or score <= known_good.max():
        return conformal
    excesses = max(_LEAST_EXCESSES, int(_SHARE * windows))
    highest = np.partition(known_good, windows - excesses - 1)[-excesses - 1 :]
    threshold = float(highest[0])
    above = highest[1:] - threshold
    mean = max(float(above.mean()), math.sqrt(float((above * above).mean()) / 2))
    if mean <= 0:
        return conformal
    ratio = (score - threshold) / (excesses * mean)
    continued = (excesses + 1) / (windows + 1) * (1 + ratio) ** -excesses
    return float(min(conformal, continued))
