"""Seeded interleavings of the write protocol on a server, where the embedded engine cannot speak.

`tests/unit/test_interleavings.py` searches all of them on the embedded engine; this shows that a
server judges the conditions alike. Set PLUMBLINE_TEST_QDRANT_URL to ask a real one.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from pipelines.core.planning import Planner
from pipelines.core.points import DENSE
from pipelines.core.position import OrderBy, Position
from pipelines.core.qdrant import Qdrant
from pipelines.core.records import Event
from pipelines.core.settings import QdrantSettings, RetrySettings
from pipelines.core.writing import DocumentWriter
from tests.support.interleave import DIMENSION, CharacterChunker, HashEncoder, stand_in_version
from tests.support.qdrant_server import qdrant_url
from tests.support.replay import compare, newest

DOCUMENTS = ("A", "B", "C")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with qdrant_url() as address:
        yield address


@pytest.fixture
def store(url: str) -> Iterator[tuple[Qdrant, Any]]:
    """A server with an empty version of its own."""
    settings = QdrantSettings(url=url, outage_timeout_seconds=10.0)
    client = QdrantClient(url=url, check_compatibility=False)
    qdrant = Qdrant(client, url, settings, RetrySettings())
    version = stand_in_version()
    version.name = f"test-races-{uuid.uuid4().hex}"
    qdrant.call(
        "create_collection",
        version.name,
        vectors_config={DENSE: models.VectorParams(size=DIMENSION, distance=models.Distance.DOT)},
    )
    yield qdrant, version
    qdrant.call("delete_collection", version.name)
    qdrant.close()


def history(chance: random.Random, order_by: OrderBy) -> list[Event]:
    """Events of a few documents that grow, shrink, change their metadata and vanish."""
    events = []
    for time in range(12):
        versioned = order_by is OrderBy.VERSION
        position = Position("t", 0, time, 1000 + time // 2, 100 - time if versioned else None)
        document_id = chance.choice(DOCUMENTS)
        text = chance.choice(["a", "bc", "def", "ghij", "def", ""])
        if not text:
            events.append(Event(document_id, position, deleted=True))
        else:
            metadata = {"lang": chance.choice(["en", "de"])}
            events.append(Event(document_id, position, text=text, metadata=metadata))
    return events


def job(qdrant: Qdrant, version: Any, events: list[Event], order_by: OrderBy) -> Iterator[None]:
    """One writer, batch by batch, pausing before every request."""
    encoder: Any = HashEncoder()
    planner = Planner(qdrant, version, encoder, CharacterChunker())
    writer = DocumentWriter(
        qdrant,
        version.name,
        index=version.index,
        fingerprint=version.fingerprint,
        order_by=order_by,
        chunked=True,
    )
    for start in range(0, len(events), 4):
        yield
        plans, _ = planner.reconcile(events[start : start + 4])
        planner.cut(plans)
        planner.encode(plans)
        for _ in writer.steps(plans):
            yield


@pytest.mark.parametrize("order_by", OrderBy)
@pytest.mark.parametrize("seed", range(8))
def test_racing_writers_leave_the_newest(
    store: tuple[Qdrant, Any], monkeypatch: pytest.MonkeyPatch, order_by: OrderBy, seed: int
) -> None:
    """Four writers of the same history, in other orders, two of them killed and begun anew."""
    monkeypatch.setattr("pipelines.core.chunker.chunker_for", lambda *_: CharacterChunker())
    qdrant, version = store
    chance = random.Random(seed)
    events = history(chance, order_by)
    orders = [events, list(events), events[::-1], chance.sample(events, len(events))]
    running = [job(qdrant, version, order, order_by) for order in orders]
    kills = 2
    live = [0, 1, 2, 3]
    while live:
        row = chance.choice(live)
        if kills and chance.random() < 0.05:
            kills -= 1
            running[row] = job(qdrant, version, orders[row], order_by)
        if next(running[row], "ended") == "ended":
            live.remove(row)
    encoder: Any = HashEncoder()
    found = compare(qdrant, version, newest(events), encoder)
    # Whoever comes first says when a document came to be, and here that is chance.
    assert [line for line in found if "created_at" not in line] == []
