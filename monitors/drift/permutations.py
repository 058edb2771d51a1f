"""Labellings of a pooled sample, and what is computed under all of them at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitors.drift.arrays import Floats, Labellings, Values, centred
from monitors.drift.base import Pooled

__all__ = ["KernelSums", "contrasts", "labellings", "mean_differences", "unbiased_mmd2"]


def labellings(
    reference: int, current: int, permutations: int, random: np.random.Generator
) -> Labellings:
    """The observed labels and random permutations of them; shape (n, 1 + permutations)."""
    # NumPy shuffles integers of a pointer's size faster than anything else.
    observed = np.repeat(np.array([0, 1], dtype=np.intp), [reference, current])
    found = np.empty((reference + current, 1 + permutations), dtype=np.float32, order="F")
    for column in range(1 + permutations):
        found[:, column] = observed if column == 0 else random.permutation(observed)
    return np.ascontiguousarray(found)


@dataclass(frozen=True)
class KernelSums:
    """Sums over a kernel matrix without its diagonal, under each labelling z.

    Parameters
    ----------
    within_current
        zᵀKz, shape (1 + permutations,).
    touching_current
        zᵀK1, the same shape.
    total
        1ᵀK1.
    """

    within_current: npt.NDArray[np.float64]
    touching_current: npt.NDArray[np.float64]
    total: float


def unbiased_mmd2(sums: KernelSums, reference: int, current: int) -> Values:
    """Unbiased MMD² under each labelling (Gretton et al. 2012, equation 3).

    Mean of the kernel over pairs within the current sample, plus that within the reference, minus
    twice that between the two; no document is paired with itself.
    """
    between = sums.touching_current - sums.within_current
    within_reference = sums.total - 2 * sums.touching_current + sums.within_current
    return np.asarray(
        sums.within_current / (current * (current - 1))
        + within_reference / (reference * (reference - 1))
        - 2 * between / (reference * current)
    )


def contrasts(pooled: Pooled, labels: Labellings) -> Floats:
    """Weights that take the current sample's mean minus the reference's: 1/m, or −1/n."""
    found = labels * np.float32(1 / pooled.current + 1 / pooled.reference)
    found -= np.float32(1 / pooled.reference)
    return found


def mean_differences(features: Floats, weights: Floats) -> npt.NDArray[np.float64]:
    """Difference of the samples' mean features under each labelling; shape (k, 1 + permutations).

    Features are centred first: the difference does not change, and rounding shrinks.
    """
    return np.asarray((centred(features).T @ weights).astype(np.float64))
