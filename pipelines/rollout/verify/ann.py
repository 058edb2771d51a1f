"""Does the candidate's approximate search find what exact search finds?"""

from __future__ import annotations

from monitors.probes.ann import AnnProbe
from monitors.probes.base import Level
from pipelines.rollout.verify.base import CheckResult, Outcome, VerifyContext
from pipelines.rollout.verify.probing import monitor_settings, probe_context

__all__ = ["NAME", "check_ann"]

NAME = "ann"

_MEASURES = "recall of approximate against exact search"
_UNBOUNDED = 1e6
_QUERIES = 200


def check_ann(context: VerifyContext) -> CheckResult:
    """Measures the recall of the graph, on golden queries and sampled vectors (the ann probe).

    Refused is one whose one-sided 99 % bound lies below `rollout.ann_objective`; a mean below it
    that could be chance is undecided. An engine without a graph of this version searches exactly.
    """
    objective = context.settings.rollout.ann_objective
    info = context.qdrant.call("get_collection", context.candidate.name)
    if context.qdrant.local or not int(info.indexed_vectors_count or 0):
        where = "embedded" if context.qdrant.local else "the version is too small for a graph"
        words = f"the engine searches exactly ({where})."
        return CheckResult(NAME, Outcome.PASS, 1.0, objective, _MEASURES, words)
    settings = monitor_settings(
        context,
        "ann",
        k=context.k,
        objective=objective,
        queries=_QUERIES,
        # A command that somebody waits for, on a version that nobody searches yet.
        queries_per_second=_UNBOUNDED,
    )
    texts = [] if context.golden is None else [query.text for query in context.golden.queries]
    context.watch("comparing with exact search", 0, 0)
    found = AnnProbe(golden_texts=lambda _: texts).run(probe_context(context, settings))
    outcome = {Level.OK: Outcome.PASS, Level.ALARM: Outcome.REFUSE}.get(
        found.level, Outcome.UNDECIDED
    )
    figure = found.evidence.statistic if found.evidence is not None else None
    details = {"reason": found.reason, **found.details}
    return CheckResult(NAME, outcome, figure, objective, _MEASURES, found.words, details)
