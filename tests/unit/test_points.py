"""Points: stable ids, payloads that read back, and conditions that agree with the order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.local.payload_filters import check_filter

from pipelines.core.points import (
    HEAD_FIELDS,
    OURS,
    PAYLOAD_INDEXES,
    StoredChunk,
    chunks_of,
    head_of,
    older_chunks,
    older_than,
    payload,
    point_id,
    stored_position,
)
from pipelines.core.position import MAX_EXACT, OrderBy, Position, topic_rank
from pipelines.core.records import Event

TOPICS = ("documents", "documents.dead-letters.replay", "other")

few = st.integers(0, 2)
large = st.sampled_from([0, 1, MAX_EXACT - 1, MAX_EXACT])


def positions(order_by: OrderBy) -> st.SearchStrategy[Position]:
    """Positions with many ties, and with the greatest values there are."""
    return st.builds(
        Position,
        topic=st.sampled_from(TOPICS),
        partition=few,
        offset=few | large | st.integers(0, MAX_EXACT),
        timestamp=st.integers(-1, 2) | large | st.integers(-1, MAX_EXACT),
        version=st.none()
        if order_by is OrderBy.TIMESTAMP
        else few | large | st.integers(0, MAX_EXACT),
    )


def stored(position: Position, document_id: str = "a", chunk: int = 0) -> dict[str, Any]:
    return payload(
        Event(document_id, position, text="text"),
        fingerprint="f" * 12,
        chunk=StoredChunk(chunk, 0, 4),
        chunks=3,
        created_at=0,
        store_text=True,
    )


def matches(condition: models.Filter, of: dict[str, Any]) -> bool:
    return check_filter(condition, of, "id", {})


def pair(order_by: OrderBy) -> st.SearchStrategy[tuple[Position, Position]]:
    return st.tuples(positions(order_by), positions(order_by))


orders_and_pairs = st.sampled_from(OrderBy).flatmap(
    lambda order_by: st.tuples(st.just(order_by), pair(order_by))
)


@given(orders_and_pairs)
def test_older_than_is_the_order_of_positions(
    drawn: tuple[OrderBy, tuple[Position, Position]],
) -> None:
    """The condition on the server and the order in the process never disagree."""
    order_by, (one, other) = drawn
    assert (one < other) is matches(older_than(other, order_by), stored(one))
    assert (one.key == other.key) is (
        not matches(older_than(other, order_by), stored(one))
        and not matches(older_than(one, order_by), stored(other))
    )


@pytest.mark.parametrize("order_by", OrderBy)
def test_each_field_settles_the_tie_of_those_before_it(order_by: OrderBy) -> None:
    """Timestamp, offset, partition, topic, in that order; the version before all of them."""
    low, high = sorted(("documents", "other"), key=topic_rank)
    version = 1 if order_by is OrderBy.VERSION else None
    ascending = [
        Position(low, 0, 0, -1, version),
        Position(low, 9, 9, 0, version),
        Position(low, 0, 0, 5, version),
        Position(high, 0, 0, 5, version),
        Position(low, 1, 0, 5, version),
        Position(low, 0, 1, 5, version),
        Position(low, 0, 0, 6, version),
    ]
    if version is not None:
        ascending.append(Position(low, 0, 0, -1, 2))
    for older, newer in pairwise(ascending):
        assert matches(older_than(newer, order_by), stored(older))
        assert not matches(older_than(older, order_by), stored(newer))
        assert not matches(older_than(newer, order_by), stored(newer))


def numbers(condition: Any) -> Iterator[tuple[str, float]]:
    """Every (field, bound) of a condition."""
    if isinstance(condition, models.Filter):
        for part in [*(condition.must or []), *(condition.should or [])]:
            yield from numbers(part)
    elif condition.range is not None:
        bounds = (condition.range.lt, condition.range.gte, condition.range.lte)
        yield from ((condition.key, bound) for bound in bounds if bound is not None)


@given(orders_and_pairs)
def test_bounds_survive_64_bit_floats(drawn: tuple[OrderBy, tuple[Position, Position]]) -> None:
    """The server compares floats: every bound and every stored number is one exactly."""
    order_by, (position, _) = drawn
    kept = stored(position)[OURS]
    for key, bound in numbers(older_than(position, order_by)):
        value = kept[key.removeprefix(f"{OURS}.")]
        assert int(float(value)) == value
        assert int(bound) == value


def keys(condition: Any) -> Iterator[str]:
    if isinstance(condition, models.Filter):
        for part in [*(condition.must or []), *(condition.should or [])]:
            yield from keys(part)
    else:
        yield condition.key


def test_what_is_filtered_by_is_indexed() -> None:
    """Servers in strict mode refuse a condition on a field without an index."""
    position = Position("documents", 0, 1, 2, 3)
    used = set(keys(older_chunks("a", position, OrderBy.VERSION))) | set(keys(chunks_of(["a"])))
    assert used <= PAYLOAD_INDEXES.keys()


def test_older_chunks_spares_heads_newer_chunks_and_other_documents() -> None:
    """The clean-up takes what is older than the head of this very document, and no head."""
    head, older, newer = (Position("t", 0, offset, offset) for offset in (5, 4, 6))
    condition = older_chunks("a", head, OrderBy.TIMESTAMP)
    taken = {
        (document_id, chunk, position.offset)
        for document_id in ("a", "b")
        for chunk in (0, 1, 2)
        for position in (older, head, newer)
        if matches(condition, stored(position, document_id, chunk))
    }
    assert taken == {("a", 1, 4), ("a", 2, 4)}


def test_chunks_of_finds_chunks_other_than_heads() -> None:
    """The look for older chunks reads those of the batch's documents alone."""
    position = Position("t", 0, 1, 1)
    condition = chunks_of(["a", "b"])
    found = {
        (document_id, chunk)
        for document_id in ("a", "b", "c")
        for chunk in (0, 1, 2)
        if matches(condition, stored(position, document_id, chunk))
    }
    assert found == {("a", 1), ("a", 2), ("b", 1), ("b", 2)}


def test_ids_do_not_change_between_releases() -> None:
    """An id that changed would leave every stored point an orphan."""
    assert point_id("docs", "kb/42", 0) == "c47df686-55a4-5de3-a475-8072c8448470"
    assert point_id("docs", "kb/42", 1) == "bfe81f42-b34e-5251-b1b4-3286eaa6fa1e"
    assert point_id("docs", "ключ/鍵/🔑", 0) == "1080fa0e-6e3e-5a8b-8c3d-588908e19e82"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["docs", "docs2"]),
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3),
            st.integers(0, 111),
        ),
        unique=True,
    )
)
def test_ids_are_distinct(places: list[tuple[str, str, int]]) -> None:
    """No two of index, document and chunk share a point."""
    assert len(places) == len({point_id(*place) for place in places})


@given(orders_and_pairs)
def test_a_payload_reads_back(drawn: tuple[OrderBy, tuple[Position, Position]]) -> None:
    """What reconciling reads of a point is what was written."""
    _, (position, _) = drawn
    event = Event("kb/42", position, title="T", text="body", metadata={"lang": "en"})
    written = payload(
        event,
        fingerprint="f" * 12,
        chunk=StoredChunk(0, 0, 4),
        chunks=7,
        created_at=12,
        store_text=True,
    )
    head = head_of(written)
    assert head is not None
    assert position == head.position == stored_position(written[OURS])
    assert (event.document_id, event.event_key) == (head.document_id, head.event_key)
    assert (event.text_hash, event.metadata_hash) == (head.text_hash, head.metadata_hash)
    assert (head.chunks, head.created_at, head.deleted) == (7, 12, False)


def test_reconciling_reads_what_a_head_is_made_of() -> None:
    """The fields asked of the store are enough to make the same head, and hold no text."""
    kept = stored(Position("t", 1, 2, 3, 4))
    asked = {OURS: {k: v for k, v in kept[OURS].items() if f"{OURS}.{k}" in HEAD_FIELDS}}
    assert head_of(kept) == head_of(asked)
    assert {"text", "title"}.isdisjoint(asked[OURS])


def test_text_is_kept_once() -> None:
    """The head keeps title and full text, the other chunks do not; without `store_text` none."""
    event = Event("a", Position("t", 0, 1, 1), title="T", text="body")
    for number, keep, wanted in ((0, True, True), (1, True, False), (0, False, False)):
        ours = payload(
            event,
            fingerprint="f",
            chunk=StoredChunk(number, 0, 4),
            chunks=2,
            created_at=0,
            store_text=keep,
        )[OURS]
        assert ("text" in ours, "title" in ours) == (wanted, wanted)


def test_a_tombstone_says_when_and_nothing_else() -> None:
    """Of a deleted document only the position stays, nothing of its text or metadata."""
    event = Event("a", Position("t", 0, 1, 1), deleted=True)
    tombstone = payload(
        event,
        fingerprint="f",
        chunk=StoredChunk(0, 0, 0),
        chunks=0,
        created_at=None,
        store_text=True,
    )
    assert list(tombstone) == [OURS]
    assert {"text", "title", "text_hash", "metadata_hash", "created_at"}.isdisjoint(tombstone[OURS])
    head = head_of(tombstone)
    assert head is not None
    assert (head.deleted, head.chunks, head.created_at) == (True, 0, None)


def test_metadata_stands_beside_ours() -> None:
    """A document's own fields keep their names, whatever ours are called."""
    event = Event("a", Position("t", 0, 1, 1), text="x", metadata={"chunk": "c", "version": [1]})
    kept = payload(
        event, fingerprint="f", chunk=StoredChunk(0, 0, 1), chunks=1, created_at=0, store_text=True
    )
    assert kept["chunk"] == "c"
    assert kept["version"] == [1]
    assert kept[OURS]["chunk"] == 0
    assert kept.keys() == {"chunk", "version", OURS}


@pytest.mark.parametrize("foreign", [None, {}, {"a": 1}, {OURS: None}, {OURS: "x"}, {OURS: {}}])
def test_foreign_points_are_no_heads(foreign: Any) -> None:
    """A point somebody else put there is passed over, not crashed on."""
    assert head_of(foreign) is None
