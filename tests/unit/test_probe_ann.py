"""The ann probe's arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from monitors.ann.search import recall_of, upper_bound


def points(*scores):
    return [SimpleNamespace(id=number, score=score) for number, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("found", "scores", "k", "expected"),
    [
        (["0", "1", "2"], (0.9, 0.8, 0.7, 0.6), 3, 1.0),
        (["0", "1", "3"], (0.9, 0.8, 0.7, 0.6), 3, 2 / 3),
        # As good as the third: duplicates are not told apart.
        (["0", "1", "3"], (0.9, 0.8, 0.7, 0.7), 3, 1.0),
        ([], (0.9, 0.8, 0.7), 3, 0.0),
        # A small version has fewer than k answers.
        (["0", "1"], (0.9, 0.8), 10, 1.0),
        (["0"], (0.9, 0.8), 10, 0.5),
        ([], (), 10, 1.0),
        # More than k good ones found do not make up for anything.
        (["1", "2", "3"], (0.7, 0.7, 0.7, 0.7), 2, 1.0),
    ],
)
def test_recall(found, scores, k, expected):
    assert recall_of(found, points(*scores), k) == pytest.approx(expected)


def test_the_bound_is_above_the_mean_and_covers_it():
    """One-sided 99 %: over many samples the true mean is above it in about 1 %."""
    random = np.random.default_rng(1)
    draws = 1000
    above = 0
    for _ in range(draws):
        recalls = random.binomial(10, 0.95, size=100) / 10
        bound = upper_bound(recalls, random)
        assert bound >= recalls.mean()
        above += bound < 0.95
    # Of 1,000 draws, the 99.9 % binomial interval around 1 %, and a little for the bootstrap.
    assert above <= 30


def test_the_bound_is_exact_where_all_queries_agree():
    assert upper_bound(np.ones(50), np.random.default_rng(0)) == 1.0
    assert upper_bound(np.zeros(50), np.random.default_rng(0)) == 0.0
