"""What is taken out of samples before they are tested."""

from __future__ import annotations

import numpy as np

from monitors.drift.combined import two_sample_test
from monitors.drift.prepare import prepare


def vectors(seed, rows, dimension=8):
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


def generator():
    return np.random.default_rng(0)


def test_one_copy_of_each_vector_stays():
    """Repetitions within and between the samples count once, and their number is told."""
    reference, current = vectors(1, 50), vectors(2, 40)
    repeated = np.concatenate([current, current[:10], reference[:5]])
    found = two_sample_test(reference, repeated, random=generator())
    assert found.reference + found.current == 90
    assert found.reference_duplicates + found.current_duplicates == 15
    assert found.current_duplicates >= 10


def test_copies_may_differ_by_rounding():
    """A vector stored anew, or in half precision, is no new vector; one that has moved is."""
    reference = vectors(1, 300, 64)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    current = vectors(2, 100, 64)
    current /= np.linalg.norm(current, axis=1, keepdims=True)
    again = np.nextafter(reference[:40], np.float32(2))
    half = reference[40:60].astype(np.float16).astype(np.float32)
    moved = reference[60:80] + np.float32(0.01) * current[:20]
    found = prepare(reference, np.concatenate([current, again, half, moved]), generator())
    assert found.pooled.size == 300 + 100 + 20


def test_many_copies_cost_no_more():
    """One vector five thousand times over, to the bit."""
    same = np.repeat(vectors(3, 1, 64), 5000, axis=0)
    found = prepare(np.concatenate([vectors(4, 60, 64), same]), vectors(5, 60, 64), generator())
    assert found.pooled.size == 121


def test_which_sample_keeps_a_shared_vector_is_drawn_by_its_copies():
    """With one copy in each sample, either keeps about half: labels stay exchangeable."""
    shared = vectors(3, 400)
    found = prepare(shared, shared, generator())
    assert found.pooled.reference + found.pooled.current == 400
    assert 150 < found.pooled.current < 250


def test_rows_kept_are_named():
    """The kept rows, by their numbers, are the pooled sample."""
    reference, current = vectors(4, 30), vectors(5, 30)
    current[7] = current[3]
    found = prepare(reference, current, generator())
    assert np.array_equal(found.pooled.vectors[:30], reference[found.reference_rows])
    assert np.array_equal(found.pooled.vectors[30:], current[found.current_rows])
    assert len(found.current_rows) == 29


def test_zero_and_minus_zero_are_one_vector():
    """They are equal numbers with different bytes."""
    reference, current = vectors(6, 30), vectors(7, 30)
    current[:, 0] = 0.0
    current[1] = current[0]
    current[1, 0] = -0.0
    assert prepare(reference, current, generator()).pooled.current == 29


def test_dead_components_are_left_out_and_stay_dead_in_half_precision():
    """A component at 1e-33 is not tested; storing it as float16 does not bring it to life."""
    reference, current = vectors(8, 60), vectors(9, 60)
    for sample in (reference, current):
        sample[:, 2] *= 1e-33
    half = current.astype(np.float16).astype(np.float32)
    found = two_sample_test(reference, half, random=generator())
    assert (found.live_components, found.components) == (7, 8)
    assert found.awakened == ()


def test_a_dead_component_that_comes_alive_is_named():
    """Whatever the p-value is."""
    reference, current = vectors(10, 60), vectors(11, 60)
    reference[:, 2] = 0
    found = two_sample_test(reference, current, random=generator())
    assert found.awakened == (2,)


def test_a_component_is_live_by_the_reference_alone():
    """One that dies in the current sample is tested, and the test sees it."""
    reference, current = vectors(12, 200), vectors(13, 200)
    current[:, 2] = 0
    found = two_sample_test(reference, current, random=generator())
    assert found.live_components == 8
    assert found.p_value <= 0.05


def test_missing_normalisation_is_seen():
    """Vectors five times as long alarm with certainty."""
    reference, current = vectors(14, 100), 5 * vectors(15, 100)
    found = two_sample_test(reference, current, random=generator())
    assert found.p_value == 1 / 200
    assert found.effect > 0
    # A soft maximum: the largest, less at most log(number of statistics) / 2.
    largest = max(found.parts.values())
    assert largest - np.log(len(found.parts)) / 2 - 1e-9 <= found.statistic <= largest
