"""Does the approximate index find what exact search finds?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from monitors.ann import figures as gauges
from monitors.ann.search import Answers, Query, search, stored_queries, upper_bound
from monitors.probes.base import (
    Evidence,
    Figure,
    FigureFamily,
    Level,
    ProbeContext,
    ProbeName,
    ProbeResult,
)
from pipelines.core.errors import (
    CanaryMismatchError,
    ContractMismatchError,
    ModelError,
    SettingsError,
)
from pipelines.core.settings import Settings

__all__ = ["AnnProbe"]

_MINIMUM_QUERIES = 30
"""Below it, nothing is decided."""

_SHARE_OF_TIME = 0.8
"""Of the time that is left, spent on searching."""

GoldenTexts = Callable[[Settings], Sequence[str]]


def _golden_texts(settings: Settings) -> Sequence[str]:
    """Queries of the golden set that the settings name; none without one."""
    path = settings.monitor.golden.file
    if path is None:
        return ()
    from monitors.golden.files import read_golden

    return [query.text for query in read_golden(path).queries]


@dataclass(frozen=True, slots=True)
class _Engine:
    indexed: int
    indexing: bool
    exact: bool
    """It has no graph, so both searches are exact."""


class AnnProbe:
    """Searches for the same vectors twice, by the graph and exactly, and compares.

    Queries are vectors of the version drawn at random, each without itself among its answers, and
    the golden set's queries where there is one. An answer counts as found when it is among the k
    best by exact search or as good as the k-th.

    Recall is an objective that the user sets (`ann.objective`). The probe alarms when the
    one-sided 99 % bound of the mean recall, by a bootstrap over the queries, is below it, for
    either kind of queries, and warns when the mean is. The effect is the recall that is lacking,
    0 when the objective is met.

    Searches go out one at a time and not faster than `ann.queries_per_second`; where the time of
    a run is not enough for all queries, fewer are asked.

    Parameters
    ----------
    golden_texts
        Queries of the golden set that the settings name; empty without one. Where it cannot be
        read, or the encoder cannot be used, the run goes on without them and says so.
    """

    NAME: ClassVar[ProbeName] = "ann"
    QUESTION: ClassVar[str] = "Does the approximate index find what exact search finds?"
    FAMILIES: ClassVar[tuple[FigureFamily, ...]] = gauges.FAMILIES
    REASONS: ClassVar[Mapping[str, str]] = {
        "met": "The recall meets its objective.",
        "recall_low": "The approximate search misses its objective: raise `ef`, or build the "
        "graph with a larger `m` and `ef_construct`.",
        "recall_uncertain": "The measured recall is below the objective, by less than the sample "
        "can tell: ask more queries, or wait for more runs.",
        "exact_search": "The engine has no graph for this version (embedded, or too small to be "
        "indexed): it searches exactly.",
        "indexing": "The recall meets its objective; the engine is building its graph and "
        "searches what is not in it exactly.",
        "too_few_queries": "The version or the time of a run has room for fewer than 30 queries.",
        "empty": "The version holds fewer than two vectors.",
    }

    def __init__(self, *, golden_texts: GoldenTexts = _golden_texts) -> None:
        self._golden_texts = golden_texts

    def run(self, context: ProbeContext) -> ProbeResult:
        """Looks once.

        Raises
        ------
        ServiceUnavailableError
            Qdrant is out of reach.
        ProbeTimeoutError
            The time was not enough.
        """
        settings = context.settings.monitor.ann
        engine = _look_at_engine(context)
        figures = [
            Figure(gauges.OBJECTIVE, settings.objective),
            Figure(gauges.INDEXED, engine.indexed),
            Figure(gauges.INDEXING, float(engine.indexing)),
        ]
        room = int(context.deadline.remaining * _SHARE_OF_TIME * settings.queries_per_second / 2)
        sources = {"stored": stored_queries(context, max(2, min(settings.queries, room)))}
        if len(sources["stored"]) < 2:
            words = "The version holds fewer than two vectors: there is nothing to search."
            return ProbeResult(Level.UNDECIDED, "empty", words, figures)
        room -= len(sources["stored"])
        left_out = ""
        try:
            sources["golden"] = self._golden_queries(context, min(settings.queries, room))
        except (SettingsError, ModelError, ContractMismatchError, CanaryMismatchError) as error:
            left_out = type(error).__name__
        asked = {source: queries for source, queries in sources.items() if queries}
        answers = {}
        for left, (source, queries) in zip(range(len(asked), 0, -1), asked.items(), strict=True):
            # A search may be slower than the pace; then fewer are asked.
            until = time.monotonic() + context.deadline.remaining * _SHARE_OF_TIME / left
            answers[source] = search(context, queries, until)
        bounds = {}
        for source, found in answers.items():
            bounds[source] = upper_bound(found.recalls, context.random)
            figures.append(Figure(gauges.QUERIES, len(found.recalls), (source,)))
            figures.append(Figure(gauges.RECALL, float(found.recalls.mean()), (source,)))
            figures.append(Figure(gauges.BOUND, bounds[source], (source,)))
        for mode in ("approximate", "exact"):
            seconds = [second for found in answers.values() for second in getattr(found, mode)]
            figures.append(Figure(gauges.MEDIAN, float(np.median(seconds)), (mode,)))
            figures.append(Figure(gauges.P95, float(np.quantile(seconds, 0.95)), (mode,)))
        return _decide(context, engine, answers, bounds, figures, left_out)

    def _golden_queries(self, context: ProbeContext, most: int) -> list[Query]:
        texts = self._golden_texts(context.settings) if most > 0 else ()
        if not texts:
            return []
        chosen = context.random.choice(len(texts), size=min(len(texts), most), replace=False)
        encoded = context.encoder().encode_queries([texts[row] for row in chosen])
        return [
            Query(vector, None)
            for row, vector in enumerate(encoded.vectors)
            if row not in encoded.refused
        ]


def _look_at_engine(context: ProbeContext) -> _Engine:
    info = context.qdrant.call("get_collection", context.version.name)
    indexed = int(info.indexed_vectors_count or 0)
    indexing = str(getattr(info.status, "value", info.status)) != "green"
    return _Engine(indexed, indexing, context.qdrant.local or indexed == 0)


def _decide(
    context: ProbeContext,
    engine: _Engine,
    answers: Mapping[str, Answers],
    bounds: Mapping[str, float],
    figures: Sequence[Figure],
    left_out: str,
) -> ProbeResult:
    settings = context.settings.monitor.ann
    means = {source: float(found.recalls.mean()) for source, found in answers.items()}
    sizes = {source: len(found.recalls) for source, found in answers.items()}
    enough = [source for source in answers if sizes[source] >= _MINIMUM_QUERIES]
    worst = min(enough or answers, key=lambda source: means[source])
    measured = (
        f"recall@{settings.k} of {means[worst]:.3f} over {sizes[worst]} {worst} queries "
        f"(objective {settings.objective:g}, at most {bounds[worst]:.3f} with 99 % confidence)"
    )
    level, reason, words = Level.OK, "met", f"A {measured}."
    if engine.exact:
        reason, words = "exact_search", f"The engine searches exactly: a {measured}."
    elif engine.indexing:
        reason = "indexing"
        words = f"The engine is building its graph ({engine.indexed} vectors so far): a {measured}."
    if not enough:
        level, reason = Level.UNDECIDED, "too_few_queries"
        words = f"Too few queries to decide: a {measured}."
    elif any(bounds[source] < settings.objective for source in enough):
        level, reason = Level.ALARM, "recall_low"
        worst = min(enough, key=lambda source: bounds[source])
        words = (
            f"The approximate search loses answers: recall@{settings.k} is {means[worst]:.3f} "
            f"over {sizes[worst]} {worst} queries, at most {bounds[worst]:.3f} with 99 % "
            f"confidence; the objective is {settings.objective:g}."
        )
    elif means[worst] < settings.objective:
        level, reason = Level.WARNING, "recall_uncertain"
        words = f"Measured below the objective, by less than the sample can tell: {measured}."
    if left_out:
        words += f" The golden queries were left out: {left_out}."
    return ProbeResult(
        level,
        reason,
        words,
        figures,
        evidence=Evidence(
            statistic=means[worst],
            effect=max(0.0, settings.objective - means[worst]),
            samples={f"{source}_queries": size for source, size in sizes.items()},
        ),
        details={
            "recall": {source: round(mean, 4) for source, mean in means.items()},
            "upper_bound": {source: round(bound, 4) for source, bound in bounds.items()},
            "indexed_vectors": engine.indexed,
            "indexing": engine.indexing,
            "golden_left_out": left_out,
        },
    )
