"""Squared distances between all rows of a sample, for all detectors that look at pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from monitors.drift.arrays import Floats

__all__ = ["Distances"]

_BLOCK = 256
"""Rows at a time: a block of 256 by 10,000 in float32 takes 10 MB."""

_HELD = 3_072
"""Rows up to which the whole matrix is kept for the next who asks: 38 MB of float32. A window of
1,000 against a reference of 2,000 takes it. Above, every detector has its blocks computed anew."""


class Distances:
    """‖x − y‖² for all pairs of rows, in float32; a row is infinitely far from itself.

    So no row is its own neighbour, and its own kernel value is 0. Nothing is computed before it is
    asked for, and no more than 38 MB are kept.

    Parameters
    ----------
    centred
        Shape (n, components), their mean at the origin: differences of large numbers would lose
        digits.
    keep
        Whether others will ask for the same distances.
    """

    def __init__(self, centred: Floats, *, keep: bool) -> None:
        self._centred = centred
        self._squared = np.einsum("ij,ij->i", centred, centred)
        self._keep = keep and len(centred) <= _HELD
        self._held: Floats | None = None

    def __len__(self) -> int:
        return len(self._centred)

    @property
    def mean(self) -> float:
        """Over all pairs of two rows.

        It does not depend on the order of the rows, as neither does the median, which it is close
        to in many dimensions; and it has a closed form.
        """
        return float(2.0 * self._squared.sum(dtype=np.float64) / (len(self) - 1))

    def of(self, rows: npt.NDArray[np.intp]) -> Floats:
        """From these rows to all, shape (rows, n): the caller's own."""
        if self._held is not None:
            return np.asarray(self._held[rows])
        return self._computed(rows, 0)

    def blocks(
        self, between: Callable[[], None], *, onward: bool
    ) -> Iterator[tuple[int, int, Floats]]:
        """Rows `start` to `stop` of the matrix: (start, stop, block), to be read only.

        Parameters
        ----------
        between
            Called before each block.
        onward
            Columns from `start` on alone: the matrix is symmetric, so that these meet every pair
            once, but for those within the block itself, which they meet twice.
        """
        between()
        if self._held is None and self._keep:
            self._held = self._whole()
        for start in range(0, len(self), _BLOCK):
            between()
            stop = min(start + _BLOCK, len(self))
            first = start if onward else 0
            if self._held is not None:
                yield start, stop, self._held[start:stop, first:]
                continue
            yield start, stop, self._computed(np.arange(start, stop), first)

    def _computed(self, rows: npt.NDArray[np.intp], first: int) -> Floats:
        """From these rows to those from `first` on."""
        block: Floats = (-2 * self._centred[rows]) @ self._centred[first:].T
        block += self._squared[rows][:, None]
        block += self._squared[None, first:]
        block[np.arange(len(rows)), rows - first] = np.inf
        return block

    def _whole(self) -> Floats:
        # A product of a matrix with its own transpose is half the work, and exactly symmetric.
        doubled = self._centred * np.float32(np.sqrt(2))
        whole: Floats = doubled @ doubled.T
        for start in range(0, len(whole), _BLOCK):
            block = whole[start : start + _BLOCK]
            np.subtract(self._squared[None, :], block, out=block)
            block += self._squared[start : start + _BLOCK, None]
        np.fill_diagonal(whole, np.inf)
        return whole
