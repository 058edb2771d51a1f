"""Has the store finished building the candidate's graph?"""

from __future__ import annotations

import time

from pipelines.rollout.verify.base import CheckResult, Outcome, VerifyContext

__all__ = ["NAME", "check_optimiser"]

NAME = "optimiser"

_MEASURES = "unfinished states"


def check_optimiser(context: VerifyContext) -> CheckResult:
    """The collection's status is green and its optimiser has no error.

    Waits for `patience_seconds`. The embedded engine has no optimiser.
    """
    if context.qdrant.local:
        words = "the embedded engine has no optimiser."
        return CheckResult(NAME, Outcome.SKIPPED, None, None, _MEASURES, words)
    until = time.monotonic() + context.patience_seconds
    while True:
        info = context.qdrant.call("get_collection", context.candidate.name)
        status = str(getattr(info.status, "value", info.status))
        optimiser = info.optimizer_status
        # "ok" of an enumeration, or an object with the error.
        error = str(getattr(optimiser, "error", "") or "")
        if error or status == "red":
            words = (
                f"the collection is {status}: {error or 'the server reports an error'}. Look at "
                "the server's log."
            )
            return CheckResult(NAME, Outcome.REFUSE, 1, 0, _MEASURES, words, {"status": status})
        details = {
            "status": status,
            "indexed_vectors": int(info.indexed_vectors_count or 0),
            "segments": int(info.segments_count or 0),
        }
        if status == "green":
            words = f"idle, {details['indexed_vectors']:,} vectors in the graph."
            return CheckResult(NAME, Outcome.PASS, 0, 0, _MEASURES, words, details)
        if time.monotonic() >= until:
            words = (
                f"the collection is {status}: the server is still optimising it"
                f"{' or waits to be asked to' if status == 'grey' else ''}. Run it again later."
            )
            return CheckResult(NAME, Outcome.UNDECIDED, 1, 0, _MEASURES, words, details)
        context.watch("waiting for the optimiser", 0, 0)
        context.sleep(min(context.settle_seconds, max(0.0, until - time.monotonic())))
