"""The same queries by the graph and exactly, and how much of the one the other finds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from monitors.probes.base import ProbeContext
from monitors.sampling import live_points, sample_points
from pipelines.core.points import DENSE

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "BOUND_LEVEL",
    "Answers",
    "Query",
    "recall_of",
    "search",
    "stored_queries",
    "upper_bound",
]

BOUND_LEVEL = 0.01
"""Chance that an index just at its objective alarms in one run."""

_RESAMPLES = 2000

_TIES = 16
"""Exact answers beyond the k-th that are asked for, so that equal scores are not told apart."""

_SAME_SCORE = 1e-6


@dataclass(frozen=True)
class Query:
    """A vector to search for.

    Parameters
    ----------
    vector
        Shape (dimension,).
    own_id
        Of the point that the vector was read from; it is no answer to itself.
    """

    vector: npt.NDArray[np.float32] = field(repr=False)
    own_id: str | None


@dataclass(frozen=True)
class Answers:
    """What came back.

    Parameters
    ----------
    recalls
        Of each query, 0 to 1.
    approximate, exact
        Seconds of each search.
    """

    recalls: npt.NDArray[np.float64] = field(repr=False)
    approximate: Sequence[float] = field(repr=False)
    exact: Sequence[float] = field(repr=False)


def stored_queries(context: ProbeContext, size: int) -> list[Query]:
    """Vectors of the version, drawn at random; fewer than `size` when it holds fewer."""
    queries = []
    for point in sample_points(
        context.qdrant,
        context.version.name,
        size,
        where=live_points(),
        random=context.random,
        with_payload=(),
        with_vectors=True,
        dimension=context.version.contract.dimension,
        deadline=context.deadline,
    ):
        vector = (point.vector or {}).get(DENSE)
        if vector is not None and np.any(vector):
            queries.append(Query(np.asarray(vector, np.float32), str(point.id)))
    return queries


def search(context: ProbeContext, queries: Sequence[Query], until: float) -> Answers:
    """Searches for each query twice, one at a time and at the pace of the settings.

    Parameters
    ----------
    queries
        At least one, in an order that may end anywhere.
    until
        When to ask no further query, on `time.monotonic()`'s scale; the first is always asked.

    Raises
    ------
    ProbeTimeoutError
        The time was not enough.
    """
    from qdrant_client import models

    k = context.settings.monitor.ann.k
    pause = 1 / context.settings.monitor.ann.queries_per_second
    next_at = time.monotonic()

    def ask(query: Query, limit: int, *, exact: bool) -> tuple[list[Any], float]:
        nonlocal next_at
        context.deadline.check()
        time.sleep(max(0.0, next_at - time.monotonic()))
        started = time.perf_counter()
        points = context.qdrant.call(
            "query_points",
            context.version.name,
            query=query.vector.tolist(),
            using=DENSE,
            # As users search: without parameters of its own.
            search_params=models.SearchParams(exact=True) if exact else None,
            limit=limit,
            with_payload=False,
            with_vectors=False,
        ).points
        seconds = time.perf_counter() - started
        next_at = max(next_at + pause, time.monotonic())
        return [point for point in points if str(point.id) != query.own_id], seconds

    recalls: list[float] = []
    approximate: list[float] = []
    exact: list[float] = []
    for query in queries:
        if recalls and time.monotonic() > until:
            break
        # One more: the point itself is among the answers, as a rule.
        found, seconds = ask(query, k + 1, exact=False)
        approximate.append(seconds)
        best, seconds = ask(query, k + 1 + _TIES, exact=True)
        exact.append(seconds)
        recalls.append(recall_of([str(point.id) for point in found[:k]], best, k))
    return Answers(np.asarray(recalls, np.float64), approximate, exact)


def recall_of(found: Sequence[str], best: Sequence[Any], k: int) -> float:
    """Share of the k best that was found; an answer as good as the k-th counts.

    Parameters
    ----------
    found
        Ids that the approximate search gave, at most k.
    best
        Points with `id` and `score` that exact search gave, best first, some more than k.
    """
    wanted = min(k, len(best))
    if wanted == 0:
        return 1.0
    last = best[wanted - 1].score
    good = {
        str(point.id)
        for place, point in enumerate(best)
        if place < wanted or abs(point.score - last) <= _SAME_SCORE
    }
    return min(wanted, len(good.intersection(found))) / wanted


def upper_bound(recalls: npt.NDArray[np.float64], random: np.random.Generator) -> float:
    """One-sided bound of the mean: percentile bootstrap over the queries.

    Hits of one query hang together, so queries are drawn, not hits.
    """
    rows = random.integers(0, len(recalls), size=(_RESAMPLES, len(recalls)))
    return float(np.quantile(recalls[rows].mean(axis=1), 1 - BOUND_LEVEL))
