"""How far a version's consumer group is behind its topics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.core.versions import Version

__all__ = ["LagReader", "PartitionLag"]


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """What one partition holds that is not yet searchable, or is not known to be.

    Offsets are committed once a bundle's effects are durable, so the figure is an upper bound: up
    to one bundle of it may be searchable already. Compaction and transactions leave offsets
    without a record, which count too.

    Parameters
    ----------
    records
        End of the partition minus the first offset that is to be read; 0 when there is no record
        between the two.
    oldest_timestamp
        Of the first record that is to be read, milliseconds since the epoch, by the clock that
        the topic's stamps come from (the producers', unless the topic says `LogAppendTime`).
        `None` when caught up, and when the record could not be read in time.
    committed
        Offset that the group has committed; `None` when it has none in this incarnation of the
        topic, so that it would begin at the earliest record.
    expired
        Records after the committed offset that the topic no longer holds: nobody can read them.
    """

    topic: str
    partition: int
    records: int
    oldest_timestamp: int | None
    committed: int | None = None
    expired: int = 0


LagReader = Callable[["Version"], Sequence[PartitionLag]]
"""Asks Kafka how far the version's consumer group is. Comes from outside: the monitor knows the
domain, not the job's Kafka client."""
