"""How well rankings find the judged documents, by ir-measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Qrels", "Scores", "first_relevant_rank", "score"]

Floats = npt.NDArray[np.float64]

Qrels = Mapping[str, Mapping[str, int]]
"""Query to document to grade; a grade of at least 1 is relevant."""


@dataclass(frozen=True)
class Scores:
    """Each measure of each query, in the order of `queries`; by depth k.

    Parameters
    ----------
    recall
        Share of the relevant documents among the first k.
    ndcg
        Normalised discounted cumulative gain, linear in the grade, as trec_eval and BEIR have it.
    reciprocal_rank
        1 / rank of the first relevant document, 0 where none is among the first k.
    """

    queries: tuple[str, ...]
    recall: Mapping[int, Floats]
    ndcg: Mapping[int, Floats]
    reciprocal_rank: Mapping[int, Floats]

    def hits(self, k: int) -> npt.NDArray[np.bool_]:
        """Whether any relevant document is among the first k."""
        found: npt.NDArray[np.bool_] = self.recall[k] > 0
        return found

    def means(self, k: int) -> dict[str, float]:
        """Mean of each measure at a depth; empty without queries."""
        if not self.queries:
            return {}
        return {
            "recall": float(self.recall[k].mean()),
            "ndcg": float(self.ndcg[k].mean()),
            "mrr": float(self.reciprocal_rank[k].mean()),
        }


def score(qrels: Qrels, rankings: Mapping[str, Sequence[str]], depths: Sequence[int]) -> Scores:
    """Recall@k, nDCG@k and reciprocal rank@k of each query that has a relevant document.

    Parameters
    ----------
    rankings
        Document ids, best first. A query without one scores 0 everywhere.
    depths
        Every k.
    """
    import ir_measures
    from ir_measures import RR, R, nDCG

    judged = {query: dict(of) for query, of in qrels.items() if any(g >= 1 for g in of.values())}
    queries = tuple(judged)
    row = {query: number for number, query in enumerate(queries)}
    # The library sorts by score: ranks count down, so that the order stays as it was served.
    run = {
        query: {document: float(-rank) for rank, document in enumerate(rankings.get(query, ()))}
        for query in queries
    }
    # The uncut reciprocal rank is measured along with the others; cut at k it is itself, or 0
    # where that rank is deeper.
    wanted = [measure @ k for measure in (R, nDCG) for k in depths]
    values = {str(measure): np.zeros(len(queries)) for measure in [*wanted, RR]}
    if queries:
        for metric in ir_measures.iter_calc([*wanted, RR], judged, run):
            values[str(metric.measure)][row[metric.query_id]] = metric.value
    first = values[str(RR)]
    return Scores(
        queries=queries,
        recall={k: values[str(R @ k)] for k in depths},
        ndcg={k: values[str(nDCG @ k)] for k in depths},
        # Half a rank of room: 1 / k is not exact.
        reciprocal_rank={k: np.where(first > 1 / (k + 0.5), first, 0.0) for k in depths},
    )


def first_relevant_rank(judged: Mapping[str, int], ranking: Sequence[str]) -> int | None:
    """Rank, from 1, of the first relevant document; `None` where the ranking has none."""
    for rank, document in enumerate(ranking, start=1):
        if judged.get(document, 0) >= 1:
            return rank
    return None
