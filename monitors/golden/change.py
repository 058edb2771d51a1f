"""What became of the golden queries since the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from monitors.golden.baseline import Ranking
from monitors.golden.compare import Method, PairedTest, compare
from monitors.golden.measures import Scores, first_relevant_rank, score
from monitors.golden.observe import Comparable
from monitors.golden.overlap import overlap_at, rank_biased_overlap

__all__ = ["LOSSES", "SCORE_TOLERANCE", "Change", "WorstQuery", "measure_change"]

LOSSES = ("recall", "hits", "reciprocal_rank")
"""Measures that say that judged documents are found less well. The score of the first hit only
says that something is different."""

SCORE_TOLERANCE = 1e-3
"""Scores that differ by less are the same: storage as float16 moves them by up to 5e-4."""

_METHODS: Mapping[str, Method] = {
    "recall": "sign",
    "hits": "sign",
    "reciprocal_rank": "wilcoxon",
    "top_score": "wilcoxon",
}


@dataclass(frozen=True, slots=True)
class WorstQuery:
    """A query that lost most.

    Parameters
    ----------
    rank_before, rank_after
        Of its first relevant document, from 1; `None` where it is not among those asked for.
    """

    query: str
    rank_before: int | None
    rank_after: int | None
    recall_before: float
    recall_after: float


@dataclass(frozen=True)
class Change:
    """Baseline and current run over the same documents and judgements.

    Parameters
    ----------
    tests
        `recall`, `hits`, `reciprocal_rank`: one-sided, against a loss; `top_score`: one-sided too,
        of the first document's score. Holm over the four.
    overlap, rank_biased_overlap
        Of the two rankings, means over the queries.
    """

    k: int
    before: Scores
    after: Scores
    tests: Mapping[str, PairedTest]
    overlap: float
    rank_biased_overlap: float
    worst: Sequence[WorstQuery] = field(repr=False)

    @property
    def queries(self) -> int:
        """How many were compared."""
        return len(self.before.queries)

    @property
    def loss(self) -> float:
        """Recall@k lost, mean over the queries, 0 to 1; below 0 for a gain."""
        return 0.0 - self.tests["recall"].change

    @property
    def p_value(self) -> float:
        """Least adjusted p-value of the measures in `LOSSES`."""
        return min(self.tests[measure].adjusted_p for measure in LOSSES)

    @property
    def lost_and_gained(self) -> tuple[int, int]:
        """Queries with less and with more recall than before."""
        difference = self.after.recall[self.k] - self.before.recall[self.k]
        return int((difference < -1e-12).sum()), int((difference > 1e-12).sum())


def measure_change(
    comparable: Comparable, depths: Sequence[int], *, seed: int = 0, worst: int = 10
) -> Change:
    """Scores both runs and tests the difference.

    Parameters
    ----------
    depths
        Every k; the first one decides.
    worst
        How many of the queries that lost most are named.
    """
    k = depths[0]
    before = score(comparable.qrels, _ids(comparable.before), depths)
    after = score(comparable.qrels, _ids(comparable.after), depths)
    tops = [
        (then.scores[0], now.scores[0])
        for then, now in ((comparable.before[q], comparable.after[q]) for q in before.queries)
        if then.ids and now.ids
    ]
    tests = compare(
        {
            "recall": (before.recall[k], after.recall[k]),
            "hits": (before.hits(k), after.hits(k)),
            "reciprocal_rank": (before.reciprocal_rank[k], after.reciprocal_rank[k]),
            "top_score": ([then for then, _ in tops], [now for _, now in tops]),
        },
        _METHODS,
        alternative="less",
        tolerance={"top_score": SCORE_TOLERANCE},
        seed=seed,
    )
    pairs = [(comparable.before[q].ids, comparable.after[q].ids) for q in before.queries]
    # Both to the shorter length: a baseline list is shortened by what was deleted since.
    cut = [(a[: min(len(a), len(b))], b[: min(len(a), len(b))]) for a, b in pairs]
    return Change(
        k=k,
        before=before,
        after=after,
        tests=tests,
        overlap=float(np.mean([overlap_at(a, b, k) for a, b in cut])) if cut else 1.0,
        rank_biased_overlap=(
            float(np.mean([rank_biased_overlap(a, b) for a, b in cut])) if cut else 1.0
        ),
        worst=_worst(comparable, before, after, k)[:worst],
    )


def _ids(rankings: Mapping[str, Ranking]) -> dict[str, Sequence[str]]:
    return {query: ranking.ids for query, ranking in rankings.items()}


def _worst(comparable: Comparable, before: Scores, after: Scores, k: int) -> list[WorstQuery]:
    """Queries that lost recall or rank, the greatest loss first."""
    losses = before.recall[k] - after.recall[k]
    falls = before.reciprocal_rank[k] - after.reciprocal_rank[k]
    order = sorted(
        (row for row in range(len(losses)) if losses[row] > 1e-12 or falls[row] > 1e-12),
        key=lambda row: (-losses[row], -falls[row], before.queries[row]),
    )
    return [
        WorstQuery(
            query=query,
            rank_before=first_relevant_rank(judged, comparable.before[query].ids),
            rank_after=first_relevant_rank(judged, comparable.after[query].ids),
            recall_before=float(before.recall[k][row]),
            recall_after=float(after.recall[k][row]),
        )
        for row in order
        for query in [before.queries[row]]
        for judged in [comparable.qrels[query]]
    ]
