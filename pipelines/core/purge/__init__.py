"""Tombstones that nothing older can come after any more are taken away.

A tombstone keeps an event that is older than the deletion from bringing the document back. Once no
such event can come, it only takes space. What was purged is on record in the control collection:
from then on a replayed event that is older is refused, and the monitor knows that nothing was lost.
"""

from pipelines.core.purge.conditions import (
    Condition,
    Grounds,
    Held,
    Judgement,
    TopicRetention,
    judge,
)
from pipelines.core.purge.purge import PurgeReport, purge_tombstones
from pipelines.core.purge.record import PURGE, PurgeLog, PurgeRecord, behind_purge

__all__ = [
    "PURGE",
    "Condition",
    "Grounds",
    "Held",
    "Judgement",
    "PurgeLog",
    "PurgeRecord",
    "PurgeReport",
    "TopicRetention",
    "behind_purge",
    "judge",
    "purge_tombstones",
]
