"""From two samples of stored vectors to one that can be tested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitors.drift.arrays import Floats
from monitors.drift.base import Pooled, SampleError

__all__ = ["LEAST_ROWS", "Prepared", "awakened_components", "checked", "live_components", "prepare"]

LEAST_ROWS = 20
"""Of each sample: below it even a moved encoder is hardly seen. The probe's own minimum is far
higher."""

_COPY_DISTANCE = 2e-3
"""Of the longest vector's length. Half precision moves a vector by 2e-3 at most (a cosine distance
of 1.5e-6), another batch or a second scaling by 1e-6; different texts are farther apart."""

_LINES = 4
"""Directions that copies must be close on before they are compared in full."""

_DEAD_RATIO = 1e-6
"""A component is dead when its spread is below this share of the typical component's. MiniLM's dead
ones are at 1e-32 of it, its weakest live ones at 1e-1."""

_AWAKE_RATIO = 1e-3
"""A dead component has come alive when a value is farther from the reference's than this share of
the typical spread: half precision moves it by 1e-6."""

_LEAST_SPREAD = 1e-12
"""Below it nothing varies at all."""


@dataclass(frozen=True)
class Prepared:
    """Two samples without duplicates, over the live components.

    Parameters
    ----------
    reference_rows, current_rows
        Rows of the given samples that were kept, ascending.
    """

    pooled: Pooled
    reference_rows: npt.NDArray[np.intp]
    current_rows: npt.NDArray[np.intp]
    live: npt.NDArray[np.bool_]
    awakened: tuple[int, ...]


def checked(vectors: npt.ArrayLike, name: str, least: int = LEAST_ROWS) -> Floats:
    """The sample as an array of float32, contiguous.

    Raises
    ------
    SampleError
        Not a table of finite numbers, or with fewer than `least` rows.
    """
    try:
        array = np.asarray(vectors)
    except ValueError as error:
        raise SampleError(f"the {name} sample is not a table: its rows differ in length") from error
    if array.ndim != 2 or array.shape[1] == 0:
        raise SampleError(
            f"the {name} sample has the shape {array.shape}; it must be (rows, components)"
        )
    if array.dtype.kind not in "fiu":
        raise SampleError(f"the {name} sample holds {array.dtype}; it must hold real numbers")
    if array.shape[0] < least:
        raise SampleError(
            f"the {name} sample has {array.shape[0]} rows; at least {least} are needed"
        )
    # A number too large for float32 becomes infinite here, and is refused below.
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(floats).all(axis=1))
    if bad.size:
        raise SampleError(
            f"the {name} sample has {bad.size} rows with a value that is not finite, the first "
            f"is row {bad[0]}; no such vector should have been stored"
        )
    return floats


def live_components(reference: Floats) -> npt.NDArray[np.bool_]:
    """Which components vary, by the reference alone; shape (components,).

    Looking at the current sample too would make the choice depend on the drift.
    """
    spread = reference.std(axis=0, dtype=np.float64)
    live: npt.NDArray[np.bool_] = spread > max(_DEAD_RATIO * _typical(spread), _LEAST_SPREAD)
    return live


def awakened_components(
    reference: Floats, current: Floats, live: npt.NDArray[np.bool_]
) -> tuple[int, ...]:
    """Components that are dead in the reference and not the same in the current sample."""
    dead = np.flatnonzero(~live)
    if not dead.size:
        return ()
    spread = reference.std(axis=0, dtype=np.float64)
    allowed = max(_AWAKE_RATIO * _typical(spread), _LEAST_SPREAD)
    constant = reference[:, dead].mean(axis=0, dtype=np.float64)
    moved = np.abs(current[:, dead] - constant).max(axis=0) > allowed
    return tuple(int(component) for component in dead[moved])


def prepare(
    reference: npt.ArrayLike, current: npt.ArrayLike, random: np.random.Generator
) -> Prepared:
    """Checks both samples, removes duplicates and dead components.

    Of each vector one copy stays, drawn at random among all its copies in both samples. Which
    sample keeps it is then as likely as each sample's share of the copies, so texts that are
    common in both stay exchangeable; keeping one in each sample would not, because the smaller
    sample has had fewer chances of holding one.

    Raises
    ------
    SampleError
        A sample is malformed or too small, also without its duplicates; the samples differ in
        their number of components; or no component varies.
    """
    old = checked(reference, "reference")
    new = checked(current, "current")
    if old.shape[1] != new.shape[1]:
        raise SampleError(
            f"the reference has {old.shape[1]} components and the current sample "
            f"{new.shape[1]}; vectors of two models cannot be compared"
        )
    kept = _one_of_each(np.concatenate([old, new]), random)
    reference_rows = kept[kept < len(old)]
    current_rows = kept[kept >= len(old)] - len(old)
    for name, rows, given in (
        ("reference", reference_rows, len(old)),
        ("current", current_rows, len(new)),
    ):
        if len(rows) < LEAST_ROWS:
            raise SampleError(
                f"the {name} sample has {given} rows, but only {len(rows)} without "
                f"duplicates of a vector; at least {LEAST_ROWS} are needed"
            )
    live = live_components(old[reference_rows])
    if not live.any():
        raise SampleError("no component of the reference varies; it holds one vector many times")
    pooled = np.concatenate([old[reference_rows][:, live], new[current_rows][:, live]])
    return Prepared(
        Pooled(pooled, len(reference_rows), len(current_rows)),
        reference_rows,
        current_rows,
        live,
        awakened_components(old[reference_rows], new[current_rows], live),
    )


def _typical(spread: npt.NDArray[np.float64]) -> float:
    """Median over the components that vary at all."""
    varying = spread[spread > _LEAST_SPREAD]
    return float(np.median(varying)) if varying.size else 0.0


def _one_of_each(vectors: Floats, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """Rows of one copy of each vector, drawn at random, ascending.

    Copies are equal within rounding: the same text encoded in another batch, or a stored vector
    that a store has scaled to unit length once more, differs in its last bits.
    """
    # Rows as opaque bytes compare many times faster than column by column. Adding zero makes
    # -0.0 and 0.0 one value.
    plain = np.ascontiguousarray(vectors + np.float32(0))
    keys = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).ravel()
    order = random.permutation(len(keys))
    _, value = np.unique(keys, return_inverse=True)
    _, first = np.unique(value[order], return_index=True)
    order = order[np.sort(first)]
    rows: npt.NDArray[np.intp] = np.sort(order[_first_of_each(vectors[order])])
    return rows


def _first_of_each(vectors: Floats) -> npt.NDArray[np.bool_]:
    """Which rows have no copy above them, shape (n,).

    Copies lie next to each other on any line: only neighbours on one are compared in full.
    """
    length = np.linalg.norm(vectors, axis=1).astype(np.float64)
    allowed = _COPY_DISTANCE * max(float(length.max(initial=0.0)), np.finfo(np.float64).tiny)
    # Any fixed directions will do, and fixed ones leave the caller's generator as it is.
    directions = np.random.default_rng(0).standard_normal((vectors.shape[1], _LINES))
    places = vectors.astype(np.float64) @ (directions / np.linalg.norm(directions, axis=0))
    order = np.argsort(places[:, 0], kind="stable")
    first = np.arange(len(vectors))
    places = places[order]
    near = np.arange(len(order))
    for step in range(1, len(order)):
        # Who is not close to the next one on the line is not close to the one after it.
        near = near[: np.searchsorted(near, len(order) - step)]
        near = near[places[near + step, 0] - places[near, 0] <= allowed]
        if not near.size:
            break
        close = (np.abs(places[near + step, 1:] - places[near, 1:]) <= allowed).all(axis=1)
        left, right = order[near[close]], order[near[close] + step]
        apart = np.linalg.norm(vectors[left].astype(np.float64) - vectors[right], axis=1)
        # The least row number among the copies found so far stands for them all.
        for one, other in zip(left[apart <= allowed], right[apart <= allowed], strict=True):
            first[one] = first[other] = min(first[one], first[other])
    return np.asarray(first == np.arange(len(vectors)))
