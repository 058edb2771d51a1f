"""Are the stored vectors the ones that the contract gives for the stored texts?

A random sample of documents is cut, rendered and encoded anew, as the job does it, and each chunk's
vector is compared with the stored one: |a - b|² / (2 |a| |b|), scaled to unit length first where
the store does so (cosine collections). A document mismatches when a chunk of it is farther than the
canaries' bound of 1e-3, or when the stored chunks are not the ones that the contract cuts. This is
the direct test for vectors of two models in one version: a share p of damaged documents escapes a
sample of n with probability (1 - p)ⁿ.

The effect is the share of documents that mismatch. With none found, the words give the share that
may still be there: the upper end of the exact (Clopper-Pearson) one-sided 95 % interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import structlog

from monitors.probes.base import (
    Evidence,
    Figure,
    FigureFamily,
    Level,
    ProbeContext,
    ProbeName,
    ProbeResult,
)
from monitors.probes.stored_documents import StoredDocument, read_documents, sample_documents
from pipelines.core.canaries import REFUSE_DISTANCE, distances
from pipelines.core.chunker import chunker_for
from pipelines.core.encoder import Encoder
from pipelines.core.errors import CanaryMismatchError, ContractMismatchError
from pipelines.core.planning import Planner
from pipelines.core.plans import Action, Plan

__all__ = ["FidelityProbe"]

_MISMATCH = FigureFamily(
    "plumbline_fidelity_mismatch_ratio",
    "Share of sampled documents whose stored vectors are not the ones of their stored text.",
    unit="ratio",
)
_DISTANCE = FigureFamily(
    "plumbline_fidelity_distance",
    "Distance of the sampled documents' stored vectors to those encoded anew.",
    ("percentile",),
    "cosine distance",
)
_DOCUMENTS = FigureFamily(
    "plumbline_fidelity_sampled_documents",
    "Documents encoded anew in the last run.",
    unit="documents",
)

_BATCH_DOCUMENTS = 16
"""Encoded between two looks at the clock."""

_NAMED = 20
_NO_VECTOR = 2.0
"""Distance where there is nothing to compare with: no two unit vectors are farther."""

_log = structlog.get_logger()


class FidelityProbe:
    """Encodes stored texts anew and compares with what is stored."""

    NAME: ClassVar[ProbeName] = "fidelity"
    QUESTION: ClassVar[str] = (
        "Are the stored vectors the ones that the contract gives for the stored texts?"
    )
    FAMILIES: ClassVar[tuple[FigureFamily, ...]] = (_MISMATCH, _DISTANCE, _DOCUMENTS)
    REASONS: ClassVar[Mapping[str, str]] = {
        "faithful": "Every document of the sample has the vectors of its text.",
        "tolerated": "Some do not, and not more than `monitor.fidelity.maximum_mismatch_ratio`.",
        "mismatch": (
            "Documents have vectors that the contract does not give for their text: another "
            "model, prompt, pooling, chunker or token limit wrote them, or a worker whose runtime "
            "computes otherwise. The details name some. Compare their `indexed_at` with what was "
            "deployed then, and write them again."
        ),
        "empty_index": "There is no document.",
        "no_stored_text": (
            "The version keeps no texts (`ingest.store_text` is off), so nothing can be encoded "
            "anew."
        ),
        "encoder_not_trusted": (
            "The monitor's own encoder does not reproduce the version's canaries, so it cannot "
            "judge others. The canary probe says more."
        ),
    }

    def run(self, context: ProbeContext) -> ProbeResult:
        """Looks at one sample; reads again what mismatches, since it may just have been written."""
        settings = context.settings.monitor.fidelity
        found = sample_documents(
            context.qdrant, context.version, settings.sample, context.random, context.deadline
        )
        if not found:
            return ProbeResult(
                Level.UNDECIDED, "empty_index", "the version has no document to encode anew"
            )
        documents = [document for document in found if document.text is not None]
        if not documents:
            return ProbeResult(
                Level.UNDECIDED,
                "no_stored_text",
                f"none of {len(found)} sampled documents has its text in the index",
            )
        try:
            encoder = context.encoder()
        except (CanaryMismatchError, ContractMismatchError) as error:
            return ProbeResult(
                Level.UNDECIDED, "encoder_not_trusted", f"nothing was compared: {error}"
            )
        compare = _Comparison(context, encoder)
        measured = compare.distances(documents)
        suspects = [document for document in documents if measured[document.id] > REFUSE_DISTANCE]
        moving = set()
        if suspects:
            again = read_documents(
                context.qdrant, context.version, [document.id for document in suspects]
            )
            second = compare.distances(list(again.values()))
            for before in suspects:
                after = again.get(before.id)
                written = after is None or after.torn or after.event_key != before.event_key
                if written and second.get(before.id, _NO_VECTOR) > REFUSE_DISTANCE:
                    moving.add(before.id)  # deleted, or being written: for another run
                else:
                    measured[before.id] = second[before.id]
        judged = {key: value for key, value in measured.items() if key not in moving}
        return _judge(context, judged, len(moving))


class _Comparison:
    """Cuts, renders and encodes as the job does."""

    def __init__(self, context: ProbeContext, encoder: Encoder) -> None:
        self._context = context
        self._encoder = encoder
        version = context.version
        self._scaled = version.contract.distance == "cosine"
        self._planner = Planner(
            context.qdrant, version, encoder, chunker_for(version.contract, encoder)
        )

    def distances(self, documents: Sequence[StoredDocument]) -> dict[str, float]:
        """Document to the greatest distance of its chunks; 2 where the chunks differ."""
        found: dict[str, float] = {}
        for start in range(0, len(documents), _BATCH_DOCUMENTS):
            self._context.deadline.check()
            batch = documents[start : start + _BATCH_DOCUMENTS]
            plans = [Plan(document.event(), Action.EMBED) for document in batch]
            self._planner.cut(plans)
            # Not `Planner.encode`: that counts into the job's metrics.
            encoded = self._encoder.encode_documents(
                [text for plan in plans for text in plan.texts]
            )
            row = 0
            for document, plan in zip(batch, plans, strict=True):
                rows = range(row, row + len(plan.texts))
                row = rows.stop
                found[document.id] = (
                    _NO_VECTOR
                    if any(number in encoded.refused for number in rows)
                    else self._distance(document, plan, encoded.vectors[rows.start : rows.stop])
                )
        return found

    def _distance(self, document: StoredDocument, plan: Plan, vectors: Any) -> float:
        pieces = document.pieces
        if [(piece.start, piece.end) for piece in pieces] != [
            (chunk.start, chunk.end) for chunk in plan.chunks
        ]:
            return _NO_VECTOR
        stored = np.stack([piece.vector for piece in pieces])
        if self._scaled:
            stored, vectors = _unit(stored), _unit(vectors)
        largest = float(distances(stored, vectors).max())
        return largest if math.isfinite(largest) else _NO_VECTOR


def _unit(vectors: Any) -> Any:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def _judge(context: ProbeContext, measured: Mapping[str, float], moving: int) -> ProbeResult:
    allowed = context.settings.monitor.fidelity.maximum_mismatch_ratio
    wrong = sorted(
        (key for key, value in measured.items() if value > REFUSE_DISTANCE),
        key=lambda key: -measured[key],
    )
    count = len(measured)
    ratio = len(wrong) / count if count else 0.0
    figures = [Figure(_MISMATCH, ratio), Figure(_DOCUMENTS, float(count))]
    if count:
        values = np.asarray(list(measured.values()))
        figures += [
            Figure(_DISTANCE, float(np.quantile(values, quantile)), (label,))
            for label, quantile in (("50", 0.5), ("99", 0.99), ("100", 1.0))
        ]
    evidence = Evidence(statistic=ratio, effect=ratio, samples={"current": count})
    details: dict[str, Any] = {"moving": moving}
    if not wrong:
        unseen = 1 - 0.05 ** (1 / count) if count else 1.0
        return ProbeResult(
            Level.OK,
            "faithful",
            f"all of {count} sampled documents have the vectors of their text; at most "
            f"{unseen:.1%} of all documents have others (95 % confidence)",
            figures,
            evidence,
            details,
        )
    details["documents"] = [
        {"document_id": key, "distance": measured[key]} for key in wrong[:_NAMED]
    ]
    tolerated = ratio <= allowed
    if not tolerated:
        _log.warning("fidelity_mismatch", version=context.version.name, document_ids=wrong[:_NAMED])
    return ProbeResult(
        Level.WARNING if tolerated else Level.ALARM,
        "tolerated" if tolerated else "mismatch",
        f"{len(wrong)} of {count} sampled documents ({ratio:.1%}) have vectors that the contract "
        f"does not give for their text, up to {measured[wrong[0]]:.3g} away; at most {allowed:.1%} "
        f"may be farther than {REFUSE_DISTANCE:g}",
        figures,
        evidence,
        details,
    )
