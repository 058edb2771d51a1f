"""The source on librdkafka's in-process broker."""

from __future__ import annotations

import logging
import pickle
import threading
import time
import uuid

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment
from apache_beam.utils.timestamp import MAX_TIMESTAMP
from confluent_kafka import Producer
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import GroupAuthorizationFailedError

from pipelines.core.errors import CommitError, LeaseHeldError, SettingsError, UnknownNameError
from pipelines.core.failures import FAILURES
from pipelines.core.settings import Settings
from pipelines.io.kafka import (
    STOP,
    KafkaSource,
    ReadFromKafka,
    check_broker,
    close_consumers,
    commit_failure,
    connect_consumer,
    open_consumers,
    position_report,
    resolve_start,
)
from pipelines.io.kafka.feed import Feed
from tests.support.collect import Collect, collected

RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"


class MockBroker:
    """librdkafka's broker, and a producer to it."""

    def __init__(self):
        self.producer = Producer(
            {"bootstrap.servers": "ignored", "test.mock.num.brokers": 1, "log_level": 0}
        )
        (broker,) = self.producer.list_topics(timeout=10).brokers.values()
        self.bootstrap = f"{broker.host}:{broker.port}"

    def send(self, topic, count=1, partition=None, timestamp=None, start=0):
        """Produce numbered records; a topic comes into being with four partitions."""
        for number in range(start, start + count):
            extra = {} if partition is None else {"partition": partition}
            if timestamp is not None:
                extra["timestamp"] = timestamp
            self.producer.produce(topic, key=f"k{number}", value=f"v{number}", **extra)
        assert self.producer.flush(10) == 0


@pytest.fixture(scope="module")
def broker():
    return MockBroker()


@pytest.fixture
def topic():
    return f"documents-{uuid.uuid4().hex[:8]}"


@pytest.fixture(autouse=True)
def no_leftovers():
    STOP.clear()
    FAILURES.clear()
    yield
    STOP.clear()
    FAILURES.clear()
    close_consumers()


def settings_for(broker, *topics, ingest=None, **kafka):
    kafka = {
        "bootstrap_servers": broker.bootstrap,
        "topics": list(topics),
        "api_version": (2, 3),
        "idle_seconds": 0.5,
        "metadata_refresh_seconds": 0.5,
        **kafka,
    }
    return Settings(index="test", kafka=kafka, ingest=ingest or {})


def run(settings, group, name, until_caught_up=True, runner=RUNNER):
    options = PipelineOptions([], streaming=True)
    with beam.Pipeline(runner=runner, options=options) as pipeline:
        records = pipeline | ReadFromKafka(settings, group, until_caught_up)
        _ = records | beam.ParDo(Collect(name))


def committed(settings, group, topic):
    consumer = connect_consumer(settings.kafka, settings.index, group)
    try:
        return {
            number: consumer.committed(TopicPartition(topic, number), timeout_ms=5000)
            for number in range(4)
        }
    finally:
        consumer.close(autocommit=False)


def reader_of(settings, group, mark=None, run_id=None):
    source = KafkaSource(Feed.of(settings, group), run_id or uuid.uuid4().hex)
    return source.create_reader(None, mark)


def drain(reader, count, seconds=10):
    """Read so many records, or as many as come in time."""
    deadline = time.monotonic() + seconds
    records = []
    while len(records) < count and time.monotonic() < deadline:
        if reader.advance():
            records.append(reader.get_current())
    return records


def values(records):
    return sorted(record.value for record in records)


def test_reads_everything_commits_exactly_and_resumes(broker, topic):
    """A run ends with every record given out once and every offset committed; the next goes on."""
    settings = settings_for(broker, topic, ingest={"bundle_events": 70})
    broker.send(topic, 500)
    run(settings, topic, f"{topic}-1")
    first = collected(f"{topic}-1")
    assert [f"v{number}".encode() for number in range(500)] == sorted(
        (record.value for record in first), key=lambda value: int(value[1:])
    )
    ends = {number: sum(record.partition == number for record in first) for number in range(4)}
    assert ends == {n: offset or 0 for n, offset in committed(settings, topic, topic).items()}
    assert all(read == done for read, done in position_report(topic).values())
    assert commit_failure(topic) is None
    assert open_consumers() == 0

    broker.send(topic, 7, start=500)
    run(settings, topic, f"{topic}-2")
    assert values(collected(f"{topic}-2")) == [f"v{number}".encode() for number in range(500, 507)]


def test_runner_keeps_one_reader(broker, topic, monkeypatch):
    """Bundle after bundle Beam finds the parked reader again: nothing is fetched twice."""
    made = []
    create = KafkaSource.create_reader

    def count(source, options, mark):
        made.append(mark)
        return create(source, options, mark)

    monkeypatch.setattr(KafkaSource, "create_reader", count)
    broker.send(topic, 200)
    run(settings_for(broker, topic, ingest={"bundle_events": 10}), topic, topic)
    assert len(collected(topic)) == 200
    assert made == [None]


def test_stop_signal_ends_a_live_run_with_all_committed(broker, topic):
    """Once the signal is set, run() returns and what was given out is committed."""
    settings = settings_for(broker, topic, ingest={"bundle_events": 50})
    broker.send(topic, 300)
    seen = threading.Event()
    name = f"{topic}-live"
    collected(name, lambda _: seen.set() if len(collected(name)) > 100 else None)
    worker = threading.Thread(target=run, args=(settings, topic, name, False), daemon=True)
    worker.start()
    assert seen.wait(30)
    STOP.set()
    worker.join(30)
    assert not worker.is_alive()
    done = sum(offset or 0 for offset in committed(settings, topic, topic).values())
    assert len(collected(name)) == done


def test_pattern_reads_matching_topics_but_never_the_dead_letters(broker, topic):
    """A pattern that matches the dead-letter topic leaves it out; the replay topic comes once."""
    settings = settings_for(
        broker, pattern=f"{topic}.*", topics=[], dead_letter_topic=f"{topic}.dead"
    )
    broker.send(f"{topic}.a", 3)
    broker.send(f"{topic}.dead", 3, start=100)
    broker.send(f"{topic}.dead.replay", 3, start=200)
    run(settings, topic, topic)
    assert sorted([f"v{n}".encode() for n in (0, 1, 2, 200, 201, 202)]) == values(collected(topic))


def test_unknown_topic_stops_with_the_nearest_name(broker, topic):
    """A topic that does not exist is an error that names one that does, not an endless wait."""
    broker.send(topic, 1)
    settings = settings_for(broker, f"{topic}x")
    with pytest.raises(UnknownNameError, match=f"did you mean.*{topic}"):
        check_broker(settings)
    with pytest.raises(UnknownNameError, match=f"did you mean.*{topic}"):
        reader_of(settings, topic).start()


def test_check_broker_refuses_the_dead_letter_topic_as_a_source(broker, topic):
    """The dead letters are never read as documents."""
    with pytest.raises(SettingsError, match="dead-letter"):
        check_broker(settings_for(broker, topic, dead_letter_topic=topic))


def test_check_broker_describes_the_topics(broker, topic):
    """Brokers, partitions, and None for what the broker does not tell."""
    broker.send(topic, 1)
    report = check_broker(settings_for(broker, topic))
    assert report.brokers == 1
    assert report.topics[topic].partitions == 4
    assert report.dead_letter_topic is None


def test_failed_commit_is_raised_by_the_next_reader(broker, topic, monkeypatch):
    """A commit that the broker refuses fails the job, though Beam only logs a finalisation."""
    settings = settings_for(broker, topic)
    broker.send(topic, 10)
    reader = reader_of(settings, topic)
    assert len(drain(reader, 10)) == 10
    mark = reader.get_checkpoint_mark()

    def refuse(*_, **__):
        raise GroupAuthorizationFailedError(topic)

    monkeypatch.setattr(KafkaConsumer, "commit", refuse)
    with pytest.raises(CommitError, match="Grant Read on the group"):
        mark.finalize_checkpoint()
    assert commit_failure(topic) is not None
    with pytest.raises(CommitError):
        reader.advance()
    assert commit_failure(topic) is None
    monkeypatch.undo()
    FAILURES.clear()
    mark.finalize_checkpoint()
    assert sum(offset or 0 for offset in committed(settings, topic, topic).values()) == 10
    reader.close()


def test_failed_commit_fails_the_run(broker, topic, monkeypatch):
    """In a pipeline the bundle after a failed commit fails, so run() raises."""
    settings = settings_for(broker, topic, ingest={"bundle_events": 5})
    broker.send(topic, 50)

    def refuse(*_, **__):
        raise GroupAuthorizationFailedError(topic)

    monkeypatch.setattr(KafkaConsumer, "commit", refuse)
    with pytest.raises(Exception, match="could not be committed"):
        run(settings, topic, topic)
    assert len(collected(topic)) < 50


def test_failed_job_commits_nothing_more(broker, topic):
    """Whatever is finalised after a failure stays uncommitted: the records come again."""
    settings = settings_for(broker, topic)
    broker.send(topic, 5, partition=0)
    reader = reader_of(settings, topic)
    drain(reader, 5)
    FAILURES.record(LeaseHeldError("another job has it"))
    reader.get_checkpoint_mark().finalize_checkpoint()
    assert committed(settings, topic, topic)[0] is None
    reader.close()


def test_commits_never_go_back(broker, topic):
    """Marks finalised out of order leave the furthest position committed."""
    settings = settings_for(broker, topic)
    broker.send(topic, 20, partition=0)
    reader = reader_of(settings, topic)
    drain(reader, 5)
    early = reader.get_checkpoint_mark()
    drain(reader, 15)
    late = reader.get_checkpoint_mark()
    late.finalize_checkpoint()
    early.finalize_checkpoint()
    assert committed(settings, topic, topic)[0] == 20
    reader.close()


def test_mark_holds_what_was_given_out_not_what_was_fetched(broker, topic):
    """A reader built from a mark starts at the record after the last one given out."""
    settings = settings_for(broker, topic)
    broker.send(topic, 100)
    run_id = uuid.uuid4().hex
    first = reader_of(settings, topic, run_id=run_id)
    before = drain(first, 30)
    mark = first.get_checkpoint_mark()
    coder = KafkaSource(Feed.of(settings, topic), run_id).get_checkpoint_mark_coder()
    second = reader_of(settings, topic, coder.decode(coder.encode(mark)), run_id)
    after = drain(second, 70)
    assert values([*before, *after]) == sorted(f"v{number}".encode() for number in range(100))
    second.close()
    first.close()


def test_parked_reader_is_fenced_and_may_come_back(broker, topic):
    """Two readers of a split share one consumer; each goes on where it was, whoever polls."""
    settings = settings_for(broker, topic, max_poll_records=10)
    broker.send(topic, 60)
    run_id = uuid.uuid4().hex
    parked = reader_of(settings, topic, run_id=run_id)
    first = drain(parked, 5)
    mark = parked.get_checkpoint_mark()
    other = reader_of(settings, topic, mark, run_id)
    second = drain(other, 25)
    assert open_consumers() == 1
    again = drain(parked, 55)
    rest = drain(other, 30)
    everything = sorted(f"v{number}".encode() for number in range(60))
    assert values([*first, *again]) == everything
    assert values([*first, *second, *rest]) == everything
    parked.close()  # it lost the consumer to the other one
    assert open_consumers() == 1
    broker.send(topic, 1, start=60)
    assert values(drain(other, 1)) == [b"v60"]
    other.close()
    assert open_consumers() == 0


def test_many_readers_from_marks_use_one_consumer(broker, topic):
    """A runner that builds a reader for each bundle leaks neither threads nor sockets."""
    settings = settings_for(broker, topic)
    broker.send(topic, 200)
    run_id = uuid.uuid4().hex
    mark, seen, threads = None, [], None
    readers = []
    for _ in range(100):
        reader = reader_of(settings, topic, mark, run_id)
        seen.extend(drain(reader, 2))
        mark = reader.get_checkpoint_mark()
        mark.finalize_checkpoint()
        readers.append(reader)
        threads = threads or threading.active_count()
    assert threading.active_count() == threads
    assert values(seen) == sorted(f"v{number}".encode() for number in range(200))
    for reader in readers:
        reader.close()
    assert open_consumers() == 0


def test_splits_share_the_partitions(broker, topic):
    """Every partition belongs to exactly one split, and all splits together read everything."""
    settings = settings_for(broker, topic, splits=3)
    broker.send(topic, 100)
    run(settings, topic, topic)
    assert values(collected(topic)) == sorted(f"v{number}".encode() for number in range(100))
    assert open_consumers() == 0


@pytest.mark.parametrize(("start", "expected"), [("earliest", 30), ("latest", 0)])
def test_start_is_resolved_once(broker, topic, start, expected):
    """Earliest or latest is committed before the first read, and never again."""
    settings = settings_for(broker, topic, start=start)
    broker.send(topic, 30, partition=0)
    resolve_start(settings, topic)
    broker.send(topic, 5, partition=0, start=30)
    resolve_start(settings, topic)
    run(settings, topic, topic)
    assert len(collected(topic)) == expected + 5


def test_watermark_follows_event_times_then_the_clock(broker, topic):
    """It is held by the least partition, and a partition at its end stops holding it."""
    settings = settings_for(broker, topic)
    broker.send(topic, 1, partition=0, timestamp=1_600_000_000_000)
    reader = reader_of(settings, topic)
    drain(reader, 1)
    assert reader.get_watermark().micros < 1_600_000_000_000_000
    deadline = time.monotonic() + 15
    while reader.get_watermark().micros < (time.time() - 5) * 1e6:
        assert time.monotonic() < deadline
        assert not reader.advance()
    assert reader.get_watermark() < MAX_TIMESTAMP
    reader.close()


def test_source_pickles_the_same_and_without_secrets(broker, topic):
    """Beam finds a parked reader by the pickled source, and workers' pickles hold no password."""
    settings = settings_for(
        broker,
        topic,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="me",
        sasl_password="hush-hush",
    )
    source = KafkaSource(Feed.of(settings, topic), "run", 0, {TopicPartition(topic, 1): 5})
    once = pickle.dumps(source)
    assert once == pickle.dumps(pickle.loads(once))
    assert pickle.loads(once) == source
    assert b"hush-hush" not in once
    coder = source.get_checkpoint_mark_coder()
    assert b"hush-hush" not in pickle.dumps(coder)
    assert pickle.loads(pickle.dumps(coder)) == coder


def test_a_runner_that_splits_bundles_in_their_midst(broker, caplog):
    """As Prism and Dataflow do; Beam had the bytes of a bundle's first records for NaN."""
    topic = uuid.uuid4().hex
    broker.send(topic, 240, partition=0)
    settings = settings_for(broker, topic, ingest={"bundle_events": 60})
    name, reached, asked = uuid.uuid4().hex, threading.Event(), threading.Event()
    begun_at, answers = 0, []

    def hold(_record):
        if len(seen) == begun_at + 5:
            reached.set()
            asked.wait(10)

    seen = collected(name, hold)

    def ask(_elements):
        nonlocal begun_at
        begun_at = len(seen)
        reached.clear()
        asked.clear()
        yield None  # the bundle begins
        if reached.wait(2):
            answers.append((yield 0.5))
        asked.set()

    # Its worker answers while a bundle runs; the embedded one does one thing after the other.
    runner = fn_runner.FnApiRunner(EmbeddedPythonGrpcEnvironment())
    with fn_runner.split_manager("ReadFromKafka/Read", ask):
        run(settings, "splitting", name, runner=runner)
    assert len(answers) >= 3
    # Beam's test runner takes an error for "nothing to split"; Prism fails the job over it.
    assert not [
        found
        for found in caplog.records
        if found.levelno >= logging.ERROR and found.name.startswith("apache_beam")
    ]
    assert [record.value for record in seen] == [b"v%d" % number for number in range(240)]
