"""Are the candidate's stored vectors the ones that its contract gives for its texts?"""

from __future__ import annotations

from monitors.probes.base import Level
from monitors.probes.fidelity import FidelityProbe
from pipelines.core.canaries import REFUSE_DISTANCE
from pipelines.core.errors import ModelError
from pipelines.rollout.verify.base import CheckResult, Outcome, VerifyContext
from pipelines.rollout.verify.probing import monitor_settings, probe_context

__all__ = ["NAME", "check_vectors"]

NAME = "vectors"

_MEASURES = "share of sampled documents"


def check_vectors(context: VerifyContext) -> CheckResult:
    """Encodes a sample of `monitor.fidelity.sample` documents anew; none may differ.

    A vector of another model that claims to be the contract's shows here and nowhere else.
    """
    settings = monitor_settings(context, "fidelity", maximum_mismatch_ratio=0.0)
    context.watch("encoding a sample anew", 0, 0)
    try:
        found = FidelityProbe().run(probe_context(context, settings))
    except ModelError as error:
        words = f"nothing was compared: {error}"
        return CheckResult(NAME, Outcome.UNDECIDED, None, 0, _MEASURES, words)
    share = found.evidence.effect if found.evidence is not None else None
    details = {"reason": found.reason, "distance_bound": REFUSE_DISTANCE, **found.details}
    words = f"{found.words}."
    if found.reason == "no_stored_text":
        return CheckResult(NAME, Outcome.SKIPPED, None, 0, _MEASURES, words, details)
    outcome = {Level.OK: Outcome.PASS, Level.UNDECIDED: Outcome.UNDECIDED}.get(
        found.level, Outcome.REFUSE
    )
    if outcome is Outcome.REFUSE:
        named = [str(entry["document_id"]) for entry in found.details.get("documents", ())]
        words = f"{words} Worst: {', '.join(named[:10])}."
    return CheckResult(NAME, outcome, share, 0, _MEASURES, words, details)
