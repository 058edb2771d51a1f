"""Versions: made with their contract and canaries, opened by those that match, and refused else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from pipelines.core.contract import ChunkContract, EmbeddingContract
from pipelines.core.encoder import Encoded
from pipelines.core.errors import (
    CanaryMismatchError,
    ContractMismatchError,
    IndexMissingError,
    StoreConflictError,
)
from pipelines.core.points import DENSE, PAYLOAD_INDEXES
from pipelines.core.position import OrderBy
from pipelines.core.qdrant import Qdrant
from pipelines.core.settings import (
    HnswSettings,
    KafkaSettings,
    QdrantSettings,
    QuantizationSettings,
    RetrySettings,
    Settings,
)
from pipelines.core.versions import (
    METADATA_KEY,
    check_process,
    create_version,
    find_version,
    list_versions,
    live_version_name,
    open_version,
    set_alias,
    version_name,
)
from tests.support.qdrant_server import qdrant_url

CONTRACT = EmbeddingContract(
    model_hash="0" * 64,
    dimension=8,
    max_tokens=16,
    chunk=ChunkContract(size=10, overlap=2),
    model_name="sentence-transformers/all-MiniLM-L6-v2",
)


class SeededEncoder:
    """A unit vector from each text's hash, moved by `noise` in a fixed direction."""

    def __init__(self, contract: EmbeddingContract = CONTRACT, noise: float = 0.0) -> None:
        self.contract = contract
        self.noise = noise
        self.tokenizer = None
        self.special_tokens = 2
        self.symmetric = False

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        return self._encode(self.contract.document_prompt, texts)

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        return self._encode(self.contract.query_prompt, texts)

    def _encode(self, prompt: str, texts: Sequence[str]) -> Encoded:
        rows = [self._vector(prompt + text) for text in texts]
        return Encoded(
            np.asarray(rows, dtype=np.float32),
            tokens=[len(text.split()) for text in texts],
            truncated=[False] * len(texts),
        )

    def _vector(self, text: str) -> Any:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        vector = np.random.default_rng(seed).standard_normal(self.contract.dimension)
        vector /= np.linalg.norm(vector)
        vector[0] += self.noise
        return vector / np.linalg.norm(vector)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


RETRY = RetrySettings(first_seconds=0.01, max_seconds=0.02)


@pytest.fixture(params=["embedded", "server"])
def qdrant(request: pytest.FixtureRequest) -> Iterator[Qdrant]:
    """An empty store of either engine; what a real server holds besides is left alone."""
    if request.param == "embedded":
        store = Qdrant(QdrantClient(":memory:"), "memory", QdrantSettings(), RETRY)
        yield store
        store.close()
        return
    url = request.getfixturevalue("server_url")
    settings = QdrantSettings(url=url, outage_timeout_seconds=10.0)
    store = Qdrant(QdrantClient(url=url, check_compatibility=False), url, settings, RETRY)
    yield store
    for collection in store.call("get_collections").collections:
        if collection.name.split("--")[0] in (INDEX, "other"):
            store.call("delete_collection", collection.name)
    store.close()


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with qdrant_url() as url:
        yield url


INDEX = "test-versions"


def settings(**changes: Any) -> Settings:
    return Settings(**{"index": INDEX, **changes})


def test_a_version_carries_its_contract_and_canaries(qdrant: Qdrant) -> None:
    """Whoever opens the collection finds there everything that decides what a vector means."""
    made = create_version(qdrant, settings(), SeededEncoder())
    assert made.name == f"{INDEX}--all-minilm-l6-v2--{CONTRACT.fingerprint}"
    opened = open_version(qdrant, made.name)
    assert opened.contract == CONTRACT
    assert opened.contract.model_name == CONTRACT.model_name
    assert (opened.index, opened.order_by) == (INDEX, OrderBy.TIMESTAMP)
    assert opened.incarnation == made.incarnation
    assert np.array_equal(opened.canaries.document, made.canaries.document)
    assert opened.group_id == f"plumbline.{INDEX}.{CONTRACT.fingerprint}.{made.incarnation}"
    report = check_process(opened, SeededEncoder(), OrderBy.TIMESTAMP)
    assert report.level == "ok"
    assert report.distance == 0.0


def test_the_first_version_gets_the_alias_and_later_ones_do_not(qdrant: Qdrant) -> None:
    """A new version never takes over the searches of the live one by being made."""
    first = create_version(qdrant, settings(), SeededEncoder())
    assert live_version_name(qdrant, INDEX) == first.name
    other = SeededEncoder(replace(CONTRACT, dimension=4))
    second = create_version(qdrant, settings(), other)
    assert live_version_name(qdrant, INDEX) == first.name
    set_alias(qdrant, INDEX, second.name)
    assert live_version_name(qdrant, INDEX) == second.name
    found = list_versions(qdrant, INDEX)
    assert {version.name for version in found} == {first.name, second.name}
    assert first.incarnation != second.incarnation


def test_creating_twice_opens_what_is_there(qdrant: Qdrant) -> None:
    """A second process, or a second run, finds the same version and changes nothing of it."""
    first = create_version(qdrant, settings(), SeededEncoder())
    again = create_version(qdrant, settings(), SeededEncoder(noise=0.001))
    assert again.incarnation == first.incarnation
    assert np.array_equal(again.canaries.document, first.canaries.document)


def test_two_processes_create_at_once(qdrant: Qdrant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes second opens the version of the first, though it saw none before."""
    first = create_version(qdrant, settings(), SeededEncoder())
    monkeypatch.setattr("pipelines.core.versions.find_version", lambda *_: None)
    again = create_version(qdrant, settings(), SeededEncoder())
    assert again.incarnation == first.incarnation


def test_a_model_by_another_name_is_the_same_version(qdrant: Qdrant) -> None:
    """The fingerprint decides, not what the model was called or where it was loaded from."""
    made = create_version(qdrant, settings(), SeededEncoder())
    local = SeededEncoder(replace(CONTRACT, model_name="./models/minilm", model_revision=None))
    assert version_name(INDEX, local.contract) != made.name
    found = create_version(qdrant, settings(), local)
    assert (found.name, found.incarnation) == (made.name, made.incarnation)
    assert find_version(qdrant, INDEX, local.contract.fingerprint) == made.name
    assert check_process(found, local, OrderBy.TIMESTAMP).level == "ok"


def test_another_index_is_another_version(qdrant: Qdrant) -> None:
    """Indexes share nothing, also under one contract."""
    one = create_version(qdrant, settings(), SeededEncoder())
    two = create_version(qdrant, settings(index="other"), SeededEncoder())
    assert one.name != two.name
    assert one.group_id != two.group_id
    assert [version.name for version in list_versions(qdrant, "other")] == [two.name]
    names = [version.name for version in list_versions(qdrant)]
    assert {one.name, two.name} <= set(names)
    assert names == sorted(names)


def test_a_mismatch_names_every_field_with_both_values(qdrant: Qdrant) -> None:
    """The message is enough to know what to change: all fields, theirs and ours."""
    version = create_version(qdrant, settings(), SeededEncoder())
    other = replace(
        CONTRACT, query_prompt="query: ", max_tokens=99, chunk=ChunkContract(size=77, overlap=2)
    )
    with pytest.raises(ContractMismatchError) as caught:
        check_process(version, SeededEncoder(other), OrderBy.VERSION)
    assert caught.value.differences == {
        "query_prompt": ("", "query: "),
        "max_tokens": (16, 99),
        "chunk.size": (10, 77),
        "order_by": ("timestamp", "version"),
    }
    for part in ("query_prompt", "'query: '", "16", "99", "chunk.size", "10", "77", version.name):
        assert part in str(caught.value)


def test_a_process_that_only_searches_has_no_order(qdrant: Qdrant) -> None:
    """The order of events is the writer's concern."""
    version = create_version(
        qdrant, settings(kafka=KafkaSettings(order_by="version")), SeededEncoder()
    )
    assert version.order_by is OrderBy.VERSION
    assert check_process(version, SeededEncoder(), None).level == "ok"


def test_a_process_that_makes_other_vectors_is_refused(qdrant: Qdrant) -> None:
    """Same contract, other vectors: above 1e-3 no write and no search."""
    version = create_version(qdrant, settings(), SeededEncoder())
    with pytest.raises(CanaryMismatchError, match="canaries"):
        check_process(version, SeededEncoder(noise=0.2), OrderBy.TIMESTAMP)


def test_a_small_distance_warns_and_goes_on(qdrant: Qdrant) -> None:
    """Between 1e-4 and 1e-3 the job runs and says so."""
    version = create_version(qdrant, settings(), SeededEncoder())
    assert check_process(version, SeededEncoder(noise=0.02), OrderBy.TIMESTAMP).level == "warning"
    assert check_process(version, SeededEncoder(noise=0.001), OrderBy.TIMESTAMP).level == "ok"


def vectors(size: int = 8) -> dict[str, models.VectorParams]:
    return {DENSE: models.VectorParams(size=size, distance=models.Distance.COSINE)}


def test_a_foreign_collection_is_refused_and_left_alone(qdrant: Qdrant) -> None:
    """A collection that carries no contract of ours is neither written to nor adopted."""
    name = version_name(INDEX, CONTRACT)
    qdrant.call("create_collection", name, vectors_config=vectors())
    with pytest.raises(StoreConflictError, match="not written by Plumbline"):
        create_version(qdrant, settings(), SeededEncoder())
    assert qdrant.call("get_collection", name).payload_schema == {}
    assert live_version_name(qdrant, INDEX) is None
    assert list_versions(qdrant, INDEX) == []


def test_an_index_name_taken_by_a_collection_is_refused_before_anything_is_made(
    qdrant: Qdrant,
) -> None:
    """No alias can have that name, so no version is left behind without one."""
    qdrant.call("create_collection", INDEX, vectors_config=vectors())
    try:
        with pytest.raises(StoreConflictError, match="another index name"):
            create_version(qdrant, settings(), SeededEncoder())
        assert list_versions(qdrant, INDEX) == []
    finally:
        qdrant.call("delete_collection", INDEX)


def tampered(qdrant: Qdrant, **changes: Any) -> str:
    """A collection whose metadata is that of a version but for these changes."""
    made = create_version(qdrant, settings(), SeededEncoder())
    kept = qdrant.call("get_collection", made.name).config.metadata[METADATA_KEY]
    size = changes.pop("size", 8)
    qdrant.call("delete_collection", made.name)
    qdrant.call(
        "create_collection",
        made.name,
        vectors_config=vectors(size),
        metadata={METADATA_KEY: {**kept, **changes}},
    )
    return made.name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 99}, "another release"),
        ({"fingerprint": "0123456789ab"}, "contradicts itself"),
        ({"contract": {"model_hash": "x"}}, "lacks"),
        ({"canaries": {}}, "canaries"),
        ({"size": 5}, "dimension 5"),
    ],
)
def test_edited_metadata_is_refused(qdrant: Qdrant, changes: dict[str, Any], words: str) -> None:
    """Whatever cannot be trusted about a version fails closed and says what."""
    name = tampered(qdrant, **changes)
    with pytest.raises(StoreConflictError, match=words):
        open_version(qdrant, name)


def test_a_missing_version_says_what_to_do(qdrant: Qdrant) -> None:
    """The error names the commands that list and make versions."""
    with pytest.raises(IndexMissingError, match="plumbline index"):
        open_version(qdrant, f"{INDEX}--nothing--000000000000")
    assert live_version_name(qdrant, "no-such-index") is None


def test_a_collection_built_anew_is_another_incarnation(qdrant: Qdrant) -> None:
    """Its consumer group is another one too, so that its history is read anew."""
    first = create_version(qdrant, settings(), SeededEncoder())
    qdrant.call("delete_collection", first.name)
    second = create_version(qdrant, settings(), SeededEncoder())
    assert first.name == second.name
    assert first.group_id != second.group_id


def test_settings_of_a_collection_reach_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """HNSW, quantization, shards, replicas and on-disk are given at creation."""
    client = QdrantClient(":memory:")
    store = QdrantSettings(
        on_disk_vectors=True,
        on_disk_payload=True,
        shard_number=3,
        replication_factor=2,
        write_consistency_factor=2,
        hnsw=HnswSettings(m=4, ef_construct=64),
        quantization=QuantizationSettings(kind="scalar", quantile=0.9, always_ram=True),
    )
    asked: dict[str, Any] = {}
    create = client.create_collection

    def spy(name: str, **kwargs: Any) -> Any:
        asked.update(kwargs)
        return create(name, vectors_config=kwargs["vectors_config"], metadata=kwargs["metadata"])

    monkeypatch.setattr(client, "create_collection", spy)
    create_version(Qdrant(client, "memory", store, RETRY), settings(qdrant=store), SeededEncoder())
    assert asked["vectors_config"][DENSE].on_disk is True
    assert asked["on_disk_payload"] is True
    assert (asked["shard_number"], asked["replication_factor"]) == (3, 2)
    assert asked["write_consistency_factor"] == 2
    assert (asked["hnsw_config"].m, asked["hnsw_config"].ef_construct) == (4, 64)
    scalar = asked["quantization_config"].scalar
    assert (scalar.quantile, scalar.always_ram) == (0.9, True)


@pytest.mark.parametrize("kind", ["scalar", "binary", "product"])
def test_each_quantization_is_accepted(qdrant: Qdrant, kind: Any) -> None:
    """Every kind that the settings allow makes a collection."""
    store = qdrant.settings.model_copy(
        update={
            "quantization": QuantizationSettings(kind=kind, always_ram=True),
            "hnsw": HnswSettings(m=8),
        }
    )
    made = create_version(qdrant, settings(qdrant=store), SeededEncoder())
    assert qdrant.call("collection_exists", made.name)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("cosine", models.Distance.COSINE),
        ("dot", models.Distance.DOT),
        ("euclid", models.Distance.EUCLID),
    ],
)
def test_the_contract_decides_size_and_distance(
    qdrant: Qdrant, distance: Any, expected: models.Distance
) -> None:
    """The collection compares vectors as the contract says."""
    made = create_version(
        qdrant, settings(), SeededEncoder(replace(CONTRACT, distance=distance, dimension=4))
    )
    params = qdrant.call("get_collection", made.name).config.params.vectors[DENSE]
    assert (params.size, params.distance) == (4, expected)


def test_payload_indexes_are_made_and_made_good(qdrant: Qdrant) -> None:
    """Every field that is filtered by has its index, also when the first run died before them."""
    if qdrant.local:
        pytest.skip("the embedded engine has no payload indexes")
    made = create_version(qdrant, settings(), SeededEncoder())
    qdrant.call("delete_payload_index", made.name, field_name="_plumbline.timestamp")
    create_version(qdrant, settings(), SeededEncoder())
    schema = qdrant.call("get_collection", made.name).payload_schema
    assert {name: info.data_type.value for name, info in schema.items()} == PAYLOAD_INDEXES
