"""Is the version what it claims to be?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from monitors.integrity.chunks import look_at_chunks
from monitors.integrity.counts import Counts, count_heads, read_counts
from monitors.integrity.figures import FAMILIES, figures_of
from monitors.integrity.findings import (
    Finding,
    chunk_findings,
    count_findings,
    loss,
    vector_findings,
)
from monitors.integrity.known import find_missing, renew
from monitors.integrity.purges import Purges, read_purges, was_purged
from monitors.integrity.vectors import look_at_vectors
from monitors.probes.base import (
    Evidence,
    FigureFamily,
    Level,
    ProbeContext,
    ProbeName,
    ProbeResult,
)
from monitors.sampling import live_points, sample_points
from pipelines.core.points import DENSE, OURS, Head, head_of
from pipelines.core.sweep import CHUNK_FIELDS

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["IntegrityProbe"]

_SAMPLE_FIELDS = (*CHUNK_FIELDS, f"{OURS}.fingerprint")

_SHOWN = 20
"""Document ids in the details, at most."""


@dataclass(frozen=True)
class _Sample:
    vectors: npt.NDArray[np.float32]
    chunks: Mapping[tuple[str, int], Head]
    document_ids: Sequence[str]
    foreign: int


def _purges_on_record(context: ProbeContext) -> Purges:
    return read_purges(context.qdrant, context.version)


class IntegrityProbe:
    """Counts what a version holds, and looks at a random sample of it.

    Exact, by the server: points, documents, tombstones, foreign fingerprints, points of others,
    documents without a vector, tombstones with one. By a sample of `integrity.sample` points:
    orphan and missing chunks, zero vectors, dimensions, duplicates; what n sampled points do not
    show is, with 95 % confidence, in less than 3 / n of all points.

    Lost documents: no write of Plumbline lowers the number of heads and tombstones but a purge,
    so less than the most there ever was and what purges took is a loss, and so is any of 1,500
    remembered documents that has neither and was not purged. Both go on showing until the
    documents are back, or somebody resets the probe.

    Nothing is deleted: orphan chunks are swept by `plumbline index sweep`. The effect is the
    number of lost documents.

    Parameters
    ----------
    purged
        What was purged of the version; default: what the control collection says.
    settle_seconds
        Pause before the second look at chunks that do not fit, so that a write can end.
    """

    NAME: ClassVar[ProbeName] = "integrity"
    QUESTION: ClassVar[str] = "Is the version what it claims to be?"
    FAMILIES: ClassVar[tuple[FigureFamily, ...]] = FAMILIES
    REASONS: ClassVar[Mapping[str, str]] = {
        "sound": "Everything is as it should be.",
        "first_run": "Everything that one run can see is as it should be; losses show from the "
        "next run on.",
        "empty": "The version holds no document yet.",
        "lost_documents": "Documents vanished without a deletion: somebody deleted points, or the "
        "store lost them. Restore a snapshot, or replay the topic. `plumbline monitor reset "
        "integrity` takes back a loss that is accepted.",
        "foreign_fingerprints": "Points of another contract are in this version: find the writer, "
        "and encode these documents anew.",
        "unknown_points": "Somebody else writes to this collection.",
        "vectorless": "Documents have no vector and cannot be found: encode them anew.",
        "missing_chunks": "Documents lack chunks that their heads count: replay these documents.",
        "zero_vectors": "Stored vectors are zero and cannot be found: encode these documents anew.",
        "revived_dimensions": "Vectors use dimensions that the model never uses: they come from "
        "another encoder.",
        "died_dimensions": "Stored vectors lack dimensions that the model uses: they were cut or "
        "come from another encoder.",
        "orphan_chunks": "Chunks were left behind by a writer that died: run `plumbline index "
        "sweep`.",
        "tombstone_vectors": "Deleted documents are still found: delete them again.",
        "duplicates": "Many vectors are equal: the same text was indexed under many ids.",
    }

    def __init__(
        self,
        *,
        purged: Callable[[ProbeContext], Purges] = _purges_on_record,
        settle_seconds: float = 2.0,
    ) -> None:
        self._purged = purged
        self._settle_seconds = settle_seconds

    def run(self, context: ProbeContext) -> ProbeResult:
        """Looks once.

        Raises
        ------
        ServiceUnavailableError
            Qdrant is out of reach.
        ProbeTimeoutError
            The time was not enough.
        """
        qdrant, version = context.qdrant, context.version
        state = context.state or {}
        if state.get("incarnation") != version.incarnation:
            state = {}  # built anew under the same name: nothing is known of it
        known: list[str] = state.get("known", [])
        # A purge may go on while we count: what was on record before is surely out of the count,
        # and what is on record after may be.
        before = self._purged(context)
        counts = read_counts(qdrant, version, context.deadline, settle_seconds=self._settle_seconds)
        missing = find_missing(qdrant, version, known, self._was_purged(context, state))
        purged = self._purged(context)
        # Heads and purged tombstones together only grow.
        most = int(state.get("heads", 0)) + int(state.get("purged", 0))
        heads = counts.heads
        if heads + purged.count < most:
            # A fall is confirmed: replicas that catch up may count less for a moment.
            heads = max(heads, count_heads(qdrant, version))
            purged = self._purged(context)
        fallen = max(0, most - heads - purged.count)
        lost = max(fallen, len(missing.document_ids))
        sample = _read_sample(context)
        vectors = look_at_vectors(sample.vectors, version.canaries)
        chunks = look_at_chunks(
            qdrant,
            version,
            sample.chunks,
            sample.document_ids,
            settle_seconds=self._settle_seconds,
            deadline=context.deadline,
        )
        foreign = sample.foreign if counts.foreign is None else counts.foreign
        findings = [
            *loss(lost, missing, fallen),
            *count_findings(counts, foreign),
            *chunk_findings(chunks),
            *vector_findings(vectors, context.settings.monitor.integrity.maximum_duplicate_ratio),
        ]
        remembered, tombstones = renew(
            qdrant,
            version,
            known,
            missing,
            random=context.random,
            deadline=context.deadline,
        )
        first = _first(findings, counts, is_first=not state)
        return ProbeResult(
            first.level,
            first.reason,
            " ".join(finding.words for finding in findings) or first.words,
            figures_of(counts, foreign, lost, chunks, vectors),
            evidence=Evidence(
                effect=float(lost),
                samples={
                    "points": vectors.vectors,
                    "chunks": chunks.sampled,
                    "known_documents": missing.looked,
                },
            ),
            details={
                "findings": [finding.reason for finding in findings],
                "lost": list(missing.document_ids[:_SHOWN]),
                "orphans": {str(kind): number for kind, number in chunks.orphans.items()},
                "missing_chunks": [list(chunk) for chunk in chunks.missing[:_SHOWN]],
                "revived_dimensions": list(vectors.revived[:_SHOWN]),
                "died_dimensions": list(vectors.died[:_SHOWN]),
                "foreign_counted": "sample" if counts.foreign is None else "all",
            },
            state={
                "incarnation": version.incarnation,
                "heads": max(most, heads + before.count) - before.count,
                "purged": before.count,
                "known": remembered,
                "tombstones": tombstones,
                "at": round(context.now.timestamp() * 1000),
            },
        )

    def _was_purged(self, context: ProbeContext, state: Mapping[str, Any]) -> Callable[[str], bool]:
        at = state.get("at")
        since = None if at is None else round(context.now.timestamp() * 1000) - int(at)
        tombstones = state.get("tombstones", {})

        # Asked once something is found missing: the purge that took it is on record by then.
        purges = cache(lambda: self._purged(context))

        def was(document_id: str) -> bool:
            return was_purged(document_id, tombstones, purges(), since_ms=since)

        return was


def _read_sample(context: ProbeContext) -> _Sample:
    version = context.version
    vectors: list[Any] = []
    chunks: dict[tuple[str, int], Head] = {}
    documents: dict[str, None] = {}
    foreign = 0
    dimension = version.contract.dimension
    for point in sample_points(
        context.qdrant,
        version.name,
        context.settings.monitor.integrity.sample,
        where=live_points(),
        random=context.random,
        with_payload=_SAMPLE_FIELDS,
        with_vectors=True,
        dimension=dimension,
        deadline=context.deadline,
    ):
        part = head_of(point.payload)
        if part is None:
            continue
        vector = (point.vector or {}).get(DENSE)
        if vector is not None:
            vectors.append(np.asarray(vector, np.float32))
        foreign += part.fingerprint != version.fingerprint
        documents[part.document_id] = None
        number = int(point.payload[OURS]["chunk"])
        if number > 0:
            chunks[part.document_id, number] = part
    return _Sample(
        np.stack(vectors) if vectors else np.zeros((0, dimension), np.float32),
        chunks,
        list(documents),
        foreign,
    )


def _first(findings: Sequence[Finding], counts: Counts, *, is_first: bool) -> Finding:
    for level in (Level.ALARM, Level.WARNING):
        for finding in findings:
            if finding.level is level:
                return finding
    if counts.heads == 0:
        return Finding(Level.UNDECIDED, "empty", "The version holds no document yet.")
    words = (
        f"{counts.documents} documents and {counts.tombstones} tombstones, nothing amiss in "
        f"{counts.points} points"
    )
    if is_first:
        return Finding(Level.OK, "first_run", f"{words}; losses show from the next run on.")
    return Finding(Level.OK, "sound", f"{words}.")
