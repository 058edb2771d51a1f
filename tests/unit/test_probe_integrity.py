"""What the integrity probe reads off vectors, heads and chunks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from monitors.integrity.vectors import look_at_vectors
from monitors.probes.integrity import IntegrityProbe
from pipelines.core.points import Head
from pipelines.core.position import Position
from pipelines.core.sweep import ChunkState, judge

DIMENSION = 16
DEAD = 3
"""A dimension that the model leaves at about 1e-33."""


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    vectors[:, DEAD] = 1e-33
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


CANARIES = SimpleNamespace(document=unit(40, seed=9))


def test_sound_vectors_show_nothing():
    facts = look_at_vectors(unit(500), CANARIES)
    assert (facts.zeros, facts.revived, facts.died) == (0, (), ())
    assert (facts.live, facts.dead) == (DIMENSION - 1, 1)
    assert facts.duplicate_ratio == 0


def test_float16_storage_shows_nothing():
    vectors = unit(500).astype(np.float16).astype(np.float32)
    facts = look_at_vectors(vectors, CANARIES)
    assert (facts.zeros, facts.revived, facts.died, facts.duplicate_ratio) == (0, (), (), 0)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_zeros_and_what_is_not_finite(value):
    vectors = unit(300)
    vectors[7] = value
    facts = look_at_vectors(vectors, CANARIES)
    assert facts.zeros == 1
    assert (facts.revived, facts.died) == ((), ())


def test_one_vector_with_life_in_a_dead_dimension_is_seen():
    vectors = unit(300)
    vectors[7, DEAD] = 0.01
    assert look_at_vectors(vectors, CANARIES).revived == (DEAD,)


def test_noise_in_a_dead_dimension_is_not():
    vectors = unit(300)
    vectors[:, DEAD] = 1e-5
    assert look_at_vectors(vectors, CANARIES).revived == ()


def test_dimensions_that_died_need_a_sample():
    vectors = unit(300)
    vectors[:, [0, 5]] = 0
    assert look_at_vectors(vectors, CANARIES).died == (0, 5)
    assert look_at_vectors(vectors[:99], CANARIES).died == ()


def test_lengths_do_not_matter():
    """Of a contract without normalisation, by dot product or distance."""
    canaries = SimpleNamespace(document=CANARIES.document * 40)
    facts = look_at_vectors(unit(300) * np.float32(25), canaries)
    assert (facts.zeros, facts.revived, facts.died) == (0, (), ())


def test_duplicates_within_the_noise_of_batches():
    vectors = unit(200)
    vectors[100:150] = vectors[:50] * np.float32(1 + 1e-7)
    assert look_at_vectors(vectors, CANARIES).duplicate_ratio == 50 / 200


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_vectors(count):
    facts = look_at_vectors(unit(2)[:count], CANARIES)
    assert (facts.vectors, facts.zeros, facts.died, facts.duplicate_ratio) == (count, 0, (), 0)


def at(offset: int, chunks: int = 3, *, deleted: bool = False) -> Head:
    position = Position("t", 0, offset, 1000 + offset)
    return Head("d", position, position.event_key, deleted, chunks, "", "", "", None)


@pytest.mark.parametrize(
    ("number", "chunk", "head", "state"),
    [
        (1, at(5), at(5), ChunkState.CURRENT),
        (2, at(5), at(5), ChunkState.CURRENT),
        (3, at(5), at(5), ChunkState.BEYOND),
        (1, at(4), at(5), ChunkState.OLDER),
        (9, at(4), at(5), ChunkState.OLDER),
        (1, at(4), at(5, 0, deleted=True), ChunkState.OLDER),
        (1, at(6), at(5), ChunkState.NEWER),
        (9, at(6), at(5, 0, deleted=True), ChunkState.NEWER),
        (1, at(4), None, ChunkState.HEADLESS),
    ],
)
def test_what_a_chunk_is_to_its_head(number, chunk, head, state):
    assert judge(number, chunk, head) is state


def test_every_family_has_one_name_and_no_total():
    names = [family.name for family in IntegrityProbe.FAMILIES]
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.endswith(("_total", "_count", "_sum"))]
