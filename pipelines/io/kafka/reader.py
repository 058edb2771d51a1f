"""The reader of one split."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import structlog
from apache_beam.io.unbounded_source import UnboundedReader
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp
from kafka import TopicPartition

from pipelines.core.failures import FAILURES, guarded
from pipelines.core.records import Record
from pipelines.io.kafka.committer import close_committer
from pipelines.io.kafka.cursor import Cursor, Fetched
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.mark import KafkaMark
from pipelines.io.kafka.pool import forget, readers_of, slot_of
from pipelines.io.kafka.positions import Place, ledger_of
from pipelines.io.kafka.stop import STOP

__all__ = ["KafkaReader", "event_time"]

_WAIT_SECONDS = 0.2
"""How long an empty bundle waits for a record; the in-process runner asks again at once."""

_WAIT_SHORT_SECONDS = 0.1
"""The same for a bundle that has records already: they are not searchable before it ends."""

_LATEST = GlobalWindow().max_timestamp()

_log = structlog.get_logger()


def event_time(milliseconds: int) -> Timestamp:
    """Beam's timestamp of a record's, moved into the range that Beam can hold."""
    latest = int(_LATEST.micros)
    earliest = int(MIN_TIMESTAMP.micros)
    return Timestamp(micros=min(max(milliseconds * 1000, earliest), latest))


@guarded
class KafkaReader(UnboundedReader):
    """Reads the records of one split, on the consumer that the process keeps for it.

    The mark holds what was given out, never what was merely fetched. A reader that Beam has
    parked loses its consumer to the next one, and takes it back if Beam comes back to it.

    Parameters
    ----------
    feed, run_id, split
        What is read, in which run; `split` is `None` for everything.
    places
        Positions to resume from; empty for a fresh start.
    until
        Read up to these offsets and end: `None` to go on for ever. Partitions and topics that
        appear later do not prolong the run.
    """

    def __init__(
        self,
        feed: Feed,
        run_id: str,
        split: int | None,
        places: Mapping[TopicPartition, Place],
        until: Mapping[TopicPartition, int] | None,
    ) -> None:
        self._feed = feed
        self._slot_key = (run_id, -1 if split is None else split)
        self._until = None if until is None else dict(until)
        self._ledger = ledger_of(feed.group_id)
        self._cursor = Cursor(feed, split, slot_of(*self._slot_key, feed), places)
        self._buffer: deque[Fetched] = deque()
        self._current: Fetched | None = None
        self._since_mark = 0
        self._finished = False
        self._low_ms: int | None = None

    def start(self) -> bool:
        """As `advance`: the first record may not be there yet."""
        return self.advance()

    def advance(self) -> bool:
        """Go to the next record; False when there is none now.

        Raises
        ------
        CommitError
            Offsets of an earlier bundle could not be committed.
        PlumblineError
            The lease is lost: another job has taken over, or may have.
        SystemicError
            See `Cursor.fetch`.
        """
        self._ledger.raise_failure()
        self._current = None
        if self._finished or STOP.is_set():
            self._finish()
            return False
        FAILURES.raise_if_fenced()
        if not self._buffer:
            if self._reached():
                self._finish()
                return False
            wait = _WAIT_SHORT_SECONDS if self._since_mark else _WAIT_SECONDS
            self._buffer.extend(self._cursor.fetch(wait))
            self._move_watermark()
            if not self._buffer:
                if self._reached():
                    self._finish()
                return False
        self._current = fetched = self._buffer.popleft()
        fetched.track.position = fetched.after
        fetched.track.leader_epoch = fetched.leader_epoch
        fetched.track.event_ms = fetched.record.timestamp
        self._since_mark += 1
        return True

    def get_current(self) -> Record:
        """The record that the last `advance` went to."""
        assert self._current is not None
        record = self._current.record
        return Record(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            key=record.key,
            value=record.value,
            headers=tuple((key, value or b"") for key, value in record.headers),
        )

    def get_current_timestamp(self) -> Timestamp:
        """The record's timestamp, clamped."""
        assert self._current is not None
        return event_time(self._current.record.timestamp)

    def get_watermark(self) -> Timestamp:
        """Lower bound of the timestamps to come.

        The least of the partitions' last event times. A partition at its end for
        `kafka.idle_seconds` follows the clock at that distance, as far as its broker confirms it:
        in an outage the watermark stands still. `MAX_TIMESTAMP` once the reader has ended.
        """
        if self._finished:
            return MAX_TIMESTAMP
        return MIN_TIMESTAMP if self._low_ms is None else event_time(self._low_ms)

    def get_checkpoint_mark(self) -> KafkaMark:
        """Position of each partition after what was given out."""
        places = {partition: track.place for partition, track in self._cursor.tracks.items()}
        self._since_mark = 0
        self._ledger.emit(places)
        self._cursor.report_lag()
        return KafkaMark(self._feed, places)

    def close(self) -> None:
        """Give the consumer back, unless another reader has taken it. Safe to call twice."""
        self._buffer.clear()
        self._cursor.close()
        forget(*self._slot_key)
        if not readers_of(self._feed):
            # The last mark may still be finalised; that opens a connection of its own again.
            close_committer(self._feed)

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._buffer.clear()
            _log.info(
                "kafka_reader_finished",
                group=self._feed.group_id,
                stopped=STOP.is_set(),
                partitions=len(self._cursor.tracks),
            )

    def _reached(self) -> bool:
        if self._until is None or not self._cursor.loaded:
            return False
        tracks = self._cursor.tracks
        return all(
            # A topic that is gone owes nothing any more; one that was begun anew, or has lost its
            # end, may never reach that offset, and owes what it has.
            (track := tracks.get(partition)) is None
            or track.position >= offset
            or (track.generation > 0 and track.ended_at is not None)
            for partition, offset in self._until.items()
        )

    def _move_watermark(self) -> None:
        tracks = self._cursor.tracks
        if not tracks:
            return
        monotonic, wall = time.monotonic(), time.time()
        lows = [
            track.low_ms(self._feed.kafka.idle_seconds, monotonic, wall)
            for track in tracks.values()
        ]
        known = [low for low in lows if low is not None]
        if len(known) == len(lows):
            low = min(known)
            self._low_ms = low if self._low_ms is None else max(self._low_ms, low)
