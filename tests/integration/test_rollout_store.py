"""Records of rollouts in the control collection, on the embedded engine."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from qdrant_client import QdrantClient

from pipelines.core.contract import EmbeddingContract
from pipelines.core.control import Control
from pipelines.core.errors import RolloutConflictError, RolloutStateError, StoreConflictError
from pipelines.core.qdrant import Qdrant
from pipelines.core.rollout import ROLLOUT, Rollout, RolloutState, RolloutStore, VersionRef
from pipelines.core.settings import QdrantSettings, RetrySettings

CONTRACT = EmbeddingContract(model_hash="0" * 64, dimension=8, max_tokens=16, model_name="tiny")
LIVE = VersionRef("docs--tiny--aaaaaaaaaaaa", "aaaaaaaaaaaa", "11111111")
CANDIDATE = VersionRef(f"docs--tiny--{CONTRACT.fingerprint}", CONTRACT.fingerprint)


@pytest.fixture
def control() -> Control:
    return Control(Qdrant(QdrantClient(":memory:"), "memory", QdrantSettings(), RetrySettings()))


def begin(store: RolloutStore, reason: str = "planned") -> Rollout:
    return store.begin(
        "docs",
        live=LIVE,
        candidate=CANDIDATE,
        contract=CONTRACT,
        contract_settings={"model": "tiny"},
        notes={"plan": {"documents": 3}},
        reason=reason,
    )


def test_a_rollout_is_read_as_it_was_written(control: Control) -> None:
    """Contract, notes and moves survive the process that wrote them."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    begun = begin(RolloutStore(control, actor="ann@host", now=lambda: at))
    read = RolloutStore(control).read("docs")
    assert begun == read
    assert read is not None
    assert ("ann@host", at.isoformat(timespec="milliseconds"), "planned") == (
        read.history[0].actor,
        read.history[0].at,
        read.history[0].reason,
    )
    assert read.note("plan") == {"documents": 3}


def test_two_that_begin_in_the_same_instant_are_one(control: Control) -> None:
    """An index has one rollout at a time, also when many start at once."""
    barrier = threading.Barrier(8)
    begun: list[Rollout] = []
    refused: list[RolloutConflictError] = []

    def start() -> None:
        store = RolloutStore(control)
        barrier.wait()
        try:
            begun.append(begin(store))
        except RolloutConflictError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 1
    assert len(refused) == 7
    stored = RolloutStore(control).read("docs")
    assert stored is not None
    assert begun[0].rollout_id == stored.rollout_id


def test_a_move_decided_on_an_old_record_is_refused(control: Control) -> None:
    """Of two processes that move the same rollout exactly one succeeds."""
    store = RolloutStore(control)
    rollout = begin(store)
    store.move(rollout, RolloutState.BUILDING, "first")
    with pytest.raises(RolloutConflictError, match="has moved meanwhile"):
        store.move(rollout, RolloutState.ABORTED, "second")
    stored = store.read("docs")
    assert stored is not None
    assert RolloutState.BUILDING is stored.state


def test_an_intent_stands_until_the_step_ends(control: Control) -> None:
    """A step that was begun is seen by whoever comes next, and no other step may begin."""
    store = RolloutStore(control)
    rollout = begin(store)
    intended = store.intend(rollout, "abort", "wrong model", {"drop": CANDIDATE.name})
    found = RolloutStore(control).read("docs")
    assert found is not None
    assert found.intent is not None
    assert ("abort", {"drop": CANDIDATE.name}) == (found.intent.action, found.intent.detail)
    with pytest.raises(RolloutStateError, match="in the middle of a abort"):
        store.intend(intended, "promote", "no")
    assert None is store.move(intended, RolloutState.ABORTED, "wrong model").intent


def test_history_outlives_the_next_rollout(control: Control) -> None:
    """What ended is kept, oldest first, also when it is the second time that it is kept."""
    store = RolloutStore(control)
    first = store.move(begin(store, "one"), RolloutState.ABORTED, "gave up")
    second = store.move(begin(store, "two"), RolloutState.ABORTED, "again")
    third = begin(store, "three")
    ids = [rollout.rollout_id for rollout in store.history("docs")]
    assert [first.rollout_id, second.rollout_id, third.rollout_id] == ids
    assert store.history("other") == []


def test_an_edited_record_is_named(control: Control) -> None:
    """A record that cannot be read is said to be so, and is not written over."""
    store = RolloutStore(control)
    rollout = begin(store)
    fields = {**rollout.to_fields(), "state": "flying"}
    assert control.swap(ROLLOUT, "docs", seen=rollout.record, fields=fields)
    with pytest.raises(StoreConflictError, match="cannot be read"):
        store.read("docs")
    newer = control.read(ROLLOUT, "docs")
    assert newer is not None
    assert control.swap(ROLLOUT, "docs", seen=newer, fields={**fields, "schema": 99})
    with pytest.raises(StoreConflictError, match="Upgrade"):
        begin(store)


def test_refreshing_sees_that_another_rollout_took_its_place(control: Control) -> None:
    """A process that was asleep does not move somebody else's rollout."""
    store = RolloutStore(control)
    old = begin(store)
    store.move(old, RolloutState.ABORTED, "gave up")
    begin(store)
    with pytest.raises(RolloutConflictError, match="no longer the present"):
        store.refresh(old)
    with pytest.raises(RolloutConflictError):
        store.move(replace(old, state=RolloutState.PLANNED), RolloutState.BUILDING, "late")
