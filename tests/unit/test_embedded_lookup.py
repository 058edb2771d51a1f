"""The embedded engine's answers by document and by group, without its walks, are its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from pipelines.core.points import OURS, POSITION_FIELDS, chunks_of, older_chunks, point_id
from pipelines.core.position import OrderBy, Position, topic_rank
from pipelines.core.qdrant import Qdrant
from pipelines.core.settings import QdrantSettings, RetrySettings

NAME = "docs--tiny--000000000000"
DOCUMENTS = ("a", "b", "c", "d")
CHUNKS = range(4)

writes = st.lists(
    st.tuples(st.sampled_from(DOCUMENTS), st.sampled_from(CHUNKS), st.integers(1, 9)), max_size=12
)


def payload(document_id: str, chunk: int, time: int) -> dict[str, Any]:
    return {
        OURS: {
            "document_id": document_id,
            "chunk": chunk,
            "topic": "t",
            "topic_rank": topic_rank("t"),
            "partition": 0,
            "offset": time,
            "timestamp": time,
            "event_key": f"e{time}",
        }
    }


def point(document_id: str, chunk: int, time: int) -> models.PointStruct:
    random = np.random.default_rng([ord(document_id), chunk])
    return models.PointStruct(
        id=point_id("docs", document_id, chunk),
        vector={"dense": random.normal(size=4).tolist()},
        payload=payload(document_id, chunk, time),
    )


def plain() -> QdrantClient:
    client = QdrantClient(":memory:")
    client.create_collection(
        NAME, vectors_config={"dense": models.VectorParams(size=4, distance="Cosine")}
    )
    return client


def wrapped(client: QdrantClient) -> Qdrant:
    return Qdrant(client, ":memory:", QdrantSettings(), RetrySettings())


def everything(client: QdrantClient) -> list[tuple[Any, Any]]:
    records, _ = client.scroll(NAME, limit=1000, with_payload=True)
    return [(record.id, record.payload) for record in records]


@given(
    rounds=st.lists(
        st.tuples(
            writes,
            st.lists(st.sampled_from(DOCUMENTS), max_size=3),
            st.sampled_from(DOCUMENTS),
            st.integers(1, 10),
        ),
        min_size=1,
        max_size=4,
    ),
    limit=st.integers(1, 5),
)
@settings(deadline=None)
def test_scrolls_and_deletes_do_as_the_engine_does(
    rounds: list[tuple[list[tuple[str, int, int]], list[str], str, int]], limit: int
) -> None:
    """Pages of a scroll and what a delete leaves are those of the engine alone, write by write."""
    engine, ours = plain(), plain()
    store = wrapped(ours)
    for written, asked, deleted, time in rounds:
        points = [point(*one) for one in written]
        if points:
            engine.upsert(NAME, points)
            store.call("upsert", NAME, points=points, wait=True)
        offset = None
        while True:
            page = {
                "scroll_filter": chunks_of(asked),
                "limit": limit,
                "offset": offset,
                "with_payload": list(POSITION_FIELDS),
            }
            expected = engine.scroll(NAME, **page)
            assert expected == store.call("scroll", NAME, **page)
            offset = expected[1]
            if offset is None:
                break
        condition = older_chunks(deleted, Position("t", 0, time, time), OrderBy.TIMESTAMP)
        engine.delete(NAME, points_selector=condition)
        store.call("delete", NAME, points_selector=condition, wait=True)
        assert everything(engine) == everything(ours)


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.call("set_payload", NAME, payload={"document_id": "b"}, key=OURS,
                                 points=[point_id("docs", "a", 1)]),
        lambda store: store.call("overwrite_payload", NAME, payload=payload("b", 1, 1),
                                 points=[point_id("docs", "a", 1)]),
        lambda store: store.call("batch_update_points", NAME, update_operations=[
            models.UpsertOperation(upsert=models.PointsList(points=[point("b", 1, 1)]))]),
        lambda store: store.call("upsert", NAME, points=models.Batch(
            ids=[point_id("docs", "b", 1)], vectors={"dense": [[1.0, 0, 0, 0]]},
            payloads=[payload("b", 1, 1)])),
    ],
    ids=["set_payload", "overwrite_payload", "batch", "columns"],
)  # fmt: skip
def test_other_writes_are_seen(change: Any) -> None:
    """A point that comes to a document in another way than ours is found all the same."""
    store = wrapped(plain())
    store.call("upsert", NAME, points=[point("a", 1, 1)], wait=True)
    assert store.call("scroll", NAME, scroll_filter=chunks_of(["b"]))[0] == []
    change(store)
    found, _ = store.call("scroll", NAME, scroll_filter=chunks_of(["b"]))
    assert [record.payload[OURS]["document_id"] for record in found] == ["b"]


def test_a_collection_made_anew_is_empty() -> None:
    """What was known of a collection by this name before is not an answer."""
    store = wrapped(plain())
    store.call("upsert", NAME, points=[point("a", 1, 1)], wait=True)
    assert len(store.call("scroll", NAME, scroll_filter=chunks_of(["a"]))[0]) == 1
    store.call("delete_collection", NAME)
    store.call(
        "create_collection",
        NAME,
        vectors_config={"dense": models.VectorParams(size=4, distance="Cosine")},
    )
    assert store.call("scroll", NAME, scroll_filter=chunks_of(["a"]))[0] == []


def test_through_an_alias_too() -> None:
    """Writes by the collection's own name show in a scroll through its alias."""
    store = wrapped(plain())
    create = models.CreateAlias(collection_name=NAME, alias_name="docs")
    store.call(
        "update_collection_aliases",
        change_aliases_operations=[models.CreateAliasOperation(create_alias=create)],
    )
    for time in (1, 2):
        store.call("upsert", NAME, points=[point("a", time, time)], wait=True)
        found, _ = store.call("scroll", "docs", scroll_filter=chunks_of(["a"]))
        assert len(found) == time


def test_conditions_on_more_than_payloads_are_the_engine_s() -> None:
    """Ids and vectors beside the document decide as well."""
    store = wrapped(plain())
    store.call("upsert", NAME, points=[point("a", n, 1) for n in (1, 2)], wait=True)
    store.call("delete_vectors", NAME, vectors=["dense"], points=[point_id("docs", "a", 2)])
    condition = chunks_of(["a"])
    assert isinstance(condition.must, list)
    for extra in (
        models.HasIdCondition(has_id=[point_id("docs", "a", 1)]),
        models.HasVectorCondition(has_vector="dense"),
    ):
        narrowed = models.Filter(must=[*condition.must, extra])
        found, _ = store.call("scroll", NAME, scroll_filter=narrowed)
        assert [record.id for record in found] == [point_id("docs", "a", 1)]


def shown(answer: Any) -> list[tuple[Any, Any, float, Any]]:
    return [
        (group.id, hit.id, round(hit.score, 6), hit.payload)
        for group in answer.groups
        for hit in group.hits
    ]


@given(writes, st.integers(1, 5), st.sampled_from([True, False, [f"{OURS}.document_id"]]))
@settings(deadline=None)
def test_groups_are_the_engine_s(
    written: list[tuple[str, int, int]], limit: int, with_payload: Any
) -> None:
    """The same documents, each with its best chunk, however many chunks crowd the top."""
    client = plain()
    store = wrapped(client)
    points = [point(*one) for one in written]
    # The nearest twenty are of one document, and one is of none.
    crowd = [point("a", chunk, 1) for chunk in range(10, 30)]
    for one in crowd:
        one.vector = {"dense": [1.0, 0.0, 0.0, 0.001 * (crowd.index(one) + 1)]}
    foreign = models.PointStruct(id=7, vector={"dense": [1.0, 0, 0, 0]}, payload={"x": 1})
    store.call("upsert", NAME, points=[*points, *crowd, foreign], wait=True)
    request: dict[str, Any] = {
        "collection_name": NAME,
        "query": [1.0, 0.0, 0.0, 0.0],
        "using": "dense",
        "group_by": f"{OURS}.document_id",
        "group_size": 1,
        "limit": limit,
        "with_payload": with_payload,
    }
    assert shown(client.query_points_groups(**request)) == shown(
        store.call("query_points_groups", **request)
    )


def test_a_point_of_several_groups_is_the_engine_s() -> None:
    """Lists and numbers to group by have rules of their own."""
    client = plain()
    store = wrapped(client)
    client.upsert(
        NAME,
        [
            models.PointStruct(id=n, vector={"dense": [1.0, n, 0, 0]}, payload={"tag": tag})
            for n, tag in enumerate([["x", "y"], "x", 3, None, True])
        ],
    )
    request: dict[str, Any] = {
        "collection_name": NAME,
        "query": [1.0, 0.0, 0.0, 0.0],
        "using": "dense",
        "group_by": "tag",
        "group_size": 1,
    }
    assert shown(client.query_points_groups(**request)) == shown(
        store.call("query_points_groups", **request)
    )


def test_a_deep_search_copies_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two documents of three hundred cost a few copies, not three hundred."""
    client = plain()
    store = wrapped(client)
    store.call("upsert", NAME, points=[point("a", n, 1) for n in range(300)], wait=True)
    store.call("upsert", NAME, points=[point("b", n, 1) for n in range(3)], wait=True)
    asked: list[int] = []
    original = client.query_points

    def query_points(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["limit"])
        return original(*args, **kwargs)

    monkeypatch.setattr(client, "query_points", query_points)
    store.call(
        "query_points_groups",
        collection_name=NAME,
        query=client.retrieve(NAME, [point_id("docs", "b", 0)], with_vectors=True)[0].vector[
            "dense"
        ],  # type: ignore[union-attr, index, call-overload]
        using="dense",
        group_by=f"{OURS}.document_id",
        group_size=1,
        limit=2,
    )
    assert asked == [8]
