"""Sums over a Gaussian kernel matrix, block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from monitors.drift.arrays import Labellings
from monitors.drift.distances import Distances
from monitors.drift.permutations import KernelSums

__all__ = ["gaussian_sums"]


def gaussian_sums(
    distances: Distances, labels: Labellings, sharpness: float, between: Callable[[], None]
) -> KernelSums:
    """Sums over exp(−c ‖x − y‖² / s), s the mean squared distance.

    Parameters
    ----------
    sharpness
        c. At 1 a pair at the mean distance counts 1/e.
    between
        Called between blocks.
    """
    scale = np.float32(-sharpness / distances.mean)
    # MMD² does not change when a constant is taken off the kernel; the sums lose fewer digits.
    shift = np.float32(np.exp(-sharpness))
    within = np.zeros(labels.shape[1])
    touching = np.zeros(labels.shape[1])
    total = 0.0
    ones = np.ones(len(distances), dtype=np.float32)
    for start, stop, block in distances.blocks(between, onward=True):
        kernel = block * scale
        np.exp(kernel, out=kernel)
        kernel -= shift
        width = stop - start
        # No document is paired with itself.
        np.fill_diagonal(kernel[:, :width], 0.0)
        # Every pair is met once off the diagonal block and twice within it.
        kernel[:, :width] *= np.float32(0.5)
        products = kernel @ labels[start:]
        mine = labels[start:stop]
        sums = (kernel @ ones[start:]).astype(np.float64)
        within += np.einsum("ij,ij->j", mine, products, dtype=np.float64)
        # zᵀK1 over unordered pairs: each pair counts once for either end that z marks.
        touching += sums @ mine
        touching += products.sum(axis=0, dtype=np.float64)
        total += float(sums.sum())
    return KernelSums(2.0 * within, touching, 2.0 * total)
