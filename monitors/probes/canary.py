"""Do the encoders, here and by their own report in the workers, still give the vectors they gave?

What is measured is the distance |a - b|² / (2 |a| |b|) of each fixed text to the vector that is
stored with the version (`pipelines.core.canaries`): the cosine distance on unit vectors, and one
that sees a change of length on others. The greatest over the texts decides, by the bounds that jobs
keep to: a warning above 1e-4, an alarm above 1e-3. Nothing here is drawn at random, so one run is
enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from monitors.probes.base import (
    Evidence,
    Figure,
    FigureFamily,
    Level,
    ProbeContext,
    ProbeName,
    ProbeResult,
)
from monitors.probes.worker_ages import WorkerAges
from pipelines.core.canaries import REFUSE_DISTANCE, WARN_DISTANCE, CanaryReport, compare, distances
from pipelines.core.control import Control
from pipelines.core.errors import ContractMismatchError
from pipelines.core.worker_reports import WorkerReport, read_reports, remove_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from pipelines.core.canaries import Canaries
    from pipelines.core.encoder import Encoded

    Vectors = npt.NDArray[np.float32]

__all__ = ["CanaryProbe"]

_DISTANCE = FigureFamily(
    "plumbline_canary_encoder_distance",
    "Greatest distance of a canary, encoded by the monitor, to its stored vector.",
    ("role",),
    "cosine distance",
)
_NORM = FigureFamily(
    "plumbline_canary_encoder_norm_deviation_ratio",
    "Greatest relative difference in length of a canary's vector from the stored one.",
    ("role",),
    "ratio",
)
_WORKERS = FigureFamily(
    "plumbline_canary_workers",
    "Processes that write the version, by their last canary report; gone: it is too old to count.",
    ("state",),
    "processes",
)
_WORKER_DISTANCE = FigureFamily(
    "plumbline_canary_worker_distance",
    "Greatest distance of a canary to its stored vector that a worker has reported.",
    ("role",),
    "cosine distance",
)

_NORM_BOUND = 0.01
"""A vector whose length is off by more is not of the stored normalisation; rounding is below it
(bfloat16 4e-3)."""

_NO_VECTOR = 2.0
"""Stands for an infinite distance: one side has no vector. No two unit vectors are farther."""

_NAMED_WORKERS = 20


class CanaryProbe:
    """Compares the monitor's own encoder, and reads what the workers say of theirs."""

    NAME: ClassVar[ProbeName] = "canary"
    QUESTION: ClassVar[str] = (
        "Do the encoders, here and in the workers, give the vectors they gave?"
    )
    FAMILIES: ClassVar[tuple[FigureFamily, ...]] = (_DISTANCE, _NORM, _WORKERS, _WORKER_DISTANCE)
    REASONS: ClassVar[Mapping[str, str]] = {
        "reproduced": "Every canary comes out as it is stored.",
        "encoder_near_bound": (
            "The monitor's encoder is farther than rounding explains, and not yet out of bounds. "
            "Look at runtime.dtype and runtime.device, and at what was upgraded last."
        ),
        "encoder_changed": (
            "The monitor's encoder gives other vectors under the same contract. Queries encoded "
            "like this do not belong to the stored vectors: look at pooling, prompts, dtype, "
            "backend and the versions of torch and transformers."
        ),
        "normalization_changed": (
            "The encoder's vectors have another length than the stored ones: a normalisation is "
            "missing, or there is one too many."
        ),
        "contract_mismatch": (
            "The model found here is not the one that the version was written with. Put the "
            "model's files back, or build a new version for the new model."
        ),
        "worker_near_bound": "As encoder_near_bound, in a worker.",
        "worker_changed": (
            "A worker reports that its encoder gives other vectors. It refuses to write by "
            "itself: look at that host's device, dtype, libraries and model files."
        ),
    }

    def run(self, context: ProbeContext) -> ProbeResult:
        """Encodes the canaries, reads the workers' reports, and judges both."""
        ages = _ages(context)
        context.deadline.check()
        bad = [report for report in ages.current if report.level == "refusal"]
        near = [report for report in ages.current if report.level == "warning"]
        figures = _worker_figures(ages)
        details: dict[str, Any] = {"workers": _named([*bad, *near])}
        try:
            encoder = context.unchecked_encoder()
        except ContractMismatchError as error:
            return ProbeResult(
                Level.ALARM,
                "contract_mismatch",
                f"the monitor cannot load the version's encoder: {error}{_said(bad)}",
                figures,
                details=details,
                state=ages.state,
            )
        kept = _Kept(encoder)
        report = compare(context.version.canaries, kept)
        pairs = kept.pairs(context.version.canaries)
        figures = [
            Figure(_DISTANCE, _plain(report.document_distance), ("document",)),
            Figure(_DISTANCE, _plain(report.query_distance), ("query",)),
            *(Figure(_NORM, _plain(_norm_deviation(*pairs[role])), (role,)) for role in pairs),
            *figures,
        ]
        details["worst"] = report.worst_text
        level, reason, words = _judge(report, pairs, bad, near)
        return ProbeResult(
            level,
            reason,
            words,
            figures,
            Evidence(
                statistic=_plain(report.distance),
                effect=_plain(report.distance),
                samples={
                    "current": len(context.version.canaries.document),
                    "workers": len(ages.current),
                },
            ),
            details,
            state=ages.state,
        )


def _judge(
    report: CanaryReport,
    pairs: Mapping[str, tuple[Vectors, Vectors]],
    bad: Sequence[WorkerReport],
    near: Sequence[WorkerReport],
) -> tuple[Level, str, str]:
    own = (
        f"{report.worst_text} is {report.distance:.3g} from its stored vector (documents "
        f"{report.document_distance:.3g}, queries {report.query_distance:.3g}; a warning above "
        f"{WARN_DISTANCE:g}, an alarm above {REFUSE_DISTANCE:g})"
    )
    if report.level == "refusal":
        off = max(_norm_deviation(stored, given) for stored, given in pairs.values())
        if off > _NORM_BOUND and all(_same_direction(*pair) for pair in pairs.values()):
            words = f"the length of the encoder's vectors is off by up to {off:.0%}: {own}"
            return Level.ALARM, "normalization_changed", f"{words}{_said(bad)}"
        return (
            Level.ALARM,
            "encoder_changed",
            f"the monitor's encoder does not reproduce the canaries: {own}{_said(bad)}",
        )
    if bad:
        return Level.ALARM, "worker_changed", f"{_said(bad)[2:]}. The monitor's own encoder: {own}"
    if report.level == "warning":
        return Level.WARNING, "encoder_near_bound", f"the monitor's encoder moves: {own}"
    if near:
        return Level.WARNING, "worker_near_bound", _said(near, "reports a distance near the bound")
    return Level.OK, "reproduced", f"every canary comes out as it is stored: {own}"


def _said(reports: Sequence[WorkerReport], what: str = "does not reproduce the canaries") -> str:
    if not reports:
        return ""
    named = "; ".join(f"{report.worker} {what}" for report in reports[:3])
    more = f" and {len(reports) - 3} more" if len(reports) > 3 else ""
    return f"; {named}{more}"


def _named(reports: Sequence[WorkerReport]) -> list[dict[str, Any]]:
    return [
        {
            "host": report.host,
            "pid": report.pid,
            "level": report.level,
            "document_distance": _optional(report.document_distance),
            "query_distance": _optional(report.query_distance),
            "message": report.message,
        }
        for report in reports[:_NAMED_WORKERS]
    ]


def _optional(distance: float | None) -> float | None:
    return None if distance is None else _plain(distance)


def _plain(distance: float) -> float:
    """For figures and the store, which have no infinity; only words say that one is."""
    return distance if math.isfinite(distance) else _NO_VECTOR


def _ages(context: ProbeContext) -> WorkerAges:
    control = Control(context.qdrant)
    ages = WorkerAges.of(
        read_reports(control, context.version.name),
        state=context.state,
        now=context.now,
        bound_seconds=context.settings.monitor.canary.worker_report_seconds,
    )
    for report in ages.forgotten:
        remove_report(context.qdrant, report)
    return ages


def _worker_figures(ages: WorkerAges) -> list[Figure]:
    levels = [report.level for report in ages.current]
    figures = [
        Figure(_WORKERS, float(levels.count("ok")), ("ok",)),
        Figure(_WORKERS, float(levels.count("warning")), ("warning",)),
        Figure(_WORKERS, float(levels.count("refusal")), ("refusal",)),
        Figure(_WORKERS, float(len(ages.gone)), ("gone",)),
    ]
    for role in ("document", "query"):
        found = [
            distance
            for report in ages.current
            if (distance := getattr(report, f"{role}_distance")) is not None
        ]
        if found:
            figures.append(Figure(_WORKER_DISTANCE, _plain(max(found)), (role,)))
    return figures


class _Kept:
    """An encoder that keeps what it gave last, so that lengths cost no second encoding."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._document: Encoded | None = None
        self._query: Encoded | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        self._document = self._encoder.encode_documents(texts)
        return self._document

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        self._query = self._encoder.encode_queries(texts)
        return self._query

    def pairs(self, stored: Canaries) -> dict[str, tuple[Vectors, Vectors]]:
        """Role to the stored vectors and those given here."""
        # One encoding serves as both where the encoder is symmetric.
        document = self._document
        query = self._query or document
        assert document is not None
        assert query is not None
        return {
            "document": (stored.document, document.vectors),
            "query": (stored.query, query.vectors),
        }


def _norm_deviation(stored: Vectors, given: Vectors) -> float:
    """Greatest |length / stored length - 1|; infinite where one side alone has a vector."""
    if len(stored) != len(given):
        return math.inf
    before = np.linalg.norm(stored.astype(np.float64), axis=1)
    after = np.linalg.norm(given.astype(np.float64), axis=1)
    if not np.array_equal(before > 0, after > 0):
        return math.inf
    both = before > 0
    return float(np.max(np.abs(after[both] / before[both] - 1), initial=0.0))


def _same_direction(stored: Vectors, given: Vectors) -> bool:
    """Whether scaled to unit length the vectors are within the bound."""
    return bool(np.max(distances(_unit(stored), _unit(given))) <= REFUSE_DISTANCE)


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)
