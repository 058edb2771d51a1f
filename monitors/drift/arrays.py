"""The arrays that detectors share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Labellings", "Values", "centred"]

Floats = npt.NDArray[np.float32]
"""Vectors or features, one a row."""

Labellings = npt.NDArray[np.float32]
"""Shape (n, 1 + permutations): 1 where a row counts as current, 0 where it counts as reference.
The first column is what was observed."""

Values = npt.NDArray[np.float64]
"""Shape (1 + permutations,): a statistic under each labelling, the observed one first."""


def centred(rows: Floats) -> Floats:
    """The rows with their mean at the origin."""
    return np.asarray(rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32))
