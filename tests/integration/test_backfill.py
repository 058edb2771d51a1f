"""The backfill on the embedded engine: what it writes, what it refuses, and how it goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.backfill import BackfillReport, run_backfill
from pipelines.core.control import Control
from pipelines.core.encoder import load_encoder
from pipelines.core.errors import GateError, ServiceUnavailableError, StoreConflictError
from pipelines.core.faults import VARIABLE
from pipelines.core.index import contract_for
from pipelines.core.job import JobSpec, forget_jobs
from pipelines.core.metrics import job_metrics
from pipelines.core.plans import Action, Outcome
from pipelines.core.points import OURS
from pipelines.core.position import OrderBy, Position
from pipelines.core.qdrant import connect, disconnect
from pipelines.core.records import Event
from pipelines.core.settings import ChunkSettings, ContractSettings, Settings
from pipelines.core.settling import settle_created_at
from pipelines.core.throttle import Freshness
from pipelines.core.versions import Version, create_version, find_version, open_version
from pipelines.core.writing import DocumentWriter
from tests.support.tiny_model import make_tiny_model
from tests.support.version_pairs import differences, heads_of

DOCUMENTS = 90


def fresh() -> Freshness:
    """Live is well: no throttle."""
    return Freshness(0, 0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


class World:
    """A live version with documents, tombstones and updates, and an empty candidate."""

    def __init__(self, folder: Path, model: Path, **more: Any) -> None:
        self.folder = folder
        self.settings = Settings(
            index="docs",
            qdrant={"path": str(folder)},
            contract={"model": str(model), "chunk": {"size": 16, "overlap": 4}},
            runtime={"device": "cpu", "threads": 1},
            kafka={"topics": ["documents"], **more.pop("kafka", {})},
            metrics={"port": None},
            rollout={"range_documents": 12, "batch_documents": 8},
            **more,
        )
        self.qdrant = connect(self.settings)
        self.live = self._version(self.settings)
        self._offset = 0

    def _version(self, settings: Settings) -> Version:
        encoder = load_encoder(settings.contract, settings.runtime)
        return create_version(self.qdrant, settings, encoder)

    def candidate(self, **contract: Any) -> Version:
        own = {**self.settings.contract.model_dump(), "chunk": {"size": 24, "overlap": 4}}
        made = ContractSettings(**{**own, **contract})
        return self._version(self.settings.model_copy(update={"contract": made}))

    def event(self, document_id: str, **fields: Any) -> Event:
        """The next event of the topic; every third one a millisecond later."""
        self._offset += 1
        versioned = self.settings.kafka.order_by is OrderBy.VERSION
        position = Position(
            "documents",
            0,
            self._offset,
            1_700_000_000_000 + self._offset // 3,
            self._offset if versioned else None,
        )
        return Event(document_id, position, **fields)

    def write(self, version: Version, events: list[Event]) -> list[Outcome]:
        """As the version's job does."""
        contract = contract_for(version, self.settings)
        spec = JobSpec(self.settings.model_copy(update={"contract": contract}), version.name)
        job = spec.open()
        plans, _ = job.planner.reconcile(events)
        job.planner.cut(plans)
        job.planner.encode(plans)
        return [written.outcome for written in job.writer.write(plans)]

    def fill(self) -> None:
        """Documents with metadata, some updated, some deleted, one made again."""
        self.write(self.live, [self.document(number) for number in range(DOCUMENTS)])
        self.write(self.live, [self.document(number, "new") for number in range(0, DOCUMENTS, 9)])
        gone = [self.event(f"kb/{n}", deleted=True) for n in range(0, DOCUMENTS, 7)]
        self.write(self.live, [*gone, self.event("never-seen", deleted=True)])
        self.write(self.live, [self.document(14, "again")])

    def document(self, number: int, word: str = "first", **metadata: Any) -> Event:
        text = " ".join(f"Sentence {n} of {number}, the {word} one." for n in range(number % 5))
        return self.event(
            f"kb/{number}",
            title=f"Title {number}",
            text=text,
            metadata={"ratio": number / 7, "lang": "en", **metadata},
        )

    def backfill(self, target: Version, name: str = "one", **more: Any) -> BackfillReport:
        more.setdefault("freshness", fresh)
        return run_backfill(self.settings, self.live, target, backfill_id=name, **more)


@pytest.fixture
def world(tmp_path: Path, model: Path) -> Iterator[World]:
    forget_jobs()
    made = World(tmp_path / "store", model)
    made.fill()
    yield made
    forget_jobs()
    disconnect(made.settings)


def encoded_tokens() -> float:
    return float(job_metrics().tokens._value.get())


def test_equals_its_source(world: World) -> None:
    """Ids, positions, texts, metadata, created_at and tombstones; the chunks are its own."""
    target = world.candidate()
    report = world.backfill(target)
    assert report.complete
    assert differences(world.qdrant, world.live, target) == []
    counts = report.counts
    assert (counts.embedded, counts.tombstones, counts.stale) == (DOCUMENTS - 12, 13, 0)
    assert counts.documents == DOCUMENTS + 1
    assert counts.tokens > 0
    created = {
        key: head[OURS]["created_at"]
        for key, head in heads_of(world.qdrant, target).items()
        if not head[OURS].get("deleted")
    }
    positions = heads_of(world.qdrant, world.live)
    assert created["kb/9"] < positions["kb/9"][OURS]["timestamp"]


def test_equals_its_source_where_a_version_decides(tmp_path: Path, model: Path) -> None:
    """Positions keep the producer's version, which orders them."""
    forget_jobs()
    world = World(tmp_path / "store", model, kafka={"order_by": "version"})
    try:
        world.fill()
        target = world.candidate()
        assert world.backfill(target).complete
        assert differences(world.qdrant, world.live, target) == []
    finally:
        forget_jobs()
        disconnect(world.settings)


def test_a_second_run_does_nothing(world: World) -> None:
    """Every range is on record: nothing is read, encoded or written again."""
    target = world.candidate()
    first = world.backfill(target)
    before = encoded_tokens()
    again = world.backfill(target)
    assert again.counts == first.counts
    assert encoded_tokens() == before


def test_a_stopped_run_goes_on(world: World) -> None:
    """A stop in the middle leaves whole ranges on record, and the next run does the others."""
    target = world.candidate()
    stop = threading.Event()
    writes = DocumentWriter.write
    count = 0

    def counted(self: DocumentWriter, plans: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            stop.set()
        return writes(self, plans)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DocumentWriter, "write", counted)
        report = world.backfill(target, stop=stop)
    assert not report.complete
    assert 0 < report.ranges_done < report.ranges
    done = report.counts.documents
    rest = world.backfill(target)
    assert rest.complete
    assert rest.counts.documents == DOCUMENTS + 1
    assert rest.counts.unchanged <= 2 * world.settings.rollout.range_documents
    assert done < rest.counts.documents
    assert differences(world.qdrant, world.live, target) == []


def test_an_outage_puts_no_range_on_record_that_is_not_whole(world: World) -> None:
    """A write that fails fails the run; what is on record is durable."""
    target = world.candidate()
    writes = DocumentWriter.write
    count = 0

    def failing(self: DocumentWriter, plans: Any) -> Any:
        nonlocal count
        count += 1
        if count >= 6:
            raise ServiceUnavailableError("out of reach")
        return writes(self, plans)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DocumentWriter, "write", failing)
        with pytest.raises(ServiceUnavailableError):
            world.backfill(target)
    recorded = [r for r in Control(world.qdrant).list("backfill") if r.name.startswith("one/")]
    on_record = sum(record.fields["counts"]["documents"] for record in recorded)
    assert on_record <= len(heads_of(world.qdrant, target))
    report = world.backfill(target)
    assert report.complete
    assert differences(world.qdrant, world.live, target) == []


_KILLED = """
import sys
from pathlib import Path
from tests.integration.test_backfill import World
world = World(Path(sys.argv[1]), Path(sys.argv[2]))
world.backfill(world.candidate())
"""


@pytest.mark.parametrize(
    "where", ["backfill.after_plan", "backfill.after_write@4", "backfill.after_range@3"]
)
def test_killed_and_resumed(tmp_path: Path, model: Path, where: str) -> None:
    """SIGKILL anywhere: no range that is on record is done again, and the end is the same."""
    forget_jobs()
    folder = tmp_path / "store"
    world = World(folder, model)
    world.fill()
    forget_jobs()
    disconnect(world.settings)
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(folder), str(model)],
        env={**os.environ, VARIABLE: where, "HF_HUB_OFFLINE": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert killed.returncode == -9, killed.stderr[-2000:]
    world = World(folder, model)
    try:
        done = [r for r in Control(world.qdrant).list("backfill") if r.name.startswith("one/")]
        assert len(done) == (3 if "range" in where else len(done))
        target = world.candidate()
        report = world.backfill(target)
        assert report.complete
        assert report.counts.documents == DOCUMENTS + 1
        # What is found written already belongs to the range that was under way, and to no other.
        assert report.counts.unchanged <= 2 * world.settings.rollout.range_documents
        assert differences(world.qdrant, world.live, target) == []
    finally:
        forget_jobs()
        disconnect(world.settings)


def test_missing_texts_are_refused_up_front(tmp_path: Path, model: Path) -> None:
    """Counted and listed, and nothing is written."""
    forget_jobs()
    world = World(tmp_path / "store", model, ingest={"store_text": False})
    try:
        world.fill()
        target = world.candidate()
        with pytest.raises(GateError, match=rf"text of {DOCUMENTS - 12} documents \('kb/"):
            world.backfill(target)
        assert heads_of(world.qdrant, target) == {}
        assert Control(world.qdrant).list("backfill") == []
    finally:
        forget_jobs()
        disconnect(world.settings)


def test_newer_states_win(world: World) -> None:
    """What the candidate's job wrote first stays, and its created_at is set right afterwards."""
    target = world.candidate()
    update, deletion = world.document(9, "newest"), world.event("kb/10", deleted=True)
    world.write(target, [update, deletion])
    report = world.backfill(target)
    assert report.counts.stale == 2
    stored = heads_of(world.qdrant, target)
    assert stored["kb/9"][OURS]["event_key"] == update.event_key
    assert stored["kb/10"][OURS]["deleted"]
    # The job found no head and took its own event for the document's first.
    assert stored["kb/9"][OURS]["created_at"] == update.position.timestamp
    world.write(world.live, [update, deletion])
    settled = settle_created_at(world.qdrant, world.live, target, round_seconds=0.01)
    assert (settled.mended, settled.differing) == (1, 0)
    assert differences(world.qdrant, world.live, target) == []


def test_settling_leaves_what_differs_alone(world: World) -> None:
    """A document at another event in the two versions is listed, not touched."""
    target = world.candidate()
    world.backfill(target)
    world.write(target, [world.document(9, "newest")])
    before = heads_of(world.qdrant, target)
    settled = settle_created_at(world.qdrant, world.live, target, rounds=2, round_seconds=0.01)
    assert (settled.mended, settled.differing, settled.differing_ids) == (0, 1, ("kb/9",))
    assert heads_of(world.qdrant, target) == before


def test_a_change_of_metadata_costs_no_embedding(world: World) -> None:
    """In neither version, also for what the backfill has written."""
    target = world.candidate()
    world.backfill(target)
    change = world.event(
        "kb/3",
        title="Title 3",
        text=heads_of(world.qdrant, target)["kb/3"][OURS]["text"],
        metadata={"lang": "de"},
    )
    before = encoded_tokens()
    for version in (world.live, target):
        assert world.write(version, [change]) == [Outcome.PAYLOAD_ONLY]
    assert encoded_tokens() == before
    assert differences(world.qdrant, world.live, target) == []


def test_what_the_encoder_refuses_is_counted_and_listed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad vector keeps one document out, and says which."""
    from pipelines.core.planning import Planner

    target = world.candidate()
    encode = Planner.encode

    def refusing(self: Planner, plans: Any) -> Any:
        refused = [p for p in plans if p.event.document_id == "kb/5" and p.texts]
        for plan in refused:
            plan.texts, plan.action = [], Action.REFUSED
        return [*encode(self, plans), *((plan.event, "NaN in its vector") for plan in refused)]

    monkeypatch.setattr(Planner, "encode", refusing)
    report = world.backfill(target)
    assert report.complete
    assert report.counts.refused == 1
    assert report.counts.refusals == {"kb/5": "NaN in its vector"}
    assert differences(world.qdrant, world.live, target) == ["'kb/5': not in the candidate"]


def test_a_record_of_other_collections_is_refused(world: World) -> None:
    """A candidate that was dropped and made anew is not taken for the one that was filled."""
    target = world.candidate()
    world.backfill(target)
    world.qdrant.call("delete_collection", target.name)
    forget_jobs()
    made_anew = world.candidate()
    with pytest.raises(StoreConflictError, match="begun with other collections"):
        world.backfill(made_anew)


def test_an_empty_source_is_done_at_once(tmp_path: Path, model: Path) -> None:
    """Nothing to read is no error."""
    forget_jobs()
    world = World(tmp_path / "store", model)
    try:
        report = world.backfill(world.candidate())
        assert report.complete
        assert report.counts.documents == 0
    finally:
        forget_jobs()
        disconnect(world.settings)


def test_progress_reaches_its_end(world: World) -> None:
    """The last thing that is told is that nothing is left."""
    told: list[dict[str, Any]] = []
    world.backfill(world.candidate(), tell=lambda at: told.append(dict(at)))
    assert told[-1]["documents_done"] == told[-1]["documents_total"] == DOCUMENTS + 1
    assert told[-1]["tokens_done"] == told[-1]["tokens_total"]
    assert told[-1]["eta_seconds"] == 0


def test_the_target_is_what_the_contract_says(world: World) -> None:
    """Vectors are those of a fresh encoding under the candidate's contract."""
    from tests.support.replay import Expected, compare

    target = world.candidate(document_prompt="passage: ")
    world.backfill(target)
    expected = {}
    for document_id, head in heads_of(world.qdrant, world.live).items():
        ours = head[OURS]
        position = Position("documents", 0, ours["offset"], ours["timestamp"])
        expected[document_id] = Expected(
            document_id,
            position,
            bool(ours.get("deleted")),
            ours.get("title", ""),
            ours.get("text", ""),
            {key: value for key, value in head.items() if key != OURS},
            ours.get("created_at"),
        )
    name = find_version(world.qdrant, "docs", target.fingerprint)
    assert name == target.name
    contract = world.settings.contract.model_copy(
        update={"document_prompt": "passage: ", "chunk": ChunkSettings(size=24, overlap=4)}
    )
    encoder = load_encoder(contract, world.settings.runtime)
    assert compare(world.qdrant, open_version(world.qdrant, name), expected, encoder) == []
