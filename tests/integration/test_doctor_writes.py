"""`plumbline doctor` on a Qdrant that answers: does it take writes?"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from pipelines.cli.checks import Finding, Patient, Status, check_store
from pipelines.core.control import CONTROL_COLLECTION, Control
from pipelines.core.errors import ExitCode
from pipelines.core.qdrant import Qdrant, connect, disconnect
from pipelines.core.settings import Settings
from tests.support.qdrant_degraded import NO_SPACE, DegradedQdrant, degraded_qdrant


@pytest.fixture(scope="module")
def store() -> Iterator[DegradedQdrant]:
    with degraded_qdrant() as server:
        yield server


@pytest.fixture
def settings(store: DegradedQdrant) -> Iterator[Settings]:
    """Of a key of this test's own, which may do everything at first."""
    key = f"key-{uuid.uuid4().hex[:8]}"
    store.mend()
    store.allow(key)
    qdrant = {"url": store.url, "api_key": key, "outage_timeout_seconds": 2}
    yield Settings(qdrant=qdrant)
    disconnect()


def key_of(settings: Settings) -> str:
    assert settings.qdrant.api_key is not None
    return settings.qdrant.api_key.get_secret_value()


def behind(store: DegradedQdrant) -> Qdrant:
    """The server itself, with the key that may do everything."""
    return connect(Settings(qdrant={"url": store.upstream, "api_key": store.full}))


def writes(settings: Settings) -> Finding:
    """What the doctor says of writes; it must have found the server well enough to ask."""
    answers, said = check_store(Patient(settings))
    assert (answers.check, answers.status) == ("qdrant", Status.OK)
    assert said.check == "writes"
    assert key_of(settings) not in said.message
    return said


def test_before_the_first_job_it_stays_open(store: DegradedQdrant, settings: Settings) -> None:
    """No collection is made to try it out."""
    behind(store).call("delete_collection", CONTROL_COLLECTION)
    assert writes(settings).status is Status.SKIPPED
    assert not behind(store).call("collection_exists", CONTROL_COLLECTION)


def test_a_server_that_takes_writes(store: DegradedQdrant, settings: Settings) -> None:
    """The one that was asked for has left nothing."""
    Control(behind(store)).swap("lease", "x", seen=None, fields={"holder": "y"})
    before, _ = behind(store).call("scroll", CONTROL_COLLECTION, with_payload=True, limit=100)
    assert writes(settings).status is Status.OK
    after, _ = behind(store).call("scroll", CONTROL_COLLECTION, with_payload=True, limit=100)
    assert after == before


def test_a_full_disk(store: DegradedQdrant, settings: Settings) -> None:
    """At once, with the server's words and the room that it wants."""
    Control(behind(store)).swap("lease", "x", seen=None, fields={"holder": "y"})
    store.fill_disk()
    said = writes(settings)
    assert (said.status, said.exit_code) == (Status.FAILED, ExitCode.UNAVAILABLE)
    assert NO_SPACE in said.message
    assert "64 MiB" in said.fix
    store.mend()
    assert writes(settings).status is Status.OK


def test_a_key_that_only_reads(store: DegradedQdrant, settings: Settings) -> None:
    """With what it would take."""
    Control(behind(store)).swap("lease", "x", seen=None, fields={"holder": "y"})
    store.make_read_only(key_of(settings))
    said = writes(settings)
    assert (said.status, said.exit_code) == (Status.FAILED, ExitCode.UNAVAILABLE)
    assert "need one that writes" in said.message
