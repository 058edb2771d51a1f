"""Conditions on positions, as a server over the network reads them."""

from __future__ import annotations

import random
import uuid

import pytest
from qdrant_client import models

from pipelines.core.points import DENSE, OURS, StoredChunk, older_than, payload
from pipelines.core.position import MAX_COMPARED, MAX_EXACT, OrderBy, Position
from pipelines.core.qdrant import connect, disconnect
from pipelines.core.records import Event
from pipelines.core.settings import load_settings
from tests.support.qdrant_server import qdrant_url

SEED = 20_261_121


def _bounds(condition: models.Filter):
    for part in [*(condition.must or []), *(condition.should or [])]:
        if isinstance(part, models.Filter):
            yield from _bounds(part)
        else:
            yield from (part.range.lt, part.range.gte, part.range.lte)


@pytest.mark.parametrize("order_by", list(OrderBy))
def test_an_equal_position_is_never_older(order_by: OrderBy) -> None:
    """Large versions and any topic's rank arrive at the server as they are, to the last digit."""
    chance = random.Random(SEED)
    name = f"conditions-{uuid.uuid4().hex[:8]}"
    with qdrant_url() as url:
        settings = load_settings(None, {"qdrant": {"url": url}})
        qdrant = connect(settings)
        qdrant.call(
            "create_collection",
            name,
            vectors_config={DENSE: models.VectorParams(size=4, distance=models.Distance.COSINE)},
        )
        try:
            for _ in range(100):
                version = chance.randrange(MAX_EXACT) if order_by is OrderBy.VERSION else None
                position = Position(
                    f"topic-{chance.random()}",
                    3,
                    chance.randrange(2**40),
                    1_700_000_000_000,
                    version,
                )
                later = Position(
                    position.topic, 3, position.offset + 1, position.timestamp, version
                )
                stored = payload(
                    Event("a", position, text="x"),
                    fingerprint="f",
                    chunk=StoredChunk(0, 0, 1),
                    chunks=1,
                    created_at=0,
                    store_text=True,
                )
                point = models.PointStruct(id=1, vector={}, payload=stored)
                qdrant.call("upsert", name, points=[point], wait=True)

                def older(than: Position) -> int:
                    condition = older_than(than, order_by)
                    return qdrant.call("count", name, count_filter=condition).count

                assert older(position) == 0, stored[OURS]
                assert older(later) == 1, stored[OURS]
        finally:
            qdrant.call("delete_collection", name)
            disconnect(settings)


@pytest.mark.parametrize("order_by", list(OrderBy))
def test_no_condition_names_a_number_that_does_not_arrive(order_by: OrderBy) -> None:
    """Bounds stay below the size at which a server misreads the client's way of writing them."""
    version = MAX_EXACT if order_by is OrderBy.VERSION else None
    for number in range(200):
        position = Position(f"topic-{number}", 0, MAX_COMPARED, MAX_COMPARED, version)
        bounds = [bound for bound in _bounds(older_than(position, order_by)) if bound is not None]
        assert bounds
        assert max(bounds) <= MAX_COMPARED
