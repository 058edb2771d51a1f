"""The dead-letter topic on librdkafka's in-process broker."""

import json
import threading
import time
import uuid
from collections import Counter

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from confluent_kafka import Producer

from pipelines.core.dead_letters import DeadLetter
from pipelines.core.decode import Origin, origin_headers
from pipelines.core.errors import BadRecordError, Reason, ServiceUnavailableError
from pipelines.core.position import Position
from pipelines.core.records import Record
from pipelines.core.replay import Verdict
from pipelines.core.settings import Settings
from pipelines.io.kafka.dead_letters import (
    WriteDeadLetters,
    plan_replay_of_topic,
    read_dead_letters,
    replay,
    write_dead_letters,
)
from pipelines.io.kafka.producer import close_producers, send_all
from pipelines.io.kafka.topic_reader import read_topic
from pipelines.transforms.decode import DEAD_LETTERS, DecodeFn, decode
from tests.support.hostile import hostile_records

ERROR = BadRecordError(Reason.TEXT_TOO_LARGE, "too large")


@pytest.fixture(scope="module")
def broker():
    producer = Producer(
        {"bootstrap.servers": "ignored", "test.mock.num.brokers": 1, "log_level": 3}
    )
    (found,) = producer.list_topics(timeout=10).brokers.values()
    yield producer, f"{found.host}:{found.port}"
    close_producers()


def topics_of(broker, **sections):
    """Settings with topics of their own, which exist."""
    producer, bootstrap = broker
    kafka = {
        "bootstrap_servers": bootstrap,
        "api_version": (2, 3),
        "topics": [f"documents-{uuid.uuid4().hex[:8]}"],
        "request_timeout_seconds": 5,
        "outage_timeout_seconds": 20,
    }
    kafka.update(sections.pop("kafka", {}))
    settings = Settings(kafka=kafka, **sections)
    for topic in (*kafka["topics"], settings.dead_letter_topic, settings.replay_topic):
        producer.list_topics(topic, timeout=10)
    return settings


@pytest.fixture
def settings(broker):
    return topics_of(broker)


def record(offset, value=b'{"id": "a", "text": "b"}', key=b"a", headers=(), topic="documents"):
    return Record(topic, 0, offset, 1000, key, value, tuple(headers))


def letters(settings, *records, error=ERROR):
    return [DeadLetter.of(one, error, settings, now=1_700_000_000.0) for one in records]


def test_letters_come_back_as_they_were_written(settings):
    """Through the real wire: bytes, nulls, headers and position."""
    odd = (("trace", b"\x00\xff"), ("trace", b""), ("none", None), ("ünïcode", b"1"))
    written = letters(
        settings,
        record(0, b"\x00\xff", b"\xff", odd),
        record(1, None, b"a"),
        record(2, b"x", None),
        record(3, None, None),
        record(4, b"", b""),
    )
    write_dead_letters(written, settings)
    found = sorted(read_dead_letters(settings), key=lambda one: one.origin.offset)
    assert written == found


def test_every_hostile_record_of_a_pipeline_reaches_the_topic(settings):
    """What a bundle refuses is in the topic when the bundle ends, each with its reason."""
    shapes = hostile_records()
    records = [
        Record("documents", 0, n, 1000, one.key, one.value, one.headers)
        for n, one in enumerate(shapes)
    ]
    good = record(len(shapes))
    with beam.Pipeline(
        runner="apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
    ) as pipeline:
        decoded = (
            pipeline
            | beam.Create([*records, good])
            | beam.ParDo(DecodeFn(settings)).with_outputs(DEAD_LETTERS, main="events")
        )
        _ = decoded[DEAD_LETTERS] | WriteDeadLetters(settings)
        assert_that(decoded.events | beam.Map(lambda event: event.document_id), equal_to(["a"]))
    found = {one.origin.offset: one.reason for one in read_dead_letters(settings)}
    assert {n: one.reason.value for n, one in enumerate(shapes)} == found


def test_a_letter_too_large_for_the_client_keeps_hash_and_position(settings, monkeypatch):
    """What no broker takes loses its value and is written all the same; the others are whole."""
    monkeypatch.setattr("pipelines.io.kafka.producer._MAX_REQUEST_BYTES", 20_000)
    close_producers()
    large = record(1, b"x" * 50_000)
    larger = record(2, b"y" * 50_000, headers=[("trace", b"z" * 50_000)])
    largest = record(3, b"y", key=b"k" * 50_000)
    write_dead_letters(letters(settings, record(0), large, larger, largest), settings)
    close_producers()
    found = {one.origin.offset: one for one in read_dead_letters(settings)}
    assert {offset: one.omitted for offset, one in found.items()} == {
        0: (),
        1: ("value",),
        2: ("value", "headers"),
        3: ("value", "headers", "key"),
    }
    assert (found[1].value_bytes, found[1].key) == (50_000, b"a")
    assert letters(settings, large)[0].value_sha256 == found[1].value_sha256
    assert plan_replay_of_topic(settings).count(Verdict.OMITTED) == 3


def test_reading_ends_at_the_ends_of_its_start(settings):
    """A reader does not chase what is written while it reads."""
    write_dead_letters(letters(settings, record(0), record(1)), settings)
    found = []
    for letter in read_dead_letters(settings):
        found.append(letter.origin.offset)
        write_dead_letters(letters(settings, record(100 + len(found))), settings)
    assert sorted(found) == [0, 1]


def test_a_topic_that_is_not_there_is_empty(broker):
    """Nothing refused yet is no error."""
    settings = topics_of(broker, kafka={"dead_letter_topic": f"never-{uuid.uuid4().hex}"})
    missing = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"topics": ["x"]})}
    )
    assert list(read_topic(missing, f"never-{uuid.uuid4().hex}")) == []


def test_foreign_records_are_passed_over(settings, broker):
    """Somebody's record in the dead-letter topic is named and stops nothing."""
    producer, _ = broker
    producer.produce(settings.dead_letter_topic, key="k", value="not ours")
    assert producer.flush(10) == 0
    write_dead_letters(letters(settings, record(0)), settings)
    foreign = []
    found = list(read_dead_letters(settings, on_foreign=foreign.append))
    assert (len(found), len(foreign)) == (1, 1)


def test_a_replay_sends_what_is_accepted_today_under_its_first_position(broker):
    """Dry run, then the sending; the job would read each event where it stood first."""
    small = topics_of(broker, limits={"text_bytes": 1})
    long_text = json.dumps({"id": "a", "text": "long"}).encode()
    records = [record(n, long_text, headers=[("trace", b"x")]) for n in range(7)]
    records.append(record(7, b"{"))
    refused = []
    for one in records:
        with pytest.raises(BadRecordError) as caught:
            decode(one, small)
        refused += letters(small, one, error=caught.value)
    write_dead_letters(refused, small)

    assert plan_replay_of_topic(small).planned == ()
    settings = small.model_copy(update={"limits": Settings().limits})
    plan = plan_replay_of_topic(settings)
    assert (plan.count(Verdict.SEND), plan.count(Verdict.STILL_REFUSED)) == (7, 1)
    assert list(read_topic(settings, settings.replay_topic)) == []

    progress = []
    result = replay(settings, plan, per_second=1e6, on_progress=progress.append)
    assert (result.sent, result.too_large, result.gone, result.stopped) == (7, 0, 0, False)
    assert progress[-1] == 7
    read = [decode(one, settings) for one in read_topic(settings, settings.replay_topic)]
    assert {Position("documents", 0, n, 1000) for n in range(7)} == {
        event.position for event in read
    }
    again = plan_replay_of_topic(settings)
    assert (len(again.planned), again.count(Verdict.ALREADY_REPLAYED)) == (0, 7)


def test_an_event_that_comes_back_is_sent_again_until_it_has_gone_round_enough(settings):
    """Refused after every replay, it stops after three; no run sends more than it planned."""
    refused = BadRecordError(Reason.REFUSED_BY_MODEL, "no")
    write_dead_letters(letters(settings, record(0), error=refused), settings)
    rounds = 0
    seen = 0
    while (plan := plan_replay_of_topic(settings)).planned:
        assert replay(settings, plan, per_second=1e6).sent == 1
        rounds += 1
        *_, last = sorted(
            read_topic(settings, settings.replay_topic), key=lambda one: one.headers[-1][1]
        )
        write_dead_letters(letters(settings, last, error=refused), settings)
        seen = int(last.headers[-1][1])
    assert (rounds, seen) == (3, 3)
    assert plan_replay_of_topic(settings).count(Verdict.EXHAUSTED) == 1


def test_a_replay_keeps_to_its_rate_and_stops_when_asked(settings):
    """Batches are paced by a clock; what was sent before a stop stays, the rest comes next time."""
    write_dead_letters(letters(settings, *(record(n) for n in range(25))), settings)
    now = [0.0]
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    def run(**options):
        plan = plan_replay_of_topic(settings)
        return replay(settings, plan, per_second=50, sleep=sleep, clock=lambda: now[0], **options)

    assert run(should_stop=lambda: now[0] >= 0.2).sent == 10
    result = run()
    assert (result.sent, result.stopped) == (15, False)
    assert sum(slept) == pytest.approx(0.2 + 0.2)
    positions = Counter(
        dict(one.headers)["plumbline.origin.offset"]
        for one in read_topic(settings, settings.replay_topic)
    )
    assert Counter(str(n).encode() for n in range(25)) == positions


def test_writers_share_a_producer(settings):
    """Threads of a runner write at the same time, and every letter is there."""
    errors = []

    def write(first):
        try:
            write_dead_letters(letters(settings, *(record(first + n) for n in range(20))), settings)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=write, args=(100 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    found = Counter(one.origin.offset for one in read_dead_letters(settings))
    assert {100 * n + m for n in range(6) for m in range(20)} == set(found)


def test_a_broker_that_is_gone_stops_the_job_within_its_bound(broker):
    """An outage is waited out, then it is loud: nothing may be committed without its letter."""
    settings = topics_of(broker)
    dead = settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(
                update={
                    "bootstrap_servers": "127.0.0.1:9",
                    "outage_timeout_seconds": 2.0,
                    "request_timeout_seconds": 1.0,
                }
            )
        }
    )
    started = time.monotonic()
    with pytest.raises(ServiceUnavailableError):
        write_dead_letters(letters(dead, record(0)), dead)
    assert time.monotonic() - started < 30


def test_a_topic_that_is_missing_is_not_made_by_accident(settings):
    """Whether topics are made is a setting; a sink that makes them would hide a typo."""
    elsewhere = settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(
                update={
                    "dead_letter_topic": f"typo-{uuid.uuid4().hex[:8]}",
                    "outage_timeout_seconds": 1.0,
                    "request_timeout_seconds": 1.0,
                }
            )
        }
    )
    with pytest.raises(ServiceUnavailableError):
        write_dead_letters(letters(elsewhere, record(0)), elsewhere)


def test_an_error_half_way_repeats_only_what_is_not_acknowledged(settings, monkeypatch):
    """What the broker has taken is not sent again when another record of the bundle failed."""
    from kafka import KafkaProducer
    from kafka.errors import NotEnoughReplicasError

    send = KafkaProducer.send
    failures = [NotEnoughReplicasError(), NotEnoughReplicasError()]
    calls = []

    def flaky(self, topic, **options):
        calls.append(options["key"])
        if options["key"] == b"k2" and failures:
            raise failures.pop()
        return send(self, topic, **options)

    monkeypatch.setattr(KafkaProducer, "send", flaky)
    records = letters(settings, *(record(n, key=f"k{n}".encode()) for n in range(4)))
    assert send_all(settings, settings.dead_letter_topic, [one.to_wire() for one in records]) == []
    assert Counter({b"k0": 1, b"k1": 1, b"k2": 3, b"k3": 1}) == Counter(calls)
    assert len(list(read_dead_letters(settings))) == 4


def test_the_first_position_survives_a_replay_that_fails(settings):
    """A dead letter of a replayed event points to the source topic, not to the replay topic."""
    origin = Origin("documents", 4, 9, 77, 1)
    replayed = record(0, b"{", headers=origin_headers(origin), topic=settings.replay_topic)
    write_dead_letters(letters(settings, replayed), settings)
    (found,) = read_dead_letters(settings)
    assert (origin, ()) == (found.origin, found.headers)


def test_a_send_without_acknowledgement_is_no_success(settings, monkeypatch):
    """The bundle must not end while a letter is only on its way."""
    from kafka import KafkaProducer
    from kafka.producer.future import FutureProduceResult, FutureRecordMetadata

    def silent(self, topic, **options):
        return FutureRecordMetadata(FutureProduceResult((topic, 0)), 0, 0, None, 0, 0, 0)

    monkeypatch.setattr(KafkaProducer, "send", silent)
    short = {"request_timeout_seconds": 0.5, "outage_timeout_seconds": 0.5}
    impatient = settings.model_copy(update={"kafka": settings.kafka.model_copy(update=short)})
    with pytest.raises(ServiceUnavailableError):
        write_dead_letters(letters(impatient, record(0)), impatient)
