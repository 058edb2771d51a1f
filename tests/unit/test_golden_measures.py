"""Measures, paired tests, overlap and power give known values."""

from __future__ import annotations

import itertools
import math

import ir_measures
import numpy as np
import pytest
import scipy.stats
from ir_measures import RR, R, nDCG

from monitors.golden.compare import (
    compare,
    holm,
    mean_interval,
    permutation_p,
    sign_p,
    wilcoxon_p,
)
from monitors.golden.evaluate import System, side_by_side
from monitors.golden.measures import first_relevant_rank, score
from monitors.golden.overlap import overlap_at, rank_biased_overlap
from monitors.golden.power import detectable_loss, power_of_loss

QRELS = {
    "graded": {"a": 3, "b": 1, "c": 0},
    "single": {"d": 1},
    "nothing found": {"e": 2},
    "not asked": {"f": 1},
    "no relevant": {"a": 0},
}
RANKINGS = {
    "graded": ["x", "b", "a"],
    "single": ["y", "z", "c", "d"],
    "nothing found": ["x"],
    "no relevant": ["a"],
}


def test_known_values():
    """By hand: linear gain, logarithmic discount, cuts at k; a query that found nothing is 0."""
    scores = score(QRELS, RANKINGS, [2, 3])

    assert scores.queries == ("graded", "single", "nothing found", "not asked")
    assert scores.recall[2].tolist() == [0.5, 0, 0, 0]
    assert scores.recall[3].tolist() == [1, 0, 0, 0]
    ideal = 3 + 1 / math.log2(3)
    assert scores.ndcg[3][0] == pytest.approx((1 / math.log2(3) + 3 / 2) / ideal)
    assert scores.ndcg[2][0] == pytest.approx((1 / math.log2(3)) / ideal)
    assert scores.reciprocal_rank[2].tolist() == [0.5, 0, 0, 0]
    assert scores.hits(3).tolist() == [True, False, False, False]
    assert scores.means(2)["mrr"] == 0.125
    assert score({}, {}, [10]).means(10) == {}


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_ir_measures(seed):
    """On random runs, each measure is what the library aggregates from the same scores."""
    random = np.random.default_rng(seed)
    documents = [f"d{number}" for number in range(60)]
    qrels, rankings, run = {}, {}, {}
    for query in map(str, range(40)):
        judged = random.choice(documents, 8, replace=False)
        qrels[query] = {d: int(g) for d, g in zip(judged, random.integers(0, 4, 8), strict=True)}
        qrels[query][judged[0]] = 1
        rankings[query] = list(random.permutation(documents)[:30])
        run[query] = {d: 1 - rank / 100 for rank, d in enumerate(rankings[query])}
    ours = score(qrels, rankings, [5, 10])
    theirs = ir_measures.calc_aggregate(
        [R @ 5, R @ 10, nDCG @ 5, nDCG @ 10, RR @ 5, RR @ 10], qrels, run
    )
    for k in (5, 10):
        means = ours.means(k)
        assert means["recall"] == pytest.approx(theirs[R @ k])
        assert means["ndcg"] == pytest.approx(theirs[nDCG @ k])
        assert means["mrr"] == pytest.approx(theirs[RR @ k])


def test_ranks_are_as_served():
    """Documents of one score keep the order in which users got them."""
    assert score({"q": {"b": 1}}, {"q": ["a", "b"]}, [1]).recall[1].tolist() == [0]
    assert score({"q": {"b": 1}}, {"q": ["b", "a"]}, [1]).recall[1].tolist() == [1]
    assert first_relevant_rank({"b": 1, "a": 0}, ["a", "c", "b"]) == 3
    assert first_relevant_rank({"b": 1}, ["a"]) is None


def test_exact_tests():
    """McNemar is the binomial of discordant pairs; without a change p is 1."""
    losses = np.array([-1.0] * 9 + [1.0] + [0.0] * 50)
    assert sign_p(losses, "less") == pytest.approx(11 / 2**10)
    assert sign_p(losses, "two-sided") == pytest.approx(22 / 2**10)
    assert sign_p(-losses, "less") == pytest.approx(1 - 1 / 2**10)
    none = np.zeros(20)
    assert sign_p(none, "less") == wilcoxon_p(none, "less") == permutation_p(none, "less") == 1
    few = np.array([-0.1, -0.2, -0.3, 0.05])
    assert wilcoxon_p(few, "less") == pytest.approx(
        scipy.stats.wilcoxon(few, None, "wilcox", False, "less").pvalue
    )
    signs = np.array(list(itertools.product([1, -1], repeat=4)))
    exact = (np.mean(signs * np.abs(few), axis=1) <= few.mean() + 1e-12).mean()
    assert permutation_p(few, "less") == pytest.approx(exact)


def test_one_query_that_changed_proves_nothing():
    """A single change is as likely in either direction: 1/2 at best, and no error."""
    lost = np.array([0.0, 0.0, -1.0])
    assert permutation_p(lost, "less") == 0.5
    assert permutation_p(-lost, "less") == 1
    assert permutation_p(lost, "two-sided") == 1


@pytest.mark.parametrize("method", ["sign", "wilcoxon", "permutation"])
def test_no_more_false_alarms_than_the_level(method):
    """Without a change, p <= .05 in at most 5 % of 400 draws, by the binomial bound; ties too."""
    random = np.random.default_rng(3)
    rejected = 0
    for _ in range(400):
        before, after = random.integers(0, 3, (2, 60)) / 2
        tests = compare({"m": (before, after)}, {"m": method}, alternative="less")
        rejected += tests["m"].p_value <= 0.05
    assert rejected <= scipy.stats.binom.ppf(0.995, 400, 0.05)


def test_compare_corrects_for_the_number_of_measures():
    """Holm over what is compared together; intervals hold the mean; small changes are none."""
    before = np.array([1.0] * 40)
    after = np.array([0.0] * 8 + [1.0] * 32)
    tests = compare(
        {"a": (before, after), "b": (before, before), "c": (before, before - 1e-4)},
        {"a": "sign", "b": "wilcoxon", "c": "wilcoxon"},
        alternative="less",
        tolerance={"c": 1e-3},
    )
    assert tests["a"].p_value == 2**-8
    assert tests["a"].adjusted_p == pytest.approx(3 * 2**-8)
    assert tests["a"].change == pytest.approx(-0.2)
    low, high = tests["a"].interval
    assert -0.35 < low < -0.2 < high < -0.05
    assert tests["b"].p_value == tests["c"].p_value == 1
    assert tests["b"].interval == (0, 0)
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert mean_interval([]) == (0, 0)


def test_side_by_side_tells_the_better_from_the_lucky():
    """A system that finds more is better; one that finds others of the same number undecided."""
    qrels = {str(n): {"d": 1} for n in range(100)}
    first = {q: ["d"] if int(q) < 60 else ["x"] for q in qrels}
    better = {q: ["d"] if int(q) < 80 else ["x"] for q in qrels}
    other = {q: ["d"] if int(q) >= 41 else ["x"] for q in qrels}
    systems = [
        System(name, score(qrels, run, [10]))
        for name, run in (("first", first), ("better", better), ("other", other))
    ]
    rows = side_by_side(systems, 10)
    assert [row.verdict() for row in rows] == ["", "better", "undecided"]
    mean, low, high = rows[0].means["recall"]
    assert low < 0.6 == mean < high
    assert rows[1].tests["recall"].change == pytest.approx(0.2)
    assert side_by_side([systems[1], systems[0]], 10)[1].verdict() == "worse"


def _sum_of_definition(first: list[str], second: list[str], p: float, depth: int = 400) -> float:
    """(1 - p) sum of p^(d-1) times the agreement at d, with Webber's agreement below the ends."""
    shorter, longer = sorted((first, second), key=len)
    s, length = len(shorter), len(longer)

    def common(d: int) -> int:
        return len(set(shorter[:d]) & set(longer[:d]))

    total = 0.0
    for d in range(1, depth):
        if d <= s:
            agreement = common(d) / d
        elif d <= length:
            agreement = (common(d) + common(s) / s * (d - s)) / d
        else:
            agreement = (common(length) + common(s) / s * (length - s)) / length
        total += (1 - p) * p ** (d - 1) * agreement
    return total


@pytest.mark.parametrize("seed", range(20))
def test_rank_biased_overlap_is_its_definition(seed):
    """The closed form is the infinite sum, for lists of equal and of other lengths."""
    random = np.random.default_rng(seed)
    items = [str(number) for number in range(30)]
    first = list(random.permutation(items)[: random.integers(1, 20)])
    second = list(random.permutation(items)[: random.integers(1, 20)])
    expected = _sum_of_definition(first, second, 0.9)
    assert rank_biased_overlap(first, second) == pytest.approx(expected, abs=1e-9)
    assert rank_biased_overlap(second, first) == pytest.approx(expected, abs=1e-9)


def test_overlap_at_its_ends():
    """The same list agrees wholly, disjoint ones not at all, and changes on top count most."""
    items = [str(number) for number in range(10)]
    assert rank_biased_overlap(items, items) == 1
    assert rank_biased_overlap(items, ["x", "y"]) == 0
    assert rank_biased_overlap([], []) == 1
    assert rank_biased_overlap([], items) == 0
    top = [items[1], items[0], *items[2:]]
    bottom = [*items[:8], items[9], items[8]]
    assert rank_biased_overlap(items, top) < rank_biased_overlap(items, bottom) < 1
    assert overlap_at(items, ["0", "x"], 2) == 0.5
    assert overlap_at([], [], 10) == 1


@pytest.mark.parametrize(("queries", "measured"), [(50, 0.06), (200, 0.84), (400, 0.98)])
def test_power_is_what_was_measured(queries, measured):
    """A loss of four points of recall, one relevant document a query."""
    ones = np.ones(queries)
    assert power_of_loss(0.04, ones, ones) == pytest.approx(measured, abs=0.04)


def test_detectable_loss_shrinks_with_the_set():
    """More queries see smaller losses; a handful sees none; what it names is found."""
    losses = [detectable_loss(np.ones(n), np.ones(n)).detectable_loss for n in (100, 300, 1000)]
    assert losses[0] > losses[1] > losses[2]
    assert detectable_loss(np.ones(4), np.ones(4)).detectable_loss is None
    assert detectable_loss(np.zeros(9), np.ones(9)).detectable_loss is None
    assert detectable_loss([], []).detectable_loss is None
    found = power_of_loss(losses[1], np.ones(300), np.ones(300), seed=1)
    assert found == pytest.approx(0.8, abs=0.05)
    assert not detectable_loss(np.ones(199), np.ones(199)).enough
    many = detectable_loss(np.full(225, 4), np.full(225, 8)).detectable_loss
    single = detectable_loss(np.arange(225) % 2, np.ones(225)).detectable_loss
    assert many < single, "a query with many relevant documents changes in small steps"
