"""Maximum mean discrepancy."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from monitors.drift.arrays import Labellings, Values
from monitors.drift.base import Pooled
from monitors.drift.gaussian import gaussian_sums
from monitors.drift.permutations import unbiased_mmd2

__all__ = ["MMD"]


class MMD:
    """Unbiased MMD² with a Gaussian kernel: sees any change that moves much of the mass.

    k(x, y) = exp(−‖x − y‖² / s), where s is the mean squared distance of the pooled sample. Null
    hypothesis: both samples come from one distribution. Source: Gretton et al. 2012, "A Kernel
    Two-Sample Test", JMLR 13.
    """

    NAME: ClassVar[str] = "mmd"

    def values(self, pooled: Pooled, labels: Labellings, between: Callable[[], None]) -> Values:
        """Unbiased MMD² under each labelling."""
        sums = gaussian_sums(pooled.distances, labels, 1.0, between)
        return unbiased_mmd2(sums, pooled.reference, pooled.current)
