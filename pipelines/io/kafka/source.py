"""The source and the transform that reads it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.coders import Coder, registry
from apache_beam.io.unbounded_source import UnboundedSource
from kafka import TopicPartition

from pipelines.core.failures import guarded
from pipelines.core.records import Record
from pipelines.core.settings import Settings
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.mark import KafkaMark, KafkaMarkCoder
from pipelines.io.kafka.positions import ledger_of
from pipelines.io.kafka.read import ReadSplit
from pipelines.io.kafka.reader import KafkaReader
from pipelines.io.kafka.spread import keyed, salt_for, salt_of, unkeyed
from pipelines.io.kafka.start import end_offsets

__all__ = ["KafkaSource", "KafkaSourceCoder", "ReadFromKafka"]


@guarded
class KafkaSource(UnboundedSource):
    """All partitions of a feed, or those of one of its splits.

    Parameters
    ----------
    feed
        What is read.
    run_id
        Tells the runs of a process apart: each has consumers of its own.
    split
        0 to `kafka.splits` - 1; `None` before splitting.
    until
        Offsets to read up to; `None` for ever.
    salt
        Decides on which subtask of Flink the split runs; no part of what the source is.
    """

    def __init__(
        self,
        feed: Feed,
        run_id: str,
        split: int | None = None,
        until: Mapping[TopicPartition, int] | None = None,
        salt: int = 0,
    ) -> None:
        self.feed = feed
        self.run_id = run_id
        self.split_index = split
        self.salt = salt
        self.until = None if until is None else dict(until)

    def split(self, desired_num_splits: int, options: Any = None) -> Iterable[KafkaSource]:  # noqa: ARG002
        """One source for each split that the settings fix: Beam asks once in a job's life."""
        return [self] if self.split_index is not None else self.splits()

    def splits(self, max_parallelism: int = 1) -> list[KafkaSource]:
        """The sources of all splits, evenly on the subtasks of a Flink job.

        Parameters
        ----------
        max_parallelism
            Of that job.
        """
        sources = []
        for split in range(self.feed.kafka.splits):
            until = self.until and {
                partition: offset
                for partition, offset in self.until.items()
                if self.feed.split_of(partition) == split
            }
            source = KafkaSource(self.feed, self.run_id, split, until)
            source.salt = salt_for(
                source._state().encode(), split, self.feed.kafka.splits, max_parallelism
            )
            sources.append(source)
        return sources

    def create_reader(self, options: Any, checkpoint_mark: KafkaMark | None) -> KafkaReader:  # noqa: ARG002
        """A reader at the mark, or where the group has committed.

        Connects to nothing yet, so that a broker that is being restarted does not fail the job.
        Raises `CommitError` when an earlier mark could not be committed.
        """
        ledger_of(self.feed.group_id).raise_failure()
        places = {} if checkpoint_mark is None else checkpoint_mark.places
        return KafkaReader(self.feed, self.run_id, self.split_index, places, self.until)

    def get_checkpoint_mark_coder(self) -> Coder:
        """Coder of the marks."""
        return KafkaMarkCoder(self.feed)

    def _state(self) -> str:
        until = self.until and sorted(
            [*partition, offset] for partition, offset in self.until.items()
        )
        state = {
            "feed": self.feed.to_json(),
            "run_id": self.run_id,
            "split": self.split_index,
            "until": until,
        }
        return json.dumps(state, sort_keys=True, separators=(",", ":"))

    # Beam finds a parked reader again by the pickled source, so equal sources must pickle equally,
    # which object graphs do not promise and one string does.
    def __reduce__(self) -> tuple[Any, ...]:
        return _source, (self._state(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KafkaSource) and other._state() == self._state()

    def __hash__(self) -> int:
        return hash((self.run_id, self.split_index))

    def __repr__(self) -> str:
        return f"KafkaSource(group_id={self.feed.group_id!r}, split={self.split_index})"


def _source(state: str, salt: int = 0) -> KafkaSource:
    values = json.loads(state)
    until = values["until"]
    return KafkaSource(
        Feed.from_json(values["feed"]),
        values["run_id"],
        values["split"],
        until
        if until is None
        else {TopicPartition(topic, number): offset for topic, number, offset in until},
        salt,
    )


class KafkaSourceCoder(Coder):
    """Coder of the sources as elements, which Flink takes for their keys."""

    def encode(self, value: KafkaSource) -> bytes:
        """Bytes of a source."""
        return keyed(value._state().encode(), value.salt)

    def decode(self, encoded: bytes) -> KafkaSource:
        """The source of those bytes, with its salt: Flink takes the key from what a worker has
        decoded and encoded again.
        """
        return _source(unkeyed(encoded).decode(), salt_of(encoded))

    def is_deterministic(self) -> bool:
        """True: equal sources give equal bytes."""
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KafkaSourceCoder)

    def __hash__(self) -> int:
        return hash(type(self))


registry.register_coder(KafkaSource, KafkaSourceCoder)


class ReadFromKafka(beam.PTransform):
    """Records of the documents' topics and of the replay topic, each at its timestamp.

    At least once: an offset is committed for the consumer group when the runner finalises the
    checkpoint, which is after the bundle's effects as long as no fusion break stands between
    this and the sinks. Redelivery is for the sinks to bear.

    Parameters
    ----------
    settings
        Broker, topics, bundle sizes. Secrets do not enter the pipeline: workers in other
        processes read them from their files or their environment.
    group_id
        Consumer group. Its start has been settled by `resolve_start`.
    until_caught_up
        End once everything is read that was in the topics when the pipeline was built
        (the in-process runner only; see `until.CancelWhenCommitted` for others).

    Raises
    ------
    ServiceUnavailableError
        With `until_caught_up`: the ends of the topics could not be asked for.

    Examples
    --------
    >>> import apache_beam as beam
    >>> from pipelines.core.settings import Settings
    >>> settings = Settings(kafka={"topics": ["documents"]})
    >>> with beam.Pipeline() as pipeline:  # doctest: +SKIP
    ...     records = pipeline | ReadFromKafka(settings, "docs")
    """

    def __init__(self, settings: Settings, group_id: str, until_caught_up: bool = False) -> None:
        super().__init__()
        self._settings = settings
        self._group_id = group_id
        self._until_caught_up = until_caught_up

    def expand(self, pbegin: Any) -> beam.PCollection[Record]:
        """Apply it."""
        feed = Feed.of(self._settings, self._group_id)
        until = end_offsets(self._settings, self._group_id) if self._until_caught_up else None
        source = KafkaSource(feed, uuid.uuid4().hex, until=until)
        # What `ReadFromUnboundedSource` does, but with an element for each split: see `spread`.
        read = ReadSplit(
            max_records_per_bundle=self._settings.ingest.bundle_events,
            max_read_time_seconds=self._settings.ingest.bundle_seconds,
        )
        splits = beam.Create(source.splits(self._settings.flink.max_parallelism), reshuffle=False)
        return pbegin | "Splits" >> splits | "Read" >> beam.ParDo(read).with_output_types(Record)

    # The settings hold secrets, and runners show what a transform is made of.
    def __getstate__(self) -> dict[str, Any]:
        return {"label": self.label}

    def __repr__(self) -> str:
        return f"ReadFromKafka(group_id={self._group_id!r})"
