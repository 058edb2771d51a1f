"""The process's reading consumers, lent to one reader at a time.

Runners end a bundle every second or so, park its reader and may build another from the mark. A
consumer for each would leak threads and sockets and never see a record, so readers borrow: a slot
holds the one consumer of a split, and its epoch says who borrowed it last. A reader whose epoch is
behind lost the consumer; should the runner come back to it, it takes the slot again and seeks.
"""

from __future__ import annotations

import contextlib
import threading
import time

from kafka import KafkaConsumer

from pipelines.io.kafka.connection import connect_consumer, watched
from pipelines.io.kafka.feed import Feed

__all__ = ["Slot", "close_consumers", "open_consumers", "readers_of", "slot_of"]

IDLE_SECONDS = 120.0
"""A lent consumer that nobody polled for this long is closed: Beam itself closes parked readers
after a minute, so this one's reader was forgotten. It opens another when it polls again."""


class Slot:
    """The consumer of one split. Hold `lock` around every use of it.

    Parameters
    ----------
    feed
        What it reads.
    """

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.lock = threading.Lock()
        self.epoch = 0
        self.lent = False
        self.used_at = time.monotonic()
        self.consumer: KafkaConsumer | None = None

    def borrow(self) -> int:
        """Take the slot from whoever has it; returns the epoch that proves it."""
        self.epoch += 1
        self.lent = True
        return self.epoch

    def connect(self) -> KafkaConsumer:
        """Its consumer, connected; raises as `connect_consumer`."""
        self.used_at = time.monotonic()
        if self.consumer is None:
            self.consumer = connect_consumer(self.feed.kafka, self.feed.index)
            cluster = watched(self.consumer).cluster
            if self.feed.has_pattern:
                cluster.need_all_topic_metadata = True
            else:
                cluster.set_topics([*self.feed.listed_topics, self.feed.replay_topic])
        return self.consumer

    def drop(self) -> None:
        """Close the consumer; the next `connect` opens another."""
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            with contextlib.suppress(Exception):
                consumer.close(autocommit=False, timeout_ms=0)

    def give_back(self, epoch: int) -> None:
        """Close the consumer if this epoch still has it; nothing when another took over."""
        with self.lock:
            if epoch == self.epoch and self.lent:
                self.lent = False
                self.drop()


_lock = threading.Lock()
_slots: dict[tuple[str, int], Slot] = {}


def slot_of(run_id: str, split: int, feed: Feed) -> Slot:
    """The slot of a split of a run, and the end of consumers that were forgotten."""
    with _lock:
        slot = _slots.setdefault((run_id, split), Slot(feed))
        others = [other for other in _slots.values() if other is not slot]
    now = time.monotonic()
    for other in others:
        if now - other.used_at > IDLE_SECONDS and other.lock.acquire(blocking=False):
            try:
                other.drop()
            finally:
                other.lock.release()
    return slot


def forget(run_id: str, split: int) -> None:
    """Remove a slot that nobody borrows."""
    with _lock:
        slot = _slots.get((run_id, split))
        if slot is not None and not slot.lent:
            del _slots[run_id, split]


def readers_of(feed: Feed) -> int:
    """How many readers of this process have borrowed a consumer of the feed."""
    with _lock:
        return sum(slot.lent and slot.feed == feed for slot in _slots.values())


def open_consumers() -> int:
    """How many reading consumers of this process are open."""
    with _lock:
        return sum(slot.consumer is not None for slot in _slots.values())


def close_consumers() -> None:
    """Close every reading consumer of the process: after the runs that read have ended."""
    with _lock:
        slots = list(_slots.values())
        _slots.clear()
    for slot in slots:
        with slot.lock:
            slot.lent = False
            slot.drop()
