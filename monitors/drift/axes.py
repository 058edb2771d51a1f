"""Principal axes of the pooled sample: the same under every labelling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitors.drift.arrays import Floats

__all__ = ["Axes", "principal_axes"]

_LEAST_SHARE = 1e-9
"""Axes with less than this share of the largest variance are rounding noise."""


@dataclass(frozen=True)
class Axes:
    """Rows along the leading principal axes.

    Parameters
    ----------
    scores
        Shape (n, k): the centred rows' coordinates.
    variances
        Shape (k,), of the pooled sample along each axis, descending.
    """

    scores: Floats
    variances: npt.NDArray[np.float64]

    def leading(self, axes: int) -> Axes:
        """The first ones only."""
        return Axes(np.ascontiguousarray(self.scores[:, :axes]), self.variances[:axes])


def principal_axes(vectors: Floats, most: int) -> Axes:
    """The `most` leading axes of these rows, or as many as there are."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64) / len(centred)
    variances, vectors = np.linalg.eigh(covariance)
    keep = np.argsort(variances)[::-1][:most]
    keep = keep[variances[keep] > _LEAST_SHARE * variances[keep[0]]]
    scores = centred @ vectors[:, keep].astype(np.float32)
    return Axes(np.ascontiguousarray(scores), variances[keep])
