"""Is the space healthy: is it used, and does every document have a chance to be found?

Figures for people and for trends, on a random sample with exact duplicates and zero vectors taken
out (the integrity probe counts those). They warn only where the space has collapsed; whether a
change means something is for the drift and the golden probe to say, which have a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from monitors import geometry
from monitors.probes.base import (
    Evidence,
    Figure,
    FigureFamily,
    Level,
    ProbeContext,
    ProbeName,
    ProbeResult,
)
from monitors.sampling import sample_vectors
from pipelines.core.errors import CanaryMismatchError, ContractMismatchError, SettingsError
from pipelines.core.points import DENSE, OURS, point_id

if TYPE_CHECKING:
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

__all__ = ["GeometryProbe"]

_COSINE = FigureFamily(
    "plumbline_geometry_mean_pairwise_cosine",
    "Mean cosine of pairs of stored vectors: 0 is isotropic, 1 is all the same.",
    unit="cosine",
)
_UNIFORMITY = FigureFamily(
    "plumbline_geometry_uniformity",
    "log E exp(-2 |x - y|^2) over pairs of stored vectors: lower is wider, 0 is all the same.",
    unit="nats",
)
_ALIGNMENT = FigureFamily(
    "plumbline_geometry_alignment",
    "Mean squared distance of golden queries to their relevant documents: lower is closer.",
    unit="squared distance",
)
_RANK = FigureFamily(
    "plumbline_geometry_effective_rank",
    "exp of the entropy of the centred sample's normalised singular values.",
    unit="dimensions",
)
_HUBNESS = FigureFamily(
    "plumbline_geometry_hubness_skewness",
    "Skewness of how often a stored vector is among the ten nearest of others.",
    unit="skewness",
)
_ORPHANS = FigureFamily(
    "plumbline_geometry_antihub_ratio",
    "Share of sampled vectors that are among the ten nearest of no other.",
    unit="ratio",
)
_VECTORS = FigureFamily(
    "plumbline_geometry_sampled_vectors",
    "Different vectors that the last run looked at.",
    unit="vectors",
)

_K = 10
_LEAST = 50
"""Different vectors without which none of the figures says anything."""
_COLLAPSED_RANK = 0.05
"""Effective rank as a share of what it could be, below which the space has collapsed. MiniLM on
questions of bank customers, abstracts and reports: 0.57 to 0.80."""
_NARROW_COSINE = 0.95
_PAIRS = 500


class GeometryProbe:
    """Measures a sample of the stored vectors."""

    NAME: ClassVar[ProbeName] = "geometry"
    QUESTION: ClassVar[str] = "Is the space healthy?"
    FAMILIES: ClassVar[tuple[FigureFamily, ...]] = (
        _COSINE,
        _UNIFORMITY,
        _ALIGNMENT,
        _RANK,
        _HUBNESS,
        _ORPHANS,
        _VECTORS,
    )
    REASONS: ClassVar[Mapping[str, str]] = {
        "measured": "The figures are for reading; nothing has collapsed.",
        "all_equal": (
            "Every sampled document has the same vector: what writes them does not read the text. "
            "Look at the template, the truncation and the model."
        ),
        "collapsed": (
            "The vectors lie in a few directions, or nearly at one point: search cannot tell "
            "documents apart. Look at pooling and at what the documents have in common."
        ),
        "small_sample": "There are too few documents to measure.",
        "empty_index": "There is no document.",
    }

    def run(self, context: ProbeContext) -> ProbeResult:
        """Measures one sample."""
        contract = context.version.contract
        sample = sample_vectors(
            context.qdrant,
            context.version.name,
            context.settings.monitor.geometry.sample,
            dimension=contract.dimension,
            random=context.random,
            deadline=context.deadline,
        )
        if not len(sample):
            return ProbeResult(Level.UNDECIDED, "empty_index", "the version has no document")
        different = np.unique(geometry.unit(sample.vectors), axis=0)
        figures = [Figure(_VECTORS, float(len(different)))]
        evidence = Evidence(samples={"current": len(sample)})
        if len(different) <= 1 and len(sample) >= _LEAST:
            return ProbeResult(
                Level.WARNING,
                "all_equal",
                f"{len(sample)} sampled documents share {len(different)} vector",
                figures,
                evidence,
            )
        if len(different) < _LEAST:
            return ProbeResult(
                Level.UNDECIDED,
                "small_sample",
                f"{len(different)} different vectors, of {_LEAST} that the figures need",
                figures,
                evidence,
            )
        context.deadline.check()
        cosine = geometry.mean_pairwise_cosine(different)
        rank = geometry.effective_rank(different)
        possible = min(contract.dimension, len(different) - 1)
        context.deadline.check()
        occurrence = geometry.k_occurrence(different, _K)
        hubness = geometry.skewness(occurrence)
        figures += [
            Figure(_COSINE, cosine),
            Figure(_UNIFORMITY, geometry.uniformity(different)),
            Figure(_RANK, rank),
            Figure(_HUBNESS, hubness),
            Figure(_ORPHANS, float(np.mean(occurrence == 0))),
        ]
        context.deadline.check()
        aligned = _alignment(context)
        if aligned is not None:
            figures.append(Figure(_ALIGNMENT, aligned))
        collapsed = rank < _COLLAPSED_RANK * possible or cosine > _NARROW_COSINE
        return ProbeResult(
            Level.WARNING if collapsed else Level.OK,
            "collapsed" if collapsed else "measured",
            f"{len(different)} different vectors: mean cosine {cosine:.3f}, effective rank "
            f"{rank:.0f} of {possible}, hubness {hubness:.2f}",
            figures,
            evidence,
        )


def _alignment(context: ProbeContext) -> float | None:
    """Over judged pairs of the golden set; `None` where there is none that this index holds."""
    file = context.settings.monitor.golden.file
    if file is None:
        return None
    from monitors.golden.files import read_golden

    try:
        golden = read_golden(file)
    except SettingsError:
        return None  # the golden probe says so
    pairs = [(query.text, document_id) for query in golden.scored for document_id in query.relevant]
    if len(pairs) > _PAIRS:
        chosen = context.random.choice(len(pairs), _PAIRS, replace=False)
        pairs = [pairs[row] for row in sorted(chosen)]
    documents = _head_vectors(context, sorted({document_id for _, document_id in pairs}))
    pairs = [pair for pair in pairs if pair[1] in documents]
    if not pairs:
        return None
    try:
        encoder = context.encoder()
    except (CanaryMismatchError, ContractMismatchError):
        return None  # the canary probe says so
    texts = sorted({text for text, _ in pairs})
    encoded = encoder.encode_queries(texts)
    queries = {
        text: encoded.vectors[row] for row, text in enumerate(texts) if row not in encoded.refused
    }
    both = [(queries[text], documents[key]) for text, key in pairs if text in queries]
    if not both:
        return None
    first, second = (np.stack(side) for side in zip(*both, strict=True))
    return geometry.alignment(geometry.unit(first), geometry.unit(second))


def _head_vectors(context: ProbeContext, document_ids: list[str]) -> dict[str, Vectors]:
    """Vector of the first chunk of each document that is there."""
    found: dict[str, Vectors] = {}
    for start in range(0, len(document_ids), 256):
        context.deadline.check()
        ids = [
            point_id(context.version.index, document_id, 0)
            for document_id in document_ids[start : start + 256]
        ]
        for point in context.qdrant.call(
            "retrieve",
            context.version.name,
            ids=ids,
            with_payload=[f"{OURS}.document_id"],
            with_vectors=[DENSE],
        ):
            vector = (point.vector or {}).get(DENSE)
            if vector is not None and np.any(vector):
                key = str(point.payload[OURS]["document_id"])
                found[key] = np.asarray(vector, np.float32)
    return found
