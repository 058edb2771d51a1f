"""`rollout build` on the embedded store: one process does everything, and can be run again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.control import Control
from pipelines.core.errors import (
    ContractMismatchError,
    DataLossError,
    GateError,
    RolloutConflictError,
    RolloutStateError,
    SettingsError,
    StoreConflictError,
    SystemicError,
)
from pipelines.core.job import forget_jobs
from pipelines.core.qdrant import connect, disconnect
from pipelines.core.rollout import RolloutState, VersionRef
from pipelines.core.settings import ChunkSettings, ContractSettings, Settings
from pipelines.core.versions import live_version_name, open_version
from pipelines.demo.health import lose
from pipelines.ingest import run_ingest
from pipelines.io.kafka import start
from pipelines.rollout import build as building
from pipelines.rollout.build import BuildReport, build
from pipelines.rollout.context import RolloutContext
from pipelines.rollout.plan import plan
from tests.support.brokers import Broker, Message, embedded_broker
from tests.support.processes import wait_until
from tests.support.tiny_model import make_tiny_model
from tests.support.version_pairs import differences

pytest.importorskip("confluent_kafka")

DOCUMENTS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


class World:
    """A topic, its live version on an embedded store, and a planned candidate."""

    def __init__(self, broker: Broker, folder: Path, model: Path, topic: str, **more: Any) -> None:
        self.broker, self.topic = broker, topic
        broker.create_topic(topic)
        self.settings = Settings(
            index="docs",
            kafka={**broker.kafka, "topics": [topic], **more.pop("kafka", {})},
            qdrant={"path": str(folder / "store")},
            contract={"model": str(model), "chunk": {"size": 16, "overlap": 4}},
            runtime={"device": "cpu", "threads": 1},
            metrics={"port": None},
            rollout={"range_documents": 10, "batch_documents": 8, "metrics_port": None},
            **more,
        )
        self._sent = 0
        self.candidate = self.settings.contract.model_copy(
            update={"chunk": ChunkSettings(size=24, overlap=4)}
        )

    def send(self, numbers: range, word: str) -> None:
        messages = []
        for number in numbers:
            self._sent += 1
            body = {
                "id": f"kb/{number}",
                "title": f"Title {number}",
                "text": " ".join(f"The {word} sentence {n}." for n in range(1 + number % 6)),
                "metadata": {"lang": "en"},
            }
            key, value = f"kb/{number}".encode(), json.dumps(body).encode()
            messages.append(Message(key, value, 1_750_000_000_000 + self._sent))
        self.broker.send(self.topic, messages)

    def delete(self, number: int) -> None:
        self._sent += 1
        key = f"kb/{number}".encode()
        self.broker.send(self.topic, [Message(key, None, 1_750_000_000_000 + self._sent)])

    def fill(self) -> None:
        self.send(range(DOCUMENTS), "first")
        self.send(range(0, DOCUMENTS, 5), "second")
        for number in range(0, DOCUMENTS, 11):
            self.delete(number)
        self.ingest(create=True)

    def ingest(self, **arguments: Any) -> None:
        run_ingest(self.settings, until_caught_up=True, **arguments)

    def plan(self) -> None:
        plan(self.settings, self.candidate, sample=20)

    def build(self, **arguments: Any) -> BuildReport:
        return build(self.settings, **arguments)

    @property
    def context(self) -> RolloutContext:
        return RolloutContext.open(self.settings)

    def problems(self) -> list[str]:
        rollout = self.context.rollout()
        qdrant = connect(self.settings)
        live, candidate = (
            open_version(qdrant, reference.name) for reference in (rollout.live, rollout.candidate)
        )
        return differences(qdrant, live, candidate)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with embedded_broker() as made:
        yield made


@pytest.fixture
def world(
    broker: Broker, tmp_path: Path, model: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    topic = f"t-{request.node.name.removeprefix('test_').replace('[', '-').rstrip(']')}"
    made = World(broker, tmp_path, model, topic[:60])
    made.fill()
    yield made
    forget_jobs()
    disconnect(made.settings)


def test_builds_and_leaves_live_alone(world: World) -> None:
    """The candidate equals live, its group starts where live's stood, and the alias stays."""
    world.plan()
    before = live_version_name(connect(world.settings), "docs")
    told: list[dict[str, Any]] = []
    report = world.build(on_progress=lambda at: told.append(dict(at)))
    assert report.complete
    assert report.rollout.state is RolloutState.VERIFYING
    assert world.problems() == []
    assert live_version_name(connect(world.settings), "docs") == before
    note = report.rollout.note("build")
    assert note["source"] == "version"
    assert note["backfill"]["documents"] == DOCUMENTS
    assert note["lag_records"] == 0
    assert note["settled"]["differing"] == 0
    assert [at["phase"] for at in told if "phase" in at][-1] == "settling"
    assert report.rollout.candidate.incarnation
    moves = [move.after.value for move in report.rollout.history]
    assert moves == ["planned", "building", "verifying"]
    assert report.to_json()["candidate"] == report.rollout.candidate.name


def test_a_second_build_does_nothing(world: World) -> None:
    """What is built is built."""
    world.plan()
    first = world.build()
    again = world.build()
    assert again.rollout.epoch == first.rollout.epoch
    assert again.complete


def test_filled_again_where_something_was_lost(world: World) -> None:
    """What a candidate lost comes back, and nothing else is encoded."""
    world.plan()
    first = world.build()
    lost = [f"kb/{number}" for number in range(1, 6)]
    lose(world.settings, first.rollout.candidate.name, lost)
    assert len(world.problems()) == len(lost)
    again = world.build(again=True)
    assert again.rollout.state is RolloutState.VERIFYING
    assert world.problems() == []
    note = again.rollout.note("build")
    assert note["round"] == 2
    assert note["backfill"]["embedded"] == len(lost)
    moves = [move.after.value for move in again.rollout.history]
    assert moves == ["planned", "building", "verifying", "building", "verifying"]


def test_one_from_the_topic_is_not_filled_again(world: World) -> None:
    """Its job has committed what it would have to read."""
    world.plan()
    world.build(source="topic")
    with pytest.raises(RolloutStateError, match="cannot be filled again"):
        world.build(source="topic", again=True)


def test_updates_after_live_stood_are_the_jobs(world: World) -> None:
    """Events that live has not read yet are read by the candidate's own group."""
    world.plan()
    world.send(range(0, 20, 2), "third")
    world.delete(7)
    world.build()
    world.ingest()
    assert world.problems() == []


def test_from_the_topic(world: World) -> None:
    """A replay from the beginning gives the same documents, without a backfill."""
    world.plan()
    report = world.build(source="topic")
    assert report.complete
    assert world.problems() == []
    assert "backfill" not in report.note


def test_a_topic_that_dropped_records_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What retention has taken, a replay cannot give: nothing is committed."""
    world.plan()
    monkeypatch.setattr(
        start.KafkaConsumer,
        "beginning_offsets",
        lambda _self, partitions, **_: dict.fromkeys(partitions, 3),
    )
    with pytest.raises(DataLossError, match="no longer hold their first records"):
        world.build(source="topic")
    assert world.context.rollout().state is RolloutState.FAILED
    monkeypatch.undo()
    with pytest.raises(RolloutStateError, match="begun from the topic"):
        world.build()


def test_missing_texts_are_refused_before_anything_is_written(
    broker: Broker, tmp_path: Path, model: Path
) -> None:
    """The rollout stays planned, and no collection is made."""
    made = World(broker, tmp_path, model, "t-no-texts", ingest={"store_text": False})
    try:
        made.fill()
        # The plan refuses as well; here the texts went away after it.
        context = made.context
        live = context.live()
        from pipelines.core.encoder import load_encoder
        from pipelines.core.versions import version_name

        contract = load_encoder(made.candidate, made.settings.runtime).contract
        context.store.begin(
            "docs",
            live=VersionRef.of(live),
            candidate=VersionRef(version_name("docs", contract), contract.fingerprint),
            contract=contract,
            contract_settings=made.candidate.model_dump(mode="json"),
        )
        with pytest.raises(GateError, match="does not keep the text"):
            made.build()
        assert context.rollout().state is RolloutState.PLANNED
        names = [one.name for one in context.qdrant.call("get_collections").collections]
        assert version_name("docs", contract) not in names
    finally:
        forget_jobs()
        disconnect(made.settings)


def test_stopped_and_resumed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop leaves the rollout building; the next build does the ranges that are left."""
    world.plan()
    stop = threading.Event()

    def tell(at: Any) -> None:
        if at.get("phase") == "backfill":
            stop.set()

    from pipelines.core.writing import DocumentWriter

    writes = DocumentWriter.write

    def slow(self: DocumentWriter, plans: Any) -> Any:
        stop.wait(0.3)
        return writes(self, plans)

    monkeypatch.setattr(DocumentWriter, "write", slow)
    report = world.build(stop=stop, on_progress=tell)
    assert not report.complete
    assert report.rollout.state is RolloutState.BUILDING
    monkeypatch.undo()
    done = {r.name for r in Control(connect(world.settings)).list("backfill") if "/" in r.name}
    rest = world.build()
    assert rest.complete
    assert rest.note["backfill"]["ranges_done"] >= len(done)
    assert world.problems() == []


def test_aborted_while_it_runs(world: World) -> None:
    """An intent to abort, written beside the lease, ends the build within its next look."""
    world.plan()
    context = world.context
    asked = threading.Event()

    def abort() -> Any:
        return context.store.intend(context.rollout(), "abort", "no longer wanted")

    def tell(at: Any) -> None:
        if not asked.is_set():
            asked.set()
            # The build itself writes its progress into the same record meanwhile.
            wait_until(abort, 30, what="the intent is on record")

    with pytest.raises(RolloutConflictError, match="is being aborted"):
        world.build(on_progress=tell)
    rollout = context.rollout()
    assert rollout.state is RolloutState.BUILDING
    assert rollout.intent is not None
    assert rollout.intent.action == "abort"


@pytest.mark.parametrize("moment", ["before-the-step", "in-the-step"])
def test_aborted_as_it_ends(world: World, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """An intent that comes when all work is done still counts: nothing moves to verifying."""
    world.plan()
    context = world.context
    store = type(context.store)
    asked = threading.Event()

    def abort() -> None:
        if not asked.is_set():
            asked.set()
            context.store.intend(context.rollout(), "abort", "no longer wanted")

    if moment == "in-the-step":
        move = store.move

        def moved_beside(
            self: Any, rollout: Any, after: RolloutState, *rest: Any, **notes: Any
        ) -> Any:
            if after is RolloutState.VERIFYING:
                abort()
            return move(self, rollout, after, *rest, **notes)

        monkeypatch.setattr(store, "move", moved_beside)
    else:
        monkeypatch.setattr(
            building, "point", lambda at: abort() if at.endswith("verifying") else None
        )
    with pytest.raises(RolloutConflictError, match="is being aborted"):
        world.build()
    assert asked.is_set()
    assert context.rollout().state is RolloutState.BUILDING


def test_a_note_beside_the_end_does_not_stop_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's write to the record, in the very step, is no reason to give up."""
    world.plan()
    context = world.context
    store = type(context.store)
    move = store.move
    beside: list[str] = []

    def moved_beside(self: Any, rollout: Any, after: RolloutState, *rest: Any, **notes: Any) -> Any:
        if after is RolloutState.VERIFYING and len(beside) < 2:
            beside.append(after)
            context.store.update(context.rollout(), remark={"seen": len(beside)})
        return move(self, rollout, after, *rest, **notes)

    monkeypatch.setattr(store, "move", moved_beside)
    assert world.build().complete
    assert len(beside) == 2
    assert context.rollout().state is RolloutState.VERIFYING
    assert context.rollout().note("remark") == {"seen": 2}


def test_an_error_moves_it_to_failed_and_it_can_be_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no outage is on record with its reason."""
    world.plan()

    def broken(*_: Any, **__: Any) -> Any:
        raise SystemicError("the disk is on fire")

    monkeypatch.setattr(building, "run_backfill", broken)
    with pytest.raises(SystemicError, match="on fire"):
        world.build()
    rollout = world.context.rollout()
    assert rollout.state is RolloutState.FAILED
    assert rollout.history[-1].reason == "the disk is on fire"
    monkeypatch.undo()
    assert world.build().complete
    assert world.problems() == []


def test_takes_over_what_a_crash_left(world: World) -> None:
    """A collection that was made before its incarnation was on record is the candidate's."""
    from pipelines.core.encoder import load_encoder
    from pipelines.core.versions import create_version

    world.plan()
    context = world.context
    context.store.move(
        context.rollout(), RolloutState.BUILDING, "test", build={"source": "version"}
    )
    settings = world.settings.model_copy(update={"contract": world.candidate})
    left = create_version(
        context.qdrant, settings, load_encoder(world.candidate, world.settings.runtime)
    )
    report = world.build()
    assert report.rollout.candidate.incarnation == left.incarnation
    assert world.problems() == []


def test_another_collection_of_the_name_is_refused(world: World) -> None:
    """A candidate that was dropped and made anew meanwhile is not taken for the one on record."""
    world.plan()
    context = world.context
    context.store.move(
        context.rollout(),
        RolloutState.BUILDING,
        "test",
        candidate=VersionRef(
            context.rollout().candidate.name, context.rollout().candidate.fingerprint, "0badf00d"
        ),
        build={"source": "version", "incarnation": "0badf00d"},
    )
    from pipelines.core.encoder import load_encoder
    from pipelines.core.versions import create_version

    settings = world.settings.model_copy(update={"contract": world.candidate})
    create_version(context.qdrant, settings, load_encoder(world.candidate, world.settings.runtime))
    with pytest.raises(StoreConflictError, match="made anew"):
        world.build()


def test_refusals_that_write_nothing(world: World) -> None:
    """No rollout; another contract than planned; no job elsewhere beside an embedded store."""
    with pytest.raises(RolloutStateError, match="has had no rollout"):
        world.build()
    world.plan()
    with pytest.raises(SettingsError, match="--no-job"):
        world.build(start_job=False)
    context = world.context
    rollout = context.rollout()
    other = {**rollout.contract_settings, "document_prompt": "passage: "}
    fields = {**rollout.to_fields(), "contract_settings": other}
    context.control.swap("rollout", "docs", seen=rollout.record, fields=fields)
    with pytest.raises(ContractMismatchError, match="document_prompt"):
        world.build()
    assert context.rollout().state is RolloutState.PLANNED
    assert ContractSettings(**rollout.contract_settings) == world.candidate
