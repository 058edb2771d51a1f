"""What a rollout will take and change, measured here, before anything is built."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from monitors.golden.compare import mean_interval
from monitors.golden.evaluate import Row, System, side_by_side
from monitors.golden.exact import (
    DocumentMatrix,
    Sample,
    encode_documents,
    read_sample,
    stored_vectors,
)
from monitors.golden.measures import score
from monitors.golden.run import encode_golden
from monitors.sampling import count_points, live_points
from pipelines.core.chunker import chunker_for
from pipelines.core.encoder import Encoder, load_encoder
from pipelines.core.errors import GateError, SettingsError
from pipelines.core.index import encoder_for
from pipelines.core.points import OURS, point_id
from pipelines.core.rollout import Rollout, VersionRef
from pipelines.core.settings import ContractSettings, Settings
from pipelines.core.versions import Version, find_version, open_version, version_name
from pipelines.rollout.context import RolloutContext, command_lease
from pipelines.rollout.storage import StorageEstimate, estimate_storage, free_bytes

if TYPE_CHECKING:
    from monitors.golden.golden_set import GoldenSet

__all__ = ["PlanFigures", "PlanReport", "plan"]

_SAMPLE = 500
_WARM_UP = 16
_PAGE = 256

Progress = Callable[[str, int, int], None]
"""What is being done, how much is done, and how much there is to do."""


def _silent(_what: str, _done: int, _total: int) -> None:
    return


@dataclass(frozen=True)
class PlanFigures:
    """What was counted and measured.

    Parameters
    ----------
    documents, tombstones, points
        Of the live version; `points` are its chunks and tombstones.
    sample
        Documents that the candidate encoder was measured on.
    chunks, tokens
        Of the candidate, in all: those of the sample, scaled up.
    truncated_ratio
        Share of the sample's chunks that are longer than the candidate's max tokens.
    seconds
        To encode everything here, at full speed: estimate and 95 % interval over the sample.
    changes
        Field of the contract to its value in live and in the candidate.
    golden
        Recall and its kin on the sample, live first; empty without a golden set.
    """

    documents: int
    tombstones: int
    points: int
    sample: int
    chunks: int
    tokens: int
    truncated_ratio: float
    seconds: tuple[float, float, float]
    storage: StorageEstimate
    free: int | None
    changes: Mapping[str, tuple[Any, Any]]
    golden: Sequence[Row] = field(default=(), repr=False)
    golden_queries: int = 0

    def to_json(self) -> dict[str, Any]:
        """For programs, and for the rollout's record."""
        seconds, low, high = self.seconds
        return {
            "documents": self.documents,
            "tombstones": self.tombstones,
            "points": self.points,
            "sample": self.sample,
            "chunks": self.chunks,
            "tokens": self.tokens,
            "truncated_ratio": round(self.truncated_ratio, 5),
            "encode_seconds": {
                "estimate": round(seconds, 2),
                "low": round(low, 2),
                "high": round(high, 2),
            },
            "storage_bytes": self.storage.to_json(),
            "free_bytes": self.free,
            "contract_changes": {
                name: {"live": live, "candidate": candidate}
                for name, (live, candidate) in self.changes.items()
            },
            "golden": {
                "queries": self.golden_queries,
                "systems": [
                    {
                        "system": row.system,
                        "k": row.k,
                        "verdict": row.verdict() or None,
                        "means": {
                            name: {"mean": mean, "low": low, "high": high}
                            for name, (mean, low, high) in row.means.items()
                        },
                        "recall_change": (
                            None
                            if "recall" not in row.tests
                            else {
                                "change": row.tests["recall"].change,
                                "low": row.tests["recall"].interval[0],
                                "high": row.tests["recall"].interval[1],
                            }
                        ),
                    }
                    for row in self.golden
                ],
            },
        }


@dataclass(frozen=True)
class PlanReport:
    """What `plumbline rollout plan` answers."""

    rollout: Rollout
    figures: PlanFigures

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "rollout": self.rollout.rollout_id,
            "index": self.rollout.index,
            "state": self.rollout.state.value,
            "live": self.rollout.live.name,
            "candidate": self.rollout.candidate.name,
            **self.figures.to_json(),
        }


def plan(
    settings: Settings,
    candidate: ContractSettings,
    *,
    golden: GoldenSet | None = None,
    sample: int = _SAMPLE,
    progress: Progress = _silent,
) -> PlanReport:
    """Measures the candidate on a sample of live's documents, and records the rollout.

    Writes nothing but the rollout's own record, and that last, when nothing speaks against it.

    Parameters
    ----------
    candidate
        The candidate's contract, whole: what is left out has its default.
    golden
        Judged queries to compare live and candidate on, by exact search in the sample; documents
        that are judged always belong to it.
    sample
        Documents to measure on.

    Raises
    ------
    RolloutConflictError
        A rollout of this index is under way.
    GateError
        The candidate is what is live already, or there is too little disk.
    SettingsError, ModelError
        The contract cannot be loaded here; the golden set belongs to another index.
    IndexMissingError, StoreConflictError
        There is no index, or its texts are not stored.
    """
    context = RolloutContext.open(settings)
    live = context.live()
    with command_lease(context):
        context.store.last_ended(settings.index)  # raises where one is under way
        encoder = load_encoder(candidate, settings.runtime)
        name, existing = _candidate_name(context, live, encoder)
        changes = encoder.contract.differences(live.contract)
        documents = count_points(context.qdrant, live.name, live_points(heads=True))
        chosen = read_sample(
            context.qdrant,
            live,
            golden.judged if golden is not None else [],
            sample,
            lambda done, total: progress("reading documents", done, total),
        )
        if golden is not None:
            _check_golden(golden, chosen, settings.index)
        measured = _measure(encoder, chosen, progress)
        scale = documents / max(1, len(chosen.documents))
        points = round(measured.chunks * scale)
        storage = estimate_storage(
            settings.qdrant,
            points=points,
            dimension=encoder.contract.dimension,
            documents=documents,
            payload_samples=_payloads(context, live, chosen),
            store_text=settings.ingest.store_text,
        )
        free = free_bytes(settings.qdrant.path)
        if free is not None and storage.total > free:
            raise GateError(
                f"the candidate needs about {storage.total / 2**20:,.0f} MiB and "
                f"{settings.qdrant.path} has {free / 2**20:,.0f} MiB free. Make room, or choose a "
                "smaller dimension (`contract.truncate_dim`). Nothing was written."
            )
        rows: Sequence[Row] = ()
        if golden is not None:
            rows = _compare(context, live, encoder, measured.matrix, chosen, golden, progress)
        figures = PlanFigures(
            documents=documents,
            tombstones=count_points(context.qdrant, live.name, _tombstones()),
            points=int(context.qdrant.call("count", live.name, exact=True).count),
            sample=len(chosen.documents),
            chunks=points,
            tokens=round(measured.tokens * scale),
            truncated_ratio=measured.truncated_ratio,
            seconds=measured.seconds(documents),
            storage=storage,
            free=free,
            changes=changes,
            golden=rows,
            golden_queries=0 if golden is None else len(golden.scored),
        )
        rollout = context.store.begin(
            settings.index,
            live=VersionRef.of(live),
            candidate=VersionRef(
                name,
                encoder.contract.fingerprint,
                "" if existing is None else existing.incarnation,
            ),
            contract=encoder.contract,
            contract_settings=candidate.model_dump(mode="json"),
            notes={"plan": {**figures.to_json(), "existing": existing is not None}},
        )
        return PlanReport(rollout, figures)


def _candidate_name(
    context: RolloutContext, live: Version, encoder: Encoder
) -> tuple[str, Version | None]:
    contract = encoder.contract
    if contract.fingerprint == live.fingerprint:
        raise GateError(
            f"the candidate's contract is live already: {live.name} has the fingerprint "
            f"{live.fingerprint}. Change a field that decides what a vector means (model, prompts, "
            "template, max_tokens, chunk, truncate_dim, normalize, distance)."
        )
    found = find_version(context.qdrant, context.index, contract.fingerprint)
    if found is None:
        return version_name(context.index, contract), None
    existing = open_version(context.qdrant, found)
    if existing.order_by is not live.order_by:
        raise GateError(
            f"{found} exists and orders events by {existing.order_by.value}, live by "
            f"{live.order_by.value}: the two cannot be compared. Drop {found} first."
        )
    return found, existing


def _check_golden(golden: GoldenSet, sample: Sample, index: str) -> None:
    if not golden.scored:
        raise SettingsError(f"{golden.source}: no query has a relevant document")
    there = {document.id for document in sample.documents}
    known = sum(document_id in there for document_id in golden.relevant)
    if 2 * known < len(golden.relevant):
        raise SettingsError(
            f"{golden.source}: the index {index!r} holds {known:,} of the "
            f"{len(golden.relevant):,} relevant documents: this golden set belongs to another "
            "index, or is out of date. `plumbline golden check` lists what is missing."
        )


@dataclass(frozen=True)
class _Measured:
    matrix: DocumentMatrix
    chunks: int
    tokens: int
    truncated_ratio: float
    seconds_per_document: Sequence[float]
    sizes: Sequence[int]

    def seconds(self, documents: int) -> tuple[float, float, float]:
        """For so many documents: estimate and 95 % interval, over the batches measured."""
        if not self.seconds_per_document:
            return 0.0, 0.0, 0.0
        mean = float(np.average(self.seconds_per_document, weights=self.sizes))
        low, high = mean_interval(np.asarray(self.seconds_per_document))
        return mean * documents, min(low, mean) * documents, max(high, mean) * documents


def _measure(encoder: Encoder, sample: Sample, progress: Progress) -> _Measured:
    """Encodes the sample; times come from batches of 32 documents after a warm-up."""
    documents = sample.documents
    contract = encoder.contract
    chunker = chunker_for(contract, encoder)
    pieces = [
        contract.render(document.title, piece.text)
        for document in documents
        for piece in chunker.chunk(document.title, document.text)
    ]
    counts = encoder.count_tokens(pieces) if pieces else []
    overhead = encoder.special_tokens
    limit = contract.max_tokens
    tokens = sum(min(count + overhead, limit) for count in counts)
    if documents:
        encode_documents(encoder, documents[:_WARM_UP], lambda _done, _total: None)
    seconds: list[float] = []
    sizes: list[int] = []
    parts = []
    for start in range(0, len(documents), 32):
        batch = documents[start : start + 32]
        begun = time.perf_counter()
        parts.append(encode_documents(encoder, batch, lambda _done, _total: None))
        seconds.append((time.perf_counter() - begun) / len(batch))
        sizes.append(len(batch))
        progress("encoding a sample", start + len(batch), len(documents))
    return _Measured(
        matrix=_joined(parts, contract.distance, contract.dimension),
        chunks=len(pieces),
        tokens=tokens,
        truncated_ratio=(
            sum(count + overhead > limit for count in counts) / len(counts) if counts else 0.0
        ),
        seconds_per_document=seconds,
        sizes=sizes,
    )


def _joined(parts: Sequence[DocumentMatrix], distance: str, dimension: int) -> DocumentMatrix:
    offsets = np.cumsum([0, *(len(part.vectors) for part in parts)])
    return DocumentMatrix(
        ids=tuple(document_id for part in parts for document_id in part.ids),
        starts=(
            np.concatenate(
                [part.starts + offset for part, offset in zip(parts, offsets, strict=False)]
            ).astype(np.int64)
            if parts
            else np.zeros(0, np.int64)
        ),
        vectors=(
            np.concatenate([part.vectors for part in parts])
            if parts
            else np.zeros((0, dimension), np.float32)
        ),
        distance=distance,
    )


def _compare(
    context: RolloutContext,
    live: Version,
    encoder: Encoder,
    candidate: DocumentMatrix,
    sample: Sample,
    golden: GoldenSet,
    progress: Progress,
) -> list[Row]:
    depth = context.settings.rollout.k
    stored = stored_vectors(
        context.qdrant,
        live,
        sample.documents,
        lambda done, total: progress("reading live's vectors", done, total),
    )
    systems = []
    for name, matrix, queries in (
        ("live", stored, encode_golden(encoder_for(live, context.settings), golden.scored)),
        ("candidate", candidate, encode_golden(encoder, golden.scored)),
    ):
        ranked = matrix.rank(np.stack(list(queries.values())), depth)
        rankings = {query: found.ids for query, found in zip(queries, ranked, strict=True)}
        systems.append(System(name, score(golden.qrels, rankings, [depth])))
    return side_by_side(systems, depth)


def _payloads(context: RolloutContext, live: Version, sample: Sample) -> list[tuple[Any, Any]]:
    """Title with text, and metadata, of up to a page of the sample."""
    some = sample.documents[:_PAGE]
    records = context.qdrant.call(
        "retrieve",
        live.name,
        ids=[point_id(live.index, document.id, 0) for document in some],
        with_payload=True,
        with_vectors=False,
    )
    return [
        (
            [record.payload[OURS].get("title", ""), record.payload[OURS].get("text", "")],
            {key: value for key, value in record.payload.items() if key != OURS},
        )
        for record in records
        if record.payload and OURS in record.payload
    ]


def _tombstones() -> Any:
    from qdrant_client import models

    return models.Filter(
        must=[models.FieldCondition(key=f"{OURS}.deleted", match=models.MatchValue(value=True))]
    )
