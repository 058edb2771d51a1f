"""The oracle of the system tests: it knows the newest, and it sees every kind of difference."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from qdrant_client import models

from pipelines.core.planning import Planner
from pipelines.core.points import DENSE, OURS, point_id
from pipelines.core.position import OrderBy
from pipelines.core.qdrant import Qdrant
from pipelines.core.records import Event, Record
from pipelines.core.settings import KafkaSettings, Settings
from tests.support.interleave import (
    COLLECTION,
    CharacterChunker,
    HashEncoder,
    make_writer,
    memory_store,
    stand_in_version,
)
from tests.support.replay import Expected, compare, newest, read_event, replay

SETTINGS = Settings(index="docs", kafka=KafkaSettings(topics=["t"]))


def record(offset: int, document_id: str, body: dict[str, Any] | None, **more: Any) -> Record:
    value = None if body is None else json.dumps({"id": document_id, **body}).encode()
    fields = {"partition": 0, "timestamp": 1000 + offset, **more}
    return Record("t", offset=offset, key=document_id.encode(), value=value, **fields)


RECORDS = [
    record(0, "a", {"text": "abc", "metadata": {"lang": "en"}}),
    record(1, "b", {"text": "de", "title": "B"}),
    record(2, "a", {"text": "xy", "metadata": {"lang": "de", "n": [1, 2.5, None]}}),
    record(3, "c", {"text": "f"}),
    record(4, "c", None),
    record(5, "d", {"text": "gh"}),
    record(6, "d", {"deleted": True}),
    record(7, "d", {"text": "i"}),
    record(8, "d", {"text": "jk"}),
]


def test_the_newest_wins_in_any_order() -> None:
    """The oracle does not depend on the order in which it is given the records."""
    expected = replay(RECORDS, SETTINGS)
    shuffled = RECORDS * 2
    random.Random(7).shuffle(shuffled)
    assert replay(shuffled, SETTINGS) == expected
    assert {key: (one.text, one.deleted) for key, one in expected.items()} == {
        "a": ("xy", False),
        "b": ("de", False),
        "c": ("", True),
        "d": ("jk", False),
    }
    created = {key: one.created_at for key, one in expected.items()}
    assert created == {"a": 1000, "b": 1001, "c": None, "d": 1007}


def test_created_at_is_not_claimed_where_arrival_decides() -> None:
    """Of events that arrive late or from two partitions nobody can say which was first."""
    late = [record(0, "a", {"text": "x"}), record(1, "a", {"text": "y"}, timestamp=1)]
    apart = [record(0, "a", {"text": "x"}), record(0, "a", {"text": "y"}, partition=1)]
    for records in (late, apart):
        assert replay(records, SETTINGS)["a"].created_at is None


def test_versions_order_where_the_settings_say_so() -> None:
    """A newer version with an older timestamp wins; a delete has it in body or header."""
    settings = Settings(index="docs", kafka=KafkaSettings(order_by=OrderBy.VERSION))
    records = [
        record(0, "a", {"text": "new", "version": 2}),
        record(1, "a", {"text": "old", "version": 1}),
        record(2, "b", {"text": "x", "version": 1}),
        record(3, "b", None, headers=(("plumbline-version", b"5"),)),
        record(4, "b", {"deleted": True, "version": 4}),
    ]
    expected = replay(records, settings)
    assert expected["a"].text == "new"
    assert (expected["b"].deleted, expected["b"].position.version) == (True, 5)


def test_hostile_and_refused_records_do_not_count() -> None:
    """What must become a dead letter leaves the event before it in place."""
    bad = Record("t", 0, 9, 2000, b"a", b"{not json")
    expected = replay(
        [*RECORDS, bad],
        SETTINGS,
        hostile={("t", 0, 9)},
        refused=lambda event: event.text == "jk",
    )
    assert expected["a"].text == "xy"
    assert expected["d"].text == "i"
    with pytest.raises(ValueError, match="Expecting"):
        replay([bad], SETTINGS)


def events() -> list[Event]:
    return [read_event(one, OrderBy.TIMESTAMP) for one in RECORDS]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Qdrant:
    """A store that holds what it must."""
    monkeypatch.setattr("pipelines.core.chunker.chunker_for", lambda *_: CharacterChunker())
    store = memory_store()
    encoder: Any = HashEncoder()
    planner = Planner(store, stand_in_version(), encoder, CharacterChunker())
    for batch in (events()[:4], events()[4:]):
        plans, _ = planner.reconcile(batch)
        planner.cut(plans)
        planner.encode(plans)
        make_writer(store).write(plans)
    return store


def differences(store: Qdrant, expected: dict[str, Expected] | None = None) -> list[str]:
    encoder: Any = HashEncoder()
    return compare(store, stand_in_version(), expected or newest(events()), encoder)


def test_an_equal_index_has_no_difference(store: Qdrant) -> None:
    """The comparison is silent about a right index, with an encoder and without."""
    assert differences(store) == []
    assert compare(store, stand_in_version(), newest(events())) == []


def spoil(store: Qdrant, point: str, **ours: Any) -> None:
    store.call("set_payload", COLLECTION, payload=ours, key=OURS, points=[point])


A0, A1, B0, C0, D0 = (
    point_id("docs", key, number)
    for key, number in (("a", 0), ("a", 1), ("b", 0), ("c", 0), ("d", 0))
)


def copy(store: Qdrant, source: str, target: str, **ours: Any) -> None:
    (found,) = store.call(
        "retrieve", COLLECTION, ids=[source], with_payload=True, with_vectors=True
    )
    found.payload[OURS].update(ours)
    point = models.PointStruct(id=target, payload=found.payload, vector=found.vector)
    store.call("upsert", COLLECTION, points=[point])


FAULTS: dict[str, tuple[Callable[[Qdrant], Any], str]] = {
    "document missing": (
        lambda s: s.call("delete", COLLECTION, points_selector=[B0, point_id("docs", "b", 1)]),
        "'b': nothing is stored",
    ),
    "chunk missing": (
        lambda s: s.call("delete", COLLECTION, points_selector=[A1]),
        "chunks [0] are stored",
    ),
    "head missing": (
        lambda s: s.call("delete", COLLECTION, points_selector=[A0]),
        "orphan chunks [1]",
    ),
    "stale chunk": (lambda s: copy(s, A1, point_id("docs", "a", 2), chunk=2), "[0, 1, 2]"),
    "chunk of a deleted document": (
        lambda s: copy(s, A1, point_id("docs", "c", 1), document_id="c"),
        "deleted, and chunks [1] are left",
    ),
    "unknown document": (
        lambda s: copy(s, A0, point_id("docs", "z", 0), document_id="z"),
        "'z': stored",
    ),
    "foreign id": (lambda s: copy(s, A0, point_id("other", "a", 0)), "foreign id"),
    "old position": (lambda s: spoil(s, A0, offset=1), "position is"),
    "position of one chunk": (lambda s: spoil(s, A1, offset=1), "chunk 1: position is"),
    "event key of one chunk": (lambda s: spoil(s, A1, event_key="x"), "chunk 1: event_key"),
    "text hash of one chunk": (lambda s: spoil(s, A1, text_hash="x"), "chunk 1: text_hash"),
    "fingerprint": (lambda s: spoil(s, A1, fingerprint="x"), "chunk 1: fingerprint"),
    "offsets": (lambda s: spoil(s, A1, start=0), "expected [(0, 0, 1), (1, 1, 2)]"),
    "text": (lambda s: spoil(s, A0, text="xz"), "text is not"),
    "title": (lambda s: spoil(s, B0, title="b"), "title is not"),
    "created_at": (lambda s: spoil(s, D0, created_at=1005), "created_at is 1005, expected 1007"),
    "metadata": (
        lambda s: s.call("set_payload", COLLECTION, payload={"lang": "en"}, points=[A1]),
        "chunk 1: metadata",
    ),
    "metadata left behind": (
        lambda s: s.call("set_payload", COLLECTION, payload={"old": 1}, points=[D0]),
        "chunk 0: metadata",
    ),
    "deletion lost": (lambda s: spoil(s, C0, deleted=False), "deleted is False"),
    "vector": (
        lambda s: s.call(
            "update_vectors",
            COLLECTION,
            points=[models.PointVectors(id=A1, vector={DENSE: [0.5, 0.5, 0.5, 0.5]})],
        ),
        "'a' chunk 1: its vector differs",
    ),
    "no vector": (
        lambda s: s.call("delete_vectors", COLLECTION, vectors=[DENSE], points=[A1]),
        "chunk 1: no vector",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_seen(store: Qdrant, fault: str) -> None:
    """Whatever is wrong with an index, the comparison names the document and what differs."""
    spoiled, words = FAULTS[fault]
    spoiled(store)
    found = differences(store)
    assert any(words in line for line in found), found
