"""Takes a reference on somebody's word."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from monitors.live import look
from monitors.sampling import recent_since, sample_vectors
from monitors.store import NewReference, VersionKey, open_store
from pipelines.core.errors import StoreConflictError, UnknownNameError
from pipelines.core.qdrant import connect
from pipelines.core.recorded_queries import read_queries

if TYPE_CHECKING:
    import numpy.typing as npt

    from monitors.store import ReferenceEvent, ReferenceSummary
    from pipelines.core.monitor_settings import DriftSettings
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import Settings
    from pipelines.core.versions import Version

__all__ = ["KINDS", "set_reference", "show_references"]

KINDS = ("documents", "queries")


def set_reference(
    settings: Settings, *, kind: str, name: str | None, reason: str, by: str
) -> tuple[VersionKey, ReferenceSummary]:
    """Samples the live version's vectors, stores them and puts them in force.

    Parameters
    ----------
    kind
        Of `KINDS`.
    name
        Default: kind and time.
    reason, by
        Kept with it, and in the history that outlives it.

    Raises
    ------
    UnknownNameError
        There is no such kind.
    StoreConflictError
        There are too few vectors to compare with, or the name is taken.
    """
    if kind not in KINDS:
        raise UnknownNameError(
            f"there is no kind {kind!r} of vectors: {', '.join(KINDS)} are valid"
        )
    qdrant = connect(settings)
    key, version = look(qdrant, settings.index).opened
    drift = settings.monitor.drift
    # Another sample every time: who takes a reference anew does not want the same one.
    random = np.random.default_rng(secrets.randbits(64))
    sampled = _documents if kind == "documents" else _queries
    vectors, ids = sampled(qdrant, version, drift, random)
    if len(ids) < drift.minimum_reference:
        raise StoreConflictError(
            f"there are {len(ids)} {kind} of {version.name}, and a reference needs "
            f"{drift.minimum_reference} (monitor.drift.minimum_reference). Wait until there are "
            "more."
        )
    now = datetime.now(UTC)
    reference = NewReference(
        kind=kind,
        name=name or f"{kind}-{now:%Y%m%dT%H%M%S}",
        vectors=vectors,
        document_ids=ids,
        created_at=now,
        created_by=by,
        reason=reason,
    )
    store = open_store(settings.monitor)
    try:
        return key, store.keep_reference(key, reference)
    finally:
        store.close()


def show_references(
    settings: Settings,
) -> tuple[VersionKey, list[ReferenceSummary], list[ReferenceEvent]]:
    """The live version's references, and the history of all of the index's."""
    qdrant = connect(settings)
    key, _ = look(qdrant, settings.index).opened
    store = open_store(settings.monitor)
    try:
        return key, store.references(key), store.reference_events(settings.index)
    finally:
        store.close()


def _documents(
    qdrant: Qdrant, version: Version, drift: DriftSettings, random: np.random.Generator
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Of what came lately, as the first reference is."""
    since = recent_since(
        qdrant,
        version.name,
        drift.minimum_reference,
        until=round(datetime.now(UTC).timestamp() * 1000),
        span_seconds=drift.reference_seconds,
    )
    sample = sample_vectors(
        qdrant,
        version.name,
        drift.reference,
        dimension=version.contract.dimension,
        random=random,
        since=since,
    )
    return sample.vectors, sample.document_ids


def _queries(
    qdrant: Qdrant, version: Version, drift: DriftSettings, random: np.random.Generator
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Queries have no ids that say anything: their times stand for them."""
    recorded = read_queries(
        qdrant,
        version.index,
        version.fingerprint,
        version.contract.dimension,
        since=0,
        until=round(datetime.now(UTC).timestamp() * 1000),
    )
    rows = np.arange(len(recorded))
    if len(rows) > drift.reference:
        rows = np.sort(random.choice(rows, drift.reference, replace=False))
    times = (datetime.fromtimestamp(int(recorded.timestamps[row]) / 1000, UTC) for row in rows)
    return recorded.vectors[rows], tuple(moment.isoformat("T", "milliseconds") for moment in times)
