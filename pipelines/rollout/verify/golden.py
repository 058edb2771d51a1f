"""The golden gate as a check."""

from __future__ import annotations

from monitors.golden.run import Pace, VersionStore
from pipelines.core.errors import CanaryMismatchError, ContractMismatchError, ModelError
from pipelines.rollout.gate import Asked, golden_gate
from pipelines.rollout.verify.base import CheckResult, Outcome, VerifyContext

__all__ = ["NAME", "check_golden"]

NAME = "golden"


def check_golden(context: VerifyContext) -> CheckResult:
    """Asks the golden queries of both versions (`pipelines.rollout.gate`).

    Raises
    ------
    SettingsError
        The golden set belongs to another index.
    """
    measures = f"difference of recall@{context.k}"
    bound = -context.margin
    if context.golden is None:
        if context.without_golden:
            words = f"left out by {context.without_golden!r}."
            return CheckResult(NAME, Outcome.SKIPPED, None, bound, measures, words)
        words = (
            "there is no golden set, so nothing shows that search stays as good: give one "
            "(`--golden`, `monitor.golden.file`), or go on without with a written reason "
            "(`--without-golden`)."
        )
        return CheckResult(NAME, Outcome.UNDECIDED, None, bound, measures, words)
    try:
        vectors = context.golden_vectors
    except (CanaryMismatchError, ContractMismatchError, ModelError) as error:
        words = f"nothing was asked: {error}"
        return CheckResult(NAME, Outcome.UNDECIDED, None, bound, measures, words)
    live, candidate = (
        Asked(VersionStore(context.qdrant, version, Pace(None)), vectors[version.name])
        for version in (context.live, context.candidate)
    )
    report = golden_gate(
        context.golden,
        live,
        candidate,
        k=context.k,
        margin=context.margin,
        level=context.level,
        watch=lambda done, total: context.watch("asking golden queries", done, total),
    )
    return CheckResult(
        NAME,
        Outcome(report.outcome),
        report.test.difference if report.test.queries else None,
        bound,
        measures,
        f"{report.words}.",
        report.to_json(),
    )
