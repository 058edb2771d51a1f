"""What a reader knows of one partition."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.io.kafka.positions import Place

__all__ = ["Track"]


@dataclass(slots=True)
class Track:
    """Position, incarnation and event time of a partition.

    Parameters
    ----------
    position
        Offset after the last record given out, or further where nothing readable lies between
        (control records, aborted transactions, what compaction removed).
    topic_id, generation, leader_epoch
        See `Place`.
    event_ms
        Timestamp of the last record given out, milliseconds since the epoch; `None` before one.
    ended_at, confirmed_at
        Monotonic seconds: since when the partition was seen read to its end, without a break, and
        the last answer of its broker that said so. `None` while it is not.
    missing_since
        Monotonic seconds since when the partition is not in the metadata, or its leader silent.
    """

    position: int
    topic_id: str = ""
    generation: int = 0
    leader_epoch: int = -1
    event_ms: int | None = None
    ended_at: float | None = None
    confirmed_at: float | None = None
    missing_since: float | None = None

    @property
    def place(self) -> Place:
        """For the mark."""
        return Place(self.position, self.topic_id, self.generation, self.leader_epoch)

    def confirm_end(self, at: float) -> None:
        """The broker said at this time that there is nothing more."""
        if self.ended_at is None:
            self.ended_at = at
        if self.confirmed_at is None or at > self.confirmed_at:
            self.confirmed_at = at

    def not_at_end(self) -> None:
        """There is more, or nobody knows."""
        self.ended_at = None
        self.confirmed_at = None

    def low_ms(self, idle_seconds: float, monotonic: float, wall: float) -> int | None:
        """Lower bound of the timestamps to come, milliseconds; `None` when nothing is known.

        Parameters
        ----------
        idle_seconds
            How long a partition must have been at its end to count as idle.
        monotonic, wall
            The time now on both clocks.
        """
        low = self.event_ms
        if (
            self.ended_at is not None
            and self.confirmed_at is not None
            and self.confirmed_at - self.ended_at >= idle_seconds
        ):
            # Only as far as the broker's last answer reaches: in an outage this stands still.
            idle = int((wall - (monotonic - self.confirmed_at) - idle_seconds) * 1000)
            low = idle if low is None else max(low, idle)
        # A producer's clock that is ahead must not carry the watermark past the present.
        return None if low is None else min(low, int(wall * 1000))
