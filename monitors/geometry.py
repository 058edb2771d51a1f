"""Figures of a cloud of vectors: how it uses its space, and who stands near whom.

All take vectors of unit length, shape (n, dimension), and none is a test: they are looked at over
time. Zero vectors and exact duplicates are for the caller to take out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

__all__ = [
    "alignment",
    "effective_rank",
    "k_occurrence",
    "mean_pairwise_cosine",
    "skewness",
    "uniformity",
    "unit",
]

_BLOCK = 512
"""Rows of a similarity matrix held at a time: 10 MB at 5,000 columns."""


def unit(vectors: Vectors) -> Vectors:
    """Scaled to unit length, zero vectors left out."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    kept = norms > 0
    scaled: Vectors = (vectors[kept] / norms[kept, None]).astype(np.float32)
    return scaled


def mean_pairwise_cosine(vectors: Vectors) -> float:
    """Mean cosine of all pairs of different rows: 0 in an isotropic cloud, 1 where all are equal.

    (|Σ x|² - n) / (n (n - 1)), without a matrix.
    """
    count = len(vectors)
    total = vectors.sum(axis=0, dtype=np.float64)
    return float((total @ total - count) / (count * (count - 1)))


def uniformity(vectors: Vectors, t: float = 2.0) -> float:
    """Uniformity, log E exp(-t |x - y|²) over pairs of rows (Wang and Isola 2020).

    Lower is wider: 0 where all are equal, about 2 t² / dimension - 2 t on a uniform cloud (-3.98
    at 384 dimensions with t = 2).
    """
    count = len(vectors)
    total = 0.0
    for start in range(0, count, _BLOCK):
        squared = 2 - 2 * (vectors[start : start + _BLOCK] @ vectors.T)
        total += float(np.exp(-t * np.maximum(squared, 0.0), dtype=np.float64).sum())
    return float(np.log((total - count) / (count * (count - 1))))


def alignment(first: Vectors, second: Vectors, alpha: float = 2.0) -> float:
    """Mean |x - y| ** alpha over pairs that belong together (Wang and Isola 2020): lower is closer.

    Parameters
    ----------
    first, second
        Row by row a pair.
    """
    distance = np.linalg.norm(first.astype(np.float64) - second.astype(np.float64), axis=1)
    return float(np.mean(distance**alpha))


def effective_rank(vectors: Vectors) -> float:
    """Effective rank: exp of the entropy of the normalised singular values (Roy, Vetterli 2007).

    Of the centred matrix: a cloud that is narrow around its mean still spans what it varies in.
    From 1 (a line) to the dimension; 0 where all rows are equal.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values = np.linalg.svd(centred, compute_uv=False)
    total = values.sum()
    # Rounding of float32 inputs leaves about this much where all rows are equal.
    if total <= 1e-6 * np.sqrt(len(vectors)):
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))


def k_occurrence(vectors: Vectors, k: int = 10) -> npt.NDArray[np.int64]:
    """How often each row is among the k nearest of the others (Radovanović et al. 2010)."""
    count = len(vectors)
    found = np.zeros(count, np.int64)
    for start in range(0, count, _BLOCK):
        block = vectors[start : start + _BLOCK] @ vectors.T
        rows = np.arange(len(block))
        block[rows, start + rows] = -np.inf
        nearest = np.argpartition(-block, k - 1, axis=1)[:, :k]
        found += np.bincount(nearest.ravel(), minlength=count)
    return found


def skewness(values: npt.NDArray[np.int64]) -> float:
    """Third standardised moment; of k-occurrence, hubness. 0 where all are equal."""
    from scipy import stats

    return float(stats.skew(values)) if np.ptp(values) else 0.0
