"""The real servers that tests start: each comes up, does its work, and comes back after a kill."""

from __future__ import annotations

import time
from collections.abc import Iterator

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from tests.support.flink_server import FlinkCluster, FlinkJobServer, flink_available
from tests.support.kafka_server import KafkaServer, kafka_available

needs_kafka = pytest.mark.skipif(
    not kafka_available(), reason="python deploy/local/install.py kafka"
)
needs_flink = pytest.mark.skipif(
    not flink_available(), reason="python deploy/local/install.py flink"
)


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    with KafkaServer() as server:
        yield server


def produce(bootstrap: str, topic: str, keys: range) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    sent = [producer.send(topic, key=str(key).encode(), value=b"v%d" % key) for key in keys]
    for future in sent:
        future.get(timeout=30)
    producer.close()


def consume(bootstrap: str, topic: str, count: int, *, group: str) -> list[int]:
    """The keys of the group's next records, which are then committed."""
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    keys: list[int] = []
    deadline = time.monotonic() + 60
    while len(keys) < count and time.monotonic() < deadline:
        for records in consumer.poll(timeout_ms=500).values():
            keys += [int(record.key) for record in records]
    consumer.commit()
    consumer.close()
    return sorted(keys)


@needs_kafka
def test_kafka_keeps_records_and_commits_through_a_kill(kafka: KafkaServer) -> None:
    """Acknowledged records and committed offsets are there after SIGKILL, on the same address."""
    kafka.create_topic("documents", partitions=3, cleanup_policy="compact")
    produce(kafka.bootstrap, "documents", range(100))
    assert consume(kafka.bootstrap, "documents", 100, group="g") == list(range(100))
    address = kafka.bootstrap
    kafka.kill()
    kafka.restart()
    assert kafka.bootstrap == address
    produce(kafka.bootstrap, "documents", range(100, 150))
    assert consume(kafka.bootstrap, "documents", 50, group="g") == list(range(100, 150))
    assert consume(kafka.bootstrap, "documents", 150, group="h") == list(range(150))


@needs_kafka
def test_kafka_topic_deleted_and_made_again_is_empty(kafka: KafkaServer) -> None:
    """`delete_topic` takes the records with it, and the name can be used again at once."""
    kafka.create_topic("again", partitions=1)
    produce(kafka.bootstrap, "again", range(3))
    kafka.delete_topic("again")
    kafka.create_topic("again", partitions=2)
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap)
    partitions = [TopicPartition("again", number) for number in range(2)]
    assert set(consumer.end_offsets(partitions).values()) == {0}
    consumer.close()


@needs_kafka
def test_kafka_has_listeners_that_ask_for_a_login() -> None:
    """An extra listener with SASL lets the right password in and no other."""
    login = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'username="app" password="right" user_app="right";'
    )
    configs = {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.secure.plain.sasl.jaas.config": login,
    }
    with KafkaServer(configs, extra_listeners={"SECURE": "SASL_PLAINTEXT"}) as server:
        server.create_topic("t")

        def send(password: str) -> None:
            producer = KafkaProducer(
                bootstrap_servers=server.address("SECURE"),
                security_protocol="SASL_PLAINTEXT",
                sasl_mechanism="PLAIN",
                sasl_plain_username="app",
                sasl_plain_password=password,
                bootstrap_timeout_ms=3000,  # by default it tries a wrong password for 30 s
            )
            try:
                producer.send("t", b"x").get(timeout=10)
            finally:
                producer.close(timeout=5)

        send("right")
        with pytest.raises(KafkaError):
            send("wrong")


def run_word_count(jobs: FlinkJobServer, parallelism: int) -> None:
    options = PipelineOptions(jobs.options(parallelism=parallelism))
    with beam.Pipeline(options=options) as pipeline:
        sums = (
            pipeline
            | beam.Create(range(100))
            | "Key" >> beam.Map(lambda number: (number % 3, number))
            | beam.GroupByKey()
            | "Sum" >> beam.MapTuple(lambda _, numbers: sum(numbers))
        )
        assert_that(sums, equal_to([1683, 1617, 1650]))


@needs_flink
def test_flink_job_server_runs_a_pipeline_on_its_own_flink() -> None:
    """The `[local]` job server runs a pipeline of this SDK with workers in this process."""
    with FlinkJobServer() as jobs:
        run_word_count(jobs, parallelism=2)


@needs_flink
def test_flink_cluster_runs_a_pipeline_after_losing_a_task_manager() -> None:
    """A task manager that was killed is replaced, and the cluster then runs a pipeline."""
    with FlinkCluster(task_managers=1, slots=2) as cluster:
        cluster.kill_worker(0)
        cluster.restart_worker(0)
        with FlinkJobServer(cluster.rest_address) as jobs:
            run_word_count(jobs, parallelism=2)
        (job,) = cluster.rest("/jobs/overview")["jobs"]
        assert job["state"] == "FINISHED"
