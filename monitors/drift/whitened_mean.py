"""Difference of means, each principal axis in its own unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from monitors.drift.arrays import Labellings, Values
from monitors.drift.base import Pooled
from monitors.drift.permutations import contrasts, mean_differences

__all__ = ["WhitenedMean"]

_AXES = 64
"""Boilerplate lies along weak axes; with 96 and more, topics began to be lost in their noise."""


class WhitenedMean:
    """Σᵢ Δμᵢ² / λᵢ on 64 principal axes: sees what moves every text a little along weak axes.

    Boilerplate and a changed encoder do that. It is the whitened MMD² with a linear kernel, and
    Hotelling's T² with the pooled covariance about the pooled mean; on banking77 it rejected
    as often as whitened MMD² with a Gaussian kernel, and needs no kernel matrix. Null hypothesis:
    equal means. Source: Hotelling 1931, "The Generalization of Student's Ratio".
    """

    NAME: ClassVar[str] = "whitened_mean"

    def values(self, pooled: Pooled, labels: Labellings, between: Callable[[], None]) -> Values:
        """The sum under each labelling."""
        axes = pooled.axes.leading(_AXES)
        between()
        differences = mean_differences(axes.scores, contrasts(pooled, labels))
        return np.asarray((differences**2 / axes.variances[:, None]).sum(axis=0))
