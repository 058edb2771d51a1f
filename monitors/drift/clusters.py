"""Groups of alike vectors: spherical k-means, small and seeded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitors.drift.arrays import Floats

__all__ = ["Clusters", "cluster"]

_CLUSTERS = 16
"""Enough to tell a corpus' topics apart, few enough that a share can be estimated from 500 rows."""

_ROUNDS = 15


@dataclass(frozen=True)
class Clusters:
    """Centres, shape (k, components), of length one, and the number of each row's centre."""

    centres: Floats
    members: npt.NDArray[np.intp]


def cluster(vectors: Floats, random: np.random.Generator, clusters: int = _CLUSTERS) -> Clusters:
    """Groups vectors of length one by their cosine.

    SciPy's `kmeans2` groups by Euclidean distance and leaves centres inside the sphere; on it the
    two agree only after normalising the centres in every round, which is what this does. It begins
    with rows drawn as k-means++ draws them.
    """
    clusters = min(clusters, len(vectors))
    centres = _first_centres(vectors, clusters, random)
    members = np.zeros(len(vectors), dtype=np.intp)
    for number in range(_ROUNDS):
        found = np.argmax(vectors @ centres.T, axis=1)
        if number and np.array_equal(found, members):
            break
        members = found
        for own in range(clusters):
            rows = vectors[members == own]
            if len(rows):
                centre = rows.sum(axis=0, dtype=np.float64)
                length = float(np.linalg.norm(centre))
                if length > 0:
                    centres[own] = centre / length
    return Clusters(centres, members)


def _first_centres(vectors: Floats, clusters: int, random: np.random.Generator) -> Floats:
    rows = [int(random.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    while len(rows) < clusters:
        distance = np.minimum(distance, 1.0 - vectors @ vectors[rows[-1]].astype(np.float64))
        weight = np.maximum(distance, 0.0)
        total = float(weight.sum())
        if total <= 0:
            break
        rows.append(int(random.choice(len(vectors), p=weight / total)))
    return vectors[rows].copy()
