"""What stored vectors show by themselves: zeros, dimensions that are dead, duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipelines.core.canaries import Canaries

__all__ = ["VectorFacts", "look_at_vectors"]

_ZERO = 1e-6
"""Length below which a vector counts as zero; unit vectors are 1."""

_DEAD = 1e-6
"""Largest value of a dead component over all unit vectors. Dead ones are about 1e-33, live ones
of 384 dimensions about 0.05."""

_REVIVED = 1e-4
"""A component that the canaries say is dead must stay below this, whatever the text."""

_LIVE = 1e-3
"""A component that is larger than this in some canary is alive."""

_MINIMUM_VECTORS = 100
"""Before a component that no vector uses is called dead."""

_COMPARED_VECTORS = 2000
"""Looked at for duplicates, at most: each is compared with each."""

_SAME = 1e-6
"""Cosine distance below which two vectors are the same: float32 gives one text up to 2e-7 in
batches of different sizes."""


@dataclass(frozen=True, slots=True)
class VectorFacts:
    """What a sample of stored vectors showed.

    Parameters
    ----------
    vectors
        In the sample.
    zeros
        Of length 0, or not finite.
    live, dead
        Dimensions that some vector of the sample uses, and that none does.
    revived
        Dimensions that are dead in every canary and alive here.
    died
        Dimensions that are alive in the canaries and dead in every vector of the sample.
    duplicate_ratio
        Share of vectors that are the same as an earlier one of the sample.
    """

    vectors: int
    zeros: int
    live: int
    dead: int
    revived: tuple[int, ...]
    died: tuple[int, ...]
    duplicate_ratio: float


def look_at_vectors(vectors: npt.NDArray[np.float32], canaries: Canaries) -> VectorFacts:
    """Compares a sample with the canaries' reference vectors.

    Parameters
    ----------
    vectors
        Shape (n, dimension), as they are stored.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    good = np.isfinite(lengths) & (lengths > _ZERO)
    sample = _unit(vectors[good])
    reference = _unit(canaries.document)
    used = _largest(sample)
    expected = _largest(reference)
    enough = len(sample) >= _MINIMUM_VECTORS
    died = (expected > _LIVE) & (used <= _DEAD) if enough else np.zeros(len(used), bool)
    revived = (expected <= _DEAD) & (used > _REVIVED)
    live = int((used > _DEAD).sum()) if len(sample) else 0
    return VectorFacts(
        vectors=len(vectors),
        zeros=int((~good).sum()),
        live=live,
        dead=len(used) - live if len(sample) else 0,
        revived=tuple(int(number) for number in np.flatnonzero(revived)),
        died=tuple(int(number) for number in np.flatnonzero(died)),
        duplicate_ratio=_duplicate_ratio(sample[:_COMPARED_VECTORS]),
    )


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return np.asarray(unit, np.float32)


def _largest(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not len(vectors):
        return np.zeros(vectors.shape[1], np.float32)
    return np.asarray(np.abs(vectors).max(axis=0))


def _duplicate_ratio(unit: npt.NDArray[np.float32]) -> float:
    if len(unit) < 2:
        return 0.0
    same = unit @ unit.T > 1 - _SAME
    earlier = np.tril(same, k=-1).any(axis=1)
    return float(earlier.mean())
