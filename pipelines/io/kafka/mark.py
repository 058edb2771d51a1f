"""The checkpoint mark: a position for each partition of a split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import structlog
from apache_beam.coders import Coder
from apache_beam.io.unbounded_source import CheckpointMark
from kafka import TopicPartition

from pipelines.core.failures import FAILURES
from pipelines.io.kafka.committer import commit
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.positions import Place

__all__ = ["KafkaMark", "KafkaMarkCoder"]

_log = structlog.get_logger()


class KafkaMark(CheckpointMark):
    """Where a reader stands, partition by partition.

    Parameters
    ----------
    feed
        Whose offsets these are; not part of the encoded mark.
    places
        Every partition whose start is known. One that is missing starts where its group has
        committed, else at the beginning.
    """

    __slots__ = ("feed", "places")

    def __init__(self, feed: Feed, places: Mapping[TopicPartition, Place]) -> None:
        self.feed = feed
        self.places = dict(places)

    def finalize_checkpoint(self) -> None:
        """Commit these positions; called by the runner once the bundle's effects are durable.

        At least once and in any order: a position behind the one committed is left out. Raises
        `CommitError` after bounded retries; Beam logs that and goes on, so it is kept, and the
        next reader of the process raises it again. A job that has lost its lease commits nothing
        more: it could move the offsets of the one that took over back.
        """
        if FAILURES.fenced:
            _log.warning("kafka_commit_left_out", reason="lease_lost", group=self.feed.group_id)
            return
        commit(self.feed, self.places)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KafkaMark) and other.places == self.places

    def __hash__(self) -> int:
        return hash(frozenset(self.places.items()))

    def __repr__(self) -> str:
        return f"KafkaMark({len(self.places)} partitions)"


class KafkaMarkCoder(Coder):
    """Compact JSON: topics once, partitions in order, so that equal marks give equal bytes.

    A topic's row is its name, its id, and a list for each generation and leader epoch: these two,
    then partition and position by turns.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def encode(self, value: KafkaMark) -> bytes:
        """Bytes of a mark."""
        topics: dict[tuple[str, str], dict[tuple[int, int], list[int]]] = {}
        for partition, place in sorted(value.places.items()):
            begun = (place.generation, place.leader_epoch)
            groups = topics.setdefault((partition.topic, place.topic_id), {})
            groups.setdefault(begun, [*begun]).extend((partition.partition, place.position))
        rows = [[*topic, *groups.values()] for topic, groups in topics.items()]
        return json.dumps(rows, separators=(",", ":")).encode()

    def decode(self, encoded: bytes) -> KafkaMark:
        """The mark of those bytes."""
        places = {}
        for topic, topic_id, *groups in json.loads(encoded):
            for generation, epoch, *numbers in groups:
                for number, position in zip(numbers[::2], numbers[1::2], strict=True):
                    place = Place(position, topic_id, generation, epoch)
                    places[TopicPartition(topic, number)] = place
        return KafkaMark(self._feed, places)

    def is_deterministic(self) -> bool:
        """True: equal marks give equal bytes."""
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KafkaMarkCoder) and other._feed == self._feed

    def __hash__(self) -> int:
        return hash(type(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _coder, (self._feed.to_json(),)


def _coder(feed: str) -> KafkaMarkCoder:
    return KafkaMarkCoder(Feed.from_json(feed))
