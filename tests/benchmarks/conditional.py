"""What "newest wins" costs: guarded groups with their read-back against plain upserts."""

from __future__ import annotations

import statistics
import time
import uuid
from typing import Any

import numpy as np
from qdrant_client import models

from pipelines.core.encoder import load_encoder
from pipelines.core.plans import Action, Plan
from pipelines.core.points import DENSE, StoredChunk, older_than, payload, point_id
from pipelines.core.position import OrderBy, Position
from pipelines.core.qdrant import Qdrant, connect
from pipelines.core.records import Event
from pipelines.core.settings import Settings
from pipelines.core.versions import Version, create_version
from pipelines.core.writing import DocumentWriter
from tests.benchmarks.bench import CONTRACT, Store, stores
from tests.benchmarks.table import Table

NEEDS = ()

_DOCUMENTS = 1024
_BATCH = 256
_ROUNDS = 5


def run() -> Table:
    """Points per second into an empty collection, and over points that are there already."""
    table = Table(
        "Grouped conditional writes against plain upserts (points/s)",
        ["store", "points", "plain", "conditional", "ratio", "with read-back", "ratio "],
        notes=[
            f"{_DOCUMENTS} points of 384 components in batches of {_BATCH}, wait=true.",
            "Conditional: one operation a batch, whose filter holds for all of it. With read-back:",
            "the job's whole write protocol, which also asks afterwards whose write has won.",
        ],
    )
    with stores() as places:
        for place in places:
            _measure(table, place)
    return table


def _measure(table: Table, place: Store) -> None:
    settings = Settings(
        index=f"bench-{uuid.uuid4().hex[:8]}",
        qdrant=place.qdrant,
        contract=CONTRACT,
        runtime={"device": "cpu"},
    )
    qdrant = connect(settings)
    encoder = load_encoder(settings.contract, settings.runtime)
    names = ("plain", "conditional", "protocol")
    rates: dict[tuple[str, str], list[float]] = {}
    for turn in range(_ROUNDS):
        for kind in names:
            version = create_version(qdrant, settings, encoder)
            for points in ("new", "there already"):
                later = turn * 10 + (points != "new")
                plans = _plans(version, later)
                started = time.perf_counter()
                _WRITES[kind](qdrant, version, plans)
                rate = _DOCUMENTS / (time.perf_counter() - started)
                rates.setdefault((points, kind), []).append(rate)
            qdrant.call("delete_collection", version.name)
    for points in ("new", "there already"):
        plain = rates[points, "plain"]
        cells = [place.name, points, f"{statistics.median(plain):.0f}"]
        for kind in names[1:]:
            found = rates[points, kind]
            ratio = statistics.median(a / b for a, b in zip(found, plain, strict=True))
            cells += [f"{statistics.median(found):.0f}", f"{ratio:.2f}"]
        table.rows.append(cells)


def _plans(version: Version, later: int) -> list[Plan]:
    random = np.random.default_rng(later)
    vectors = random.normal(size=(_DOCUMENTS, version.contract.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        Plan(
            Event(
                f"doc/{number}",
                Position("topic", 0, later * _DOCUMENTS + number, 1_750_000_000_000 + later),
                text="A text of some length, as questions have. " * 3,
            ),
            Action.EMBED,
            created_at=0,
            chunks=[StoredChunk(0, 0, 10)],
            vectors=vectors[number : number + 1],
        )
        for number in range(_DOCUMENTS)
    ]


def _batches(plans: list[Plan]) -> list[list[Plan]]:
    return [plans[start : start + _BATCH] for start in range(0, len(plans), _BATCH)]


def _points(version: Version, plans: list[Plan]) -> list[models.PointStruct]:
    return [
        models.PointStruct(
            id=point_id(version.index, plan.event.document_id, 0),
            vector={DENSE: plan.vectors[0].tolist()} if plan.vectors is not None else {},
            payload=payload(
                plan.event,
                fingerprint=version.fingerprint,
                chunk=plan.chunks[0],
                chunks=1,
                created_at=plan.created_at,
                store_text=True,
            ),
        )
        for plan in plans
    ]


def _plain(qdrant: Qdrant, version: Version, plans: list[Plan]) -> None:
    for batch in _batches(plans):
        qdrant.call("upsert", version.name, points=_points(version, batch), wait=True)


def _conditional(qdrant: Qdrant, version: Version, plans: list[Plan]) -> None:
    for batch in _batches(plans):
        qdrant.call(
            "upsert",
            version.name,
            points=_points(version, batch),
            update_filter=older_than(batch[0].event.position, OrderBy.TIMESTAMP),
            wait=True,
        )


def _protocol(qdrant: Qdrant, version: Version, plans: list[Plan]) -> None:
    writer = DocumentWriter(
        qdrant,
        version.name,
        index=version.index,
        fingerprint=version.fingerprint,
        order_by=OrderBy.TIMESTAMP,
        chunked=False,
    )
    for batch in _batches(plans):
        writer.write(batch)


_WRITES: dict[str, Any] = {"plain": _plain, "conditional": _conditional, "protocol": _protocol}
