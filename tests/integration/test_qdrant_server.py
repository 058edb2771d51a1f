"""The stand-in Qdrant server against qdrant-client.

With PLUMBLINE_TEST_QDRANT_URL set, the tests of the API run on that real server: they are the proof
that the stand-in answers as Qdrant does. Those of faults, crashes and speed are about the stand-in.
"""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.common.version_check import get_server_version, is_compatible
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from tests.support.qdrant_server import QdrantServer, qdrant_url

DIMENSION = 4
DENSE = {"dense": models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with qdrant_url() as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[QdrantClient]:
    client = QdrantClient(url=url, check_compatibility=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def server() -> Iterator[QdrantServer]:
    with QdrantServer() as stand_in:
        yield stand_in


@pytest.fixture
def name(client: QdrantClient) -> Iterator[str]:
    """A collection of its own, with one named vector."""
    unique = f"t-{uuid.uuid4().hex}"
    client.create_collection(unique, vectors_config=DENSE)
    yield unique
    client.delete_collection(unique)


def point(number: int, **payload: Any) -> models.PointStruct:
    vector = np.random.default_rng(number).normal(size=DIMENSION)
    vector /= np.linalg.norm(vector)
    return models.PointStruct(id=number, vector={"dense": vector.tolist()}, payload=payload)


def older_than(position: int) -> models.Filter:
    condition = models.FieldCondition(key="_plumbline.position", range=models.Range(lt=position))
    return models.Filter(must=[condition])


def of_document(document: str) -> models.Filter:
    match = models.MatchValue(value=document)
    key = "_plumbline.document_id"
    return models.Filter(must=[models.FieldCondition(key=key, match=match)])


def at(position: int, document: str = "a") -> dict[str, Any]:
    return {"_plumbline": {"position": position, "document_id": document}}


def positions(client: QdrantClient, name: str, *ids: int) -> dict[Any, int]:
    found = client.retrieve(name, list(ids))
    return {p.id: (p.payload or {})["_plumbline"]["position"] for p in found}


def test_client_finds_a_compatible_version(server: QdrantServer) -> None:
    """The check that a client makes when it connects passes."""
    found = get_server_version(server.url, {}, None, 5)
    assert is_compatible(version("qdrant-client"), found)
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_conditional_upsert_keeps_the_newer_and_inserts_the_missing(
    client: QdrantClient, name: str
) -> None:
    """`update_filter` guards points that exist, and lets in those that do not."""
    client.upsert(name, [point(1, **at(5)), point(2, **at(20))], wait=True)
    incoming = [point(number, **at(10)) for number in (1, 2, 3)]
    client.upsert(name, incoming, update_filter=older_than(10), wait=True)
    assert positions(client, name, 1, 2, 3) == {1: 10, 2: 20, 3: 10}


def test_batch_applies_each_operation_under_its_own_condition(
    client: QdrantClient, name: str
) -> None:
    """A batch update carries upserts, deletes and payload changes, each with its own filter."""
    client.upsert(name, [point(n, **at(n * 10)) for n in (1, 2, 3)], wait=True)
    client.batch_update_points(
        name,
        [
            models.UpsertOperation(
                upsert=models.PointsList(points=[point(1, **at(15))], update_filter=older_than(15))
            ),
            models.UpsertOperation(
                upsert=models.PointsList(points=[point(2, **at(15))], update_filter=older_than(15))
            ),
            models.SetPayloadOperation(
                set_payload=models.SetPayload(payload={"lang": "en"}, filter=older_than(18))
            ),
            models.DeleteOperation(delete=models.PointIdsList(points=[3])),
        ],
        wait=True,
    )
    assert positions(client, name, 1, 2, 3) == {1: 15, 2: 20}
    assert [(p.payload or {}).get("lang") for p in client.retrieve(name, [1, 2])] == ["en", None]


def test_point_without_vector_is_stored_and_never_found_by_search(
    client: QdrantClient, name: str
) -> None:
    """A tombstone has a payload, no vector, and no place in a result."""
    tombstone = models.PointStruct(id=1, vector={}, payload=at(1))
    client.upsert(name, [tombstone, point(2, **at(1))], wait=True)
    (stored,) = client.retrieve(name, [1], with_vectors=True)
    assert ({}, at(1)) == (stored.vector or {}, stored.payload)
    hits = client.query_points(name, query=[1.0, 0.0, 0.0, 0.0], using="dense").points
    assert [hit.id for hit in hits] == [2]
    assert client.count(name).count == 2
    client.upsert(name, [models.PointStruct(id=2, vector={}, payload=at(2))], wait=True)
    assert client.query_points(name, query=[1.0, 0.0, 0.0, 0.0], using="dense").points == []


def test_metadata_round_trips_and_merges(client: QdrantClient) -> None:
    """Collection metadata comes back as it went in, merges on update, and null removes a key."""
    unique = f"t-{uuid.uuid4().hex}"
    metadata = {"contract": {"model": "m", "dimension": 4}, "canaries": [[0.5, 0.25]]}
    client.create_collection(unique, vectors_config=DENSE, metadata=metadata)
    assert metadata == client.get_collection(unique).config.metadata
    client.update_collection(unique, metadata={"incarnation": "x", "canaries": None})
    expected = {"contract": metadata["contract"], "incarnation": "x"}
    assert expected == client.get_collection(unique).config.metadata
    client.delete_collection(unique)


def test_alias_stands_for_its_collection(client: QdrantClient, name: str) -> None:
    """Reads, writes and `get_collection` go through an alias, and one request switches it."""
    alias, other = f"alias-{name}", f"{name}-b"
    client.create_collection(other, vectors_config=DENSE, metadata={"which": "b"})
    client.update_collection(name, metadata={"which": "a"})

    def create(target: str) -> models.CreateAliasOperation:
        return models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=target, alias_name=alias)
        )

    client.update_collection_aliases([create(name)])
    client.upsert(alias, [point(1, **at(1))], wait=True)
    assert client.count(name).count == 1
    assert client.collection_exists(alias)
    assert client.get_collection(alias).config.metadata == {"which": "a"}
    remove = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
    client.update_collection_aliases([remove, create(other)])
    assert client.get_collection(alias).config.metadata == {"which": "b"}
    assert client.count(alias).count == 0
    assert [alias] == [a.alias_name for a in client.get_collection_aliases(other).aliases]
    listed = {a.alias_name: a.collection_name for a in client.get_aliases().aliases}
    assert other == listed[alias]
    # An alias is not what it stands for: deleting by its name deletes nothing.
    assert not client.delete_collection(alias)
    client.delete_collection(other)
    assert alias not in {a.alias_name for a in client.get_aliases().aliases}


def test_reads_answer_as_asked(client: QdrantClient, name: str) -> None:
    """Scroll pages and orders, facet and count filter, queries come single, batched, grouped."""
    client.create_payload_index(name, "_plumbline.document_id", models.PayloadSchemaType.KEYWORD)
    client.create_payload_index(name, "_plumbline.position", models.PayloadSchemaType.INTEGER)
    documents = "aabbc"
    points = [point(n, **at(10 - n, document)) for n, document in enumerate(documents, 1)]
    client.upsert(name, points, wait=True)

    page, offset = client.scroll(name, limit=3)
    rest, end = client.scroll(name, limit=3, offset=offset)
    assert ([p.id for p in page], [p.id for p in rest], end) == ([1, 2, 3], [4, 5], None)
    ordered, _ = client.scroll(name, order_by="_plumbline.position")
    assert [p.id for p in ordered] == [5, 4, 3, 2, 1]
    assert client.count(name, count_filter=of_document("a")).count == 2
    facet = client.facet(name, "_plumbline.document_id", exact=True)
    assert {hit.value: hit.count for hit in facet.hits} == {"a": 2, "b": 2, "c": 1}

    query = points[2].vector["dense"]  # type: ignore[index, call-overload]
    hits = client.query_points(name, query=query, using="dense", with_vectors=True).points
    assert hits[0].id == 3
    assert pytest.approx(hits[0].score, abs=1e-5) == 1.0
    assert query == pytest.approx(hits[0].vector["dense"], abs=1e-5)  # type: ignore[index, call-overload]
    request = models.QueryRequest(
        query=query, using="dense", limit=2, filter=of_document("a"), with_payload=True
    )
    (answer,) = client.query_batch_points(name, [request])
    assert {1, 2} == {hit.id for hit in answer.points}
    groups = client.query_points_groups(
        name, "_plumbline.document_id", query=query, using="dense", group_size=1
    ).groups
    assert ({"a", "b", "c"}, 3) == ({g.id for g in groups}, groups[0].hits[0].id)
    schema = client.get_collection(name).payload_schema
    assert schema["_plumbline.document_id"].data_type == models.PayloadSchemaType.KEYWORD


def test_deletes_and_payload_changes_select_by_id_and_by_filter(
    client: QdrantClient, name: str
) -> None:
    """Delete, set, overwrite and delete payload, replace and remove vectors, as selected."""
    client.create_payload_index(name, "_plumbline.document_id", models.PayloadSchemaType.KEYWORD)
    client.upsert(name, [point(n, **at(n, "a" if n < 4 else "b")) for n in range(1, 6)], wait=True)
    older = models.Filter(must=[*(of_document("a").must or []), *(older_than(3).must or [])])
    client.delete(name, models.FilterSelector(filter=older), wait=True)
    client.delete(name, [5], wait=True)
    assert positions(client, name, 1, 2, 3, 4, 5) == {3: 3, 4: 4}
    # A field that changed is found by its new value only.
    client.set_payload(name, {"document_id": "c"}, [3], key="_plumbline", wait=True)
    counts = [client.count(name, count_filter=of_document(d)).count for d in "abc"]
    assert counts == [0, 1, 1]
    client.overwrite_payload(name, {"x": 1, "y": None}, [3], wait=True)
    client.delete_payload(name, ["x"], [3], wait=True)
    assert client.retrieve(name, [3])[0].payload == {"y": None}
    new = models.PointVectors(id=3, vector={"dense": [0.0, 1.0, 0.0, 0.0]})
    client.update_vectors(name, [new], wait=True)
    client.delete_vectors(name, ["dense"], [4], wait=True)
    found = client.retrieve(name, [3, 4], with_vectors=True)
    assert [p.vector or {} for p in found] == [{"dense": [0.0, 1.0, 0.0, 0.0]}, {}]


def test_refusals_carry_status_and_reason(client: QdrantClient, url: str, name: str) -> None:
    """Errors have the statuses and the JSON shape of a real server."""

    def refusal(call: Any) -> tuple[int, str]:
        with pytest.raises(UnexpectedResponse) as caught:
            call()
        assert caught.value.status_code is not None
        return caught.value.status_code, caught.value.structured()["status"]["error"]

    missing = (404, "Not found: Collection `none` doesn't exist!")
    assert missing == refusal(lambda: client.count("none"))
    assert missing == refusal(lambda: client.get_collection("none"))
    assert missing == refusal(
        lambda: client.update_collection_aliases(
            [
                models.CreateAliasOperation(
                    create_alias=models.CreateAlias(collection_name="none", alias_name="x")
                )
            ]
        )
    )
    taken = (409, f"Wrong input: Collection `{name}` already exists!")
    assert taken == refusal(lambda: client.create_collection(name, vectors_config=DENSE))
    short = models.PointStruct(id=1, vector={"dense": [1.0]})
    status, message = refusal(lambda: client.upsert(name, [short], wait=True))
    assert (status, "expected dim: 4, got 1" in message) == (400, True)
    unknown = models.PointStruct(id=1, vector={"other": [1.0]})
    status, message = refusal(lambda: client.upsert(name, [unknown], wait=True))
    assert (status, "Not existing vector name error: other" in message) == (400, True)
    assert refusal(lambda: client.set_payload(name, {"a": 1}, [99], wait=True))[0] == 404
    client.upsert(name, [point(1)], wait=True)
    assert refusal(lambda: client.facet(name, "unindexed"))[0] == 400
    assert refusal(lambda: client.scroll(name, order_by="unindexed"))[0] == 400
    wrong = refusal(lambda: client.query_points(name, query=[1.0], using="dense"))
    assert wrong == (400, "Wrong input: Vector dimension error: expected dim: 4, got 1")
    assert refusal(lambda: client.scroll(name, limit=0))[0] == 422
    assert not client.delete_collection("none")
    response = httpx.put(f"{url}/collections/{name}/points", content=b'{"points": 1}')
    assert response.status_code == 400
    assert response.json()["status"]["error"].startswith("Format error in JSON body")


def test_upsert_of_the_same_point_by_many_clients_lets_the_newest_win(
    url: str, client: QdrantClient, name: str
) -> None:
    """Conditional upserts from several clients at once leave the newest position."""

    def write(position: int) -> None:
        own = QdrantClient(url=url, check_compatibility=False)
        own.upsert(name, [point(1, **at(position))], update_filter=older_than(position), wait=True)
        own.close()

    order = np.random.default_rng(7).permutation(40).tolist()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, order))
    assert positions(client, name, 1) == {1: 39}


def test_faults_hit_the_requests_they_name_and_no_others(server: QdrantServer) -> None:
    """A fault answers the next n matching requests with its status, then things are as before."""
    client = QdrantClient(url=server.url, check_compatibility=False)
    client.create_collection("faulty", vectors_config=DENSE)
    server.clear_faults()
    server.faults(r"/faulty/points$", method="PUT", status=503, times=2, skip=1)
    statuses: list[int | None] = []
    for number in range(5):
        try:
            client.upsert("faulty", [point(number)], wait=True)
            statuses.append(200)
        except UnexpectedResponse as error:
            statuses.append(error.status_code)
        assert client.count("faulty").count == statuses.count(200)
    assert statuses == [200, 503, 503, 200, 200]
    assert server.fault_hits() == [2]
    assert server.requests()["PUT /collections/faulty/points"] == 5
    server.faults(status=429, retry_after=3)
    with pytest.raises(ResourceExhaustedResponse) as caught:
        client.get_collections()
    assert caught.value.retry_after_s == 3
    assert httpx.post(f"{server.url}/_faults", json={"nonsense": 1}).status_code == 400
    server.clear_faults()
    client.close()


@pytest.mark.parametrize("drop", ["close", "reset"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_lost_connection_loses_the_answer_or_the_write(
    server: QdrantServer, drop: str, when: str
) -> None:
    """A dropped connection is an error to the client; `when` says whether the write was applied."""
    name = f"drop-{drop}-{when}"
    client = QdrantClient(url=server.url, check_compatibility=False)
    client.create_collection(name, vectors_config=DENSE)
    server.faults(f"{name}/points$", method="PUT", drop=drop, when=when)
    with pytest.raises(ResponseHandlingException):
        client.upsert(name, [point(1)], wait=True)
    assert (1 if when == "after" else 0) == client.count(name).count
    server.clear_faults()
    client.close()


def test_delay_makes_a_client_time_out_while_others_go_on(server: QdrantServer) -> None:
    """A delayed request holds up nobody else."""
    client = QdrantClient(url=server.url, timeout=1, check_compatibility=False)
    client.create_collection("slow", vectors_config=DENSE)
    server.faults("/slow/points/count", delay_seconds=3, times=1)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.count, "slow")
        started = time.monotonic()
        client.get_collections()
        assert time.monotonic() - started < 1
        with pytest.raises(ResponseHandlingException):
            slow.result()
    server.clear_faults()
    client.close()


def test_api_key_is_asked_for() -> None:
    """Without the key, or with another, nothing is answered but health."""
    with QdrantServer(api_key="s3cret") as server, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a key over plain HTTP
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        for key in (None, "other"):
            client = QdrantClient(
                url=server.url, api_key=key, https=False, check_compatibility=False
            )
            with pytest.raises(UnexpectedResponse) as caught:
                client.get_collections()
            assert caught.value.status_code == 401
            client.close()
        client = QdrantClient(
            url=server.url, api_key="s3cret", https=False, check_compatibility=False
        )
        assert client.get_collections().collections == []
        client.close()


def test_acknowledged_writes_survive_a_kill(tmp_path: Path) -> None:
    """What was answered before a SIGKILL is there after a restart on the same port and path."""
    with QdrantServer(tmp_path) as server:
        client = QdrantClient(url=server.url, check_compatibility=False)
        client.create_collection("kept", vectors_config=DENSE, metadata={"contract": 1})
        client.create_payload_index(
            "kept", "_plumbline.document_id", models.PayloadSchemaType.KEYWORD
        )
        alias = models.CreateAlias(collection_name="kept", alias_name="live")
        client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
        for start in range(0, 1000, 100):
            batch = [point(n, **at(n, f"d{n // 10}")) for n in range(start, start + 100)]
            client.upsert("kept", batch, wait=True)
        client.delete("kept", models.FilterSelector(filter=of_document("d3")), wait=True)
        server.kill()
        with pytest.raises(ResponseHandlingException):
            client.count("kept")
        server.restart()
        assert client.count("live").count == 990
        assert client.count("live", count_filter=of_document("d99")).count == 10
        info = client.get_collection("live")
        assert (
            info.config.metadata,
            list(info.payload_schema),
        ) == ({"contract": 1}, ["_plumbline.document_id"])
        client.close()
