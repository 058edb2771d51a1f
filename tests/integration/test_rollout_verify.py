"""Verification of a candidate on the embedded engine: what is right passes, and each damage is
refused by the check that it concerns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.core.control import Control
from pipelines.core.errors import CanaryMismatchError, RolloutStateError, SettingsError
from pipelines.core.lag import PartitionLag
from pipelines.core.points import DENSE, OURS, point_id
from pipelines.core.process import ProcessIdentity
from pipelines.core.rollout import RolloutState
from pipelines.core.worker_reports import WorkerReporter
from pipelines.rollout.context import RolloutContext
from pipelines.rollout.verify import Outcome, VerifyContext, VerifyReport, verify
from pipelines.rollout.verify.ann import check_ann
from pipelines.rollout.verify.canaries import check_canaries
from pipelines.rollout.verify.chunks import check_chunks
from pipelines.rollout.verify.documents import check_documents
from pipelines.rollout.verify.golden import check_golden
from pipelines.rollout.verify.latency import check_latency
from pipelines.rollout.verify.points import check_points
from pipelines.rollout.verify.vectors import check_vectors
from tests.support.corpora import Document, missing
from tests.support.probing import FIRST_TIMESTAMP, Seeded
from tests.support.tiny_model import make_tiny_model
from tests.support.two_versions import TwoVersions, documents, golden_folder

COUNT = 200
CHUNKED = {"chunk": {"size": 64, "overlap": 4}}
JUDGED = COUNT - COUNT // 10


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two models of the same shape."""
    folder = tmp_path_factory.mktemp("models")
    return (
        str(make_tiny_model(folder / "live", seed=1)),
        str(make_tiny_model(folder / "candidate", seed=2)),
    )


@pytest.fixture
def two(tmp_path: Path, models: tuple[str, str]) -> Iterator[TwoVersions]:
    """The same 200 documents under two models, the candidate's in chunks."""
    with TwoVersions(
        tmp_path, {"model": models[0]}, {"model": models[1], **CHUNKED}, documents(COUNT)
    ) as two:
        yield two


@pytest.fixture
def small(tmp_path: Path) -> Iterator[TwoVersions]:
    """Forty documents under two encoders that cost nothing."""
    live, candidate = Seeded(16), Seeded(24, model_name="other")
    with TwoVersions(tmp_path, {}, {}, documents(40), encoders=(live, candidate)) as small:
        yield small


def by_name(report: VerifyReport) -> dict[str, Outcome]:
    return {result.name: result.outcome for result in report.results}


def test_a_good_candidate_passes_and_becomes_ready(two: TwoVersions) -> None:
    """Every check passes, with its figure and bound; the rollout is ready and keeps the answer."""
    two.rollout()
    golden = two.golden()
    report = verify(two.settings, golden=golden, settle_seconds=0.01)
    assert report.ok, report.words
    assert by_name(report) == {
        "documents": Outcome.PASS,
        "chunks": Outcome.PASS,
        "points": Outcome.PASS,
        "canaries": Outcome.PASS,
        "vectors": Outcome.PASS,
        "optimiser": Outcome.SKIPPED,
        "ann": Outcome.PASS,
        "latency": Outcome.PASS,
        "golden": Outcome.PASS,
    }
    kept = two.stored()
    assert kept.state is RolloutState.READY
    assert kept.note("verify")["ok"]
    assert kept.note("verify")["state"] == "ready"
    assert kept.note("gate")["queries"] == JUDGED
    assert kept.note("gate")["margin"] == 0.02
    assert [row[0] for row in report.rows] == list(by_name(report))


def test_a_later_run_that_fails_takes_ready_back(two: TwoVersions) -> None:
    """A candidate that loses a document after it was ready is verifying again, and may recover."""
    two.rollout(RolloutState.READY)
    golden = two.golden()
    two.drop("kb/7")
    report = verify(two.settings, golden=golden, settle_seconds=0.01)
    assert not report.ok
    assert "documents" in [result.name for result in report.failed]
    kept = two.stored()
    assert kept.state is RolloutState.VERIFYING
    assert "documents" in kept.history[-1].reason
    (lost,) = [document for document in two.held if document.id == "kb/7"]
    two.candidate._offset = 7
    two.candidate.write([lost], at=FIRST_TIMESTAMP + 7)
    assert verify(two.settings, golden=golden, settle_seconds=0.01).ok
    assert two.stored().state is RolloutState.READY


def test_without_a_golden_set_it_stays_open_unless_there_is_a_reason(two: TwoVersions) -> None:
    """No set: undecided; with the user's reason the gate is skipped, and the record keeps it."""
    two.rollout()
    report = verify(two.settings, settle_seconds=0.01)
    assert by_name(report)["golden"] is Outcome.UNDECIDED
    assert two.stored().state is RolloutState.VERIFYING
    report = verify(two.settings, without_golden="nobody has judged yet", settle_seconds=0.01)
    assert by_name(report)["golden"] is Outcome.SKIPPED
    assert two.stored().state is RolloutState.READY
    assert "nobody has judged yet" in two.stored().note("gate")["words"]
    with pytest.raises(SettingsError, match="needs a reason"):
        verify(two.settings, without_golden=" ")
    with pytest.raises(SettingsError, match="not both"):
        verify(two.settings, golden=two.golden(), without_golden="x")


def test_another_index_s_golden_set_is_refused_before_anything_is_asked(
    two: TwoVersions, tmp_path: Path
) -> None:
    """Nothing is written, and the message names documents that live does not know."""
    two.rollout()
    before = two.stored().epoch
    other = golden_folder(tmp_path / "other", [("q", "where", ["elsewhere/1"])])
    with pytest.raises(SettingsError, match=r"another index.*elsewhere/1"):
        verify(two.settings, golden=other)
    assert two.stored().epoch == before


def test_states_that_have_nothing_to_verify_are_refused(two: TwoVersions) -> None:
    """A rollout that is being built names the next command."""
    two.rollout(RolloutState.BUILDING)
    with pytest.raises(RolloutStateError, match="plumbline rollout build"):
        verify(two.settings, without_golden="a reason")


def test_an_abort_while_it_runs_stops_it(two: TwoVersions) -> None:
    """An intent to abort that appears between two checks ends the run; nothing is recorded."""
    two.rollout()
    context = RolloutContext.open(two.settings)

    def abort(words: str, _done: int, _total: int) -> None:
        if words == "points":
            context.store.intend(context.rollout(), "abort", "given up")

    with pytest.raises(RolloutStateError, match="in the middle of an abort"):
        verify(two.settings, without_golden="a reason", settle_seconds=0.01, progress=abort)
    assert not two.stored().note("verify")


def test_a_missing_document_is_found(small: TwoVersions) -> None:
    """One document that the candidate lacks is one that differs, by name."""
    small.drop("kb/3")
    found = small.check(check_documents)
    assert (found.outcome, found.figure) == (Outcome.REFUSE, 1)
    assert "1 in live and not in the candidate: kb/3" in found.words


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("text_hash", "0" * 32, "text"),
        ("metadata_hash", "0" * 32, "metadata"),
        ("created_at", 1, "created_at"),
        ("offset", 1, "stale"),
        ("offset", 4000, "ahead"),
        ("deleted", True, "deleted"),
    ],
)
def test_each_part_of_a_head_is_compared(
    small: TwoVersions, field: str, value: Any, kind: str
) -> None:
    """Text, metadata, first event, position and deletion: a difference in each is found as such."""
    small.change("kb/5", lambda ours: ours.update({field: value}))
    found = small.check(check_documents)
    assert found.outcome is Outcome.REFUSE
    assert found.details["differences"] == {kind: 1}
    assert found.details["ids"] == {kind: ["kb/5"]}


def test_documents_that_live_has_not_are_found(small: TwoVersions) -> None:
    """A document more in the candidate is a difference; a deletion more is told, and none."""
    small.candidate.write([Document("kb/new", "", "something else")])
    small.candidate.delete(["kb/gone"])
    found = small.check(check_documents)
    assert found.details["differences"] == {"extra": 1}
    assert "1 deletions are recorded in the candidate alone" in found.words


def test_a_topic_that_was_compacted_explains_lost_deletions(small: TwoVersions) -> None:
    """Built from the topic, a deletion or a first event may be gone; built from live, not."""
    small.live.delete(["kb/8"])
    small.drop("kb/8")
    small.change("kb/9", lambda ours: ours.update(created_at=ours["created_at"] + 1))
    from_live = small.check(check_documents)
    assert from_live.details["differences"] == {"lost_tombstone": 1, "created_at": 1}
    assert from_live.outcome is Outcome.REFUSE
    from_topic = small.check(check_documents, source="topic")
    assert from_topic.outcome is Outcome.PASS
    assert "1 deleted in live, without a record of it in the candidate, which compaction" in (
        from_topic.words
    )


def lag(small: TwoVersions, live: int, candidate: int, records: int = 10) -> Any:
    def read(version: Any) -> list[PartitionLag]:
        committed = live if version.name == small.live.version.name else candidate
        return [PartitionLag("documents", 0, records, None, committed)]

    return read


def test_events_beyond_the_vector_are_no_difference(small: TwoVersions) -> None:
    """Live goes on: what it wrote after its committed offset need not be in the candidate yet."""
    small.live.write([Document("kb/3", "", "a newer text"), Document("kb/99", "", "a new one")])
    late = small.check(check_documents, lag=lag(small, 41, 41))
    assert late.outcome is Outcome.PASS
    assert late.details["beyond"] == 2
    assert late.details["offsets"] == [["documents", 0, 41]]
    counted = small.check(check_documents, lag=lag(small, 43, 43))
    assert counted.details["differences"] == {"stale": 1, "missing": 1}


def test_what_came_from_a_topic_that_was_made_anew_counts(small: TwoVersions) -> None:
    """Its offsets lie behind the end of the topic as it is now: it is not on its way."""
    small.drop("kb/30")
    found = small.check(check_documents, lag=lag(small, 5, 5))
    assert found.details["ids"] == {"missing": ["kb/30"]}
    assert found.details["offsets"] == [["documents", 0, 5]]
    # Were the topic longer, the event could be beyond.
    assert small.check(check_documents, lag=lag(small, 5, 5, 40)).outcome is Outcome.PASS


def test_a_candidate_whose_group_is_behind_is_not_compared(small: TwoVersions) -> None:
    """It waits for the vector, then says by how much the group lacks it."""
    found = small.check(check_documents, lag=lag(small, 41, 30), patience_seconds=0.05)
    assert (found.outcome, found.figure) == (Outcome.UNDECIDED, 11)
    assert "documents/0 (at 30 of 41)" in found.words


def test_a_group_that_catches_up_is_waited_for(small: TwoVersions) -> None:
    """The candidate's offsets are asked for again until they reach live's."""
    offsets = iter([30, 35, 41])
    at = {"candidate": 0}

    def read(version: Any) -> list[PartitionLag]:
        if version.name == small.live.version.name:
            return [PartitionLag("documents", 0, 0, None, 41)]
        at["candidate"] = next(offsets, 41)
        return [PartitionLag("documents", 0, 0, None, at["candidate"])]

    found = small.check(check_documents, lag=read, sleep=lambda _: None)
    assert found.outcome is Outcome.PASS


def test_a_difference_that_heals_is_none(small: TwoVersions) -> None:
    """A document that arrives between two looks is no difference."""
    lost = small.held[3]
    small.drop(lost.id)

    def arrive(_: float) -> None:
        small.candidate._offset = 3
        small.candidate.write([lost], at=FIRST_TIMESTAMP + 3)

    assert small.check(check_documents, sleep=arrive).outcome is Outcome.PASS


def test_a_document_that_never_rests_is_undecided(small: TwoVersions) -> None:
    """One that is written again at every look is neither the same nor different."""
    lost = small.held[3]
    small.drop(lost.id)
    texts = iter(range(1000))

    def again(_: float) -> None:
        small.live.write([Document(lost.id, "", f"text {next(texts)}")])

    found = small.check(check_documents, sleep=again, patience_seconds=0.3)
    assert found.outcome is Outcome.UNDECIDED
    assert found.details["unsettled"] == ["kb/3"]


def test_ten_ids_a_kind_are_listed(small: TwoVersions) -> None:
    """Thirty lost documents: the number is exact, and ten are named."""
    for number in range(30):
        small.drop(f"kb/{number}")
    found = small.check(check_documents)
    assert found.figure == 30
    assert len(found.details["ids"]["missing"]) == 10


def test_an_orphan_chunk_is_found(two: TwoVersions) -> None:
    """A chunk beyond what its head counts, one without a head, one older: each is an orphan."""
    two.change("kb/10", lambda ours: ours.update(chunks=1))
    found = two.check(check_chunks)
    assert found.outcome is Outcome.REFUSE
    assert found.details["kinds"] == {"beyond": found.figure}
    assert found.details["ids"] == ["kb/10"]
    two.drop("kb/20")
    assert set(two.check(check_chunks).details["kinds"]) == {"beyond", "headless"}
    two.change("kb/30", lambda ours: ours.update(timestamp=1), chunk=1)
    assert {"older", "missing"} < set(two.check(check_chunks).details["kinds"])


def test_a_missing_chunk_is_found(two: TwoVersions) -> None:
    """A chunk that its head counts and that is gone."""
    two.drop("kb/40", chunk=1)
    found = two.check(check_chunks)
    assert (found.outcome, found.figure) == (Outcome.REFUSE, 1)
    assert found.details["kinds"] == {"missing": 1}
    assert found.details["ids"] == ["kb/40"]


def test_a_foreign_fingerprint_is_found(small: TwoVersions) -> None:
    """A point of another contract, by its document."""
    small.change("kb/6", lambda ours: ours.update(fingerprint="0123456789ab"))
    found = small.check(check_points)
    assert (found.outcome, found.figure) == (Outcome.REFUSE, 1)
    assert found.details["ids"] == ["kb/6"]
    assert "another fingerprint" in found.words


def test_a_point_of_somebody_else_is_found(small: TwoVersions) -> None:
    """A point without anything of ours."""
    from qdrant_client import models

    vector = [1.0, *[0.0] * 23]
    point = models.PointStruct(id=1, vector={DENSE: vector}, payload={"a": 1})
    small.qdrant.call("upsert", small.candidate.version.name, points=[point])
    found = small.check(check_points)
    assert found.details["unknown"] == 1
    assert found.outcome is Outcome.REFUSE


def test_a_document_without_a_vector_is_found(small: TwoVersions) -> None:
    """It cannot be found by any query."""
    ids = [small.id_of("kb/6")]
    small.qdrant.call("delete_vectors", small.candidate.version.name, vectors=[DENSE], points=ids)
    found = small.check(check_points)
    assert found.details["vectorless"] == 1
    assert found.outcome is Outcome.REFUSE


def test_a_vector_of_another_model_is_found(small: TwoVersions) -> None:
    """It claims the fingerprint of the version, and is not what the encoder gives for the text."""
    name = small.candidate.version.name
    text = small.held[1]
    vector = Seeded(24, document_prompt="other: ").encode_documents([text.rendered]).vectors[0]
    from qdrant_client import models

    moved = models.PointVectors(id=small.id_of(text.id), vector={DENSE: vector.tolist()})
    small.qdrant.call("update_vectors", name, points=[moved])
    assert small.check(check_points).outcome is Outcome.PASS
    found = small.check(check_vectors)
    assert found.outcome is Outcome.REFUSE
    assert found.figure == pytest.approx(1 / 40)
    assert "kb/1" in found.words


def test_a_process_that_makes_other_vectors_is_found(small: TwoVersions) -> None:
    """The canaries refuse it, and nothing that needs its vectors is asked."""
    other = Seeded(24, model_name="other", noise=0.5)
    encoders = {
        small.live.version.name: small.live.encoder,
        small.candidate.version.name: other,
    }
    report = small.checks(golden=small.golden_set(), load=lambda version: encoders[version.name])
    outcomes = by_name(report)
    assert outcomes["canaries"] is Outcome.REFUSE
    assert outcomes["golden"] is Outcome.UNDECIDED
    assert outcomes["vectors"] is Outcome.UNDECIDED
    assert not report.ok


def test_a_worker_s_report_counts(small: TwoVersions) -> None:
    """A worker of the candidate's job that cannot reproduce the canaries refuses it."""
    identity = replace(ProcessIdentity.current(), host="another-host")
    name = small.candidate.version.name
    reporter = WorkerReporter(small.qdrant, name, 0, identity)
    reporter.report(None, CanaryMismatchError("the vectors are others"))
    found = small.check(check_canaries)
    assert found.outcome is Outcome.REFUSE
    assert "another-host" in found.words
    assert found.details["workers"] == 1
    assert Control(small.qdrant).list("canary-report")


@pytest.mark.parametrize("damage", ["truncate_dim", "wrong_pooling"])
def test_the_golden_gate_refuses_a_candidate_that_finds_less(damage: str, tmp_path: Path) -> None:
    """The real model on real questions: 6 of its 384 dimensions, or the first token's vector."""
    reason = missing("banking77")
    if reason is not None:
        pytest.skip(reason)
    from pipelines.core.encoder import PACKAGED_MODEL
    from tests.support.damage import damaged

    held, asked = banking()
    encoder = damaged("wrong_pooling") if damage == "wrong_pooling" else None
    contract: dict[str, Any] = {"model": PACKAGED_MODEL}
    live = {**contract}
    candidate = {**contract, **({"truncate_dim": 6} if encoder is None else {"max_tokens": 64})}
    if encoder is not None:
        encoder = Claiming(encoder, candidate)
    with TwoVersions(tmp_path, live, candidate, held, encoders=(None, encoder)) as two:
        golden = golden_folder(tmp_path / "golden", asked)
        from monitors.golden.files import read_golden

        found = two.check(check_golden, golden=read_golden(golden))
        assert found.outcome is Outcome.REFUSE, found.words
        assert found.figure is not None
        assert found.figure < -0.05
        assert found.bound == -0.02
        assert found.details["worst"]
        same = two.check(check_golden, golden=read_golden(golden), candidate=two.live.version)
        assert same.outcome is Outcome.PASS


class Claiming:
    """An encoder that says it has another contract."""

    def __init__(self, encoder: Any, contract: dict[str, Any]) -> None:
        self._encoder = encoder
        self.contract = replace(encoder.contract, max_tokens=contract["max_tokens"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def banking() -> tuple[list[Document], list[tuple[str, str, list[str]]]]:
    """Three questions of each of 36 intents, and five more that ask for them."""
    import json

    from tests.support.corpora import DATA

    intents: dict[str, list[dict[str, Any]]] = {}
    with (DATA / "banking77" / "corpus.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["label"] not in intents and len(intents) == 36:
                continue
            theirs = intents.setdefault(row["label"], [])
            if len(theirs) < 8:
                theirs.append(row)
    held = [Document(row["_id"], "", row["text"]) for rows in intents.values() for row in rows[:3]]
    asked = [
        (f"q-{row['_id']}", row["text"], [other["_id"] for other in rows[:3]])
        for rows in intents.values()
        for row in rows[3:]
    ]
    return held, asked


class Slow:
    """A store that takes its time over one collection."""

    def __init__(self, qdrant: Any, name: str, seconds: float) -> None:
        self._qdrant, self._name, self._seconds = qdrant, name, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._qdrant, name)

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        if method == "query_points" and named["collection_name"] == self._name:
            time.sleep(self._seconds)
        return self._qdrant.call(method, *arguments, **named)


def test_a_candidate_that_is_slow_is_refused(small: TwoVersions) -> None:
    """Searches that take 30 ms longer than live's few are refused by the ratio of their p95."""
    slow = Slow(small.qdrant, small.candidate.version.name, 0.03)
    found = small.check(check_latency, qdrant=slow)
    assert found.outcome is Outcome.REFUSE, found.words
    assert found.figure is not None
    assert found.figure > 1.5
    assert found.bound == 1.5
    assert found.details["kind"] == "stored vectors"
    # The other way round it is live that is slow.
    slow = Slow(small.qdrant, small.live.version.name, 0.03)
    assert small.check(check_latency, qdrant=slow).outcome is Outcome.PASS


def test_a_millisecond_more_is_no_reason_to_refuse(small: TwoVersions) -> None:
    """The same 30 ms pass where they are allowed at any ratio, and the words say so."""
    allowed = small.settings.rollout.model_copy(update={"latency_allowance_seconds": 10.0})
    slow = Slow(small.qdrant, small.candidate.version.name, 0.03)
    found = small.check(
        check_latency, qdrant=slow, settings=small.settings.model_copy(update={"rollout": allowed})
    )
    assert found.outcome is Outcome.PASS
    assert found.figure is not None
    assert found.figure > 1.5
    assert "allowed at any ratio" in found.words


@pytest.mark.parametrize(("m", "outcome"), [(4, Outcome.REFUSE), (16, Outcome.PASS)])
def test_a_poor_graph_is_refused(m: int, outcome: Outcome, tmp_path: Path) -> None:
    """On an engine with a real graph: 4 links a point lose answers, 16 do not."""
    from qdrant_client import models

    from tests.support.edge_engine import EdgeServer
    from tests.support.probing import Watched

    with (
        EdgeServer() as server,
        Watched(url=server.url, index=f"graph-{m}", encoder=Seeded(64)) as watched,
    ):
        name = watched.version.name
        # Without structure, which is the hardest for a graph.
        vectors = np.random.default_rng(0).normal(size=(3000, 64))
        for start in range(0, len(vectors), 500):
            points = [
                models.PointStruct(
                    id=point_id(watched.version.index, f"d{row}", 0),
                    vector={DENSE: vectors[row].tolist()},
                    payload={OURS: {"document_id": f"d{row}", "chunk": 0}},
                )
                for row in range(start, start + 500)
            ]
            watched.qdrant.call("upsert", name, points=points, wait=True)
        graph = models.HnswConfigDiff(
            m=m, ef_construct=100 if m > 4 else 10, full_scan_threshold=10
        )
        watched.qdrant.call("update_collection", name, hnsw_config=graph)
        context = VerifyContext(
            settings=watched.settings,
            qdrant=watched.qdrant,
            live=watched.version,
            candidate=watched.version,
            load=lambda _: watched.encoder,
        )
        found = check_ann(context)
        assert found.outcome is outcome, found.words
        assert found.bound == 0.95
        assert found.figure is not None
        assert (found.figure >= 0.95) is (outcome is Outcome.PASS)


def test_a_vector_is_stored_in_a_candidate(small: TwoVersions) -> None:
    """The fixture holds what it says: vectors of other lengths under the same ids."""
    ids = [small.id_of("kb/1")]
    sizes = []
    for watched in (small.live, small.candidate):
        (point,) = small.qdrant.call(
            "retrieve", watched.version.name, ids=ids, with_vectors=True, with_payload=True
        )
        assert point.payload[OURS]["document_id"] == "kb/1"
        sizes.append(np.asarray(point.vector[DENSE]).size)
    assert sizes == [16, 24]
