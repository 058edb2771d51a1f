"""Sums over Gaussian kernel matrices, block by block, so that no whole matrix is ever held."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from monitors.drift.arrays import Floats, Labellings
from monitors.drift.permutations import KernelSums

__all__ = ["gaussian_sums", "mean_squared_distance"]

_BLOCK = 512
"""Rows at a time: a block of 512 by 10,000 in float32 takes 20 MB."""


def mean_squared_distance(vectors: Floats) -> float:
    """Mean of ‖x − y‖² over all pairs of two rows.

    In place of the median, which it is close to in many dimensions: it has a closed form and
    does not depend on the order of the rows, so that permuting labels stays exact.
    """
    wide = vectors.astype(np.float64)
    return float(2.0 * wide.var(axis=0, ddof=1).sum())


def gaussian_sums(
    vectors: Floats,
    labels: Labellings,
    halvings: Sequence[int],
    between: Callable[[], None],
) -> list[KernelSums]:
    """Sums over exp(−2ʰ ‖x − y‖² / s), s the mean squared distance, for each h of `halvings`.

    Parameters
    ----------
    halvings
        How often the squared bandwidth is halved, ascending from 0: the kernel squared.
    between
        Called between blocks.
    """
    rows = len(vectors)
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    squared = np.einsum("ij,ij->i", centred, centred)
    scale = np.float32(1.0 / mean_squared_distance(vectors))
    # MMD² does not change when a constant is taken off the kernel; the sums lose fewer digits.
    shifts = [np.float32(np.exp(-(2.0**halving))) for halving in halvings]
    within = np.zeros((len(halvings), labels.shape[1]))
    touching = np.zeros_like(within)
    totals = np.zeros(len(halvings))
    for start in range(0, rows, _BLOCK):
        between()
        stop = min(start + _BLOCK, rows)
        # The matrix is symmetric: a block row from its diagonal block on.
        kernel = centred[start:stop] @ (centred[start:] * (2 * scale)).T
        kernel -= (squared[start:stop] * scale)[:, None]
        kernel -= (squared[start:] * scale)[None, :]
        np.exp(kernel, out=kernel)
        done = 0
        for number, (halving, shift) in enumerate(zip(halvings, shifts, strict=True)):
            for _ in range(halving - done):
                np.multiply(kernel, kernel, out=kernel)
            done = halving
            block = kernel - shift
            width = stop - start
            np.fill_diagonal(block[:, :width], 0.0)
            # Every pair is met once off the diagonal block and twice within it.
            block[:, :width] *= np.float32(0.5)
            _add(block, labels, start, stop, within[number], touching[number])
            totals[number] += 2.0 * float(block.sum(dtype=np.float64))
    return [
        KernelSums(2.0 * within[number], touching[number], float(totals[number]))
        for number in range(len(halvings))
    ]


def _add(
    block: Floats,
    labels: Labellings,
    start: int,
    stop: int,
    within: npt.NDArray[np.float64],
    touching: npt.NDArray[np.float64],
) -> None:
    """Adds what a block row gives to zᵀKz / 2 and to zᵀK1."""
    products = block @ labels[start:]
    mine = labels[start:stop]
    within += np.einsum("ij,ij->j", mine, products, dtype=np.float64)
    # zᵀK1 over unordered pairs: each pair counts once for either end that z marks.
    touching += block.sum(axis=1, dtype=np.float64) @ mine
    touching += products.sum(axis=0, dtype=np.float64)
