"""The gate's test: exact where it can be, monotone, and careful with few queries."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, ttest_1samp

from pipelines.rollout.non_inferiority import (
    NonInferiority,
    _restricted,
    _tail,
    enough_queries,
    interval,
    upper_tail,
)

LEVEL = 0.05
MARGINS = (0.02, 0.03, 0.05)


def repeated(losses: int, same: int, gains: int) -> np.ndarray:
    return np.repeat([-1.0, 0.0, 1.0], [losses, same, gains])


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("losses", [0, 1, 2, 5])
def test_losses_alone_are_the_exact_binomial_test(margin: float, losses: int) -> None:
    """Where queries lose all or nothing, the p-value is the binomial one to ten digits."""
    n = 300
    found = upper_tail(repeated(losses, n - losses, 0), -margin)
    assert binom.cdf(losses, n, margin) == pytest.approx(found, abs=1e-10)


def test_a_t_test_passes_what_this_one_does_not() -> None:
    """Three of 200 lost: .042 by t at .03, and truly as good by chance in .147 of all sets."""
    sample = repeated(3, 197, 0)
    by_t = ttest_1samp(sample, -0.03, alternative="greater").pvalue
    assert by_t == pytest.approx(0.042, abs=0.0005)
    assert upper_tail(sample, -0.03) == pytest.approx(0.147, abs=0.0005)


def test_no_difference_needs_as_many_queries_as_the_margin_says() -> None:
    """Without any change, 148 queries do not show a loss below .02 at .05, and 149 do."""
    assert upper_tail(np.zeros(148), -0.02) > LEVEL >= upper_tail(np.zeros(149), -0.02)


@pytest.mark.parametrize(("losses", "gains"), [(9, 4), (1, 6), (12, 1), (3, 3)])
def test_losses_and_gains_have_the_restricted_estimate_in_closed_form(
    losses: int, gains: int
) -> None:
    """With losses and gains of one, it is the root of Tango's quadratic."""
    n, margin = 200, 0.03
    values, weights = _restricted(
        np.array([-1.0, 0.0, 1.0]), np.array([losses, n - losses - gains, gains]) / n, -margin
    )
    # Share of gains q and of losses q + margin, most likely: 2n q² + b q + c = 0.
    b = -losses - gains + (2 * n - losses + gains) * margin
    c = -gains * margin * (1 - margin)
    q = (-b + math.sqrt(b * b - 8 * n * c)) / (4 * n)
    assert weights @ values == pytest.approx(-margin, abs=1e-9)
    assert weights[2] == pytest.approx(q, abs=1e-6)
    assert weights[0] == pytest.approx(q + margin, abs=1e-6)


def test_the_tail_is_the_sum_over_every_outcome() -> None:
    """The Fourier transform gives what counting all outcomes gives."""
    values, weights = np.array([-1.0, -0.5, 0.0, 1 / 3]), np.array([0.1, 0.2, 0.5, 0.2])
    n, observed = 5, -0.5
    expected = sum(
        float(np.prod([weights[i] for i in draw]))
        for draw in itertools.product(range(4), repeat=n)
        if sum(values[i] for i in draw) >= observed - 1e-9
    )
    assert expected == pytest.approx(_tail(values, weights, n, observed), abs=1e-12)


differences = st.lists(
    st.sampled_from([-1.0, -0.5, -1 / 3, -0.25, 0.0, 0.0, 0.0, 0.0, 0.2, 0.5, 1.0, 0.37]),
    min_size=1,
    max_size=60,
).map(np.array)


@settings(max_examples=150, deadline=None)
@given(differences, st.floats(0.005, 0.4), st.floats(0.005, 0.4))
def test_a_larger_margin_is_easier_to_stay_below(
    sample: np.ndarray, one: float, other: float
) -> None:
    """The p-value falls, within rounding, as the margin grows."""
    small, large = sorted((one, other))
    assert upper_tail(sample, -large) <= upper_tail(sample, -small) + 1e-6


@settings(max_examples=100, deadline=None)
@given(differences)
def test_a_better_query_never_hurts(sample: np.ndarray) -> None:
    """One query that improves does not turn a pass into anything else."""
    better = sample.copy()
    better[np.argmin(better)] = 1.0
    before, after = (NonInferiority(of, 0.05, LEVEL) for of in (sample, better))
    if before.outcome == "pass":
        assert after.outcome == "pass"


@settings(max_examples=60, deadline=None)
@given(differences)
def test_interval_and_outcome_agree(sample: np.ndarray) -> None:
    """It passes when the interval lies above the margin, and is refused when it lies below."""
    low, high = interval(sample, LEVEL)
    assert low <= sample.mean() <= high
    outcome = NonInferiority(sample, 0.05, LEVEL).outcome
    if abs(low + 0.05) > 1e-4 and abs(high + 0.05) > 1e-4:
        expected = "pass" if low > -0.05 else "refuse" if high < -0.05 else "undecided"
        assert expected == outcome


@settings(max_examples=60, deadline=None)
@given(differences)
def test_both_tests_are_mirror_images(sample: np.ndarray) -> None:
    """What passes upside down is what is refused."""
    test = NonInferiority(sample, 0.05, LEVEL)
    assert test.p_refuse == pytest.approx(upper_tail(-sample, 0.05), abs=1e-12)
    assert test.p_pass + test.p_refuse >= 1 - 1e-6


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("n", [200, 300, 1000])
@pytest.mark.parametrize("gains", [0.0, 0.01, 0.05])
def test_at_the_margin_it_rarely_passes_and_is_rarely_refused(
    n: int, margin: float, gains: float
) -> None:
    """Both at most .05 of 1,000 seeded draws, within the 99.9 % binomial interval."""
    random = np.random.default_rng([n, round(100 * margin), round(100 * gains)])
    share = [margin + gains, 1 - margin - 2 * gains, gains]
    passed = refused = 0
    for losses, same, gained in random.multinomial(n, share, size=1000):
        test = NonInferiority(repeated(losses, same, gained), margin, LEVEL)
        passed += test.p_pass <= LEVEL
        refused += test.p_refuse <= LEVEL
    for count in (passed, refused):
        assert binomtest(count, 1000).proportion_ci(0.999).low <= LEVEL


def test_without_queries_nothing_is_decided() -> None:
    """No query: undecided, and no advice that nobody could follow."""
    test = NonInferiority(np.zeros(0), 0.02, LEVEL)
    assert test.outcome == "undecided"
    assert test.interval == (-1.0, 1.0)
    assert test.enough is None


def test_the_advice_is_enough() -> None:
    """With as many queries as advised, four of five draws are decided, give or take."""
    random = np.random.default_rng(5)
    share = np.array([0.05, 0.91, 0.04])
    sample = repeated(5, 91, 4)
    advised = enough_queries(sample, 0.03, LEVEL)
    assert advised is not None
    assert advised > 100
    passed = sum(
        NonInferiority(repeated(*counts), 0.03, LEVEL).outcome == "pass"
        for counts in random.multinomial(advised, share, size=400)
    )
    assert 0.72 < passed / 400 < 0.88


def test_a_difference_at_the_margin_has_no_advice() -> None:
    """No number of queries within reason would tell."""
    assert enough_queries(repeated(5, 95, 0), 0.05, LEVEL) is None


def test_hundreds_of_graded_values_are_handled() -> None:
    """Recalls of many relevant documents share no common step, and the tail holds all the same."""
    random = np.random.default_rng(3)
    sample = np.round(random.normal(0.0, 0.1, 400), 4)
    low, high = interval(sample, LEVEL)
    half = 1.645 * sample.std() / 20
    assert sample.mean() - half == pytest.approx(low, abs=0.002)
    assert sample.mean() + half == pytest.approx(high, abs=0.002)
