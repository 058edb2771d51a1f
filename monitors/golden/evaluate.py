"""Systems side by side on one golden set: means with intervals, and paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from monitors.golden.compare import Method, PairedTest, compare, mean_interval
from monitors.golden.measures import Floats, Scores

__all__ = ["MEASURES", "Row", "System", "side_by_side"]

MEASURES = ("recall", "ndcg", "mrr")

_METHODS: Mapping[str, Method] = {
    "recall": "permutation",
    "ndcg": "permutation",
    "mrr": "wilcoxon",
    "hits": "sign",
}


@dataclass(frozen=True)
class System:
    """Something that ranks documents, and how well each query went."""

    name: str
    scores: Scores = field(repr=False)


@dataclass(frozen=True)
class Row:
    """One system at one depth.

    Parameters
    ----------
    means
        `recall`, `ndcg`, `mrr`: mean and 95 % interval over the queries.
    tests
        The same and `hits` against the first system, two-sided; empty for the first itself.
    """

    system: str
    k: int
    means: Mapping[str, tuple[float, float, float]]
    tests: Mapping[str, PairedTest]

    def verdict(self, level: float = 0.05) -> str:
        """`better` or `worse` than the first system in recall, or `undecided`."""
        test = self.tests.get("recall")
        if test is None:
            return ""
        if test.adjusted_p > level:
            return "undecided"
        return "better" if test.change > 0 else "worse"


def side_by_side(systems: Sequence[System], k: int, *, seed: int = 0) -> list[Row]:
    """Every system at depth k, compared with the first.

    Permutation tests of recall and nDCG, Wilcoxon's signed-rank test of the reciprocal rank, exact
    McNemar of hits, all on the same queries. P-values are adjusted by Holm over all systems and
    measures of the table, since the best of many looks good by chance.
    """
    values = [_values(system.scores, k) for system in systems]
    pairs = {
        f"{number} {measure}": (values[0][measure], values[number][measure])
        for number in range(1, len(systems))
        for measure in _METHODS
    }
    tests = compare(
        pairs,
        {key: _METHODS[key.split(" ")[1]] for key in pairs},
        alternative="two-sided",
        seed=seed,
    )
    rows = []
    for number, system in enumerate(systems):
        means = {
            measure: (
                float(values[number][measure].mean()),
                *mean_interval(values[number][measure], seed=seed),
            )
            for measure in MEASURES
        }
        own = {m: tests[f"{number} {m}"] for m in _METHODS if f"{number} {m}" in tests}
        rows.append(Row(system.name, k, means, own))
    return rows


def _values(scores: Scores, k: int) -> dict[str, Floats]:
    return {
        "recall": scores.recall[k],
        "ndcg": scores.ndcg[k],
        "mrr": scores.reciprocal_rank[k],
        "hits": scores.hits(k).astype(float),
    }
