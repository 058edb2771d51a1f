"""What every drift detector promises, and the combination of them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.stats import binom

from monitors.drift.base import Detector, Pooled, SampleError
from monitors.drift.combined import DETECTORS, Combined, p_value, two_sample_test
from monitors.drift.permutations import labellings
from monitors.drift.prepare import prepare
from monitors.probes.base import Deadline, ProbeTimeoutError

ALL: tuple[Detector, ...] = (*DETECTORS, Combined())
LEVEL = 0.05
DIMENSION = 24


def sample(random, rows, *, spread=None):
    """Points of unit length around a few centres, with axes of unequal weight."""
    weights = np.linspace(2.0, 0.3, DIMENSION) if spread is None else spread
    vectors = random.normal(size=(rows, DIMENSION)) * weights
    vectors[:, 0] += 1.5
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def p_value_of(detector, reference, current, random, permutations):
    """The detector's p-value."""
    pooled = prepare(reference, current, random).pooled
    labels = labellings(pooled.reference, pooled.current, permutations, random)
    return p_value(detector.values(pooled, labels, lambda: None))


def shifted(random, rows):
    """A fixed shift that each detector must see: a third of the window around a new centre."""
    vectors = sample(random, rows)
    new = np.zeros(DIMENSION)
    new[5] = 1.0
    third = rows // 3
    vectors[:third] = new + 0.35 * random.normal(size=(third, DIMENSION))
    return vectors


@pytest.mark.parametrize("detector", ALL, ids=lambda detector: detector.NAME)
def test_alarms_at_the_nominal_rate_without_drift(detector):
    """Over 300 draws the rate of p ≤ .05 is within the binomial's 99.9 % bounds."""
    draws = 300
    random = np.random.default_rng(11)
    alarms = sum(
        p_value_of(detector, sample(random, 70), sample(random, 50), random, 99) <= LEVEL
        for _ in range(draws)
    )
    low, high = binom.interval(0.999, draws, LEVEL)
    assert low <= alarms <= high


@pytest.mark.parametrize("detector", ALL, ids=lambda detector: detector.NAME)
def test_p_values_are_uniform_without_drift(detector):
    """No p-value in the upper half is more likely than in the lower one: within 99.9 % bounds."""
    draws = 200
    random = np.random.default_rng(12)
    low_half = sum(
        p_value_of(detector, sample(random, 40), sample(random, 40), random, 19) <= 0.5
        for _ in range(draws)
    )
    low, high = binom.interval(0.999, draws, 0.5)
    assert low <= low_half <= high


@pytest.mark.parametrize("detector", ALL, ids=lambda detector: detector.NAME)
def test_sees_a_fixed_shift(detector):
    """At least 27 of 30 windows with a third of new documents alarm."""
    random = np.random.default_rng(13)
    caught = sum(
        p_value_of(detector, sample(random, 150), shifted(random, 120), random, 99) <= LEVEL
        for _ in range(30)
    )
    assert caught >= 27


@pytest.mark.parametrize("detector", ALL, ids=lambda detector: detector.NAME)
def test_one_seed_gives_one_result(detector):
    """The same samples and state of the generator give the same values, bit for bit."""
    reference, current = sample(np.random.default_rng(1), 80), sample(np.random.default_rng(2), 60)
    pooled = Pooled(np.concatenate([reference, current]), 80, 60)
    first, second = (
        detector.values(pooled, labellings(80, 60, 50, np.random.default_rng(3)), lambda: None)
        for _ in range(2)
    )
    assert np.array_equal(first, second)
    other = detector.values(pooled, labellings(80, 60, 50, np.random.default_rng(4)), lambda: None)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("detector", ALL, ids=lambda detector: detector.NAME)
def test_the_order_of_rows_does_not_matter(detector):
    """Rows shuffled together with their labels give the same values: permuting labels is exact."""
    random = np.random.default_rng(5)
    vectors = np.concatenate([sample(random, 80), sample(random, 60)])
    labels = labellings(80, 60, 30, random)
    order = random.permutation(140)
    plain = detector.values(Pooled(vectors, 80, 60), labels, lambda: None)
    shuffled = detector.values(Pooled(vectors[order], 80, 60), labels[order], lambda: None)
    assert np.allclose(plain, shuffled, rtol=2e-3, atol=2e-5 * np.abs(plain).max())


@pytest.mark.parametrize("rows", [3_072, 5_000])
@pytest.mark.parametrize("detector", ALL, ids=lambda detector: detector.NAME)
def test_memory_is_bounded(detector, rows):
    """The largest matrix that is kept, 38 MB, and blocks; above it less than half of a matrix."""
    random = np.random.default_rng(6)
    half = rows // 2
    pooled = Pooled(sample(random, rows), half, half)
    labels = labellings(half, half, 19, random)
    tracemalloc.start()
    try:
        detector.values(pooled, labels, lambda: None)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 50e6


@pytest.mark.parametrize("detector", ALL, ids=lambda detector: detector.NAME)
def test_stops_between_blocks_when_time_is_up(detector):
    """A deadline that has passed ends the work."""
    random = np.random.default_rng(7)
    pooled = Pooled(sample(random, 100), 50, 50)
    labels = labellings(50, 50, 19, random)
    with pytest.raises(ProbeTimeoutError):
        detector.values(pooled, labels, Deadline.after(-1).check)


def with_value(value):
    """A sample with one bad value."""
    vectors = sample(np.random.default_rng(8), 50)
    vectors[3, 2] = value
    return vectors


GOOD = sample(np.random.default_rng(9), 60)


@pytest.mark.parametrize(
    ("reference", "current", "words"),
    [
        (GOOD, GOOD[0], "shape"),
        (GOOD, GOOD[None], "shape"),
        (GOOD[:, :0], GOOD, "shape"),
        (GOOD, GOOD[:, :-1], "two models"),
        (GOOD, GOOD[:5], "at least 20"),
        (GOOD[:0], GOOD, "at least 20"),
        (GOOD, with_value(np.nan), "not finite"),
        (with_value(-np.inf), GOOD, "row 3"),
        (GOOD, GOOD.astype(np.float64) * 1e300, "not finite"),
        (GOOD, GOOD.astype(str), "real numbers"),
        (GOOD, GOOD.astype(complex), "real numbers"),
        (GOOD, [[1.0, 2.0], [1.0]], "differ in length"),
        (GOOD, np.repeat(GOOD[:1], 50, axis=0), "duplicates"),
    ],
)
def test_refuses_what_cannot_be_tested(reference, current, words):
    """Each malformed pair is an error of ours that says what came."""
    with pytest.raises(SampleError, match=words):
        two_sample_test(reference, current, random=np.random.default_rng(0))


def test_refuses_too_few_permutations():
    """18 permutations cannot reach a p-value of .05."""
    with pytest.raises(SampleError, match="at least 19"):
        two_sample_test(GOOD, GOOD, permutations=18, random=np.random.default_rng(0))
