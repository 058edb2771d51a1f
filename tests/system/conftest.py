"""Services of the system tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.kafka_server import KafkaServer
from tests.support.qdrant_proxy import QdrantProxy
from tests.support.qdrant_server import REAL_SERVER, QdrantServer
from tests.support.scenario import Scenario

# The package's models lie on this machine; the encoder of the checks must not look elsewhere.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_numbers = itertools.count(1)

Store = QdrantServer | QdrantProxy


@pytest.fixture(scope="session")
def shared_store() -> Iterator[Store]:
    """A Qdrant over the network with faults on request: in front of a real one if there is one."""
    real = os.environ.get(REAL_SERVER)
    with QdrantProxy(real) if real else QdrantServer() as server:
        yield server


@pytest.fixture
def store(shared_store: Store) -> Iterator[Store]:
    """The same, without the faults and the counts of other tests."""
    shared_store.clear_faults()
    yield shared_store
    shared_store.clear_faults()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that costs nothing: these tests are about what becomes of events."""
    from tests.support.tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def scenario(
    kafka_server: KafkaServer,
    store: Store,
    tmp_path: Path,
    model: Path,
    request: pytest.FixtureRequest,
) -> Callable[..., Scenario]:
    """Makes scenarios on the session's services, named after the test."""

    def make(suffix: str = "", **arguments: Any) -> Scenario:
        plain = "".join(c if c.isalnum() else "-" for c in request.node.name.removeprefix("test_"))
        while "--" in plain:
            plain = plain.replace("--", "-")
        # A real store keeps what earlier sessions left.
        name = f"{plain[:40].strip('-')}{suffix}-{os.getpid()}-{next(_numbers)}"
        arguments.setdefault("model", model)
        return Scenario(kafka_server, store.url, tmp_path, name, **arguments)

    return make
