"""The geometry probe, and the figures against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitors import geometry
from monitors.probes.base import Level
from monitors.probes.geometry import GeometryProbe
from tests.support.corpora import Document
from tests.support.probing import Seeded, Watched, values_of


@pytest.fixture(scope="module")
def cloud():
    generator = np.random.default_rng(3)
    return geometry.unit(generator.normal(size=(700, 48)).astype(np.float32) + 0.2)


def test_mean_pairwise_cosine_is_that_of_all_pairs(cloud) -> None:
    cosines = (cloud @ cloud.T)[~np.eye(len(cloud), dtype=bool)]
    assert geometry.mean_pairwise_cosine(cloud) == pytest.approx(cosines.mean(), abs=1e-6)


def test_uniformity_is_that_of_all_pairs(cloud) -> None:
    squared = ((cloud[:, None, :].astype(np.float64) - cloud[None]) ** 2).sum(axis=2)
    wanted = np.log(np.exp(-2 * squared)[~np.eye(len(cloud), dtype=bool)].mean())
    assert geometry.uniformity(cloud) == pytest.approx(wanted, abs=1e-5)
    wide = geometry.unit(np.random.default_rng(1).normal(size=(1500, 384)).astype(np.float32))
    assert geometry.uniformity(wide) == pytest.approx(8 / 384 - 4, abs=0.01)


def test_effective_rank_counts_directions() -> None:
    """Five directions used alike give five; one more, used little, gives a little more."""
    generator = np.random.default_rng(5)
    basis = np.linalg.qr(generator.normal(size=(40, 40)))[0]
    used = generator.choice([-1.0, 1.0], size=(4000, 5)) @ basis[:5]
    assert geometry.effective_rank(used.astype(np.float32)) == pytest.approx(5, rel=0.01)
    more = used + 0.1 * generator.normal(size=(4000, 1)) * basis[5]
    assert 5.1 < geometry.effective_rank(more.astype(np.float32)) < 6
    assert geometry.effective_rank(np.ones((50, 8), np.float32)) == 0.0


def test_k_occurrence_is_that_of_all_pairs(cloud) -> None:
    cosines = cloud @ cloud.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1)[:, :10]
    wanted = np.bincount(nearest.ravel(), minlength=len(cloud))
    found = geometry.k_occurrence(cloud, 10)
    np.testing.assert_array_equal(found, wanted)
    assert geometry.skewness(found) == pytest.approx(stats.skew(wanted))
    assert geometry.skewness(np.full(9, 10)) == 0.0


def test_alignment_is_the_mean_squared_distance(cloud) -> None:
    assert geometry.alignment(cloud[:10], cloud[:10]) == 0.0
    found = geometry.alignment(cloud[:10], cloud[10:20])
    cosines = (cloud[:10] * cloud[10:20]).sum(axis=1)
    assert found == pytest.approx((2 - 2 * cosines).mean(), abs=1e-6)


def _documents(count: int, text: str = "text {n}") -> list[Document]:
    return [Document(f"d/{n}", "", text.format(n=n)) for n in range(count)]


def test_a_space_that_is_used_is_measured(tmp_path) -> None:
    with Watched(tmp_path, encoder=Seeded(32)) as index:
        index.write(_documents(200))
        result = index.run(GeometryProbe())
    assert (result.level, result.reason) == (Level.OK, "measured")
    rank = values_of(result, "plumbline_geometry_effective_rank")[()]
    assert 25 < rank <= 32
    assert abs(values_of(result, "plumbline_geometry_mean_pairwise_cosine")[()]) < 0.02
    assert values_of(result, "plumbline_geometry_sampled_vectors") == {(): 200.0}
    assert values_of(result, "plumbline_geometry_alignment") == {}


def test_one_vector_for_all_is_a_warning(tmp_path) -> None:
    """What writes them does not read the text."""
    with Watched(tmp_path, encoder=Seeded(32)) as index:
        index.write(_documents(80, "the same"))
        result = index.run(GeometryProbe())
    assert (result.level, result.reason) == (Level.WARNING, "all_equal")


def test_a_collapsed_space_is_a_warning(tmp_path) -> None:
    """Every vector nearly the same one."""

    class Narrow(Seeded):
        def _vector(self, text):
            vector = 0.02 * super()._vector(text)
            vector[0] += 1
            return vector / np.linalg.norm(vector)

    with Watched(tmp_path, encoder=Narrow(32)) as index:
        index.write(_documents(100))
        result = index.run(GeometryProbe())
    assert (result.level, result.reason) == (Level.WARNING, "collapsed")


def test_too_few_documents_or_none_are_undecided(tmp_path) -> None:
    with Watched(tmp_path, encoder=Seeded(32)) as index:
        assert index.run(GeometryProbe()).reason == "empty_index"
        index.write(_documents(20))
        result = index.run(GeometryProbe())
        assert (result.level, result.reason) == (Level.UNDECIDED, "small_sample")
        # Copies make no sample of them.
        index.write([Document(f"copy/{n}", "", "text 1") for n in range(60)])
        assert index.run(GeometryProbe()).reason == "small_sample"


GOLDEN = """\
version: 1
queries:
  - {id: a, text: "text 3", judged: {d/3: 1, d/4: 0, gone/1: 1}}
  - {id: b, text: "text 5", judged: {d/5: 2}}
"""


def test_alignment_is_of_relevant_pairs_that_the_index_holds(tmp_path) -> None:
    """Here each query is its document's own text, so that the distance is zero."""
    file = tmp_path / "golden.yaml"
    file.write_text(GOLDEN)
    with Watched(
        tmp_path / "store",
        encoder=Seeded(32),
        settings={"monitor": {"golden": {"file": str(file)}}},
    ) as index:
        index.write(_documents(100))
        result = index.run(GeometryProbe())
        found = values_of(result, "plumbline_geometry_alignment")[()]
        assert found == pytest.approx(0.0, abs=1e-6)
        index.delete(["d/3", "d/5"])
        assert values_of(index.run(GeometryProbe()), "plumbline_geometry_alignment") == {}
        # The figure is left out where the encoder or the file cannot be trusted; both have a
        # probe of their own that says so.
        index.write([Document("d/3", "", "text 3")])
        damaged = index.run(GeometryProbe(), encoder=Seeded(32, noise=0.5))
        assert values_of(damaged, "plumbline_geometry_alignment") == {}
        file.write_text("queries: 3")
        assert values_of(index.run(GeometryProbe()), "plumbline_geometry_alignment") == {}
