"""Do this process and the candidate's workers make the vectors that the candidate was made with?"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from pipelines.core.canaries import REFUSE_DISTANCE, WARN_DISTANCE, compare
from pipelines.core.control import Control
from pipelines.core.errors import ContractMismatchError, ModelError
from pipelines.core.worker_reports import WorkerReport, read_reports
from pipelines.rollout.verify.base import CheckResult, Outcome, VerifyContext

__all__ = ["NAME", "check_canaries"]

NAME = "canaries"

_MEASURES = "cosine distance"
_NO_VECTOR = 2.0
_NAMED = 3


def check_canaries(context: VerifyContext) -> CheckResult:
    """Encodes the candidate's canaries here, and reads what its workers said of theirs.

    A report of a worker counts while it is not older than `monitor.canary.worker_report_seconds`
    by the worker's clock; one of a worker that has ended says nothing of who writes now.
    """
    reports = read_reports(Control(context.qdrant), context.candidate.name)
    recent = [report for report in reports if _recent(context, report)]
    bad = [report for report in recent if report.level == "refusal"]
    details = {
        "workers": len(recent),
        "refusing": [
            {"worker": report.worker, "message": report.message[:300]} for report in bad[:_NAMED]
        ],
    }
    said = (
        f"; {len(recent)} worker{'s' if len(recent) != 1 else ''} of its job reported"
        if recent
        else "; no worker has reported lately"
    )
    try:
        encoder = context.unchecked_encoder(context.candidate)
    except (ContractMismatchError, ModelError) as error:
        words = f"the candidate's encoder cannot be loaded here: {error}"
        return CheckResult(NAME, Outcome.REFUSE, None, REFUSE_DISTANCE, _MEASURES, words, details)
    report = compare(context.candidate.canaries, encoder)
    own = (
        f"{report.worst_text} is {report.distance:.2g} from its stored vector (a warning above "
        f"{WARN_DISTANCE:g})"
    )
    figure = max(
        [report.distance, *(d for worker in recent for d in _distances(worker))], default=0.0
    )
    figure = figure if math.isfinite(figure) else _NO_VECTOR
    details["document_distance"] = _plain(report.document_distance)
    details["query_distance"] = _plain(report.query_distance)
    if report.level == "refusal":
        words = (
            f"this process does not reproduce the candidate's canaries: {own}{said}. Look at "
            "runtime.device, runtime.dtype and the versions of torch and transformers."
        )
        return CheckResult(NAME, Outcome.REFUSE, figure, REFUSE_DISTANCE, _MEASURES, words, details)
    if bad:
        who = "; ".join(worker.worker for worker in bad[:_NAMED])
        words = (
            f"{len(bad)} of {len(recent)} workers of the candidate's job do not reproduce its "
            f"canaries ({who}). Here {own}. Look at those hosts' device, libraries and model files."
        )
        return CheckResult(NAME, Outcome.REFUSE, figure, REFUSE_DISTANCE, _MEASURES, words, details)
    return CheckResult(
        NAME, Outcome.PASS, figure, REFUSE_DISTANCE, _MEASURES, f"{own}{said}.", details
    )


def _recent(context: VerifyContext, report: WorkerReport) -> bool:
    if report.written_at is None:
        return report.level == "refusal"
    age = (datetime.now(UTC) - report.written_at).total_seconds()
    return age <= context.settings.monitor.canary.worker_report_seconds


def _distances(report: WorkerReport) -> list[float]:
    found = (report.document_distance, report.query_distance)
    return [distance for distance in found if distance is not None]


def _plain(distance: float) -> float:
    return distance if math.isfinite(distance) else _NO_VECTOR
