"""The integrity probe and the sweep on an embedded index of real documents in chunks."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from monitors.integrity import known
from monitors.integrity.purges import Purges
from monitors.probes.base import Level
from monitors.probes.integrity import IntegrityProbe
from pipelines.core.encoder import load_encoder
from pipelines.core.points import DENSE, OURS, point_id
from pipelines.core.qdrant import disconnect
from pipelines.core.settings import Settings
from pipelines.core.sweep import sweep
from tests.support.corpora import Corpus, Document, missing
from tests.support.probing import FIRST_TIMESTAMP, Remembering, Watched
from tests.support.tiny_model import make_tiny_model

pytestmark = pytest.mark.skipif(bool(missing("cranfield")), reason=str(missing("cranfield")))

DOCUMENTS = 120
CONTRACT = {"chunk": {"size": 64, "overlap": 8}}


@pytest.fixture(scope="module")
def texts() -> list[Document]:
    return Corpus("cranfield").documents(2 * DOCUMENTS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(model: Path) -> Any:
    values = {"contract": {"model": str(model), **CONTRACT}, "runtime": {"device": "cpu"}}
    settings = Settings(**values)
    return Remembering(load_encoder(settings.contract, settings.runtime))


@pytest.fixture(scope="module")
def store(tmp_path_factory, model, encoder, texts) -> Path:
    """An index of the first half of the texts, a few of them deleted."""
    directory = tmp_path_factory.mktemp("store") / "data"
    with opened(directory, model, encoder) as watched:
        watched.write(texts[:DOCUMENTS])
        watched.delete([document.id for document in texts[:10]])
    return directory


def opened(directory: Path, model: Path, encoder: Any) -> Watched:
    return Watched(directory, model=model, encoder=encoder, settings={"contract": CONTRACT})


@pytest.fixture
def index(tmp_path, store, model, encoder) -> Iterator[Callable[..., Watched]]:
    """Opens copies of the store, or of what was opened before, with the runs so far."""
    made: list[Watched] = []

    def make(source: Watched | None = None) -> Watched:
        directory = tmp_path / str(len(made))
        shutil.copytree(store if source is None else source.settings.qdrant.path, directory)
        watched = opened(directory, model, encoder)
        watched.now = datetime.fromtimestamp(FIRST_TIMESTAMP / 1000 + 3600, UTC)
        watched._offset = 10_000
        if source is not None:
            watched.now, watched._offset = source.now, source._offset
            watched.state = dict(source.state)
        made.append(watched)
        return watched

    yield make
    for watched in made:
        watched.__exit__()


@pytest.fixture
def watched(index) -> Watched:
    return index()


PROBE = IntegrityProbe(settle_seconds=0.0)


def figure(result: Any, name: str) -> float:
    (value,) = [f.value for f in result.figures if f.family.name == f"plumbline_integrity_{name}"]
    return float(value)


def churn(watched: Watched, random: np.random.Generator, texts: list[Document]) -> None:
    """A fifth of the documents changes its text, a few go, a few come."""
    alive = sorted(watched.documents())
    changed = random.choice(alive, len(alive) // 5, replace=False)
    others = random.permutation(len(texts))
    watched.write(
        replace(texts[other], id=str(document_id))
        for document_id, other in zip(changed, others, strict=False)
    )
    watched.delete(random.choice(alive, 3, replace=False).tolist())
    fresh = [text for text in texts[DOCUMENTS:] if text.id not in alive]
    grown = random.permutation(len(fresh))[:8]  # in the end, all of them are there
    watched.write(fresh[number] for number in grown)


def some(points: list[Any], share: float, random: np.random.Generator) -> list[Any]:
    count = max(1, round(share * len(points)))
    return [points[row] for row in random.choice(len(points), count, replace=False)]


def lose_documents(watched: Watched, random: np.random.Generator) -> None:
    heads = some(list(watched.documents().values()), 0.015, random)
    watched.qdrant.call("delete", watched.version.name, points_selector=[head.id for head in heads])


def mix_fingerprints(watched: Watched, random: np.random.Generator) -> None:
    points = some(watched.points(), 0.01, random)
    for point in points:
        ours = {**point.payload[OURS], "fingerprint": "0" * 12}
        watched.qdrant.call(
            "set_payload", watched.version.name, payload={OURS: ours}, points=[point.id]
        )


def zero_vectors(watched: Watched, random: np.random.Generator) -> None:
    living = [p for p in watched.points() if p.vector and DENSE in p.vector]
    zeros = [0.0] * watched.version.contract.dimension
    watched.qdrant.call(
        "update_vectors",
        watched.version.name,
        points=[
            models.PointVectors(id=p.id, vector={DENSE: zeros}) for p in some(living, 0.02, random)
        ],
    )


def lose_chunks(watched: Watched, random: np.random.Generator) -> None:
    chunks = [p for p in watched.points() if p.payload[OURS]["chunk"] > 0]
    watched.qdrant.call(
        "delete",
        watched.version.name,
        points_selector=[p.id for p in some(chunks, 0.02, random)],
    )


def strip_vectors(watched: Watched, random: np.random.Generator) -> None:
    living = [p for p in watched.points() if p.vector and DENSE in p.vector]
    watched.qdrant.call(
        "delete_vectors",
        watched.version.name,
        vectors=[DENSE],
        points=[p.id for p in some(living, 0.01, random)],
    )


def strange_points(watched: Watched, random: np.random.Generator) -> None:
    vector = random.normal(size=watched.version.contract.dimension).tolist()
    watched.qdrant.call(
        "upsert",
        watched.version.name,
        points=[models.PointStruct(id=1, vector={DENSE: vector}, payload={"text": "mine"})],
    )


def cut_vectors(watched: Watched, random: np.random.Generator) -> None:
    """Somebody's writer pads a shorter vector with zeros, for every document."""
    living = [p for p in watched.points() if p.vector and DENSE in p.vector]
    vectors = []
    for point in living:
        vector = np.array(point.vector[DENSE])
        vector[-4:] = 0
        vectors.append(models.PointVectors(id=point.id, vector={DENSE: vector.tolist()}))
    watched.qdrant.call("update_vectors", watched.version.name, points=vectors)


DAMAGES = {
    "lost_documents": lose_documents,
    "foreign_fingerprints": mix_fingerprints,
    "zero_vectors": zero_vectors,
    "missing_chunks": lose_chunks,
    "vectorless": strip_vectors,
    "unknown_points": strange_points,
    "died_dimensions": cut_vectors,
}


@pytest.mark.acceptance
def test_damage_is_caught_in_the_first_run_after_it_amid_churn(index, texts, acceptance):
    """And nothing is said before: in 20 of 20 seeds, or in one by default."""
    for seed in range(20 if acceptance else 1):
        random = np.random.default_rng(seed)
        watched = index()
        assert watched.run(PROBE, seed=seed).reason == "first_run"
        for run in range(2):
            churn(watched, random, texts)
            before = watched.run(PROBE, seed=1000 * seed + run)
            assert (before.level, before.reason) == (Level.OK, "sound"), before.words
        churn(watched, random, texts)
        disconnect(watched.settings)
        for reason, damage in DAMAGES.items():
            damaged = index(watched)
            damage(damaged, random)
            result = damaged.run(PROBE, seed=seed + 500)
            assert result.level is Level.ALARM, (seed, reason, result.words)
            assert reason in result.details["findings"], (seed, reason, result.details)
            disconnect(damaged.settings)


@pytest.mark.acceptance
def test_harmless_change_never_alarms(index, texts, acceptance):
    """Churn of a fifth, deletions, growth and repeated texts: 60 windows, or 5 by default."""
    for seed in range(2 if acceptance else 1):
        random = np.random.default_rng(100 + seed)
        watched = index()
        watched.run(PROBE, seed=seed)
        for window in range(60 if acceptance else 5):
            churn(watched, random, texts)
            watched.write(
                replace(texts[other], id=f"new-{window}-{other}")
                for other in random.choice(len(texts), 4, replace=False)
            )
            result = watched.run(PROBE, seed=1000 * seed + window)
            assert result.level is not Level.ALARM, (seed, window, result.words)
        disconnect(watched.settings)


def test_growth_hides_no_loss(watched, texts):
    """Fewer documents are lost than come in, so the counts rise all the same."""
    watched.run(PROBE)
    lose_documents(watched, np.random.default_rng(3))
    watched.write(texts[DOCUMENTS : DOCUMENTS + 100])
    result = watched.run(PROBE)
    assert result.reason == "lost_documents"
    assert "remembered" in result.words
    assert "fewer than they were" not in result.words


def test_a_loss_that_no_remembered_document_shows_is_in_the_count(watched, monkeypatch):
    watched.run(PROBE)
    watched.state["integrity"] = {**watched.state["integrity"], "known": []}
    lose_documents(watched, np.random.default_rng(3))
    result = watched.run(PROBE)
    assert result.reason == "lost_documents"
    assert "fewer than they were" in result.words


def test_a_loss_shows_until_the_documents_are_back(watched, texts):
    watched.run(PROBE)
    alive = sorted(watched.documents())[:3]
    ids = [point_id(watched.version.index, document_id, 0) for document_id in alive]
    watched.qdrant.call("delete", watched.version.name, points_selector=ids)
    results = [watched.run(PROBE) for _ in range(4)]
    assert [result.reason for result in results] == ["lost_documents"] * 4
    assert results[-1].details["lost"] == alive
    assert figure(results[-1], "lost_documents") == 3
    watched.write(text for text in texts if text.id in alive)
    assert watched.run(PROBE).reason == "sound"


def test_purged_tombstones_on_record_are_no_loss(watched):
    purged = 0
    probe = IntegrityProbe(purged=lambda context: Purges(purged), settle_seconds=0.0)
    watched.run(probe)
    watched.state["integrity"] = {**watched.state["integrity"], "known": []}
    deleted = models.Filter(
        must=[models.FieldCondition(key=f"{OURS}.deleted", match=models.MatchValue(value=True))]
    )
    watched.qdrant.call("delete", watched.version.name, points_selector=deleted)
    assert watched.run(IntegrityProbe(settle_seconds=0.0)).reason == "lost_documents"
    purged = 10
    assert watched.run(probe).reason == "sound"


def test_known_documents_turn_over(watched, monkeypatch):
    monkeypatch.setattr(known, "KNOWN_DOCUMENTS", 50)
    monkeypatch.setattr(known, "_RENEWED_DOCUMENTS", 5)
    watched.run(PROBE)
    seen = [set(watched.state["integrity"]["known"])]
    for _ in range(12):
        watched.run(PROBE)
        seen.append(set(watched.state["integrity"]["known"]))
    assert all(40 <= len(ids) <= 50 for ids in seen)
    assert all(len(a & b) >= 40 for a, b in pairwise(seen))
    assert len(set.union(*seen)) > 75


def test_counts_and_dimensions(watched):
    result = watched.run(PROBE)
    assert figure(result, "documents") == DOCUMENTS - 10
    assert figure(result, "tombstones") == 10
    assert figure(result, "points") == len(watched.points())
    assert figure(result, "live_dimensions") == watched.version.contract.dimension
    assert figure(result, "lost_documents") == 0


def test_an_empty_index_is_undecided_and_an_emptied_one_alarms(tmp_path, model, encoder, texts):
    with opened(tmp_path / "empty", model, encoder) as watched:
        result = watched.run(PROBE)
        assert (result.level, result.reason) == (Level.UNDECIDED, "empty")
        watched.write(texts[:5])
        assert watched.run(PROBE).level is Level.OK
        watched.qdrant.call("delete", watched.version.name, points_selector=models.Filter())
        assert watched.run(PROBE).reason == "lost_documents"


def test_a_version_built_anew_is_no_loss(watched):
    watched.run(PROBE)
    state = watched.state["integrity"]
    watched.state["integrity"] = {**state, "incarnation": "other", "heads": 10**6}
    assert watched.run(PROBE).reason == "first_run"


def test_many_duplicates_warn(watched, texts):
    assert watched.run(PROBE).level is Level.OK
    watched.write(replace(texts[11], id=f"copy-{number}") for number in range(200))
    result = watched.run(PROBE)
    assert (result.level, result.reason) == (Level.WARNING, "duplicates")


def leave_behind(watched: Watched, count: int) -> set[str]:
    """Chunks of an older event, as a zombie writes them when everyone else has finished."""
    heads = list(watched.documents().values())[:count]
    left = []
    for head in heads:
        ours = head.payload[OURS]
        number = ours["chunks"] + 1
        stale = {**ours, "chunk": number, "timestamp": ours["timestamp"] - 5, "event_key": "0" * 32}
        left.append(
            models.PointStruct(
                id=point_id(watched.version.index, ours["document_id"], number),
                vector=head.vector,
                payload={OURS: stale},
            )
        )
    watched.qdrant.call("upsert", watched.version.name, points=left)
    return {str(point.id) for point in left}


def ids(watched: Watched) -> set[str]:
    return {str(point.id) for point in watched.points()}


def test_orphan_chunks_warn_and_the_sweep_deletes_them_and_nothing_else(watched):
    watched.run(PROBE)
    before = ids(watched)
    orphans = leave_behind(watched, 12)
    result = watched.run(PROBE)
    assert (result.level, result.reason) == (Level.WARNING, "orphan_chunks")
    assert "index sweep" in result.words
    # The sample may be smaller than the version, so that some are estimated.
    assert figure(result, "orphan_chunks") == pytest.approx(12, abs=9)

    looked = sweep(watched.qdrant, watched.version, dry_run=True)
    assert (looked.older, looked.documents, looked.deleted) == (12, 12, 0)
    assert orphans <= ids(watched)
    done = sweep(watched.qdrant, watched.version)
    assert (done.older, done.deleted, done.headless) == (12, 12, 0)
    assert ids(watched) == before
    assert watched.run(PROBE).reason == "sound"


def test_the_sweep_leaves_headless_newer_and_current_chunks(watched):
    chunks = [p for p in watched.points() if p.payload[OURS]["chunk"] > 0]
    headless, newer = chunks[0], chunks[-1]
    document_id = headless.payload[OURS]["document_id"]
    watched.qdrant.call(
        "delete",
        watched.version.name,
        points_selector=[point_id(watched.version.index, document_id, 0)],
    )
    ours = newer.payload[OURS]
    later = {**ours, "timestamp": ours["timestamp"] + 10**6}
    watched.qdrant.call(
        "set_payload", watched.version.name, payload={OURS: later}, points=[newer.id]
    )
    before = ids(watched)
    report = sweep(watched.qdrant, watched.version)
    assert report.deleted == 0
    assert report.headless >= 1
    assert ids(watched) == before


def test_a_document_that_is_being_written_is_neither_orphan_nor_missing(watched, texts):
    """The second look comes when the write has ended."""
    watched.run(PROBE)
    orphans = leave_behind(watched, 6)
    chunk = next(p for p in watched.points() if p.payload[OURS]["chunk"] == 1)
    watched.qdrant.call("delete", watched.version.name, points_selector=[chunk.id])
    original, reads = watched.qdrant.call, 0

    def call(method: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal reads
        answer = original(method, *args, **kwargs)
        reads += method == "retrieve" and len(kwargs["ids"]) > 50
        if reads == 3:  # known documents, heads and chunks were read: the writer ends
            reads += 1
            original("delete", watched.version.name, points_selector=sorted(orphans))
            original(
                "upsert",
                watched.version.name,
                points=[
                    models.PointStruct(id=chunk.id, vector=chunk.vector, payload=chunk.payload)
                ],
            )
        return answer

    watched.qdrant.call = call  # type: ignore[method-assign]
    try:
        result = watched.run(PROBE)
    finally:
        watched.qdrant.call = original  # type: ignore[method-assign]
    assert reads > 3
    assert (result.level, result.reason) == (Level.OK, "sound"), result.words


def test_a_deletion_half_way_is_not_told(watched, monkeypatch):
    """A tombstone that loses its vector between the two looks; one that keeps it is a warning."""
    watched.run(PROBE)
    tombstone = next(p for p in watched.points() if p.payload[OURS].get("deleted"))
    vector = np.ones(watched.version.contract.dimension).tolist()

    def finish(seconds: float) -> None:
        watched.qdrant.call(
            "delete_vectors", watched.version.name, vectors=[DENSE], points=[tombstone.id]
        )

    watched.qdrant.call(
        "update_vectors",
        watched.version.name,
        points=[models.PointVectors(id=tombstone.id, vector={DENSE: vector})],
    )
    result = watched.run(PROBE)
    assert (result.level, result.reason) == (Level.WARNING, "tombstone_vectors")
    monkeypatch.setattr("monitors.integrity.counts.time.sleep", finish)
    assert watched.run(PROBE).reason == "sound"


def test_a_writer_at_work_never_alarms(watched, texts):
    """Documents grow, shrink, go and come back while the probe looks, run after run."""
    random = np.random.default_rng(11)
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        ids = [document.id for document in texts[10:40]]
        while not stop.is_set():
            chosen = random.choice(ids, 6, replace=False).tolist()
            others = random.choice(len(texts), 6, replace=False)
            try:
                watched.write(
                    replace(texts[other], id=document_id)
                    for document_id, other in zip(chosen[:4], others, strict=False)
                )
                watched.delete(chosen[4:])
            except BaseException as error:  # noqa: BLE001  (told by the test)
                failures.append(error)
                return

    probe = IntegrityProbe(settle_seconds=0.2)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        results = [watched.run(probe) for _ in range(12)]
    finally:
        stop.set()
        writer.join()
    assert not failures
    assert {result.reason for result in results[1:]} <= {"sound", "orphan_chunks"}
    assert not [result.words for result in results if result.level is Level.ALARM]
