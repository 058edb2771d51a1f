"""Distances that the detectors share, kept or computed block by block."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from monitors.drift import distances as module
from monitors.drift.arrays import centred
from monitors.drift.distances import Distances
from monitors.drift.isolated import _to_neighbour


def sample(rows, components=12, seed=0):
    """Around a point that is not the origin."""
    found = np.random.default_rng(seed).normal(size=(rows, components)) + 3.0
    return found.astype(np.float32)


def exact(vectors):
    """In float64, no row near itself."""
    found = cdist(vectors.astype(np.float64), vectors.astype(np.float64), "sqeuclidean")
    np.fill_diagonal(found, np.inf)
    return found


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("rows", [2, 255, 256, 257, 700])
def test_blocks_make_the_whole_matrix(rows, keep):
    """Each row to all rows, and onward each pair once, whatever the number of blocks."""
    vectors = sample(rows)
    distances = Distances(centred(vectors), keep=keep)
    expected = exact(vectors)
    whole = np.full((rows, rows), np.nan, dtype=np.float32)
    for start, stop, block in distances.blocks(lambda: None, onward=False):
        whole[start:stop] = block
    assert np.allclose(whole, expected, rtol=1e-5, atol=1e-5)
    onward = np.full((rows, rows), np.nan, dtype=np.float32)
    for start, stop, block in distances.blocks(lambda: None, onward=True):
        onward[start:stop, start:] = block
    upper = np.triu_indices(rows)
    assert np.allclose(onward[upper], expected[upper], rtol=1e-5, atol=1e-5)
    assert np.allclose(distances.of(np.array([rows - 1])), expected[-1:], rtol=1e-5, atol=1e-5)


def test_the_mean_is_over_pairs_of_two_rows():
    """By its closed form."""
    vectors = sample(90)
    mean = Distances(centred(vectors), keep=False).mean
    assert mean == pytest.approx(exact(vectors)[np.triu_indices(90, 1)].mean(), rel=1e-6)


@pytest.mark.parametrize(("keep", "products"), [(True, 1), (False, 2)])
def test_kept_distances_are_computed_once(monkeypatch, keep, products):
    """For the second who asks too; without `keep` they are not held."""
    distances = Distances(centred(sample(60)), keep=keep)
    made = []
    for name in ("_whole", "_computed"):
        real = getattr(Distances, name)
        monkeypatch.setattr(
            Distances, name, lambda *given, real=real: made.append(1) or real(*given)
        )
    for _ in range(2):
        list(distances.blocks(lambda: None, onward=True))
    assert len(made) == products


def test_large_samples_are_not_held(monkeypatch):
    """Above so many rows memory is bounded by a block."""
    monkeypatch.setattr(module, "_HELD", 50)
    distances = Distances(centred(sample(60)), keep=True)
    list(distances.blocks(lambda: None, onward=True))
    assert distances._held is None


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    "vectors",
    [
        sample(900),
        np.concatenate([sample(860), 9 + 0.1 * sample(40, seed=1)]),
        # The rows by which what is near is judged are all far: no row is beyond them.
        np.concatenate([sample(64, seed=2) * 40, sample(600) * 0.01]),
        np.repeat(sample(3), 300, axis=0),
    ],
    ids=["one cloud", "a far group", "far ones first", "three points"],
)
def test_the_farthest_rows_are_found_exactly(vectors, keep):
    """Distances to the k-th neighbour: exact among the farthest twentieth, no more below them."""
    distances = Distances(centred(vectors), keep=keep)
    number = 30
    found = _to_neighbour(distances, number, lambda: None)
    expected = np.sort(exact(vectors), axis=1)[:, number - 1]
    bound = np.quantile(expected, 0.95)
    tolerance = 1e-5 * float((centred(vectors) ** 2).sum(axis=1).max())
    assert np.quantile(found, 0.95) == pytest.approx(bound, rel=1e-4, abs=tolerance)
    far = expected > bound
    assert np.allclose(found[far], expected[far], rtol=1e-4, atol=tolerance)
    assert (found[~far] <= bound + 2 * tolerance).all()
