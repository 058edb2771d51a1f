"""Does search still find the judged documents?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from monitors.golden.baseline import Baseline, DocumentState, Store
from monitors.golden.change import Change, measure_change
from monitors.golden.decide import Verdict, decide
from monitors.golden.families import (
    FAMILIES,
    LOSS,
    OVERLAP,
    REASONS,
    counts,
    measured,
    scored,
)
from monitors.golden.files import read_golden
from monitors.golden.golden_set import GoldenSet
from monitors.golden.measures import score
from monitors.golden.observe import Comparable, Observation, align, ask
from monitors.golden.power import ENOUGH_QUERIES
from monitors.golden.run import MOST_PER_SECOND, Pace, VersionStore, unhurried
from monitors.golden.vectors import GoldenVectors
from monitors.probes.base import (
    Evidence,
    Figure,
    FigureFamily,
    Level,
    ProbeContext,
    ProbeName,
    ProbeResult,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["GoldenProbe"]

_DEPTH = 50
"""Documents asked for, of each query, where twice the deepest k is less."""

_NAMED = 20
"""Documents and queries of a kind in the details, at most."""

_STATE_SCHEMA = 1


class GoldenProbe:
    """Asks the golden queries and compares with the version's baseline run.

    The first run of a version, or of a golden set whose queries or judgements have changed, becomes
    the baseline. Later ones are compared with it over the documents that existed then, so that
    neither growth nor deletions look like damage: `monitors.golden.baseline` says which count,
    `monitors.golden.decide` what alarms. Effect: recall at the first k lost, 0 to 1. Statistic:
    queries that lost recall minus queries that gained.

    Parameters
    ----------
    store
        Where to ask; the default is the context's version, at the pace of the settings.
    """

    NAME: ClassVar[ProbeName] = "golden"
    QUESTION: ClassVar[str] = "Does search still find the judged documents?"
    FAMILIES: ClassVar[tuple[FigureFamily, ...]] = FAMILIES
    REASONS: ClassVar[Mapping[str, str]] = REASONS

    def __init__(self, store: Callable[[ProbeContext], Store] | None = None) -> None:
        self._store = store
        self._vectors = GoldenVectors()

    def run(self, context: ProbeContext) -> ProbeResult:
        """One pass over the golden queries."""
        settings = context.settings.monitor.golden
        if settings.file is None:
            return _undecided("no_golden_file", "no golden set: `monitor.golden.file` is not set")
        golden = read_golden(settings.file)
        if not golden.scored:
            return _undecided(
                "no_judgements", f"none of {len(golden.queries)} queries has a relevant document"
            )
        vectors = self._vectors.of(context.encoder(), golden.scored, context.deadline)
        depths = settings.k
        depth = max(_DEPTH, 2 * max(depths))
        baseline = Baseline.from_json(context.baseline)
        usable = baseline is not None and baseline.digest == golden.digest
        usable = usable and baseline is not None and baseline.depth >= max(depths)
        store = (
            _version_store(context, len(golden.scored), first=not usable)
            if self._store is None
            else self._store(context)
        )
        states = store.states(golden.judged)
        if baseline is None or not usable:
            return self._first(context, golden, vectors, store, states, depth, baseline)
        observed = ask(
            golden,
            vectors,
            store,
            depth=depth,
            needed=max(depths),
            states=states,
            baseline=baseline,
        )
        return _judge(context, golden, baseline, observed, vectors)

    def _first(
        self,
        context: ProbeContext,
        golden: GoldenSet,
        vectors: Mapping[str, npt.NDArray[np.float32]],
        store: Store,
        states: Mapping[str, DocumentState],
        depth: int,
        replaced: Baseline | None,
    ) -> ProbeResult:
        """Scores a run that there is nothing to compare with, and makes it the baseline."""
        present = [d for d in golden.relevant if states.get(d) is DocumentState.PRESENT]
        figures = counts(golden, states)
        if not present and not any(store.search(vector, 1) for vector in [*vectors.values()][:1]):
            return _undecided("index_empty", "the version holds no vectors", figures)
        if 2 * len(present) < len(golden.relevant):
            return _undecided(
                "few_documents",
                f"the version holds {len(present)} of {len(golden.relevant)} judged documents",
                figures,
            )
        clock = int(time.time() * 1000)
        depths = context.settings.monitor.golden.k
        observed = ask(golden, vectors, store, depth=depth, needed=max(depths), states=states)
        baseline = Baseline(
            digest=golden.digest,
            depth=depth,
            event_cut=int(context.now.timestamp() * 1000),
            clock_cut=clock,
            rankings=observed.rankings,
            present=frozenset(d for d in golden.judged if states.get(d) is DocumentState.PRESENT),
        )
        if replaced is None:
            reason, why = "baseline_taken", "nothing to compare with is remembered"
        elif replaced.digest != golden.digest:
            reason, why = "golden_set_changed", "the golden set has changed"
        else:
            reason, why = "settings_changed", "monitor.golden.k has changed"
        means = score(golden.qrels, observed.served, depths).means(depths[0])
        return ProbeResult(
            Level.UNDECIDED,
            reason,
            f"{why}: recall@{depths[0]} {means['recall']:.3f} over {len(golden.scored)} queries is "
            f"the baseline from now on{_small(golden)}",
            [*scored(golden, observed, depths), *figures],
            Evidence(samples={"queries": len(golden.scored)}, baseline=0),
            _named(golden, vectors),
            state={"schema": _STATE_SCHEMA, "digest": golden.digest, "deleted": []},
            baseline=baseline.to_json(),
        )


def _version_store(context: ProbeContext, queries: int, *, first: bool) -> Store:
    settings = context.settings.monitor.golden
    rate = settings.queries_per_second
    if rate is None and first:
        # Once a version: until there is a baseline nobody watches it, and the service is not ready.
        rate = MOST_PER_SECOND
    elif rate is None:
        rate = unhurried(queries, min(context.deadline.remaining, settings.interval_seconds))
    return VersionStore(context.qdrant, context.version, Pace(rate, context.deadline))


def _judge(
    context: ProbeContext,
    golden: GoldenSet,
    baseline: Baseline,
    observed: Observation,
    vectors: Mapping[str, npt.NDArray[np.float32]],
) -> ProbeResult:
    settings = context.settings.monitor.golden
    depths = settings.k
    kept = context.state or {}
    kept = kept if kept.get("digest") == golden.digest else {}
    comparable = align(golden, baseline, observed, kept.get("deleted", ()))
    figures = [*scored(golden, observed, depths), *counts(golden, observed.states)]
    state = {
        "schema": _STATE_SCHEMA,
        "digest": golden.digest,
        "deleted": sorted(comparable.deleted),
        "control": kept.get("control"),
    }
    details: dict[str, Any] = {
        "deleted_documents": len(comparable.deleted),
        "documents_not_at_baseline": len(comparable.absent),
        "lost_documents": sorted(comparable.lost)[:_NAMED],
        "filtered_queries": observed.filtered,
        **_named(golden, vectors),
    }
    judged = {document for of in comparable.qrels.values() for document in of}
    left = len(judged.intersection(golden.relevant))
    if 2 * left < len(golden.relevant):
        return ProbeResult(
            Level.UNDECIDED,
            "few_documents_left",
            f"{left} of {len(golden.relevant)} judged documents can still be compared with the "
            f"baseline; {len(comparable.deleted)} were deleted since",
            figures,
            details=details,
            state=state,
        )
    change = measure_change(comparable, depths, worst=_NAMED)
    verdict = decide(
        change,
        minimum_effect=settings.minimum_effect,
        average_run_length=settings.average_run_length,
        control=kept.get("control"),
        at=context.now,
        lost_share=len(comparable.lost & judged) / max(1, len(judged)),
    )
    for k in depths:
        figures += measured(change.after.means(k), k, "baseline")
    figures += [Figure(LOSS, change.loss), Figure(OVERLAP, change.rank_biased_overlap)]
    lost, gained = change.lost_and_gained
    return ProbeResult(
        Level(verdict.level),
        verdict.reason,
        _words(change, verdict, comparable) + (_small(golden) if verdict.level != "ok" else ""),
        figures,
        Evidence(
            statistic=float(lost - gained),
            effect=change.loss,
            p_value=change.p_value,
            e_value=verdict.e_value,
            samples={"queries": change.queries},
            baseline=verdict.baseline,
        ),
        {
            **details,
            "overlap": change.overlap,
            "tests": {name: asdict(test) for name, test in change.tests.items()},
            "worst_queries": [asdict(worst) for worst in change.worst],
        },
        state={**state, "control": verdict.control},
    )


def _words(change: Change, verdict: Verdict, comparable: Comparable) -> str:
    before, after = change.before.means(change.k), change.after.means(change.k)
    lost, gained = change.lost_and_gained
    words = (
        f"recall@{change.k} {after['recall']:.3f}, at the baseline {before['recall']:.3f} "
        f"({lost} of {change.queries} queries lost, {gained} gained, p = {change.p_value:.2g}); "
        f"MRR {after['mrr']:.3f}, was {before['mrr']:.3f}"
    )
    if comparable.lost:
        named = ", ".join(sorted(comparable.lost)[:3])
        more = len(comparable.lost) - 3
        words += (
            f". {len(comparable.lost)} judged documents are gone without having been deleted: "
            f"{named}{f' and {more} more' if more > 0 else ''}"
        )
    if verdict.reason == "scores_changed":
        top = change.tests["top_score"]
        words += f". The first hit scores {top.after:.3f} on average, was {top.before:.3f}"
    return words


def _small(golden: GoldenSet) -> str:
    if len(golden.scored) >= ENOUGH_QUERIES:
        return ""
    return (
        f". With {len(golden.scored)} judged queries only a large loss can be proven: "
        f"{ENOUGH_QUERIES} or more are better"
    )


def _undecided(reason: str, words: str, figures: Sequence[Figure] = ()) -> ProbeResult:
    return ProbeResult(Level.UNDECIDED, reason, words, figures)


def _named(
    golden: GoldenSet, vectors: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, list[str]]:
    refused = [query.id for query in golden.scored if query.id not in vectors]
    return {"queries_without_vector": refused[:_NAMED]}
