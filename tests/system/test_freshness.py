"""The lag reader and the freshness probe on Apache Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from monitors.probes.base import Deadline, Level, ProbeContext, ProbeResult
from monitors.probes.freshness import FreshnessProbe
from pipelines.core.errors import ServiceUnavailableError, UnknownNameError
from pipelines.core.lag import PartitionLag
from pipelines.core.settings import Settings
from pipelines.io.kafka.lag import lag_reader
from tests.support.kafka_server import KafkaServer
from tests.support.processes import free_port
from tests.support.scenario import Scenario
from tests.support.stream import Stream

SEED = 20_260_404


class Group:
    """A topic, a consumer group that commits in it, and the lag reader that looks at both."""

    def __init__(self, server: KafkaServer, name: str, **kafka: Any) -> None:
        self.server = server
        self.name = name
        topics = {} if "pattern" in kafka else {"topics": [name]}
        self.settings = Settings(
            index="docs",
            kafka={"bootstrap_servers": server.bootstrap, **topics, **kafka},
            retry={"max_seconds": 0.2},
        )
        self.version: Any = SimpleNamespace(group_id=f"group.{name}")
        self.producer = Producer({"bootstrap.servers": server.bootstrap})

    def send(self, count: int, partition: int = 0, *, topic: str = "", at: int = 0) -> None:
        for number in range(count):
            self.producer.produce(
                topic or self.name,
                value=f"value {number}",
                partition=partition,
                timestamp=(at or 1_000_000) + number,
            )
        assert self.producer.flush(30) == 0

    def commit(
        self, offset: int, partition: int = 0, *, topic: str = "", topic_id: str = ""
    ) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self.server.bootstrap, group_id=self.version.group_id
        )
        place = TopicPartition(topic or self.name, partition)
        try:
            consumer.commit({place: OffsetAndMetadata(offset, topic_id, -1)})
        finally:
            consumer.close(autocommit=False)

    def lag(self, **arguments: Any) -> Sequence[PartitionLag]:
        return lag_reader(self.settings, **arguments)(self.version)


@pytest.fixture
def group(kafka_server: KafkaServer, request: pytest.FixtureRequest) -> Callable[..., Group]:
    def make(partitions: int = 1, **kafka: Any) -> Group:
        name = f"{request.node.name.removeprefix('test_')[:60]}-{time.time_ns()}"
        # Small numbers stand for the time of an event: retention must not act on them.
        kafka_server.create_topic(name, partitions=partitions, retention_ms=-1)
        return Group(kafka_server, name, **kafka)

    return make


def test_a_group_without_commits_lags_by_all_there_is(group):
    it = group(partitions=3)
    it.send(5, 0)
    it.send(2, 2, at=7_000)
    assert it.lag() == [
        PartitionLag(it.name, 0, 5, 1_000_000),
        PartitionLag(it.name, 1, 0, None),
        PartitionLag(it.name, 2, 2, 7_000),
    ]


def test_committed_offsets_count_and_nothing_is_committed_by_looking(group):
    it = group(partitions=2)
    it.send(10, 0)
    it.send(10, 1)
    it.commit(4, 0)
    it.commit(10, 1)
    expected = [
        PartitionLag(it.name, 0, 6, 1_000_004, 4),
        PartitionLag(it.name, 1, 0, None, 10),
    ]
    assert it.lag() == expected
    assert it.lag() == expected


def test_open_transactions_end_what_can_be_read_and_aborted_ones_are_no_lag(group):
    it = group()
    producer = Producer(
        {"bootstrap.servers": it.server.bootstrap, "transactional.id": it.version.group_id}
    )
    producer.init_transactions(30)

    def transaction(count: int) -> None:
        producer.begin_transaction()
        for number in range(count):
            producer.produce(it.name, value=b"v", timestamp=2_000_000 + number)
        producer.flush(30)

    it.send(1)
    it.commit(1)
    transaction(3)
    assert [(lag.records, lag.oldest_timestamp) for lag in it.lag()] == [(0, None)]  # open
    producer.abort_transaction(30)
    # Three aborted records and the mark are four offsets, and nothing to read.
    assert [(lag.records, lag.oldest_timestamp) for lag in it.lag()] == [(0, None)]
    transaction(2)
    producer.commit_transaction(30)
    (lag,) = it.lag()
    assert lag.oldest_timestamp == 2_000_000
    assert lag.records == 7  # an upper bound: aborted records and both marks


def test_records_that_were_dropped_unread_are_counted(group):
    it = group()
    it.send(10)
    it.commit(2)
    admin = KafkaAdminClient(bootstrap_servers=it.server.bootstrap)
    try:
        admin.delete_records({TopicPartition(it.name, 0): 6})
    finally:
        admin.close()
    assert it.lag() == [PartitionLag(it.name, 0, 4, 1_000_006, 2, expired=4)]


def test_a_topic_made_anew_forgets_the_old_commits(group):
    it = group()
    it.send(10)
    it.commit(10, topic_id="0" * 32)  # of a topic that is gone
    assert it.lag() == [PartitionLag(it.name, 0, 10, 1_000_000, None)]


def test_new_partitions_are_seen(group):
    it = group()
    it.send(2)
    it.commit(2)
    assert len(it.lag()) == 1
    from kafka.admin import NewPartitions

    admin = KafkaAdminClient(bootstrap_servers=it.server.bootstrap)
    try:
        admin.create_partitions({it.name: NewPartitions(total_count=3)})
    finally:
        admin.close()

    def send() -> None:
        it.producer = Producer({"bootstrap.servers": it.server.bootstrap})
        it.send(1, 2)

    send()
    assert [(lag.partition, lag.records) for lag in it.lag()] == [(0, 0), (1, 0), (2, 1)]


def test_the_replay_topic_counts_and_the_dead_letters_do_not(group):
    it = group()
    for topic in (it.settings.dead_letter_topic, it.settings.replay_topic):
        it.server.create_topic(topic, retention_ms=-1)
        it.send(3, topic=topic)
    assert [(lag.topic, lag.records) for lag in it.lag()] == [
        (it.name, 0),
        (it.settings.replay_topic, 3),
    ]


def test_topics_by_pattern(kafka_server):
    stamp = time.time_ns()
    it = Group(kafka_server, f"pattern-{stamp}", pattern=rf"pattern-{stamp}-\d")
    assert it.lag() == []
    for number in range(2):
        kafka_server.create_topic(f"{it.name}-{number}", retention_ms=-1)
        it.send(number + 1, topic=f"{it.name}-{number}")
    assert [(lag.topic, lag.records) for lag in it.lag()] == [
        (f"{it.name}-0", 1),
        (f"{it.name}-1", 2),
    ]


@pytest.mark.alone
def test_large_batches_and_many_partitions_are_read_within_the_time(group):
    it = group(partitions=12)
    for partition in range(12):
        for number in range(300):
            it.producer.produce(
                it.name, value=b"x" * 2000, partition=partition, timestamp=5_000 + number
            )
    assert it.producer.flush(60) == 0
    assert [lag.oldest_timestamp for lag in it.lag()] == [5_000] * 12


def test_without_time_the_lag_is_told_without_its_age(group):
    it = group()
    it.send(3)
    assert it.lag(read_seconds=0.0) == [PartitionLag(it.name, 0, 3, None)]


def test_a_missing_topic_names_the_nearest(group):
    it = group()
    it.settings = it.settings.model_copy(
        update={"kafka": it.settings.kafka.model_copy(update={"topics": [it.name[:-1]]})}
    )
    with pytest.raises(UnknownNameError, match="did you mean"):
        it.lag()


def test_a_broker_out_of_reach_is_an_outage_and_soon(group):
    it = group()
    kafka = it.settings.kafka.model_copy(update={"bootstrap_servers": f"127.0.0.1:{free_port()}"})
    it.settings = it.settings.model_copy(update={"kafka": kafka})
    started = time.monotonic()
    with pytest.raises(ServiceUnavailableError):
        it.lag(patience_seconds=2.0)
    assert time.monotonic() - started < 20


class Monitor:
    """Runs the freshness probe on a scenario, with a clock that the test turns."""

    def __init__(self, it: Scenario, objective_seconds: float) -> None:
        self._it = it
        monitor = {"freshness": {"objective_seconds": objective_seconds}}
        self._settings = Settings(**{**it.values, "monitor": monitor})
        self._read = lag_reader(self._settings)
        self._state: Any = None

    def run(self, *, later: float = 0.0) -> ProbeResult:
        assert self._it.version is not None
        nothing: Any = None
        result = FreshnessProbe().run(
            ProbeContext(
                settings=self._settings,
                qdrant=self._it.qdrant,
                version=self._it.version,
                encoder=nothing,
                unchecked_encoder=nothing,
                state=self._state,
                baseline=None,
                reference=nothing,
                keep_reference=nothing,
                now=datetime.now(UTC) + timedelta(seconds=later),
                deadline=Deadline.after(60),
                random=np.random.default_rng(0),
                lag=self._read,
            )
        )
        assert result.reason in FreshnessProbe.REASONS
        self._state = json.loads(json.dumps(result.state))
        return result


def figure(result: ProbeResult, name: str) -> float:
    (value,) = [f.value for f in result.figures if f.family.name == f"plumbline_freshness_{name}"]
    return value


def test_a_stalled_job_alarms_in_the_first_run_past_the_objective(scenario):
    """A real job ingests, is killed, and is started again, while documents go on coming."""
    it = scenario(partitions=2)
    it.topic.first_timestamp = int(time.time() * 1000)
    stream = Stream(SEED, 60, sentences=2, unchanged_share=0)
    it.topic.produce(stream.take(100))
    monitor = Monitor(it, objective_seconds=60.0)
    with it.job() as job:
        it.wait_caught_up(job)
        result = monitor.run()
        assert (result.level, result.reason) == (Level.OK, "fresh"), result.words
        assert figure(result, "lag_records") == 0
        job.kill()
    it.topic.first_timestamp = int(time.time() * 1000)
    it.topic.produce(stream.take(40))
    result = monitor.run()
    assert result.level is Level.OK, "nothing has waited for long yet"
    assert figure(result, "lag_records") == 40
    result = monitor.run(later=65)
    assert (result.level, result.reason) == (Level.ALARM, "stalled"), result.words
    assert figure(result, "oldest_unprocessed_seconds") >= 60
    with it.job() as job:
        it.wait_caught_up(job)
        result = monitor.run(later=70)
    assert (result.level, result.reason) == (Level.OK, "fresh"), result.words
    # Those of the job's first life were produced and indexed within seconds.
    assert 0 <= figure(result, "searchable_median_seconds") < 120
