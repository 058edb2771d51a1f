"""Distance to the nearest neighbour."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from monitors.drift.arrays import Floats, Labellings, Values
from monitors.drift.base import Pooled
from monitors.drift.distances import Distances
from monitors.drift.permutations import contrasts, mean_differences

__all__ = ["NearestNeighbour"]


class NearestNeighbour:
    """|mean of d in the current sample − mean of d in the reference|: sees a few strange documents.

    d is a row's squared distance to its nearest neighbour in the pooled sample, whichever sample
    that one is of. Scattered documents of another domain move neither means nor covariances much,
    but each of them is far from everything: with 5 % of them among 500 this finds what the other
    statistics hardly see. Documents that repeat one another lie nearer than usual, so both signs
    count. Null hypothesis: both samples come from one distribution. Related: Schilling 1986,
    "Multivariate Two-Sample Tests Based on Nearest Neighbors", which counts labels instead.
    """

    NAME: ClassVar[str] = "nearest"

    def values(self, pooled: Pooled, labels: Labellings, between: Callable[[], None]) -> Values:
        """The absolute difference under each labelling."""
        distances = _nearest_squared_distances(pooled.distances, between)
        differences = mean_differences(distances[:, None], contrasts(pooled, labels))
        return np.asarray(np.abs(differences[0]))


def _nearest_squared_distances(distances: Distances, between: Callable[[], None]) -> Floats:
    """Of each row to the nearest other row; shape (n,)."""
    found = np.full(len(distances), np.inf, dtype=np.float32)
    for start, stop, block in distances.blocks(between, onward=True):
        np.minimum(found[start:stop], block.min(axis=1), out=found[start:stop])
        np.minimum(found[start:], block.min(axis=0), out=found[start:])
    return np.maximum(found, np.float32(0))
