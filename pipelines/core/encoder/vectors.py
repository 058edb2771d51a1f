"""From what the model puts out to what may be stored: check, truncate, normalise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["finish"]

_SMALLEST_NORM = 1e-12
"""Below this a direction is noise; the library's own normalisation stops dividing here too."""


def finish(
    raw: npt.NDArray[np.float32], *, truncate_dim: int | None, normalize: bool
) -> tuple[npt.NDArray[np.float32], dict[int, str]]:
    """Vectors as the contract wants them, and the rows that have none.

    Parameters
    ----------
    raw
        Shape (n, dimension of the model), float32: the model's output before normalisation.
    truncate_dim
        Keep the first so many components.
    normalize
        Scale to unit length, after the truncation.

    Returns
    -------
    vectors, shape (n, dimension), float32, zero where refused; row to reason.
    """
    vectors = raw[:, :truncate_dim].astype(np.float64)
    finite = np.asarray(np.isfinite(raw).all(axis=1))
    vectors[~finite] = 0.0
    # In float64 the square of a large float32 does not overflow, nor that of a small one vanish.
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    refused: dict[int, str] = {}
    for row in np.flatnonzero(~finite | (norms < _SMALLEST_NORM)).tolist():
        if finite[row]:
            refused[row] = f"the model's vector has length {norms[row]:.3g}"
        else:
            kind = "NaN" if np.isnan(raw[row]).any() else "infinity"
            refused[row] = f"the model's vector contains {kind}"
        vectors[row] = 0.0
        norms[row] = 1.0
    if normalize:
        vectors /= norms[:, None]
    return vectors.astype(np.float32), refused
