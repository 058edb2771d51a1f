"""The writer alone: groups, what their condition refuses, what the store refuses, and sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from pipelines.core.errors import (
    RequestRefusedError,
    ServiceUnavailableError,
    StoreConflictError,
    TransientError,
)
from pipelines.core.planning import Planner
from pipelines.core.plans import Action, Outcome, Plan
from pipelines.core.points import OURS, StoredChunk
from pipelines.core.position import Position
from pipelines.core.qdrant import Qdrant
from pipelines.core.records import Event
from pipelines.core.writing import Written, _Item
from tests.support.interleave import (
    COLLECTION,
    CharacterChunker,
    HashEncoder,
    make_writer,
    memory_store,
    stand_in_version,
)


def event(time: int, text: str | None = "ab", document_id: str = "A", **metadata: Any) -> Event:
    position = Position("t", 0, offset=time, timestamp=time)
    if text is None:
        return Event(document_id, position, deleted=True)
    return Event(document_id, position, text=text, metadata=metadata)


class Watched:
    """A store whose requests a test sees, answers or breaks before they are carried out."""

    local = True

    def __init__(
        self, store: Qdrant, before: Callable[[str, dict[str, Any]], None] | None = None
    ) -> None:
        self.store = store
        self.before = before
        self.settings = store.settings
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.requests.append((method, kwargs))
        if self.before is not None:
            self.before(method, kwargs)
        return self.store.call(method, *args, **kwargs)

    def upserts(self) -> list[list[models.PointStruct]]:
        return [kwargs["points"] for method, kwargs in self.requests if method == "upsert"]


def plan(store: Any, events: Sequence[Event]) -> list[Plan]:
    encoder: Any = HashEncoder()
    chunker: Any = CharacterChunker()
    planner = Planner(store, stand_in_version(), encoder, chunker)
    plans, _ = planner.reconcile(events)
    planner.cut(plans)
    planner.encode(plans)
    return plans


def write(store: Any, events: Sequence[Event]) -> list[Written]:
    return make_writer(store).write(plan(store, events))


def ours(point: models.PointStruct) -> dict[str, Any]:
    assert point.payload is not None
    found: dict[str, Any] = point.payload[OURS]
    return found


def stored(store: Qdrant) -> dict[tuple[str, int], dict[str, Any]]:
    """Our part of each payload, by document and chunk."""
    records, _ = store.call("scroll", COLLECTION, limit=10_000, with_payload=True)
    return {
        (r.payload[OURS]["document_id"], r.payload[OURS]["chunk"]): r.payload[OURS] for r in records
    }


def test_a_batch_is_written_in_two_groups() -> None:
    """Into an empty version: one request for all chunks and one for all heads, chunks first."""
    watched = Watched(memory_store())
    events = [event(time, "abc", f"d{time}") for time in range(20)]
    written = write(watched, events)
    groups = [[ours(point)["chunk"] for point in group] for group in watched.upserts()]
    assert groups == [[1, 2] * 20, [0] * 20]
    assert [one.outcome for one in written] == [Outcome.EMBEDDED] * 20
    assert [one.event for one in written] == events
    assert len(stored(watched.store)) == 60


def test_one_request_finds_that_nothing_is_to_clean() -> None:
    """No document has older chunks: no delete is sent, which would cost a walk each."""
    watched = Watched(memory_store())
    write(watched, [event(time, "abc", f"d{time}") for time in range(20)])
    methods = [method for method, _ in watched.requests]
    assert methods.count("delete") == 0
    assert methods.count("scroll") == 1


def test_shrinking_deletes_what_is_too_much() -> None:
    """A document of three chunks that becomes one has one, and a deleted one a tombstone."""
    store = memory_store()
    write(store, [event(1, "abc"), event(1, "def", "B"), event(1, "gh", "C")])
    write(store, [event(2, "x"), event(2, None, "B")])
    assert stored(store).keys() == {("A", 0), ("B", 0), ("C", 0), ("C", 1)}
    assert stored(store)["B", 0]["deleted"] is True
    assert stored(store)["B", 0]["chunks"] == 0


memory = memory_store(max_request_bytes=64 * 1024)


@given(
    st.lists(
        st.tuples(st.none() | st.integers(0, 30), st.integers(1, 30), st.sampled_from([1, 900])),
        min_size=1,
        max_size=12,
    )
)
def test_groups_refuse_nothing_we_know_of(
    documents: list[tuple[int | None, int, int]],
) -> None:
    """Each group's condition holds for every stored position known; all in order; sizes bounded."""
    writer = make_writer(memory)
    items = [_item(before, time, kilobytes * 100) for before, time, kilobytes in documents]
    groups = list(writer._groups(items))
    assert [id(i) for group in groups for i in group] == [
        id(i) for i in sorted(items, key=lambda i: i.position.key)
    ]
    for group in groups:
        oldest = min(item.position for item in group)
        for item in group:
            if item.stored is not None and item.stored < item.position:
                assert item.stored < oldest
        assert len(group) == 1 or sum(item.size_bytes for item in group) <= 64 * 1024


def _item(before: int | None, time: int, size_bytes: int) -> Any:
    known = None if before is None else Position("t", 0, before, before)
    point = models.PointStruct(id=1, vector={}, payload={})
    return _Item(Plan(event(time), Action.EMBED), point, size_bytes, known)


def test_requests_stay_below_the_bound() -> None:
    """However large texts, metadata and batches are, no request is larger than the settings say."""
    watched = Watched(memory_store(max_request_bytes=64 * 1024))
    write(
        watched,
        [event(t, "é" * 9, f"d{t}", note='"\\\n' * 500, words="wörter " * 300) for t in range(40)],
    )
    sizes = [
        sum(len(point.model_dump_json().encode()) for point in group) for group in watched.upserts()
    ]
    assert len(sizes) > 10
    assert max(sizes) <= 64 * 1024
    assert len(stored(watched.store)) == 360


@given(
    st.text(max_size=50),
    st.text(max_size=300),
    st.dictionaries(st.text(max_size=9), st.text(max_size=40) | st.floats(allow_nan=False)),
    st.integers(1, 400),
    st.integers(0, 2**32 - 1),
)
def test_sizes_are_not_underestimated(
    document_id: str, text: str, metadata: dict[str, Any], dimension: int, seed: int
) -> None:
    """What is counted for a point is at least what it takes, in any script and any dimension."""
    position = Position("t" * 249, 2**31, 2**53 - 1, 2**53 - 1, 2**53 - 1)
    of = Event(document_id, position, title=text[::-1], text=text, metadata=metadata)
    vectors = np.random.default_rng(seed).standard_normal((1, dimension), dtype=np.float32)
    vectors *= np.float32(0.01)
    whole = Plan(of, Action.EMBED, chunks=[StoredChunk(0, 0, len(text))], vectors=vectors)
    (item,) = make_writer(memory)._items(whole, heads=True)
    assert len(item.point.model_dump_json().encode()) <= item.size_bytes


def test_what_a_group_refused_is_repeated_alone() -> None:
    """A writer that got in between loses to the newer event, though the group's condition held."""
    store = memory_store()

    def race(method: str, kwargs: dict[str, Any]) -> None:
        # Once, right before our heads: B gets an event between the group's oldest and our own.
        if method == "upsert" and ours(kwargs["points"][0])["chunk"] == 0:
            watched.before = None
            write(store, [event(5, "xyz", "B")])

    watched = Watched(store)
    plans = plan(watched, [event(1, "a", "A"), event(9, "bc", "B")])
    watched.before = race
    watched.requests.clear()
    written = make_writer(watched).write(plans)
    assert [one.outcome for one in written] == [Outcome.EMBEDDED, Outcome.EMBEDDED]
    groups = [[ours(p)["document_id"] for p in group] for group in watched.upserts()]
    assert groups == [["B"], ["A", "B"], ["B"]]
    assert stored(store)["B", 0]["timestamp"] == 9
    assert stored(store).keys() == {("A", 0), ("B", 0), ("B", 1)}


def test_an_event_beaten_while_it_is_written_is_stale() -> None:
    """The outcome says what happened, not what was planned, and nothing of it is left."""
    store = memory_store()
    plans = plan(store, [event(1, "abc")])
    write(store, [event(2, "d")])
    written = make_writer(store).write(plans)
    assert [one.outcome for one in written] == [Outcome.STALE]
    assert {key: one["timestamp"] for key, one in stored(store).items()} == {("A", 0): 2}


@pytest.mark.parametrize("batch", [1, 2, 7, 16])
@pytest.mark.parametrize("bad", ["first", "middle", "last"])
def test_a_refused_group_is_searched_for_the_bad_record(batch: int, bad: str) -> None:
    """One record the store refuses is a dead letter with its words; the others are written."""
    store = memory_store()
    row = {"first": 0, "middle": batch // 2, "last": batch - 1}[bad]

    def refuse(method: str, kwargs: dict[str, Any]) -> None:
        if method == "upsert" and any("poison" in point.payload for point in kwargs["points"]):
            raise RequestRefusedError("the store's words")

    watched = Watched(store, refuse)
    events = [event(t, "abc", f"d{t}", **({"poison": 1} if t == row else {})) for t in range(batch)]
    written = write(watched, events)
    refused = [one for one in written if one.outcome is Outcome.DEAD_LETTERED]
    assert [one.event for one in refused] == [events[row]]
    assert refused[0].refused is not None
    assert "the store's words" in refused[0].refused
    assert {document_id for document_id, _ in stored(store)} == {
        f"d{t}" for t in range(batch) if t != row
    }
    # Halving: some requests for each level, not one for each record.
    assert len(watched.upserts()) <= 4 * (batch.bit_length() + 2)


def test_a_refused_update_leaves_the_document_as_it_was() -> None:
    """The chunks of a document whose new event is refused as a whole stay those of the old one."""
    store = memory_store()
    write(store, [event(1, "abc")])
    before = stored(store)

    def refuse(method: str, kwargs: dict[str, Any]) -> None:
        if method == "upsert" and any(point.payload for point in kwargs["points"]):
            raise RequestRefusedError("no")

    written = write(Watched(store, refuse), [event(2, "de")])
    assert [one.outcome for one in written] == [Outcome.DEAD_LETTERED]
    assert stored(store) == before


def test_a_refusal_that_is_about_the_collection_stops_the_job() -> None:
    """Somebody re-made the collection with another dimension: no good event is dead-lettered."""
    store = memory_store()
    plans = plan(store, [event(1, "ab"), event(1, "c", "B")])
    store.call("delete_collection", COLLECTION)
    store.call(
        "create_collection",
        COLLECTION,
        vectors_config={"dense": models.VectorParams(size=9, distance=models.Distance.DOT)},
    )
    with pytest.raises(StoreConflictError, match=r"dimension 9, expected is dimension \d+"):
        make_writer(store).write(plans)


@pytest.mark.parametrize("text", ["ab", None], ids=["document", "deletion"])
def test_a_store_that_refuses_every_write_blames_no_document(text: str | None) -> None:
    """Also where the batch is a single one: a limit is reached, and deletions still pass."""
    store = memory_store()
    write(store, [event(1, "a", "B")])
    before = stored(store)

    def refuse(method: str, kwargs: dict[str, Any]) -> None:
        if method == "upsert":
            raise RequestRefusedError("Max points count limit of 3 reached!")

    with pytest.raises(RequestRefusedError, match=r"limit of 3 reached.*no document is to blame"):
        write(Watched(store, refuse), [event(2, text)])
    assert stored(store) == before


def test_asking_whether_the_store_writes_leaves_nothing_behind() -> None:
    """The write that has nothing to refuse adds no point."""
    store = memory_store()

    def refuse(method: str, kwargs: dict[str, Any]) -> None:
        if method == "upsert" and any("poison" in point.payload for point in kwargs["points"]):
            raise RequestRefusedError("no")

    watched = Watched(store, refuse)
    written = write(watched, [event(1, "a", poison=1)])
    assert [one.outcome for one in written] == [Outcome.DEAD_LETTERED]
    modes = [kwargs.get("update_mode") for method, kwargs in watched.requests if method == "upsert"]
    assert modes == [None, models.UpdateMode.UPDATE_ONLY]
    assert store.call("count", COLLECTION).count == 0


def test_an_outage_is_no_dead_letter() -> None:
    """A store that stays away raises: nothing is counted, so nothing is committed."""
    store = memory_store(outage_timeout_seconds=0.1)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise TransientError("away")

    plans = plan(store, [event(1, "ab")])
    client: Any = store._client
    client.upsert = fail
    with pytest.raises(ServiceUnavailableError):
        make_writer(store).write(plans)


def test_a_write_that_does_not_show_stops_the_job() -> None:
    """Where the store acknowledges and forgets, going on would commit what is not there."""
    store = memory_store()
    plans = plan(store, [event(1, "ab")])
    client: Any = store._client
    client.upsert = lambda *args, **kwargs: None
    with pytest.raises(StoreConflictError, match="does not show"):
        make_writer(store).write(plans)


def test_a_chunk_taken_by_a_newer_writer_does_not_stop_the_job() -> None:
    """Between our write and our look a newer event may win and clean up: that is no conflict."""
    store = memory_store()
    plans = plan(store, [event(1, "abc")])
    newer = iter((event(2, "d"), event(3, "e")))

    def race(method: str, kwargs: dict[str, Any]) -> None:
        if method == "retrieve":
            for one in newer:
                write(store, [one])
                return

    written = make_writer(Watched(store, race)).write(plans)
    assert [one.outcome for one in written] == [Outcome.STALE]
    assert stored(store).keys() == {("A", 0)}


def test_writing_twice_changes_nothing() -> None:
    """A redelivered batch is carried out again without a trace."""
    store = memory_store()
    events = [event(1, "abc"), event(2, None, "B"), event(3, "d", "C")]
    write(store, events)
    before = stored(store)
    written = write(store, events)
    assert [one.outcome for one in written] == [Outcome.UNCHANGED] * 3
    assert stored(store) == before


def test_a_stale_event_cleans_up_after_a_dead_writer() -> None:
    """The redelivery of a writer that died half way removes what it left, though it is beaten."""
    store = memory_store()
    zombie = make_writer(store).steps(plan(store, [event(1, "abc")]))
    write(store, [event(2, "d")])
    while next(zombie) != "read back chunks":
        pass
    zombie.close()
    assert stored(store).keys() == {("A", 0), ("A", 1), ("A", 2)}
    written = write(store, [event(1, "abc")])
    assert [one.outcome for one in written] == [Outcome.STALE]
    assert stored(store).keys() == {("A", 0)}
