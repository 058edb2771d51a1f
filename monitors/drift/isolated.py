"""Documents that are far from everything but a few like them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from monitors.drift.arrays import Floats, Labellings, Values
from monitors.drift.base import Pooled
from monitors.drift.distances import Distances
from monitors.drift.permutations import contrasts, mean_differences

__all__ = ["Isolated"]

_NEIGHBOUR = 0.1
"""Number of the neighbour, as a share of the smaller sample: so many documents of a foreign domain,
which are one another's nearest, do not hide each other."""

_SHARE = 0.05
"""Of the pooled sample that counts as isolated."""

_LOOKED_AT = 0.15
"""Share of the sample that is looked at closely: more than are isolated, so that these are among
them."""

_FEW = 128
"""Rows by which what is near is judged: so many hit the share of the sample within .03."""


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
        distances = _to_neighbour(pooled.distances, number, between)
        others = np.quantile(distances, 1 - _SHARE)
        excess = np.maximum(distances - np.float32(others), np.float32(0))
        return np.asarray(mean_differences(excess[:, None], contrasts(pooled, labels))[0])


def _to_neighbour(distances: Distances, number: int, between: Callable[[], None]) -> Floats:
    """Squared distance of each row to its neighbour of this number, from 1; shape (n,).

    Exact for the rows that are among the farthest `_SHARE`, and for the rest no more than theirs:
    to find the neighbour of a row takes long, to see that it is near does not.
    """
    few = np.linspace(0, len(distances) - 1, min(_FEW, len(distances))).astype(np.intp)
    near = np.quantile(_exactly(distances.of(few), number), 1 - _LOOKED_AT)
    found = np.full(len(distances), near, dtype=np.float32)
    far = 0
    for start, _, block in distances.blocks(between, onward=False):
        rows = np.flatnonzero(np.count_nonzero(block <= near, axis=1) < number)
        found[start + rows] = _exactly(block[rows], number)
        far += len(rows)
    if far > _SHARE * len(distances) + 1:
        return found
    for start, stop, block in distances.blocks(between, onward=False):
        found[start:stop] = _exactly(block.copy(), number)
    return found


def _exactly(block: Floats, number: int) -> Floats:
    """The distance of this number in each row; moves what is in `block`."""
    block.partition(number - 1, axis=1)
    return np.asarray(block[:, number - 1])
