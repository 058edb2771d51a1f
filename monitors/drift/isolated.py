"""Documents that are far from everything but a few like them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from monitors.drift.arrays import Floats, Labellings, Values
from monitors.drift.base import Pooled
from monitors.drift.permutations import contrasts, mean_differences

__all__ = ["Isolated"]

_BLOCK = 512

_NEIGHBOUR = 0.1
"""Number of the neighbour, as a share of the smaller sample: so many documents of a foreign domain,
which are one another's nearest, do not hide each other."""

_SHARE = 0.05
"""Of the pooled sample that counts as isolated."""


class Isolated:
    """How isolated the current sample's rows are − those of the reference: sees a new domain.

    Isolated is the twentieth of the pooled sample with the farthest k-th neighbour, k a tenth of
    the smaller sample, each row by what its squared distance has above all others'. A few documents
    of a foreign domain move means and covariances little, and have each other for nearest
    neighbours; their k-th one is far. Less isolation than usual does not count: other statistics
    see what is narrower. Null hypothesis: both samples come from one distribution. Related:
    Ramaswamy, Rastogi and Shim 2000, "Efficient algorithms for mining outliers from large data
    sets", whose ranking this is.
    """

    NAME: ClassVar[str] = "isolated"

    def values(self, pooled: Pooled, labels: Labellings, between: Callable[[], None]) -> Values:
        """The difference of the means under each labelling."""
        number = max(1, round(_NEIGHBOUR * min(pooled.reference, pooled.current)))
        distances = _squared_distances(pooled.vectors, number, between)
        others = np.quantile(distances, 1 - _SHARE)
        excess = np.maximum(distances - np.float32(others), np.float32(0))
        return np.asarray(mean_differences(excess[:, None], contrasts(pooled, labels))[0])


def _squared_distances(vectors: Floats, number: int, between: Callable[[], None]) -> Floats:
    """Of each row to its neighbour of this number, from 1; shape (n,)."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    squared = np.einsum("ij,ij->i", centred, centred)
    found = np.empty(len(centred), dtype=np.float32)
    for start in range(0, len(centred), _BLOCK):
        between()
        stop = min(start + _BLOCK, len(centred))
        block = centred[start:stop] @ (-2 * centred).T
        block += squared[None, :]
        # A row is the nearest to itself, and so not among the `number` that follow.
        block[np.arange(stop - start), np.arange(start, stop)] = -np.inf
        block.partition(number, axis=1)
        found[start:stop] = block[:, number] + squared[start:stop]
    return found
