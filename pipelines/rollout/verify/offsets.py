"""Up to where two versions are compared: one offset for each partition, fixed at the start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipelines.core.position import Position
from pipelines.rollout.verify.base import VerifyContext

__all__ = ["Horizon", "fix_horizon", "with_ends"]

Partition = tuple[str, int]


@dataclass(frozen=True)
class Horizon:
    """Events below it count; later ones may have reached one version only.

    Parameters
    ----------
    offsets
        Topic and partition to the first offset that does not count. Empty: everything counts.
    behind
        Partitions that the candidate's group has not read up to there, with how far it is.
    ends
        Offset of the next event of each partition, asked for later than what is judged was read:
        an event at or behind it cannot be one of the topic as it is now. It came from a topic of
        that name that was made anew since, and counts.
    """

    offsets: Mapping[Partition, int] = field(default_factory=dict)
    behind: Mapping[Partition, int] = field(default_factory=dict)
    ends: Mapping[Partition, int] = field(default_factory=dict)

    @property
    def lacking(self) -> int:
        """Offsets that the candidate's group has yet to read."""
        return sum(self.offsets[partition] - at for partition, at in self.behind.items())

    def beyond(self, position: Position) -> bool:
        """Whether an event lies beyond.

        One of a topic that nobody reads any more counts: it came with the backfill. A partition
        that live's group has committed nothing of is new.
        """
        if not self.offsets:
            return False
        offset = self.offsets.get((position.topic, position.partition))
        if offset is None:
            return any(topic == position.topic for topic, _ in self.offsets)
        end = self.ends.get((position.topic, position.partition))
        return position.offset >= offset and (end is None or position.offset < end)


def fix_horizon(context: VerifyContext) -> Horizon:
    """What live's group has committed now, once the candidate's has committed as much.

    Waits for the candidate's for `patience_seconds`; what it lacks then is in `behind`. Without
    Kafka everything counts.

    Raises
    ------
    ServiceUnavailableError
        Kafka is out of reach.
    """
    if context.lag is None:
        return Horizon()
    offsets = _committed(context, live=True)
    until = time.monotonic() + context.patience_seconds
    while True:
        theirs = _committed(context, live=False)
        behind = {
            partition: theirs.get(partition, 0)
            for partition, offset in offsets.items()
            if theirs.get(partition, 0) < offset
        }
        if not behind or time.monotonic() >= until:
            return Horizon(offsets, behind)
        context.watch("waiting for the candidate's job", 0, 0)
        context.sleep(min(context.settle_seconds, max(0.0, until - time.monotonic())))


def with_ends(context: VerifyContext, horizon: Horizon) -> Horizon:
    """The same with where each partition ends now."""
    if context.lag is None or not horizon.offsets:
        return horizon
    ends = {
        (lag.topic, lag.partition): lag.committed + lag.expired + lag.records
        for lag in context.lag(context.live)
        if lag.committed is not None
    }
    return replace(horizon, ends=ends)


def _committed(context: VerifyContext, *, live: bool) -> dict[Partition, int]:
    assert context.lag is not None, "asked for with Kafka alone"
    version = context.live if live else context.candidate
    return {
        (lag.topic, lag.partition): lag.committed
        for lag in context.lag(version)
        if lag.committed is not None
    }
