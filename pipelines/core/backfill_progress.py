"""How far a backfill is: ranges on record, tokens, and when it will be done.

A backfill is cut into ranges of point ids once, when it begins; each range that is durable is
put on record in the control collection. A process that takes over goes on with the others.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pipelines.core.backfill_metrics import BackfillMetrics, backfill_metrics
from pipelines.core.errors import StoreConflictError
from pipelines.core.stored_documents import IdRange, id_ranges

if TYPE_CHECKING:
    from pipelines.core.control import Control
    from pipelines.core.versions import Version

__all__ = ["BACKFILL", "BackfillLedger", "BackfillPlan", "BackfillProgress", "Eta", "RangeCounts"]

BACKFILL = "backfill"
"""Kind of a backfill's control records: `<id>` is its plan, `<id>/<n>` a range that is done."""

_LISTED = 10

_LEAST_WINDOW_SECONDS = 30.0


@dataclass
class RangeCounts:
    """What became of the documents of a range, or of several.

    Parameters
    ----------
    documents
        Heads that were read, tombstones among them; the others add up to this.
    embedded, tombstones
        Written as documents, and as tombstones.
    unchanged
        There already, at the same position: written before a crash.
    stale
        There already, at a newer position: the candidate's job was faster.
    refused
        The encoder or the store refused them; `refusals` lists ten, with why.
    altered
        Their stored text is not what its hash says; `altered_ids` lists ten.
    """

    documents: int = 0
    embedded: int = 0
    tombstones: int = 0
    unchanged: int = 0
    stale: int = 0
    refused: int = 0
    altered: int = 0
    chunks: int = 0
    tokens: int = 0
    refusals: dict[str, str] = field(default_factory=dict)
    altered_ids: list[str] = field(default_factory=list)

    def refuse(self, document_id: str, why: str) -> None:
        """One document was refused."""
        self.refused += 1
        if len(self.refusals) < _LISTED:
            self.refusals[document_id] = why

    def alter(self, document_id: str) -> None:
        """One document's stored text is not what its hash says."""
        self.altered += 1
        if len(self.altered_ids) < _LISTED:
            self.altered_ids.append(document_id)

    def add(self, other: RangeCounts) -> None:
        """Adds another range's."""
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, int):
                setattr(self, one.name, mine + theirs)
        self.refusals = dict([*self.refusals.items(), *other.refusals.items()][:_LISTED])
        self.altered_ids = [*self.altered_ids, *other.altered_ids][:_LISTED]

    def to_json(self) -> dict[str, Any]:
        """For records and programs."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RangeCounts:
        """What `to_json` gave."""
        return cls(**{one.name: values[one.name] for one in fields(cls) if one.name in values})


@dataclass(frozen=True)
class BackfillPlan:
    """How a backfill was cut, once and for all of its runs.

    Parameters
    ----------
    ranges
        How many.
    documents, tombstones
        Of the source when it was cut.
    tokens_per_head
        To encode for a head under the target's contract, tombstones counting with 0: estimated
        from a sample, and the starting point of the estimate of the total.
    """

    ranges: int
    documents: int
    tombstones: int
    tokens_per_head: float

    @property
    def heads(self) -> int:
        """Documents and tombstones."""
        return self.documents + self.tombstones


class BackfillLedger:
    """The records of one backfill.

    Parameters
    ----------
    control
        Where they live.
    backfill_id
        Names the backfill: of a rollout, the rollout's id.
    source, target
        From which version to which. A record of other collections under the same names is
        refused.
    """

    def __init__(
        self, control: Control, backfill_id: str, source: Version, target: Version
    ) -> None:
        self._control = control
        self._id = backfill_id
        self._places = {
            "source": source.name,
            "source_incarnation": source.incarnation,
            "target": target.name,
            "target_incarnation": target.incarnation,
        }

    def plan(self) -> BackfillPlan | None:
        """The plan on record.

        Raises
        ------
        StoreConflictError
            It is of other collections: one was dropped and made anew.
        """
        record = self._control.read(BACKFILL, self._id)
        if record is None:
            return None
        differing = {
            name: (record.fields.get(name), value)
            for name, value in self._places.items()
            if record.fields.get(name) != value
        }
        if differing:
            name, (before, now) = next(iter(differing.items()))
            raise StoreConflictError(
                f"the backfill {self._id} was begun with other collections: its {name} was "
                f"{before}, and is {now}. Abort the rollout and plan it again."
            )
        return BackfillPlan(**record.fields["plan"])

    def begin(self, plan: BackfillPlan) -> BackfillPlan:
        """Puts the plan on record, or gives the one that another process put there first."""
        written = self._control.swap(
            BACKFILL, self._id, seen=None, fields={**self._places, "plan": asdict(plan)}
        )
        if written is not None:
            return plan
        there = self.plan()
        assert there is not None, "a record refused ours"
        return there

    def done(self) -> dict[int, RangeCounts]:
        """The ranges that are durable, by number."""
        prefix = f"{self._id}/"
        return {
            int(record.name.removeprefix(prefix)): RangeCounts.from_json(record.fields["counts"])
            for record in self._control.list(BACKFILL)
            if record.name.startswith(prefix)
        }

    def finish(self, number: int, counts: RangeCounts) -> None:
        """Puts a range on record, after everything of it is durable. Safe to repeat."""
        self._control.swap(
            BACKFILL,
            f"{self._id}/{number}",
            seen=None,
            fields={"target": self._places["target"], "counts": counts.to_json()},
        )

    def left(self, plan: BackfillPlan) -> list[IdRange]:
        """The ranges that are still to be done."""
        done = self.done()
        return [one for one in id_ranges(plan.ranges) if one.number not in done]


class Eta:
    """When a steady work will be done, from how it went lately.

    The rate is that of the last half of the time so far, at least half a minute: long enough
    that one slow batch does not move it, and what was long ago (another load on the machine) is
    forgotten. Pauses of the throttle are in it: they are time that passes.

    Parameters
    ----------
    now
        Seconds of a monotonic clock.
    """

    def __init__(self, now: float) -> None:
        self._start = now
        self._points: deque[tuple[float, float]] = deque([(now, 0.0)])

    def add(self, now: float, done: float) -> None:
        """So much is done in all, since the start."""
        self._points.append((now, done))
        horizon = now - max(_LEAST_WINDOW_SECONDS, (now - self._start) / 2)
        while len(self._points) > 2 and self._points[1][0] <= horizon:
            self._points.popleft()

    @property
    def rate(self) -> float | None:
        """Per second; `None` before anything is done."""
        (begun, before), (now, done) = self._points[0], self._points[-1]
        if now <= begun or done <= before:
            return None
        return (done - before) / (now - begun)

    def seconds(self, left: float) -> float | None:
        """Until so much more is done; `None` while nobody can tell."""
        rate = self.rate
        return None if rate is None else left / rate


class BackfillProgress:
    """Counts of one process's share of a backfill. Thread-safe.

    Parameters
    ----------
    plan
        How it was cut.
    before
        What earlier runs have done.
    labels
        Index and version, for the metrics.
    now
        Monotonic clock; injected by tests.
    """

    def __init__(
        self,
        plan: BackfillPlan,
        before: RangeCounts,
        labels: tuple[str, str],
        *,
        now: Callable[[], float] = time.monotonic,
        metrics: BackfillMetrics | None = None,
    ) -> None:
        self._plan = plan
        self._before = before
        self._counts = RangeCounts()
        self._lock = threading.Lock()
        self._now = now
        self._eta = Eta(now())
        self._share = 1.0
        self._labels = labels
        self._metrics = metrics or backfill_metrics()
        self._show()

    def add(self, counts: RangeCounts) -> None:
        """A batch is durable."""
        with self._lock:
            self._counts.add(counts)
            self._eta.add(self._now(), self._counts.tokens)
            documents = self._metrics.documents
            for outcome in ("embedded", "tombstones", "unchanged", "stale", "refused"):
                count = getattr(counts, outcome)
                if count:
                    documents.labels(*self._labels, outcome).inc(count)
            self._metrics.tokens.labels(*self._labels).inc(counts.tokens)
        self._show()

    def throttled(self, share: float, paused_seconds: float) -> None:
        """The throttle paused for so long, and lets the work take this share."""
        with self._lock:
            self._share = share
            self._metrics.throttle_seconds.labels(*self._labels).inc(paused_seconds)
            self._metrics.share.labels(*self._labels).set(share)

    def snapshot(self) -> dict[str, Any]:
        """Progress as records, programs and progress bars take it.

        `tokens_total` is an estimate: what is done, and for each head that is left the mean of
        those that were encoded, blended with the sample of the plan while they are few.
        """
        with self._lock:
            done = RangeCounts()
            done.add(self._before)
            done.add(self._counts)
            left = max(0, self._plan.heads - done.documents)
            tokens_left = left * self._tokens_per_head(done)
            eta = 0.0 if left == 0 else self._eta.seconds(tokens_left)
            rate = self._eta.rate
            return {
                "documents_done": done.documents,
                "documents_total": max(self._plan.heads, done.documents),
                "tokens_done": done.tokens,
                "tokens_total": done.tokens + round(tokens_left),
                "tokens_per_second": None if rate is None else round(rate, 1),
                "eta_seconds": None if eta is None else round(eta, 1),
                "throttled": self._share < 1,
                "speed_share": round(self._share, 3),
            }

    def _tokens_per_head(self, done: RangeCounts) -> float:
        # What a crash left half done, or the candidate's own job was faster with, cost nothing
        # here and says nothing of what the others will cost.
        told = done.embedded + done.tombstones
        weight = 256  # of the plan's sample, in heads: about what it was drawn from
        return (self._plan.tokens_per_head * weight + done.tokens) / (weight + told)

    def _show(self) -> None:
        at = self.snapshot()
        labels = self._labels
        eta = at["eta_seconds"]
        self._metrics.tokens_left.labels(*labels).set(at["tokens_total"] - at["tokens_done"])
        self._metrics.documents_left.labels(*labels).set(
            at["documents_total"] - at["documents_done"]
        )
        self._metrics.eta_seconds.labels(*labels).set(math.nan if eta is None else eta)
