"""How long recent events took to become searchable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from monitors.probes.base import ProbeContext
from pipelines.core.points import OURS
from pipelines.core.position import AHEAD_SECONDS

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["percentile", "recent_delays"]

_RECENT_DOCUMENTS = 500
"""Heads that are read, the newest by event time."""


def recent_delays(context: ProbeContext) -> tuple[list[float], float | None]:
    """How long recent events took from their timestamp until they were indexed.

    Only events younger than the version count: what is older was waiting when it was made, and a
    backfill has indexed it under its old time. An event that was indexed before its stamp has no
    such time: clocks that differ by less than a second count as zero, others are left out, and so
    is an event whose stamp still lies in the future.

    Returns
    -------
    tuple
        Seconds of each, sorted, and the timestamp of the newest event, seconds since the epoch;
        `None` in a version without events whose time has come.
    """
    from qdrant_client import models

    created = datetime.fromisoformat(context.version.created_at).timestamp()
    records, _ = context.qdrant.call(
        "scroll",
        context.version.name,
        scroll_filter=_heads_until(context.now.timestamp() + AHEAD_SECONDS),
        limit=_RECENT_DOCUMENTS,
        order_by=models.OrderBy(key=f"{OURS}.timestamp", direction=models.Direction.DESC),
        with_payload=[f"{OURS}.timestamp", f"{OURS}.indexed_at"],
        with_vectors=False,
    )
    events = [record.payload[OURS] for record in records if record.payload]
    newest = max((int(ours["timestamp"]) / 1000 for ours in events), default=None)
    seconds = sorted(
        max(0.0, indexed - stamp)
        for ours in events
        if (stamp := int(ours["timestamp"]) / 1000) >= created
        and (indexed := _moment(ours.get("indexed_at"))) is not None
        and stamp - indexed <= AHEAD_SECONDS
    )
    return seconds, newest


def _heads_until(seconds: float) -> models.Filter:
    from qdrant_client import models

    # Those from the future would come first and leave no room for the others.
    return models.Filter(
        must=[
            models.FieldCondition(key=f"{OURS}.chunk", range=models.Range(gte=0, lte=0)),
            models.FieldCondition(
                key=f"{OURS}.timestamp", range=models.Range(lte=int(seconds * 1000))
            ),
        ]
    )


def _moment(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share is not above."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
