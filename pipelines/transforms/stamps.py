"""Stamps of events held against this machine's clock: what is late, and what cannot be true yet."""

from __future__ import annotations

import time

import structlog

from pipelines.core.metrics import job_metrics
from pipelines.core.position import AHEAD_SECONDS, OrderBy, Position

__all__ = ["Stamps"]

_TELL_SECONDS = 60.0
"""A producer whose clock is ahead sends many such events; the log says so once in this time."""

_log = structlog.get_logger()


class Stamps:
    """Observes how long events took to become searchable, and counts those from the future.

    An event from the future has no such time: a zero in its place would make a late index look
    fresh. Ordered by timestamp it also stays the newest of its document until its time has come,
    and what is sent in the meantime is left out as stale.

    Parameters
    ----------
    order_by
        Of the version. Ordered by version, stamps settle nothing but ties.
    """

    def __init__(self, order_by: OrderBy) -> None:
        self._order_by = order_by
        self._told: dict[str, float] = {}

    def written(self, position: Position, now: float) -> None:
        """An event's effect is searchable.

        Parameters
        ----------
        position
            Its position. Nothing is known of one without a timestamp.
        now
            Seconds since the epoch.
        """
        if position.timestamp < 0:
            return
        ahead = position.timestamp / 1000 - now
        if ahead <= AHEAD_SECONDS:
            job_metrics().searchable_seconds.observe(max(0.0, -ahead))
            return
        job_metrics().future.labels(position.topic).inc()
        self._tell("event_from_the_future", position, ahead)

    def beaten(self, position: Position, by: Position, now: float) -> None:
        """An event was left out as stale, for the one that stands at `by`."""
        ahead = by.timestamp / 1000 - now
        same = (position.topic, position.partition) == (by.topic, by.partition)
        if (
            self._order_by is not OrderBy.TIMESTAMP
            or ahead <= AHEAD_SECONDS
            # One that came before it in the same partition is older by any clock.
            or (same and position.offset <= by.offset)
        ):
            return
        job_metrics().shadowed.labels(position.topic).inc()
        self._tell("event_shadowed", position, ahead)

    def _tell(self, what: str, position: Position, ahead: float) -> None:
        now = time.monotonic()
        if now - self._told.get(what, -_TELL_SECONDS) < _TELL_SECONDS:
            return
        self._told[what] = now
        _log.warning(
            what,
            topic=position.topic,
            partition=position.partition,
            offset=position.offset,
            ahead_seconds=round(ahead, 1),
            order_by=self._order_by.value,
        )
