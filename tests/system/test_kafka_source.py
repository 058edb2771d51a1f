"""The source on Apache Kafka: what changes, fails and comes back while it reads."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from pipelines.core.errors import (
    DataLossError,
    ServiceRefusedError,
    ServiceUnavailableError,
    SystemicError,
    TransientError,
)
from pipelines.core.failures import FAILURES
from pipelines.core.settings import Settings
from pipelines.io.kafka import (
    STOP,
    KafkaSource,
    ReadFromKafka,
    check_broker,
    close_consumers,
    commit_failure,
    ensure_topics,
    open_consumers,
    position_report,
    resolve_start,
)
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.mark import KafkaMark
from tests.support.collect import Collect, collected
from tests.support.kafka_server import KafkaServer, kafka_available

RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"

pytestmark = pytest.mark.skipif(
    not kafka_available(), reason="python deploy/local/install.py kafka"
)

JAAS = "org.apache.kafka.common.security.plain.PlainLoginModule required "


@pytest.fixture(scope="module")
def kafka():
    configs = {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.secure.plain.sasl.jaas.config": (
            f'{JAAS}username="admin" password="right" user_admin="right";'
        ),
    }
    with KafkaServer(configs, extra_listeners={"SECURE": "SASL_PLAINTEXT"}) as server:
        yield server


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


def settings_for(kafka, *topics, ingest=None, **more):
    values = {
        "bootstrap_servers": kafka.bootstrap,
        "topics": list(topics),
        "idle_seconds": 1.0,
        "metadata_refresh_seconds": 0.5,
        "outage_timeout_seconds": 60,
        **more,
    }
    return Settings(index="test", kafka=values, ingest=ingest or {})


def send(kafka, topic, numbers, partition=None, timestamp=None, **config):
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, **config)
    sent = [
        producer.send(topic, value=b"v%d" % n, partition=partition, timestamp_ms=timestamp)
        for n in numbers
    ]
    for future in sent:
        future.get(timeout=30)
    producer.close()


def reader_of(settings, group, mark=None, run_id=None):
    source = KafkaSource(Feed.of(settings, group), run_id or uuid.uuid4().hex)
    return source.create_reader(None, mark)


def numbers(records):
    return [int(record.value[1:]) for record in records]


def read_until(reader, done: Callable[[list], bool], seconds=30):
    """Read until the records are as wanted; they come back in either case."""
    deadline = time.monotonic() + seconds
    records = []
    while not done(records) and time.monotonic() < deadline:
        if reader.advance():
            records.append(reader.get_current())
    return records


def read(reader, count, seconds=30):
    return read_until(reader, lambda records: len(records) >= count, seconds)


def run(settings, group, name, until_caught_up=True):
    options = PipelineOptions(streaming=True)
    with beam.Pipeline(runner=RUNNER, options=options) as pipeline:
        records = pipeline | ReadFromKafka(settings, group, until_caught_up)
        _ = records | beam.ParDo(Collect(name))


def group_offsets(kafka, group):
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    try:
        found = admin.list_group_offsets(group)
    finally:
        admin.close()
    found = found.get(group, found)
    return {(p.topic, p.partition): value.offset for p, value in found.items()}


def test_commits_are_visible_to_kafkas_own_tools(kafka, topic):
    """After a run the group's offsets in the broker are the ends of the partitions."""
    kafka.create_topic(topic, 3)
    send(kafka, topic, range(90))
    settings = settings_for(kafka, topic)
    run(settings, topic, topic)
    assert sorted(numbers(collected(topic))) == list(range(90))
    assert sum(group_offsets(kafka, topic).values()) == 90
    assert all(read == done for read, done in position_report(topic).values())
    assert commit_failure(topic) is None


def test_new_partitions_are_read_from_their_beginning(kafka, topic):
    """Partitions added while the job runs lose none of their records."""
    kafka.create_topic(topic, 1)
    send(kafka, topic, range(5))
    reader = reader_of(settings_for(kafka, topic, start="latest"), topic)
    assert numbers(read(reader, 5)) == list(range(5))
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.create_partitions({topic: 3})
    admin.close()
    for partition in (1, 2):
        send(kafka, topic, range(10 * partition, 10 * partition + 3), partition=partition)
    assert sorted(numbers(read(reader, 6))) == [10, 11, 12, 20, 21, 22]
    reader.close()


def test_new_topics_of_a_pattern_are_taken_up(kafka, topic):
    """A topic that is created while the job runs and matches the pattern is read."""
    kafka.create_topic(f"{topic}.a")
    send(kafka, f"{topic}.a", range(2))
    reader = reader_of(settings_for(kafka, topics=[], pattern=f"{topic}\\..*"), topic)
    assert numbers(read(reader, 2)) == [0, 1]
    kafka.create_topic(f"{topic}.b", 2)
    send(kafka, f"{topic}.b", range(5, 9))
    assert sorted(numbers(read(reader, 4))) == [5, 6, 7, 8]
    reader.close()


@pytest.mark.parametrize("after", [3, 40])
def test_recreated_topic_is_read_from_its_beginning(kafka, topic, after):
    """A topic deleted and created anew starts over, be it shorter or longer than the old one."""
    kafka.create_topic(topic)
    send(kafka, topic, range(20))
    settings = settings_for(kafka, topic)
    reader = reader_of(settings, topic)
    read(reader, 20)
    old = reader.get_checkpoint_mark()
    old.finalize_checkpoint()
    kafka.delete_topic(topic)
    kafka.create_topic(topic)
    send(kafka, topic, range(100, 100 + after))
    wanted = set(range(100, 100 + after))

    def complete(records):
        # The longer one may be read from the old position on before it is seen to be another.
        return wanted <= set(numbers(records)) and records[-1].offset == after - 1

    records = read_until(reader, complete)
    assert wanted <= set(numbers(records))
    reader.get_checkpoint_mark().finalize_checkpoint()
    old.finalize_checkpoint()
    assert group_offsets(kafka, topic)[topic, 0] == after
    reader.close()


def test_recreated_topic_is_noticed_by_the_next_job(kafka, topic):
    """An offset committed for a topic of the same name that is gone is not taken for this one's."""
    kafka.create_topic(topic)
    send(kafka, topic, range(5))
    settings = settings_for(kafka, topic)
    reader = reader_of(settings, topic)
    read(reader, 5)
    mark = reader.get_checkpoint_mark()
    reader.close()
    kafka.delete_topic(topic)
    kafka.create_topic(topic)
    send(kafka, topic, range(100, 110))
    # As if the old job's last commit had come late.
    mark.finalize_checkpoint()
    assert group_offsets(kafka, topic)[topic, 0] == 5
    reader = reader_of(settings, topic)
    assert numbers(read(reader, 10)) == list(range(100, 110))
    reader.get_checkpoint_mark().finalize_checkpoint()
    assert group_offsets(kafka, topic)[topic, 0] == 10
    reader.close()


def test_deleted_topic_is_waited_for_within_the_bound(kafka, topic):
    """A topic that stays away stops the job, and the watermark stands still meanwhile."""
    kafka.create_topic(topic)
    send(kafka, topic, range(3), timestamp=1_600_000_000_000)
    reader = reader_of(settings_for(kafka, topic, outage_timeout_seconds=3), topic)
    read(reader, 3)
    kafka.delete_topic(topic)
    reader.advance()
    before = reader.get_watermark()
    with pytest.raises(ServiceUnavailableError, match="has been away"):
        read(reader, 1)
    assert reader.get_watermark() == before
    reader.close()


def test_dropped_records_stop_the_job_or_are_counted(kafka, topic):
    """Records that retention dropped unread are an error, unless the settings say go on."""
    kafka.create_topic(topic)
    send(kafka, topic, range(10))
    settings = settings_for(kafka, topic)
    reader = reader_of(settings, topic)
    read(reader, 4)
    mark = reader.get_checkpoint_mark()
    reader.close()
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.delete_records({TopicPartition(topic, 0): 7})
    admin.close()
    reader = reader_of(settings, topic, mark)
    with pytest.raises(DataLossError, match="next record to read is 4, but the topic begins at 7"):
        read(reader, 1)
    reader.close()
    reader = reader_of(settings_for(kafka, topic, on_data_loss="continue"), topic, mark)
    assert numbers(read(reader, 3)) == [7, 8, 9]
    reader.close()


def test_until_caught_up_ends_behind_aborted_transactions(kafka, topic):
    """Control records and aborted records at the end neither show nor keep the run from ending."""
    kafka.create_topic(topic)
    send(kafka, topic, range(3))
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=topic)
    producer.init_transactions()
    for abort in (False, True):
        producer.begin_transaction()
        for number in range(10 + abort * 10, 15 + abort * 10):
            producer.send(topic, value=b"v%d" % number)
        producer.flush()
        if abort:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()
    run(settings_for(kafka, topic), topic, topic)
    assert sorted(numbers(collected(topic))) == [0, 1, 2, 10, 11, 12, 13, 14]
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap)
    end = consumer.end_offsets([TopicPartition(topic, 0)])[TopicPartition(topic, 0)]
    consumer.close()
    assert group_offsets(kafka, topic)[topic, 0] == end == 15


def test_start_at_a_time(kafka, topic):
    """A time is resolved to the first record at or after it; the end when there is none."""
    kafka.create_topic(topic, 2)
    send(kafka, topic, range(10), partition=0, timestamp=1_500_000_000_000)
    send(kafka, topic, range(10, 30), partition=0, timestamp=1_600_000_000_000)
    send(kafka, topic, range(50, 60), partition=1, timestamp=1_500_000_000_000)
    settings = settings_for(kafka, topic, start="2020-01-01T00:00:00Z")
    resolve_start(settings, topic)
    send(kafka, topic, [99], partition=1)
    resolve_start(settings, topic)
    run(settings, topic, topic)
    assert sorted(numbers(collected(topic))) == [*range(10, 30), 99]


def test_broker_killed_mid_stream_loses_nothing(topic, tmp_path):
    """A broker that dies and comes back is waited for; every record comes, all is committed."""
    with KafkaServer(data_dir=tmp_path / "kafka") as server:
        server.create_topic(topic, 2)
        send(server, topic, range(200))
        settings = settings_for(server, topic, ingest={"bundle_events": 20})
        enough = threading.Event()
        seen = collected(topic, lambda _: enough.set() if len(seen) > 60 else None)
        failures = []

        def work():
            try:
                run(settings, topic, topic, until_caught_up=False)
            except Exception as error:  # noqa: BLE001 - the test asserts there was none
                failures.append(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        assert enough.wait(30)
        server.kill()
        before = threading.active_count()
        server.start()
        send(server, topic, range(200, 300))
        deadline = time.monotonic() + 60
        while len(set(numbers(seen))) < 300 and time.monotonic() < deadline:
            assert worker.is_alive(), failures
            worker.join(0.1)
        STOP.set()
        worker.join(30)
        assert not failures
        assert set(numbers(seen)) == set(range(300))
        assert sum(group_offsets(server, topic).values()) == 300
        assert threading.active_count() <= before


def test_outage_holds_the_watermark_and_ends_within_the_bound(topic, tmp_path):
    """A broker that hangs does not look like a quiet topic; the wait for it is bounded.

    A commit that was under way meanwhile is made when it is back.
    """
    with KafkaServer(data_dir=tmp_path / "kafka") as server:
        server.create_topic(topic)
        send(server, topic, range(3), timestamp=1_600_000_000_000)
        settings = settings_for(
            server, topic, outage_timeout_seconds=6, idle_seconds=1.0, request_timeout_seconds=2
        )
        reader = reader_of(settings, topic)
        read(reader, 3)
        patient = settings_for(server, topic, request_timeout_seconds=2)
        places = reader.get_checkpoint_mark().places
        mark = KafkaMark(Feed.of(patient, topic), places)
        committing = threading.Thread(target=mark.finalize_checkpoint, daemon=True)
        server.process.pause()
        try:
            committing.start()
            began = time.time()
            with pytest.raises(ServiceUnavailableError, match="has not answered"):
                read(reader, 1)
            assert 5 < time.time() - began < 25
            # What was answered before the pause may still be confirmed after it.
            assert reader.get_watermark().micros <= began * 1e6
        finally:
            server.process.resume()
            reader.close()
        committing.join(30)
        assert group_offsets(server, topic)[topic, 0] == 3


def test_refused_login_is_an_error_at_once(kafka, topic):
    """A wrong password stops with a message that names the settings, and not the password."""
    kafka.create_topic(topic)
    login = {
        "bootstrap_servers": kafka.address("SECURE"),
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_username": "admin",
    }
    wrong = settings_for(kafka, topic, **login, sasl_password="hush-hush-wrong")
    began = time.monotonic()
    for refused in (lambda: check_broker(wrong), lambda: reader_of(wrong, topic).advance()):
        with pytest.raises(ServiceRefusedError) as raised:
            refused()
        assert "hush-hush" not in f"{raised.value!r} {raised.value.__cause__!r}"
        assert "sasl" in str(raised.value)
    assert time.monotonic() - began < 10
    right = settings_for(kafka, topic, **login, sasl_password="right")
    assert check_broker(right).topics[topic].partitions == 1


def test_unsupported_mechanism_is_refused(kafka, topic):
    """A mechanism that the broker does not offer is a refusal, not an outage."""
    settings = settings_for(
        kafka,
        topic,
        bootstrap_servers=kafka.address("SECURE"),
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-256",
        sasl_username="admin",
        sasl_password="right",
    )
    with pytest.raises(ServiceRefusedError):
        check_broker(settings, timeout_seconds=3)


def test_nobody_listens(topic):
    """No broker at all is out of reach, told within the time given, and leaks no thread."""
    settings = Settings(index="test", kafka={"bootstrap_servers": "localhost:1", "topics": [topic]})
    before = threading.active_count()
    with pytest.raises(TransientError, match="localhost:1"):
        check_broker(settings, timeout_seconds=1)
    assert threading.active_count() == before


def test_topics_are_created_and_described(kafka, topic):
    """The dead-letter topic gets its retention, and the check tells what the broker knows."""
    kafka.create_topic(topic, 2, message_timestamp_type="LogAppendTime", cleanup_policy="compact")
    settings = settings_for(kafka, topic, dead_letter_retention_seconds=3600)
    made = ensure_topics(settings)
    assert [f"{topic}.dead-letters", f"{topic}.dead-letters.replay"] == made
    assert ensure_topics(settings) == []
    report = check_broker(settings)
    assert report.topics[topic].timestamp_type == "LogAppendTime"
    assert report.topics[topic].cleanup_policy == "compact"
    assert report.dead_letter_topic.retention_ms == 3_600_000
    assert f"{topic}.dead-letters.replay" in report.topics


def test_damaged_batch_is_an_error_with_its_place(kafka, topic, monkeypatch):
    """A batch that cannot be read is fetched again, then named: not skipped, not looped over."""
    from kafka.record.default_records import DefaultRecordBatch

    kafka.create_topic(topic)
    send(kafka, topic, range(3))
    send(kafka, topic, [3])
    valid = DefaultRecordBatch.validate_crc
    monkeypatch.setattr(
        DefaultRecordBatch, "validate_crc", lambda batch: batch.base_offset < 3 and valid(batch)
    )
    reader = reader_of(settings_for(kafka, topic), topic)
    assert numbers(read(reader, 3)) == [0, 1, 2]
    with pytest.raises(SystemicError, match=f"{topic}/0 at offset 3"):
        read(reader, 1)
    monkeypatch.undo()
    assert numbers(read(reader, 1)) == [3]
    reader.close()


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_threads_and_sockets_stay_flat_over_many_bundles(kafka, topic):
    """Over a thousand bundles neither threads nor descriptors grow."""
    kafka.create_topic(topic, 4)
    settings = settings_for(kafka, topic, ingest={"bundle_seconds": 0.01, "bundle_events": 4})
    samples = []
    name = f"{topic}-flat"

    def sample(_):
        if len(collected(name)) % 250 == 125:
            samples.append((threading.active_count(), descriptors()))

    collected(name, sample)
    send(kafka, topic, range(2000))
    run(settings, topic, name)
    assert len(collected(name)) == 2000
    assert len(samples) == 8
    threads, files = zip(*samples[1:], strict=True)
    assert max(threads) <= threads[0] + 1
    assert max(files) <= files[0] + 3
    assert open_consumers() == 0
