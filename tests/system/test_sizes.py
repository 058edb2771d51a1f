"""Extremes of size: one huge event, very many tiny ones, one hot key, a thousand partitions."""

from __future__ import annotations

import json
import random
import string
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from pipelines.core.records import Record
from tests.conftest import require
from tests.support.jobs import IngestProcess
from tests.support.kafka_server import INSTALL_HINT, KafkaServer, kafka_available
from tests.support.processes import wait_until
from tests.support.scenario import Scenario
from tests.support.stream import Message
from tests.support.topics import Topic
from tests.support.usage import cpu_seconds, peak_mib

MEBI = 1024 * 1024
SEED = 20_261_129

PLAIN_MIB = 900.0
"""Bound of a job with a tiny model; torch and the other libraries take most of it."""

Make = Callable[..., Scenario]


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaServer]:
    """One that takes records of 32 MiB, and to which a thousand partitions are nobody's burden."""
    require(kafka_available(), INSTALL_HINT)
    with KafkaServer({"message.max.bytes": 32 * MEBI}) as server:
        yield server


@pytest.fixture
def make(broker: KafkaServer, store: Any, tmp_path: Path, model: Path) -> Make:
    """Makes scenarios whose documents are not cut, with everything else at its default."""

    def scenario(name: str, **arguments: Any) -> Scenario:
        settings = {
            "contract": {"chunk": None},
            "ingest": {"batch_events": 256, "bundle_events": 2048, "bundle_seconds": 5.0},
            **arguments.pop("settings", {}),
        }
        named = f"{name}-{time.time_ns()}"
        return Scenario(
            broker, store.url, tmp_path, named, model=model, settings=settings, **arguments
        )

    return scenario


def document(name: str, text: str) -> Message:
    """One whole document."""
    return Message(name.encode(), json.dumps({"id": name, "text": text}).encode())


def produce(topic: Topic, messages: Sequence[Message]) -> float:
    """Sends by a producer in C, which is quicker and takes larger records; gives the seconds."""
    now = int(time.time() * 1000)
    sent: list[tuple[Message, Any]] = []
    producer = Producer(
        {
            "bootstrap.servers": topic.bootstrap,
            "message.max.bytes": 32 * MEBI,
            "queue.buffering.max.messages": 1_000_000,
            "linger.ms": 5,
        }
    )
    began = time.perf_counter()
    for message in messages:
        producer.produce(
            topic.name,
            key=message.key,
            value=message.value,
            partition=topic.partition_of(message),
            timestamp=now,
            on_delivery=lambda error, record, message=message: sent.append((message, record)),
        )
    assert producer.flush(120) == 0
    seconds = time.perf_counter() - began
    for message, record in sent:
        assert record.error() is None, record.error()
        place = (topic.name, record.partition(), record.offset())
        topic.records.append(Record(*place, now, message.key, message.value, ()))
        if message.hostile is not None:
            topic.hostile[place] = message.hostile
    return seconds


def ended(it: Scenario, job: IngestProcess, what: str, timeout_seconds: float = 240.0) -> float:
    """Peak memory of a job that ends by itself, MiB; all it did must be right.

    With `pytest -s` says what the guide to production quotes.
    """
    began = time.monotonic()
    peak = cpu = 0.0

    def over() -> bool:
        nonlocal peak, cpu
        peak = max(peak, peak_mib(job.pid))
        cpu = max(cpu, cpu_seconds([job.pid]))
        return not job.running

    wait_until(over, timeout_seconds, what="the job has ended")
    seconds = time.monotonic() - began
    counts = job.done(1)
    problems = it.problems()
    assert not problems, problems[:10]
    print(f"{what}: {seconds:.1f} s, {cpu:.1f} s of CPU, peak {peak:.0f} MiB, {counts}")
    return peak


@pytest.mark.parametrize("accepted", [False, True])
def test_one_event_of_ten_megabytes(make: Make, broker: KafkaServer, accepted: bool) -> None:
    """It is a dead letter without its value, or a document, as the settings say; nothing waits.

    It is larger than a partition's share of a fetch, than the dead-letter topic takes, and than a
    request to the store is made otherwise.
    """
    limits = {"text_bytes": 16 * MEBI} if accepted else {}
    it = make(f"large-{accepted}", settings={"limits": limits})
    broker.create_topic(it.settings.dead_letter_topic, max_message_bytes=MEBI)
    # Of random words: the dead-letter topic must not take it because it compresses well.
    dice = random.Random(SEED)
    words = ["".join(dice.choices(string.ascii_lowercase, k=6)) for _ in range(4096)]
    large = document("large", " ".join(dice.choices(words, k=10 * MEBI // 7)))
    if not accepted:
        large = Message(large.key, large.value, hostile="text_too_large")
    around = [document(f"d{number}", f"text {number}") for number in range(100)]
    produce(it.topic, [*around[:50], large, *around[50:]])
    with it.job("--until-caught-up") as job:
        # The value, what is decoded of it, and what the tokenizer makes of that.
        peak = ended(it, job, f"one event of 10 MiB, accepted: {accepted}")
        assert bool(job.events("dead_letter_shortened")) is not accepted
    assert peak < (PLAIN_MIB + 1500 if accepted else PLAIN_MIB + 150)


@pytest.mark.acceptance
@pytest.mark.timeout(1200)
def test_a_burst_of_tiny_events(make: Make, acceptance: bool) -> None:
    """A hundred thousand that come in one second wait in the topic, and take no memory."""
    count = 100_000 if acceptance else 8_000
    it = make("burst", partitions=4)
    produce(it.topic, [document("first", "first")])
    with it.job() as job:
        it.wait_caught_up(job)
        events = [document(f"d{number % 20_000}", f"{number}") for number in range(count)]
        began = time.monotonic()
        seconds = produce(it.topic, events)
        it.wait_caught_up(job, 900)
        taken = time.monotonic() - began
        job.terminate()
        what = (
            f"{count} tiny events, produced in {seconds:.1f} s, all committed after {taken:.1f} s"
        )
        peak = ended(it, job, f"{what}; the end")
    assert peak < PLAIN_MIB


@pytest.mark.acceptance
@pytest.mark.timeout(1200)
def test_one_hot_key(make: Make, acceptance: bool) -> None:
    """Of one document's events only the newest of a batch is encoded, and the last one stands."""
    count = 100_000 if acceptance else 5_000
    it = make("hot", partitions=4)
    produce(it.topic, [document("hot", f"text {number}") for number in range(count)])
    with it.job("--until-caught-up") as job:
        peak = ended(it, job, f"{count} events of one key", 600)
        outcomes = job.events("job_finished")[-1]
    assert outcomes["embedded"] + outcomes["stale"] == count
    batches = -(-count // 256) + -(-count // 2048) + 20
    assert outcomes["embedded"] <= batches
    assert peak < PLAIN_MIB


@pytest.mark.timeout(600)
def test_a_thousand_partitions_for_one_worker(make: Make) -> None:
    """One reader takes them all: every record arrives, and memory is that of a few partitions."""
    it = make("wide", partitions=1000)
    produce(it.topic, [document(f"d{number}", f"text {number}") for number in range(6000)])
    assert len(it.topic.ends()) > 900
    with it.job("--until-caught-up") as job:
        peak = ended(it, job, "1,000 partitions, 6,000 events")
    assert peak < PLAIN_MIB + 200
