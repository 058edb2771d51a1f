"""Distances that the detectors share, kept or computed block by block."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from monitors.drift import distances as module
from monitors.drift.arrays import centred
from monitors.drift.axes import principal_axes
from monitors.drift.distances import Distances
from monitors.drift.gaussian import gaussian_sums
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
    """Each row to all rows, or onward, whatever the number of blocks."""
    vectors = sample(rows)
    distances = Distances(centred(vectors), keep=keep)
    expected = exact(vectors)
    whole = np.full((rows, rows), np.nan, dtype=np.float32)
    for start, stop, block in distances.blocks(lambda: None, onward=False):
        whole[start:stop] = block
    assert np.allclose(whole, expected, rtol=1e-5, atol=1e-5)
    for start, stop, block in distances.blocks(lambda: None, onward=True):
        assert np.allclose(block, expected[start:stop, start:], rtol=1e-5, atol=1e-5)
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
        np.concatenate([sample(64, seed=2) * 40, sample(600) * 0.01]),
        np.repeat(sample(3), 300, axis=0),
    ],
    ids=["one cloud", "a far group", "far ones first", "three points"],
)
def test_the_farthest_rows_are_found_exactly(vectors, keep):
    """Distances to the k-th neighbour: exact among the farthest twentieth, no more below them."""
    check_farthest(vectors, keep)


def check_farthest(vectors, keep):
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


@pytest.mark.parametrize("keep", [True, False])
def test_all_rows_are_looked_at_where_the_judges_misled(keep, monkeypatch):
    """The rows by which what is near is judged are the farthest: few others lie beyond them."""
    vectors = sample(2_000)
    judges = np.linspace(0, 1_999, 128).astype(np.intp)
    vectors[judges] *= np.linspace(5, 40, 128, dtype=np.float32)[:, None]
    looked = []
    real = Distances.blocks

    def counted(self, between, *, onward):
        looked.append(onward)
        return real(self, between, onward=onward)

    monkeypatch.setattr(Distances, "blocks", counted)
    check_farthest(vectors, keep)
    assert looked == [False, False]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("rows", [40, 256, 257, 700])
@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_kernel_sums_are_those_of_the_whole_matrix(rows, keep, sharpness):
    """Whatever the number of blocks, and wherever the current sample's rows are."""
    vectors = sample(rows)
    distances = Distances(centred(vectors), keep=keep)
    random = np.random.default_rng(3)
    labels = (random.random((rows, 9)) < 0.4).astype(np.float32)
    sums = gaussian_sums(distances, labels, sharpness, lambda: None)
    squared = exact(vectors)
    mean = squared[np.triu_indices(rows, 1)].mean()
    kernel = np.exp(-sharpness * squared / mean) - np.exp(-sharpness)
    np.fill_diagonal(kernel, 0.0)
    wide = labels.astype(np.float64)
    scale = 1e-6 * np.abs(kernel).sum()
    assert np.allclose(sums.within_current, ((kernel @ wide) * wide).sum(axis=0), atol=scale)
    assert np.allclose(sums.touching_current, kernel.sum(axis=1) @ wide, atol=scale)
    assert sums.total == pytest.approx(kernel.sum(), abs=scale)


@pytest.mark.parametrize("factor", [1, 100, 3_000])
def test_axes_are_found_beside_one_that_dominates(factor):
    """One component with a spread thousands of times the others' does not hide them."""
    vectors = np.random.default_rng(4).normal(size=(900, 120)).astype(np.float32)
    vectors[:, 0] *= factor
    axes = principal_axes(centred(vectors), 64)
    assert axes.scores.shape == (900, 64)
    assert (np.diff(axes.variances) <= 0).all()
    measured = (axes.scores.astype(np.float64) ** 2).mean(axis=0)
    assert np.allclose(measured[1:], axes.variances[1:], rtol=0.02)
    exactly = np.linalg.eigvalsh(np.cov(vectors.astype(np.float64), rowvar=False, bias=True))
    assert np.allclose(axes.variances, exactly[::-1][:64], rtol=0.02)
