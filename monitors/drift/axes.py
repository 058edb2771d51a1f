"""Principal axes of the pooled sample: the same under every labelling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from monitors.drift.arrays import Floats

__all__ = ["Axes", "principal_axes"]

_LEAST_SHARE = 1e-6
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


def principal_axes(centred: Floats, most: int) -> Axes:
    """The `most` leading axes of these rows, or as many as there are."""
    covariance = centred.T @ centred
    width = len(covariance)
    found = eigh(covariance, subset_by_index=[max(0, width - most), width - 1])
    scores = np.ascontiguousarray(centred @ found[1][:, ::-1])
    # Of the scores themselves, whose units they are: more exact than what was found in float32.
    variances = np.einsum("ij,ij->j", scores, scores, dtype=np.float64) / len(scores)
    keep = variances > _LEAST_SHARE * variances.max()
    return Axes(np.ascontiguousarray(scores[:, keep]), variances[keep])
