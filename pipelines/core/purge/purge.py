"""Takes tombstones away, each on condition that it is still the one that was judged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from pipelines.core.control import CONTROL_COLLECTION, Control
from pipelines.core.lag import LagReader
from pipelines.core.lease import Lease
from pipelines.core.points import OURS, POSITION_FIELDS, chunks_of, head_of, older_chunks
from pipelines.core.position import Position
from pipelines.core.purge.conditions import Condition, Grounds, Held, Judgement, judge
from pipelines.core.purge.record import PurgeLog, PurgeRecord
from pipelines.core.rollout import RolloutStore

if TYPE_CHECKING:
    from qdrant_client import models

    from pipelines.core.purge.conditions import TopicRetention
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import Settings
    from pipelines.core.versions import Version

__all__ = ["PurgeReport", "purge_tombstones"]

_log = structlog.get_logger()

_PAGE = 500
"""Tombstones that are judged, recorded and deleted at once: what a killed purge leaves open."""

_LEASE_SECONDS = 15.0

_FIELDS = (*POSITION_FIELDS, f"{OURS}.deleted", f"{OURS}.indexed_at")


@dataclass(frozen=True)
class PurgeReport:
    """What a purge saw and did.

    Parameters
    ----------
    conditions
        Each with its figure.
    tombstones
        In the version, before.
    held
        Tombstones that stay, by the reason.
    eligible
        Those that may go; 0 where a condition refuses.
    purged
        Those that went; 0 on a dry run.
    came_back
        Eligible ones whose document was written again, or deleted again, before they could go.
    """

    version: str
    dry_run: bool
    conditions: tuple[Condition, ...]
    tombstones: int
    deleted_before: int
    held: Mapping[Held, int] = field(default_factory=dict)
    eligible: int = 0
    purged: int = 0
    came_back: int = 0

    @property
    def refused(self) -> bool:
        """Whether a condition refuses."""
        return not all(condition.ok for condition in self.conditions)

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return {
            **asdict(self),
            "conditions": [asdict(condition) for condition in self.conditions],
            "held": {str(reason): count for reason, count in self.held.items()},
            "refused": self.refused,
        }


def purge_tombstones(
    qdrant: Qdrant,
    settings: Settings,
    version: Version,
    *,
    topics: Sequence[TopicRetention],
    lag: LagReader,
    older_than_days: float | None = None,
    allow_kept_topics: bool = False,
    dry_run: bool = False,
    now: Callable[[], float] = time.time,
) -> PurgeReport:
    """Deletes the tombstones that nothing older can come after any more.

    Safe beside a running job: a tombstone is deleted only while it is the very one that was
    judged, so that a document that comes back, and a newer deletion, are never touched. A run
    that is killed leaves nothing to mend; the next one finishes its account.

    Parameters
    ----------
    topics
        How long each topic keeps what it has: source topics, replay topic, dead letters.
    lag
        Asks Kafka where the version's consumer group stands.
    older_than_days
        In place of `rollout.tombstone_days`; what the topics keep is never undercut.
    allow_kept_topics
        See `Grounds`.
    dry_run
        Only look; takes no lease.
    now
        Seconds since the epoch; injected by tests.

    Raises
    ------
    LeaseHeldError
        A rollout command, or another purge, is under way.
    ServiceUnavailableError, ServiceRefusedError, UnknownNameError
        Qdrant or Kafka is out of reach, or a topic does not exist.
    """
    control = Control(qdrant)

    def run() -> PurgeReport:
        grounds = Grounds(
            topics=topics,
            lag=lag(version),
            replay_topic=settings.replay_topic,
            rollout=RolloutStore(control).read(version.index),
            now_ms=round(now() * 1000),
            least_days=(
                settings.rollout.tombstone_days if older_than_days is None else older_than_days
            ),
            allow_kept_topics=allow_kept_topics,
        )
        judgement = judge(grounds)
        tombstones = int(
            qdrant.call("count", version.name, count_filter=_tombstones(None), exact=True).count
        )
        if not judgement.ok:
            return PurgeReport(
                version.name, dry_run, judgement.conditions, tombstones, judgement.deleted_before
            )
        work = _Purge(qdrant, version, PurgeLog(control), judgement, grounds.now_ms, lease)
        work.run(dry_run=dry_run)
        return PurgeReport(
            version.name,
            dry_run,
            judgement.conditions,
            tombstones,
            judgement.deleted_before,
            held=dict(sorted(work.held.items())),
            eligible=work.eligible,
            purged=work.purged,
            came_back=work.came_back,
        )

    lease: Lease | None = None
    if dry_run:
        return run()
    # A rollout copies tombstones: none may begin while they are being taken away.
    lease = Lease(control, f"rollout:{version.index}", _LEASE_SECONDS)
    lease.acquire()
    try:
        report = run()
    finally:
        lease.release()
    _log.info(
        "tombstones_purged",
        version=version.name,
        refused=[condition.name for condition in report.conditions if not condition.ok],
        tombstones=report.tombstones,
        purged=report.purged,
        came_back=report.came_back,
    )
    return report


@dataclass
class _Purge:
    qdrant: Qdrant
    version: Version
    log: PurgeLog
    judgement: Judgement
    now_ms: int
    lease: Lease | None
    held: Counter[Held] = field(default_factory=Counter)
    eligible: int = 0
    purged: int = 0
    came_back: int = 0

    def run(self, *, dry_run: bool) -> None:
        record = self.log.read(self.version)
        if not dry_run:
            record = self._settled(record)
        offset: Any = None
        while True:
            points, offset = self.qdrant.call(
                "scroll",
                self.version.name,
                scroll_filter=_tombstones(None),
                limit=_PAGE,
                offset=offset,
                with_payload=list(_FIELDS),
                with_vectors=False,
            )
            page = self._judged(points)
            self.eligible += len(page)
            if page and not dry_run:
                record = self._take(page, record)
            if offset is None:
                break
        if not dry_run:
            self.qdrant.sync(self.version.name)

    def _settled(self, record: PurgeRecord | None) -> PurgeRecord | None:
        """Finishes the account of a purge that was killed."""
        if record is None or not record.pending:
            return record
        if record.incarnation != self.version.incarnation:
            return self.log.settle(record, 0)  # of a collection that is gone
        gone = len(record.pending) - len(self._left(record.pending))
        return self.log.settle(record, gone)

    def _judged(self, points: Sequence[Any]) -> dict[str, tuple[str, Position, str]]:
        """Point id to document, position and event key of what may go."""
        page = {}
        for point in points:
            head = head_of(point.payload)
            if head is None:
                continue
            why = self.judgement.held(head.position, _indexed_at(point.payload))
            if why is not None:
                self.held[why] += 1
                continue
            page[str(point.id)] = (head.document_id, head.position, head.event_key)
        return page

    def _take(
        self, page: Mapping[str, tuple[str, Position, str]], record: PurgeRecord | None
    ) -> PurgeRecord:
        if self.lease is not None:
            self.lease.check()
        record = self.log.begin(
            self.version,
            record,
            {point: position for point, (_, position, _) in page.items()},
            purged_at=self.now_ms,
            age_ms=self.judgement.age_ms,
        )
        self.qdrant.sync(CONTROL_COLLECTION)
        if self.version.contract.chunk is not None:
            self._clean_up({document: position for document, position, _ in page.values()})
        self.qdrant.call(
            "delete",
            self.version.name,
            points_selector=_these(page),
            wait=True,
        )
        left = self._left(list(page))
        self.purged += len(page) - len(left)
        self.came_back += len(left)
        return self.log.settle(record, len(page) - len(left))

    def _clean_up(self, heads: Mapping[str, Position]) -> None:
        """Deletes chunks that a writer which died has left below these tombstones.

        Without their head no rule would say any more that they are old.
        """
        offset: Any = None
        found: dict[str, None] = {}
        while True:
            points, offset = self.qdrant.call(
                "scroll",
                self.version.name,
                scroll_filter=chunks_of(list(heads)),
                limit=_PAGE,
                offset=offset,
                with_payload=list(POSITION_FIELDS),
                with_vectors=False,
            )
            for point in points:
                chunk = head_of(point.payload)
                if chunk is not None and chunk.position < heads[chunk.document_id]:
                    found[chunk.document_id] = None
            if offset is None:
                break
        for document_id in found:
            self.qdrant.call(
                "delete",
                self.version.name,
                points_selector=older_chunks(
                    document_id, heads[document_id], self.version.order_by
                ),
                wait=True,
            )

    def _left(self, ids: Sequence[str]) -> list[str]:
        points = self.qdrant.call(
            "retrieve", self.version.name, ids=list(ids), with_payload=False, with_vectors=False
        )
        return [str(point.id) for point in points]


def _tombstones(ids: Sequence[str] | None) -> models.Filter:
    from qdrant_client import models

    must: list[Any] = [
        models.FieldCondition(key=f"{OURS}.deleted", match=models.MatchValue(value=True)),
        models.FieldCondition(key=f"{OURS}.chunk", range=models.Range(gte=0, lte=0)),
    ]
    if ids is not None:
        must.append(models.HasIdCondition(has_id=list(ids)))
    return models.Filter(must=must)


def _these(page: Mapping[str, tuple[str, Position, str]]) -> models.Filter:
    """Condition: one of these tombstones, still at the position at which it was judged."""
    from qdrant_client import models

    keys = sorted({event_key for _, _, event_key in page.values()})
    condition = _tombstones(list(page))
    assert isinstance(condition.must, list), "made above"
    condition.must.append(
        models.FieldCondition(key=f"{OURS}.event_key", match=models.MatchAny(any=keys))
    )
    return condition


def _indexed_at(payload: Mapping[str, Any] | None) -> int | None:
    value = ((payload or {}).get(OURS) or {}).get("indexed_at")
    try:
        return round(datetime.fromisoformat(str(value)).timestamp() * 1000)
    except ValueError:
        return None
