"""Principal axes of the pooled sample: the same under every labelling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from monitors.drift.arrays import Floats

__all__ = ["Axes", "principal_axes"]

_LEAST_SHARE = 1e-9
"""Axes with less than this share of the largest variance are rounding noise."""

_SINGLE_SHARE = 1e-3
"""Share of the largest variance down to which axes are found in float32, which takes half the time;
below it they would be told apart less and less well."""


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
    wanted = [max(0, width - most), width - 1]
    powers, directions = eigh(covariance, subset_by_index=wanted)
    if powers[0] < _SINGLE_SHARE * powers[-1]:
        powers, directions = eigh(covariance.astype(np.float64), subset_by_index=wanted)
    variances = powers[::-1].astype(np.float64) / len(centred)
    keep = variances > _LEAST_SHARE * variances[0]
    scores = centred @ directions[:, ::-1][:, keep].astype(np.float32)
    return Axes(np.ascontiguousarray(scores), variances[keep])
