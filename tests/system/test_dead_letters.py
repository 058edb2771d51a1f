"""The dead-letter topic on Apache Kafka: what only a real broker refuses."""

import random
import uuid

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from pipelines.core.dead_letters import DeadLetter
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.records import Record
from pipelines.core.settings import Settings
from pipelines.io.kafka.dead_letters import (
    plan_replay_of_topic,
    read_dead_letters,
    replay,
    write_dead_letters,
)
from pipelines.io.kafka.producer import close_producers
from pipelines.io.kafka.topic_reader import read_topic

ERROR = BadRecordError(Reason.REFUSED_BY_MODEL, "no")


@pytest.fixture
def settings(kafka_server):
    """Settings with topics of their own: 20 kB a dead letter, 2 kB a replayed event."""
    made = Settings(
        kafka={
            "bootstrap_servers": kafka_server.bootstrap,
            "topics": [f"documents-{uuid.uuid4().hex[:8]}"],
        }
    )
    limits = {made.dead_letter_topic: 20_000, made.replay_topic: 2_000}
    admin = KafkaAdminClient(bootstrap_servers=kafka_server.bootstrap)
    try:
        admin.create_topics(
            [
                NewTopic(name, 1, 1, topic_configs={"max.message.bytes": str(limit)})
                for name, limit in limits.items()
            ]
        )
    finally:
        admin.close()
    yield made
    close_producers()


def letter(settings, offset, value, headers=()):
    record = Record("documents", 0, offset, 1000, b"a", value, headers)
    return DeadLetter.of(record, ERROR, settings, now=1_700_000_000.0)


def test_only_what_the_broker_finds_too_large_is_shortened(settings):
    """One over the limit takes no neighbour along, and what compresses under it is kept whole."""
    noise = random.Random(1).randbytes(50_000)
    written = [letter(settings, n, b"small") for n in range(20)]
    written.insert(10, letter(settings, 100, noise))
    written.append(letter(settings, 101, b"x" * 50_000))
    written.append(letter(settings, 102, noise, (("trace", noise),)))
    write_dead_letters(written, settings)
    found = {one.origin.offset: one for one in read_dead_letters(settings)}
    assert sorted(found) == [*range(20), 100, 101, 102]
    assert {offset: one.omitted for offset, one in found.items() if one.omitted} == {
        100: ("value",),
        102: ("value", "headers"),
    }
    assert found[101].value == b"x" * 50_000
    assert found[100].value_bytes == 50_000


def test_a_replay_reports_what_its_topic_finds_too_large(settings):
    """Counted and left where it is; the others are sent."""
    noise = random.Random(2).randbytes(5_000).hex()
    good = b'{"id": "a", "text": "b"}'
    large = good.replace(b"b", noise.encode())
    # Small enough to share a batch, which the broker refuses as a whole.
    values = [good, good, large, good, large, good, good, good]
    write_dead_letters([letter(settings, n, value) for n, value in enumerate(values)], settings)
    plan = plan_replay_of_topic(settings)
    result = replay(settings, plan, per_second=1000)
    assert (result.sent, result.too_large, result.gone) == (6, 2, 0)
    sent = list(read_topic(settings, settings.replay_topic))
    assert [record.value for record in sent] == [good] * 6
