"""The ann probe's gauges."""

from __future__ import annotations

from monitors.probes.base import FigureFamily

__all__ = ["FAMILIES"]

RECALL = FigureFamily(
    "plumbline_ann_recall_ratio",
    "Share of the k best by exact search that the approximate search finds, mean over queries.",
    labels=("source",),
    unit="ratio",
)
BOUND = FigureFamily(
    "plumbline_ann_recall_upper_bound_ratio",
    "One-sided 99 % confidence bound of the recall: below the objective, it is missed for sure.",
    labels=("source",),
    unit="ratio",
)
OBJECTIVE = FigureFamily(
    "plumbline_ann_recall_objective_ratio", "Least recall that the settings ask for.", unit="ratio"
)
MEDIAN = FigureFamily(
    "plumbline_ann_search_median_seconds",
    "Median time of a search by the probe, one after another.",
    labels=("mode",),
    unit="seconds",
)
P95 = FigureFamily(
    "plumbline_ann_search_p95_seconds",
    "95th percentile of the time of a search by the probe.",
    labels=("mode",),
    unit="seconds",
)
QUERIES = FigureFamily(
    "plumbline_ann_queries", "Queries of the last run.", labels=("source",), unit="queries"
)
INDEXED = FigureFamily(
    "plumbline_ann_indexed_vectors", "Vectors that the graph holds, by the engine.", unit="vectors"
)
INDEXING = FigureFamily(
    "plumbline_ann_indexing_state",
    "1 while the engine optimises its segments, else 0.",
    unit="0 or 1",
)

FAMILIES: tuple[FigureFamily, ...] = (
    *(RECALL, BOUND, OBJECTIVE, MEDIAN, P95, QUERIES, INDEXED, INDEXING),
)
