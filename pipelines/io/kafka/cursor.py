"""A split's partitions, where each is read, and the next records of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import LogTruncationError, OffsetOutOfRangeError, UnsupportedCodecError
from kafka.structs import OffsetAndMetadata

from pipelines.core.errors import (
    DataLossError,
    PlumblineError,
    ServiceRefusedError,
    ServiceUnavailableError,
    SettingsError,
    SystemicError,
    TransientError,
)
from pipelines.core.metrics import job_metrics
from pipelines.io.kafka.committer import committed
from pipelines.io.kafka.connection import CONNECT_SECONDS, WatchedManager, watched
from pipelines.io.kafka.errors import translate
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.pool import Slot
from pipelines.io.kafka.positions import Place, ledger_of
from pipelines.io.kafka.silence import Silence
from pipelines.io.kafka.topology import Topology, load_topics, look
from pipelines.io.kafka.track import Track

__all__ = ["Cursor", "Fetched"]

_DAMAGE_TRIES = 3
"""A batch that cannot be read may have been damaged on the wire: it is fetched again this often."""

_RECONNECT_SECONDS = 30.0
"""After this much silence the connection is made anew, by the names the settings give."""

_ENDS_SECONDS = 2.0
"""How old an end of a partition may be that the lag is told by, as long as the broker answers."""

_ENDS_WAIT_SECONDS = 1.0
"""How long the broker is waited for then: a gauge is worth no more."""

_log = structlog.get_logger()


class Fetched(NamedTuple):
    """A record, the track of its partition, and position and epoch once it has been given out."""

    record: Any
    track: Track
    after: int
    leader_epoch: int


class Cursor:
    """Reads the partitions of one split on a borrowed consumer. For one thread at a time.

    Parameters
    ----------
    feed, split
        What is read; `None` for all partitions, whatever the number of splits.
    slot
        Where the consumer is borrowed.
    places
        Positions to resume from. Partitions not among them start where the group has committed,
        else at their beginning.
    """

    def __init__(
        self, feed: Feed, split: int | None, slot: Slot, places: Mapping[TopicPartition, Place]
    ) -> None:
        self.feed = feed
        self.tracks: dict[TopicPartition, Track] = {
            partition: Track(*place) for partition, place in places.items()
        }
        self.loaded = False
        """Whether the broker has said at least once which partitions there are."""
        self._split = split
        self._slot = slot
        self._ledger = ledger_of(feed.group_id)
        self._silence = Silence(feed.kafka.outage_timeout_seconds, feed.group_id)
        self._epoch = -1
        self._consumer: KafkaConsumer | None = None
        self._assigned: set[TopicPartition] = set()
        self._leaders: dict[TopicPartition, Any] = {}
        self._version = -1
        self._answers: dict[Any, float] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._ends_at = float("-inf")
        self._drained_at = float("-inf")
        self._damaged = 0

    def close(self) -> None:
        """Give the consumer back; nothing when another reader has taken it."""
        self._slot.give_back(self._epoch)

    def fetch(self, wait_seconds: float) -> list[Fetched]:
        """The next records, waiting a little for them; an empty list when there are none now.

        Parameters
        ----------
        wait_seconds
            How long to wait for records. Making a connection may take up to 5 s more.

        Raises
        ------
        ServiceUnavailableError
            Brokers, a leader or a topic stayed away for `kafka.outage_timeout_seconds`.
        ServiceRefusedError, SettingsError
            Login, permission; a topic that does not exist.
        DataLossError
            The next record is gone and `kafka.on_data_loss` is `stop`.
        SystemicError
            A batch cannot be read: damaged, or of a codec whose library is missing.
        """
        with self._slot.lock:
            self._silence.enter()
            try:
                return self._fetch(wait_seconds)
            except TransientError as error:
                total = self._silence.add("any broker", self._silence.elapsed())
                if total > _RECONNECT_SECONDS or self._consumer is None:
                    self._slot.drop()
                _log.debug("kafka_fetch_failed", error=str(error))
                # Not an endless spin where a connection is refused at once.
                time.sleep(min(wait_seconds, 0.1))
                return []

    def _fetch(self, wait_seconds: float) -> list[Fetched]:
        if self._slot.epoch != self._epoch:
            self._epoch = self._slot.borrow()
            self._consumer = None
        consumer = self._slot.connect()
        manager = watched(consumer)
        if consumer is not self._consumer:
            self._consumer = None
            load_topics(manager, self.feed, {partition.topic for partition in self.tracks})
            self._answers = {}
            self._forget_ends()
            self._version = -1
        if self._version != manager.metadata_version or consumer is not self._consumer:
            self._follow(consumer, manager)
        self._check_missing()
        records = self._poll(consumer, wait_seconds)
        if records is None:
            return []
        fetched = self._advance(consumer, records)
        self._listen(manager, drained=len(fetched) < self.feed.kafka.max_poll_records)
        return fetched

    def _poll(
        self, consumer: KafkaConsumer, wait_seconds: float
    ) -> dict[TopicPartition, list[Any]] | None:
        try:
            records: dict[TopicPartition, list[Any]] = consumer.poll(
                timeout_ms=int(wait_seconds * 1000)
            )
        except OffsetOutOfRangeError as error:
            self._out_of_range(consumer, error.args[0])
            return None
        except LogTruncationError as error:
            self._truncated(consumer, error.divergent_offsets)
            return None
        except Exception as error:
            where = _place_of_damage(consumer)
            translated = translate(error, f"reading {where}" if where else "reading")
            if isinstance(translated, TransientError | ServiceRefusedError | SettingsError):
                raise translated from error
            # kafka-python loops for ever on a batch that failed once, so this consumer is done.
            self._slot.drop()
            self._damaged += 1
            if isinstance(error, UnsupportedCodecError | NotImplementedError):
                raise SystemicError(
                    f"{translated}. Install the codec's library: python-snappy, lz4 or zstandard."
                ) from error
            if self._damaged >= _DAMAGE_TRIES:
                raise SystemicError(
                    f"{translated}; it was fetched {_DAMAGE_TRIES} times. Nothing is skipped: "
                    "mend or delete the record, or move the group's offset past it."
                ) from error
            _log.warning("kafka_batch_unreadable", place=where, tries=self._damaged)
            return None
        if records:
            self._damaged = 0
        return records

    def _advance(
        self, consumer: KafkaConsumer, records: Mapping[TopicPartition, list[Any]]
    ) -> list[Fetched]:
        fetched: list[Fetched] = []
        for partition, track in self.tracks.items():
            if partition not in self._assigned:
                continue
            position = _position(consumer, partition)
            batch = records.get(partition)
            if batch:
                track.not_at_end()
                last = batch[-1]
                fetched.extend(
                    Fetched(record, track, record.offset + 1, record.leader_epoch)
                    for record in batch[:-1]
                )
                after, epoch = position or (last.offset + 1, last.leader_epoch)
                fetched.append(Fetched(last, track, after, epoch))
            elif position is not None and position[0] > track.position:
                # Control records, aborted transactions, offsets that compaction left empty.
                track.position, track.leader_epoch = position
        return fetched

    def _listen(self, manager: WatchedManager, *, drained: bool) -> None:
        """Who answered: partitions at their end are confirmed, silence is counted."""
        waited = self._silence.elapsed()
        self._silence.heard("any broker", manager.answered_at)
        for node, at in manager.fetched_at.items():
            self._silence.heard(node, at)
        consumer = self._consumer
        if not drained or consumer is None:
            return
        self._drained_at = time.monotonic()
        self._silence.keep({"any broker", *self._leaders.values()})
        for node in {"any broker", *self._leaders.values()}:
            if self._silence.add(node, waited) > _RECONNECT_SECONDS and node == "any broker":
                self._slot.drop()
                return
        for partition in self._assigned:
            track = self.tracks[partition]
            # The answer must be older than the poll before: only then is what came with it given
            # out for sure.
            answered = self._answers.get(self._leaders.get(partition))
            highwater = consumer.highwater(partition)
            if highwater is None or track.position < highwater or track.missing_since is not None:
                track.not_at_end()
            elif answered is not None:
                track.confirm_end(answered)
        self._answers = dict(manager.fetched_at)

    def _follow(self, consumer: KafkaConsumer, manager: WatchedManager) -> None:
        """Take up new and re-created partitions, and put the consumer where the tracks are."""
        version = manager.metadata_version
        seen = look(manager, self.feed, self._split)
        for topic, topic_id in seen.topic_ids.items():
            self._ledger.know_topic(topic, topic_id)
        complete = self._take_up(consumer, seen)
        self._lose(seen)
        moved = self._restart_recreated(consumer, seen)

        assigned = {
            partition
            for partition in seen.leaders
            if partition in self.tracks and self.tracks[partition].missing_since is None
        }
        borrowed = consumer is not self._consumer
        if borrowed or assigned != self._assigned:
            consumer.assign(sorted(assigned))
            if self.feed.has_pattern:
                manager.cluster.need_all_topic_metadata = True  # an empty assignment resets it
        for partition in assigned if borrowed else moved | (assigned - self._assigned):
            track = self.tracks[partition]
            offset, epoch = _position(consumer, partition) or (None, -1)
            if offset != track.position or epoch < 0 <= track.leader_epoch:
                _seek(consumer, partition, track)
        self._assigned = assigned
        self._leaders = {partition: seen.leaders[partition] for partition in assigned}
        self._consumer = consumer
        self._version = version if complete else -1
        self.loaded = True

    def _take_up(self, consumer: KafkaConsumer, seen: Topology) -> bool:
        """Tracks for partitions not known yet; False when some have no leader to ask."""
        new = [partition for partition in seen.leaders if partition not in self.tracks]
        asked = [partition for partition in new if seen.leaders[partition] is not None]
        if asked:
            found = committed(self.feed, asked)
            self._ledger.begin(asked, found)
            stale = [
                partition
                for partition, place in found.items()
                if place.topic_id
                and seen.topic_ids[partition.topic]
                and place.topic_id != seen.topic_ids[partition.topic]
            ]
            begin = _offsets(
                consumer, [p for p in asked if p not in found or p in stale], beginning=True
            )
            for partition in asked:
                topic_id = seen.topic_ids[partition.topic]
                if partition in begin:
                    # One generation on, so that a lower offset may be committed.
                    generation = 1 if partition in stale else 0
                    self.tracks[partition] = Track(begin[partition], topic_id, generation)
                else:
                    place = found[partition]
                    self.tracks[partition] = Track(
                        place.position, topic_id, leader_epoch=place.leader_epoch
                    )
                if self.loaded:
                    _log.info(
                        "kafka_partition_added",
                        topic=partition.topic,
                        partition=partition.partition,
                        offset=self.tracks[partition].position,
                    )
            for topic in {partition.topic for partition in stale}:
                self._report_recreated(topic)
        return len(asked) == len(new)

    def _lose(self, seen: Topology) -> None:
        """Note which partitions are away, and which are back."""
        now = time.monotonic()
        away = set()
        for partition, track in list(self.tracks.items()):
            if partition in seen.leaders:
                present = seen.leaders[partition] is not None
            elif partition.topic in seen.topic_ids:
                # Topics never shrink: it was re-created with fewer partitions.
                del self.tracks[partition]
                self._ledger.forget(partition)
                continue
            else:
                present = False
            if present:
                track.missing_since = None
            else:
                if track.missing_since is None:
                    track.missing_since = now
                    away.add(partition.topic)
                track.not_at_end()
        for topic in sorted(away):
            _log.warning("kafka_partitions_away", topic=topic, topic_exists=topic in seen.topic_ids)

    def _restart_recreated(self, consumer: KafkaConsumer, seen: Topology) -> set[TopicPartition]:
        recreated = []
        for partition, track in self.tracks.items():
            topic_id = seen.topic_ids.get(partition.topic, "")
            if not topic_id or seen.leaders.get(partition) is None:
                continue
            if track.topic_id and track.topic_id != topic_id:
                recreated.append(partition)
            else:
                track.topic_id = topic_id
        begin = _offsets(consumer, recreated, beginning=True)
        for partition in recreated:
            track = self.tracks[partition]
            track.topic_id = seen.topic_ids[partition.topic]
            self._rewind(track, begin[partition])
        for topic in sorted({partition.topic for partition in recreated}):
            self._report_recreated(topic)
        return set(recreated)

    def _check_missing(self) -> None:
        limit = self.feed.kafka.outage_timeout_seconds
        now = time.monotonic()
        for partition, track in self.tracks.items():
            if track.missing_since is not None and now - track.missing_since > limit:
                raise ServiceUnavailableError(
                    f"partition {partition.topic}/{partition.partition} has been away for "
                    f"{limit:g} s: the topic was deleted, or no broker leads it. Create the topic "
                    "again or take it out of `kafka.topics`."
                )

    def _out_of_range(self, consumer: KafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
        partitions = self._still_there(consumer, offsets)
        begin = _offsets(consumer, partitions, beginning=True)
        end = _offsets(consumer, partitions, beginning=False)
        for partition in partitions:
            track = self.tracks[partition]
            if begin[partition] > track.position:
                self._report_loss(partition, track.position, begin[partition])
                track.position = begin[partition]
            elif track.position > end[partition]:
                # The log has lost its end, or, where the broker tells no ids, is another topic's.
                # Where it parts from what was read cannot be told, and reading again changes
                # nothing.
                if track.topic_id:
                    self._report_truncated(partition, end[partition], begin[partition])
                else:
                    self._report_recreated(partition.topic)
                self._rewind(track, begin[partition])
            # What is known of a leader may be why the broker refuses the offset.
            track.leader_epoch = -1
            _seek(consumer, partition, track)

    def _truncated(self, consumer: KafkaConsumer, divergent: Mapping[TopicPartition, Any]) -> None:
        partitions = self._still_there(consumer, divergent)
        begin = _offsets(consumer, partitions, beginning=True)
        for partition in partitions:
            track = self.tracks[partition]
            known = divergent[partition]
            ends = begin[partition] if known is None else known.offset
            # An answer about a position that was left since, as that of a re-created topic is, says
            # nothing of this one.
            if ends < track.position:
                to = max(ends, begin[partition])
                self._report_truncated(partition, ends, to)
                known_there = known is not None and to == ends
                self._rewind(track, to, known.leader_epoch if known_there else -1)
            _seek(consumer, partition, track)

    def _still_there(
        self, consumer: KafkaConsumer, partitions: Iterable[TopicPartition]
    ) -> list[TopicPartition]:
        """Those of a topic that is the one whose offsets are known; the others are begun anew."""
        manager = watched(consumer)
        load_topics(manager, self.feed, {partition.topic for partition in self.tracks})
        seen = look(manager, self.feed, self._split)
        self._version = -1
        return [
            partition
            for partition in partitions
            if (track := self.tracks.get(partition)) is not None
            and seen.leaders.get(partition) is not None
            and seen.topic_ids[partition.topic] in ("", track.topic_id)
        ]

    def _rewind(self, track: Track, position: int, leader_epoch: int = -1) -> None:
        self._forget_ends()
        track.position = position
        track.leader_epoch = leader_epoch
        track.generation += 1
        track.not_at_end()

    def _report_recreated(self, topic: str) -> None:
        job_metrics().recreated.labels(topic).inc()
        _log.warning("kafka_topic_recreated", topic=topic, group=self.feed.group_id)

    def _report_loss(self, partition: TopicPartition, position: int, begin: int) -> None:
        name = f"{partition.topic}/{partition.partition}"
        if self.feed.kafka.on_data_loss == "stop":
            raise DataLossError(
                f"{name}: the next record to read is {position}, but the topic begins at {begin}: "
                f"{begin - position} offsets were dropped unread. Set `kafka.on_data_loss: "
                "continue` to go on without them, or build the version anew."
            )
        job_metrics().data_loss.labels(partition.topic).inc(begin - position)
        _log.warning(
            "kafka_data_lost",
            topic=partition.topic,
            partition=partition.partition,
            offset=position,
            begins_at=begin,
        )

    def _report_truncated(self, partition: TopicPartition, ends_at: int, back_to: int) -> None:
        """Records that were read have vanished: from `ends_at` on, as far as that is known."""
        position = self.tracks[partition].position
        job_metrics().truncated_records.labels(partition.topic).inc(position - ends_at)
        _log.error(
            "kafka_log_truncated",
            topic=partition.topic,
            partition=partition.partition,
            offset=position,
            ends_at=ends_at,
            back_to=back_to,
            group=self.feed.group_id,
        )

    def report_lag(self) -> None:
        """Set the lag of each partition, in records, as far as the broker has said."""
        consumer: Any = self._consumer
        if consumer is None:
            return
        gauge = job_metrics().lag
        with self._slot.lock:
            if self._slot.epoch != self._epoch or self._slot.consumer != consumer:
                return
            self._ask_ends(consumer)
            for partition in self._assigned:
                fetched: int | None = consumer.highwater(partition)
                ends = [end for end in (fetched, self._ends.get(partition)) if end is not None]
                if ends:
                    lag = max(max(ends) - self.tracks[partition].position, 0)
                    gauge.labels(partition.topic, str(partition.partition)).set(lag)

    def _ask_ends(self, consumer: KafkaConsumer) -> None:
        """Asks where the partitions end, unless fetches have said so lately.

        A fetch says it too, but there is none while its records are worked off: behind a slow
        encoder the ends known from fetches are minutes old, and the lag would be what was fetched
        instead of what waits.
        """
        now = time.monotonic()
        if now - max(self._ends_at, self._drained_at) < _ENDS_SECONDS:
            return
        self._ends_at = now
        with contextlib.suppress(PlumblineError):  # the next fetch deals with what is wrong
            self._ends = _offsets(
                consumer, self._assigned, beginning=False, timeout_seconds=_ENDS_WAIT_SECONDS
            )

    def _forget_ends(self) -> None:
        """Those of another topic of the same name, or of one that was cut, say nothing."""
        self._ends = {}
        self._ends_at = float("-inf")


def _position(consumer: KafkaConsumer, partition: TopicPartition) -> tuple[int, int] | None:
    """Offset, and the epoch of the leader that wrote the record before it."""
    # The public method walks every partition of the consumer each time it is asked for one.
    state = consumer._subscription.assignment.get(partition)
    position = state.position if state is not None else None
    return None if position is None else (int(position.offset), int(position.leader_epoch))


def _seek(consumer: KafkaConsumer, partition: TopicPartition, track: Track) -> None:
    """Go where the track is; a position whose epoch is known is compared with the leader's log."""
    # The public method takes no epoch. Without one, a log that has lost its end and grown past the
    # position since looks like any other, and what it grew by would be skipped.
    position = OffsetAndMetadata(track.position, "", track.leader_epoch)
    consumer._subscription.seek(partition, position)


def _offsets(
    consumer: KafkaConsumer,
    partitions: Iterable[TopicPartition],
    *,
    beginning: bool,
    timeout_seconds: float = CONNECT_SECONDS,
) -> dict[TopicPartition, int]:
    wanted = list(partitions)
    if not wanted:
        return {}
    ask = consumer.beginning_offsets if beginning else consumer.end_offsets
    try:
        found: dict[TopicPartition, int] = ask(wanted, timeout_ms=timeout_seconds * 1000)
    except KeyError as error:
        # kafka-python trips over a partition that the answer leaves out.
        raise TransientError("a broker did not say where a partition begins and ends") from error
    except Exception as error:
        raise translate(error, "asking where partitions begin and end") from error
    return found


def _place_of_damage(consumer: KafkaConsumer) -> str:
    pending = getattr(getattr(consumer, "_fetcher", None), "_next_partition_records", None)
    partition = getattr(pending, "topic_partition", None)
    if partition is None:
        return ""
    offset = getattr(pending, "next_fetch_offset", None)
    return f"{partition.topic}/{partition.partition} at offset {offset}"
