"""Purging tombstones beside a live index, on the embedded engine and on a server."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from monitors.probes.integrity import IntegrityProbe
from pipelines.core.contract import ChunkContract
from pipelines.core.control import Control
from pipelines.core.errors import LeaseHeldError, ServiceUnavailableError
from pipelines.core.lag import PartitionLag
from pipelines.core.lease import Lease
from pipelines.core.planning import Planner
from pipelines.core.plans import Action, Plan
from pipelines.core.points import OURS, StoredChunk, point_id
from pipelines.core.position import Position
from pipelines.core.purge import PurgeLog, PurgeReport, TopicRetention, purge_tombstones
from pipelines.core.records import Event, Record
from pipelines.core.rollout import RolloutStore, VersionRef
from pipelines.core.writing import DocumentWriter
from pipelines.rollout.context import lease_name
from tests.support.corpora import Document
from tests.support.probing import FIRST_TIMESTAMP, Seeded, Watched
from tests.support.qdrant_server import qdrant_url

DAY = 86_400_000
TOPICS = [TopicRetention("documents", "source", "delete", 7 * DAY, DAY)]
LATER = time.time() + 400 * 86_400
"""The purges' clock: by then everything that the tests write is old."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with qdrant_url() as url:
        yield url


@pytest.fixture(params=["embedded", "server"])
def index(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Watched]:
    """Twenty documents, of which ten are deleted."""
    where: dict[str, Any] = {"directory": tmp_path / "store"}
    name = f"purge-{uuid.uuid4().hex[:8]}"  # a real server keeps what earlier sessions left
    if request.param == "server":
        where = {"url": request.getfixturevalue("server")}
    with Watched(**where, index=name, encoder=Seeded(), settings=KAFKA) as watched:
        fill(watched)
        yield watched
        watched.qdrant.call("delete_collection", watched.version.name)


KAFKA = {"kafka": {"topics": ["documents"]}}


def fill(watched: Watched) -> None:
    watched.write(Document(f"d{number}", "", f"text {number}") for number in range(20))
    watched.delete([f"d{number}" for number in range(10)])


def lag(*partitions: PartitionLag) -> Callable[[Any], list[PartitionLag]]:
    caught_up = PartitionLag("documents", 0, records=0, oldest_timestamp=None, committed=10_000)
    return lambda _: list(partitions) or [caught_up]


def purge(watched: Watched, **arguments: Any) -> PurgeReport:
    given: dict[str, Any] = {"topics": TOPICS, "lag": lag(), "now": lambda: LATER}
    return purge_tombstones(
        arguments.pop("qdrant", watched.qdrant),
        watched.settings,
        watched.version,
        **{**given, **arguments},
    )


def heads(watched: Watched) -> dict[str, bool]:
    """Document to whether it is deleted."""
    return {
        point.payload[OURS]["document_id"]: bool(point.payload[OURS].get("deleted"))
        for point in watched.points()
        if point.payload[OURS]["chunk"] == 0
    }


class Meddling:
    """A store in which something happens right before, or after, one of its calls."""

    def __init__(
        self, watched: Watched, method: str, what: Callable[[], Any], *, after: bool = False
    ) -> None:
        self._qdrant = watched.qdrant
        self._version = watched.version.name
        self._method, self._what, self._after = method, what, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._qdrant, name)

    def call(self, method: str, *arguments: Any, **more: Any) -> Any:
        hit = method == self._method and arguments[:1] == (self._version,)
        if hit and not self._after:
            self._what()
        result = self._qdrant.call(method, *arguments, **more)
        if hit and self._after:
            self._what()
        return result


def test_old_tombstones_go_and_documents_stay(index: Watched) -> None:
    """The purge says what it did, and leaves a record of it."""
    report = purge(index)
    assert not report.refused
    assert (report.tombstones, report.eligible, report.purged) == (10, 10, 10)
    assert heads(index) == {f"d{number}": False for number in range(10, 20)}
    record = PurgeLog(Control(index.qdrant)).read(index.version)
    assert record is not None
    assert (record.purged, record.pending) == (10, ())
    assert record.newest.timestamp >= FIRST_TIMESTAMP
    # Again there is nothing to do.
    assert purge(index).purged == 0


def test_a_dry_run_deletes_nothing(index: Watched) -> None:
    """It says what would go, and writes no record."""
    report = purge(index, dry_run=True)
    assert (report.eligible, report.purged) == (10, 0)
    assert list(heads(index).values()).count(True) == 10
    assert PurgeLog(Control(index.qdrant)).read(index.version) is None


def test_young_tombstones_stay(index: Watched) -> None:
    """Those that the version learned of lately too, however old the deletion is."""
    report = purge(index, now=time.time)
    assert (report.purged, dict(report.held)) == (0, {"written_lately": 10})
    almost = FIRST_TIMESTAMP / 1000 + 29 * 86_400
    assert dict(purge(index, now=lambda: almost).held) == {"too_young": 10}


@pytest.mark.parametrize("newer", ["written", "deleted"])
def test_what_comes_between_looking_and_deleting_survives(index: Watched, newer: str) -> None:
    """A document that comes back, and a newer deletion, are not what was judged."""

    def come_between() -> None:
        if newer == "written":
            index.write([Document("d3", "", "it is back")])
        else:
            index.delete(["d3"])

    report = purge(index, qdrant=Meddling(index, "delete", come_between))
    assert (report.purged, report.came_back) == (9, 1)
    assert heads(index)["d3"] is (newer == "deleted")
    assert len(heads(index)) == 11


def test_an_open_rollout_refuses(index: Watched) -> None:
    """Nothing goes while a candidate is being filled; once the rollout has ended it may."""
    store = RolloutStore(Control(index.qdrant))
    rollout = store.begin(
        index.version.index,
        live=VersionRef.of(index.version),
        candidate=VersionRef("candidate", "0" * 12),
        contract=index.version.contract,
        contract_settings={},
    )
    report = purge(index)
    assert [one.name for one in report.conditions if not one.ok] == ["rollout"]
    assert (report.purged, list(heads(index).values()).count(True)) == (0, 10)
    store.move(rollout, type(rollout.state).ABORTED, "test")
    assert purge(index).purged == 10


def test_a_rollout_command_that_is_running_keeps_a_purge_out(index: Watched) -> None:
    """The two share a lease, so that no backfill begins while tombstones go."""
    lease = Lease(Control(index.qdrant), lease_name(index.version.index), 15.0)
    assert lease.acquire()
    with pytest.raises(LeaseHeldError):
        purge(index)
    lease.release()
    assert purge(index).purged == 10


def test_a_group_that_is_behind_refuses(index: Watched) -> None:
    """What it has not read could be older than any tombstone."""
    behind = PartitionLag("documents", 0, 3, oldest_timestamp=FIRST_TIMESTAMP, committed=5)
    report = purge(index, lag=lag(behind))
    assert [one.name for one in report.conditions if not one.ok] == ["committed"]
    assert list(heads(index).values()).count(True) == 10


def test_deletions_that_are_not_committed_stay(index: Watched) -> None:
    """Each is judged by its own offset: the first twenty events wrote, the next ten deleted."""
    half = PartitionLag("documents", 0, 0, oldest_timestamp=None, committed=26)
    report = purge(index, lag=lag(half))
    assert (report.purged, dict(report.held)) == (5, {"not_committed": 5})


def test_a_topic_that_keeps_everything_refuses_until_told_otherwise(index: Watched) -> None:
    """Compaction alone never lets an old record of another partition go."""
    topics = [replace(TOPICS[0], cleanup_policy="compact")]
    report = purge(index, topics=topics)
    assert "--allow-kept-topics" in next(one.words for one in report.conditions if not one.ok)
    assert purge(index, topics=topics, allow_kept_topics=True).purged == 10


def test_the_integrity_probe_takes_no_purge_for_a_loss(index: Watched) -> None:
    """Counts and remembered documents know of it; a real loss beside it still shows."""
    probe = IntegrityProbe(settle_seconds=0.0)
    index.run(probe)
    purge(index)
    assert index.run(probe).reason == "sound"
    index.delete(["d10", "d11"])
    index.run(probe)
    assert purge(index).purged == 2
    lost = point_id(index.version.index, "d12", 0)
    index.qdrant.call("delete", index.version.name, points_selector=[lost])
    result = index.run(probe)
    assert result.reason == "lost_documents"
    assert result.details["lost"] == ["d12"]
    assert result.evidence is not None
    assert result.evidence.effect == 1.0


def test_a_lost_tombstone_is_no_purged_one(index: Watched) -> None:
    """Somebody who deletes a younger tombstone by hand is not covered by a purge."""
    probe = IntegrityProbe(settle_seconds=0.0)
    index.delete(["d10"])
    index.run(probe)
    newest = PartitionLag("documents", 0, 0, oldest_timestamp=None, committed=31)
    assert purge(index, lag=lag(newest)).purged == 10
    by_hand = point_id(index.version.index, "d10", 0)
    index.qdrant.call("delete", index.version.name, points_selector=[by_hand])
    result = index.run(probe)
    assert (result.reason, result.details["lost"]) == ("lost_documents", ["d10"])


@pytest.mark.parametrize("after", [False, True])
def test_a_purge_that_is_killed_leaves_its_account_in_order(index: Watched, after: bool) -> None:
    """Before the deletion or after it: the probe sees no loss, and the next purge counts right."""
    probe = IntegrityProbe(settle_seconds=0.0)
    index.run(probe)

    def end() -> None:
        raise ServiceUnavailableError("the process ends here")

    with pytest.raises(ServiceUnavailableError):
        purge(index, qdrant=Meddling(index, "delete", end, after=after))
    log = PurgeLog(Control(index.qdrant))
    record = log.read(index.version)
    assert record is not None
    assert len(record.pending) == 10
    assert index.run(probe).reason == "sound"
    assert purge(index).purged == (0 if after else 10)
    record = log.read(index.version)
    assert record is not None
    assert (record.purged, record.pending) == (10, ())
    assert index.run(probe).reason == "sound"


def replayed(document_id: str, timestamp: int, topic: str, *, deleted: bool = False) -> Event:
    record = Record(topic, 0, 0, 0)
    position = Position("documents", 0, 1, timestamp)
    text = "" if deleted else "from the dead letters"
    return Event(document_id, position, text=text, deleted=deleted, record=record)


def test_a_replay_from_before_the_purge_is_refused(index: Watched) -> None:
    """It could be of a document that was deleted since; where there is a head, the head decides."""
    purge(index)
    topic = index.settings.replay_topic
    planner = Planner(
        index.qdrant,
        index.version,
        index.encoder,
        None,
        replay_topic=topic,  # type: ignore[arg-type]
    )

    def action(event: Event) -> tuple[Action, int]:
        ((plan,), _) = planner.reconcile([event])
        return plan.action, len(plan.behind_purge)

    assert action(replayed("d3", FIRST_TIMESTAMP, topic)) == (Action.REFUSED, 1)
    assert action(replayed("d12", FIRST_TIMESTAMP, topic)) == (Action.STALE, 0)
    assert action(replayed("d3", FIRST_TIMESTAMP + DAY, topic)) == (Action.EMBED, 0)
    assert action(replayed("d3", FIRST_TIMESTAMP, topic, deleted=True)) == (Action.DELETE, 0)
    # An event of a source topic comes late at its own risk: see the conditions.
    assert action(replayed("d3", FIRST_TIMESTAMP, "documents")) == (Action.EMBED, 0)
    newer = Event("d3", Position("documents", 0, 2, FIRST_TIMESTAMP + DAY), text="new")
    ((plan,), _) = planner.reconcile([replayed("d3", FIRST_TIMESTAMP, topic), newer])
    assert (plan.event, len(plan.behind_purge)) == (newer, 1)


def test_chunks_left_under_a_tombstone_go_with_it(tmp_path: Any) -> None:
    """Without the tombstone no rule would say any more that they are old."""
    encoder = Seeded(chunk=ChunkContract(size=16, overlap=0))
    with Watched(tmp_path, encoder=encoder, settings=KAFKA) as watched:
        version = watched.version
        writer = DocumentWriter(
            watched.qdrant,
            version.name,
            index=version.index,
            fingerprint=version.fingerprint,
            order_by=version.order_by,
            chunked=True,
        )
        old = Event("a", Position("documents", 0, 1, FIRST_TIMESTAMP), text="one two")
        plan = Plan(old, Action.EMBED, created_at=FIRST_TIMESTAMP)
        plan.chunks = [StoredChunk(0, 0, 3), StoredChunk(1, 4, 7)]
        plan.vectors = np.ones((2, 16), np.float32)
        writer.write([plan])
        gone = Event("a", Position("documents", 0, 2, FIRST_TIMESTAMP + 1), deleted=True)
        delete = Plan(gone, Action.DELETE, chunks=[StoredChunk(0, 0, 0)])
        steps = writer.steps([delete])
        while next(steps) != "look for older chunks":
            pass  # and there its process ends
        assert len(watched.points()) == 2
        assert purge(watched).purged == 1
        assert watched.points() == []
