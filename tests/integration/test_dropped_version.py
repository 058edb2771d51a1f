"""An ingest job whose version is dropped stops by itself, and says who dropped it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.core.encoder import load_encoder
from pipelines.core.errors import IndexMissingError, LeaseHeldError
from pipelines.core.qdrant import connect, disconnect
from pipelines.core.rollout import RolloutState
from pipelines.core.settings import Settings
from pipelines.core.versions import create_version, set_alias
from pipelines.ingest import run_ingest
from pipelines.io.kafka import STOP
from pipelines.rollout.context import RolloutContext
from pipelines.rollout.retire import retire
from tests.support.brokers import Message, embedded_broker
from tests.support.probing import Seeded
from tests.support.recorded_rollout import recorded_rollout
from tests.support.tiny_model import make_tiny_model


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A soaking rollout, and the previous version's job, which is running."""
    with embedded_broker() as broker:
        broker.create_topic("documents")
        settings = Settings(
            index="docs",
            kafka={**broker.kafka, "api_version": (2, 3), "topics": ["documents"]},
            qdrant={"path": tmp_path / "store"},
            contract={"model": str(make_tiny_model(tmp_path / "model"))},
            runtime={"device": "cpu", "threads": 1},
            ingest={"lease_seconds": request.param},
            metrics={"port": None},
        )
        qdrant = connect(settings)
        live = create_version(qdrant, settings, load_encoder(settings.contract, settings.runtime))
        candidate = create_version(qdrant, settings, Seeded(24))
        context = RolloutContext.open(settings)
        rollout = recorded_rollout(context, live, candidate)
        set_alias(qdrant, "docs", candidate.name)
        context.store.move(rollout, RolloutState.SOAKING, "test")
        ready, ended = threading.Event(), []

        def job() -> None:
            try:
                ended.append(run_ingest(settings, on_ready=lambda _: ready.set()))
            except Exception as error:  # noqa: BLE001 - what the test is about
                ended.append(error)

        thread = threading.Thread(target=job, daemon=True)
        thread.start()
        assert ready.wait(60)
        try:
            yield SimpleNamespace(
                broker=broker, settings=settings, live=live, thread=thread, ended=ended
            )
        finally:
            STOP.set()
            thread.join(60)
            STOP.clear()
            disconnect(settings)


@pytest.mark.parametrize("world", [1.0], indirect=True)
def test_an_idle_job_stops_at_its_next_heartbeat(world: Any) -> None:
    """No event comes, and it would wait for ever."""
    retire(world.settings, now=world.live.name)
    world.thread.join(30)
    (error,) = world.ended
    assert isinstance(error, LeaseHeldError)
    assert f"{world.live.name} was retired by the rollout" in str(error)


@pytest.mark.parametrize("world", [300.0], indirect=True)
def test_a_busy_job_stops_at_its_next_write(world: Any) -> None:
    """Long before a heartbeat; nothing is made anew in place of what was dropped."""
    retire(world.settings, now=world.live.name)
    value = json.dumps({"id": "a", "text": "late"}).encode()
    world.broker.send("documents", [Message(b"a", value, round(time.time() * 1000))])
    world.thread.join(60)
    (error,) = world.ended
    assert isinstance(error, IndexMissingError)
    assert f"{world.live.name} was retired by the rollout" in str(error)
    assert not connect(world.settings).call("collection_exists", world.live.name)
