"""How long the next record of each partition has waited.

By its stamp, which is the producer's clock, and by what earlier runs saw, whatever the stamp says.
Each run notes where the partition ended. A record at an offset at or behind that end came after
that run; one before it was there. So the last run that ended before the record, and the first
that ended behind it, bound its waiting time from both sides, to within one interval of the probe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from monitors.probes.base import ProbeContext
from pipelines.core.lag import PartitionLag

__all__ = ["Waiting", "remembered", "state_of", "wait_of"]

_REMEMBERED_PARTITIONS = 2000

_MARKS = 8
"""Runs that a partition's state keeps. A backlog that spans more has looser bounds, no wrong
ones."""

Mark = tuple[float, int]
"""When a run looked, seconds since the epoch, and where the partition ended."""

Memory = tuple[int | None, Sequence[Mark]]
"""Committed offset at the last run, and marks, the oldest first."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One partition, and how long its first uncommitted record has waited.

    Parameters
    ----------
    seconds
        0 when caught up.
    stands
        The committed offset is the one of the last run.
    marks
        For the next run.
    """

    lag: PartitionLag
    seconds: float
    stands: bool
    marks: tuple[Mark, ...]

    @property
    def key(self) -> str:
        """`topic/partition`."""
        return f"{self.lag.topic}/{self.lag.partition}"


def remembered(context: ProbeContext) -> Mapping[str, Memory] | None:
    """What `state_of` kept of each partition; `None` in the first run on this version."""
    state = context.state or {}
    if state.get("incarnation") != context.version.incarnation:
        return None  # built anew under the same name: another consumer group
    return cast("Mapping[str, Memory]", state["partitions"])


def wait_of(lag: PartitionLag, before: Mapping[str, Memory] | None, now: float) -> Waiting:
    """How long a partition's next record has waited, bounded by what earlier runs saw.

    Parameters
    ----------
    before
        See `remembered`.
    now
        Seconds since the epoch.
    """
    known = (before or {}).get(f"{lag.topic}/{lag.partition}")
    stands = known is not None and known[0] == lag.committed
    # Without a commit, offsets are counted from the beginning of the partition.
    offset = 0 if lag.committed is None else lag.committed + lag.expired
    end = offset + max(0, lag.records)
    marks: list[Mark] = []
    # Not of another count of offsets, nor of a clock that went back.
    if known is not None and (known[0] is None) == (lag.committed is None):
        marks = [(at, ended) for at, ended in known[1] if at < now and ended <= end]
    absent = [at for at, ended in marks if ended <= offset]
    present = [at for at, ended in marks if ended > offset]
    seconds = 0.0
    if lag.records > 0:
        least = now - present[0] if present else 0.0
        most = now - absent[-1] if absent else float("inf")
        stamp = lag.oldest_timestamp
        seconds = min(max(least if stamp is None else now - stamp / 1000, least), most)
    kept = [mark for mark in marks if not absent or mark[0] >= absent[-1]]
    return Waiting(lag, seconds, stands, _thinned([*kept, (now, end)]))


def _thinned(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """At most `_MARKS` of them.

    The first two bound the next record; the last will bound what is to come; of the others those
    go that leave the smallest gap.
    """
    kept = list(marks)
    while len(kept) > _MARKS:
        gaps = [kept[row + 1][0] - kept[row - 1][0] for row in range(2, len(kept) - 1)]
        del kept[2 + gaps.index(min(gaps))]
    return tuple(kept)


def state_of(context: ProbeContext, waiting: Sequence[Waiting]) -> dict[str, Any]:
    """What the next run is to be given."""
    kept = sorted(waiting, key=lambda w: -w.seconds)[:_REMEMBERED_PARTITIONS]
    return {
        "incarnation": context.version.incarnation,
        "partitions": {
            w.key: [w.lag.committed, [[at, ended] for at, ended in w.marks]] for w in kept
        },
    }
