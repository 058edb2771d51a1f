"""Kafka that goes wrong without going away: topics made anew, records dropped or lost, clocks.

docs/degraded.md says what the job does in each case; here it is tried.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from pipelines.core.records import Record
from pipelines.io.kafka.lag import lag_reader
from tests.conftest import require
from tests.support.jobs import IngestProcess, write_config
from tests.support.kafka_cluster import KafkaCluster
from tests.support.kafka_server import INSTALL_HINT, kafka_available
from tests.support.processes import free_port, wait_until
from tests.support.replay import replay
from tests.support.scenario import Scenario, merged
from tests.support.scraping import samples
from tests.support.stream import Message, Stream

SEED = 20_260_611

Hostile = dict[tuple[str, int, int], str]


def stream(offset: int = 0) -> Stream:
    return Stream(SEED + offset, 40, sentences=3, unchanged_share=0.35)


def measured(it: Scenario, name: str) -> float:
    """A figure of the running job, all of its labels together."""
    return sum(samples(f"127.0.0.1:{it.settings.metrics.port}", name))


def metrics() -> dict[str, Any]:
    return {"metrics": {"port": free_port()}}


def good(records: Sequence[Record], hostile: Hostile) -> list[Record]:
    return [r for r in records if (r.topic, r.partition, r.offset) not in hostile]


class Lives:
    """A topic whose offsets begin again: what was in it before is told apart from what is now."""

    def __init__(self, it: Scenario) -> None:
        self._it = it
        self._good: list[Record] = []
        self._hostile: set[Any] = set()

    def end(self, keep: int = 0) -> None:
        """From now on the topic holds its first `keep` records, which no other may follow yet."""
        topic = self._it.topic
        gone, topic.records = topic.records[keep:], topic.records[:keep]
        places = {(r.topic, r.partition, r.offset) for r in gone}
        ended = {place: why for place, why in topic.hostile.items() if place in places}
        topic.hostile = {at: why for at, why in topic.hostile.items() if at not in places}
        self._good += good(gone, ended)
        self._hostile |= {(*place, why) for place, why in ended.items()}
        topic.first_timestamp += 600_000  # what comes now is newer

    def problems(self) -> list[str]:
        """How offsets, dead letters and index differ from all that ever was in the topic."""
        it = self._it
        records = self._good + good(it.topic.records, it.topic.hostile)
        letters = self._hostile | {(*at, why) for at, why in it.topic.hostile.items()}
        found = set(it.dead_letters.read())
        return [
            *it.offset_problems(),
            *(f"dead letters differ: {letter}" for letter in letters ^ found),
            *it.index_problems(
                {
                    # Which event made a document, of topics that followed each other, is not told.
                    document_id: replace(wanted, created_at=None)
                    for document_id, wanted in replay(records, it.settings).items()
                }
            ),
        ]


def finish(job: IngestProcess) -> dict[str, Any]:
    job.terminate()
    return job.done(60)


def committed_to_its_end(it: Scenario, job: IngestProcess) -> None:
    job._process.wait_ready(
        lambda: not it.offset_problems(), 120, what="the topic is committed to its end"
    )


def commit(it: Scenario, offset: int, *, topic_id: str) -> None:
    """In the job's name."""
    assert it.version is not None
    consumer = KafkaConsumer(bootstrap_servers=it.topic.bootstrap, group_id=it.version.group_id)
    try:
        place = TopicPartition(it.topic.name, 0)
        consumer.commit({place: OffsetAndMetadata(offset, topic_id, -1)})
    finally:
        consumer.close(autocommit=False)


@contextmanager
def administering(it: Scenario) -> Iterator[Any]:
    admin = KafkaAdminClient(bootstrap_servers=it.topic.bootstrap)
    try:
        yield admin
    finally:
        admin.close()


def retain(it: Scenario, milliseconds: int) -> None:
    resource = ConfigResource(
        ConfigResourceType.TOPIC, it.topic.name, configs={"retention.ms": str(milliseconds)}
    )
    with administering(it) as admin:
        admin.alter_configs([resource])


def begins_at(it: Scenario) -> int:
    partition = TopicPartition(it.topic.name, 0)
    consumer = KafkaConsumer(bootstrap_servers=it.topic.bootstrap)
    try:
        found: int = consumer.beginning_offsets([partition])[partition]
    finally:
        consumer.close()
    return found


@pytest.mark.timeout(240)
def test_a_topic_made_anew_is_read_whole_and_counted(
    scenario: Callable[..., Scenario], kafka_server: Any
) -> None:
    """While the job is away as well as under it, also in a run that ends once it has caught up."""
    it = scenario(settings=metrics())
    lives, events = Lives(it), stream()

    def anew(count: int) -> None:
        kafka_server.delete_topic(it.topic.name)
        lives.end()
        kafka_server.create_topic(it.topic.name)
        it.topic.produce(events.take(count))

    it.topic.produce(events.take(80))
    with it.job("--until-caught-up") as job:
        job.done()
    # Longer than the old one, so that its offset says nothing.
    anew(120)
    # Kafka forgets offsets with their topic. As if the old job's last commit had come later:
    commit(it, 80, topic_id="0" * 32)
    with it.job("--until-caught-up") as job:
        assert job.done()["consumed"] == 120
        assert job.events("kafka_topic_recreated")
    assert not lives.problems()
    with it.job() as job:
        it.topic.produce(events.take(10))
        it.wait_caught_up(job)
        anew(50)
        committed_to_its_end(it, job)
        assert measured(it, "plumbline_recreated_topics_total") == 1
        assert measured(it, "plumbline_truncated_records_total") == 0
        assert measured(it, "plumbline_data_loss_records_total") == 0
        finish(job)
    problems = lives.problems()
    assert not problems, problems[:10]


@pytest.mark.timeout(240)
def test_a_topic_made_anew_with_old_stamps_changes_nothing(
    scenario: Callable[..., Scenario], kafka_server: Any
) -> None:
    """What a restored topic says under its old times is stale or unchanged; nothing is lost."""
    it = scenario()
    lives, events = Lives(it), stream(1)
    it.topic.produce(events.take(60))
    with it.job() as job:
        it.wait_caught_up(job)
        kafka_server.delete_topic(it.topic.name)
        lives.end()
        it.topic.first_timestamp -= 7_200_000
        kafka_server.create_topic(it.topic.name)
        it.topic.produce(
            Message(f"doc/{n}".encode(), json.dumps({"id": f"doc/{n}", "text": "old"}).encode())
            for n in range(40)
        )
        committed_to_its_end(it, job)
        finished = finish(job)
    assert finished["stale"] > 0
    problems = lives.problems()
    assert not problems, problems[:10]


@pytest.mark.timeout(240)
def test_retention_that_outran_the_job_is_told_and_decided(
    scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    """The job refuses to go on by itself, and the monitor counts what is lost meanwhile."""
    it = scenario(settings=metrics())
    events = stream(2)
    it.topic.produce(events.take(60))
    with it.job() as job:
        it.wait_caught_up(job)
        job.kill()
    kept, hostile = len(it.topic.records), dict(it.topic.hostile)
    it.topic.produce(events.take(40))
    # The stamps of these records are an hour old.
    retain(it, 1000)
    wait_until(lambda: begins_at(it) == 100, 60, what="retention has dropped all records")
    retain(it, -1)
    del it.topic.records[kept:]
    it.topic.hostile = hostile
    it.topic.produce(events.take(30))

    assert it.version is not None
    (lag,) = [one for one in lag_reader(it.settings)(it.version) if one.topic == it.topic.name]
    assert (lag.expired, lag.records, lag.committed) == (40, 30, 60)
    with it.job() as job:
        assert job.wait(90) == 1, job.log()[-3000:]
        assert "40 offsets were dropped unread" in job.log()
    assert it.committed() == {TopicPartition(it.topic.name, 0): 60}

    decided = merged(it.values, {"kafka": {"on_data_loss": "continue"}})
    config = write_config(tmp_path / "decided.yaml", decided)
    with IngestProcess(config, log_path=tmp_path / "decided.log") as job:
        committed_to_its_end(it, job)
        assert measured(it, "plumbline_data_loss_records_total") == 40
        finish(job)
    problems = it.problems()
    assert not problems, problems[:10]


@pytest.mark.timeout(300)
def test_records_that_a_leader_change_lost_hide_none_that_follow(
    store: Any, tmp_path: Path, model: Path
) -> None:
    """A follower that had fallen behind leads: acknowledged, read and committed records are gone.

    A job that runs goes back to where the logs part. So does one that was away, though the topic
    has grown past its offset again by the time it starts: only the leader's epoch tells then.
    """
    require(kafka_available(), INSTALL_HINT)
    with KafkaCluster() as cluster:

        def made(name: str, number: int) -> tuple[Scenario, Lives, Stream]:
            for suffix in ("dead-letters", "dead-letters.replay"):
                cluster.create_topic(f"{name}.{suffix}", on=(1,))
            arguments = {"model": model, "settings": metrics()}
            it: Any = Scenario(cluster, store.url, tmp_path, name, **arguments)  # type: ignore[arg-type]
            return it, Lives(it), stream(number)

        running, its_lives, its_events = made(f"unclean-running-{free_port()}", 3)
        away, other_lives, other_events = made(f"unclean-away-{free_port()}", 4)
        running.topic.produce(its_events.take(100))
        away.topic.produce(other_events.take(100))
        with running.job() as job:
            running.wait_caught_up(job)
            cluster.node(3).kill()
            for it in (running, away):
                cluster.wait_for(it.topic.name, leader=2, in_sync={2})
            running.topic.produce(its_events.take(60))
            away.topic.produce(other_events.take(60))
            running.wait_caught_up(job)
            with away.job("--until-caught-up") as other:
                other.done()
            cluster.node(2).kill()
            cluster.node(3).start()
            for it in (running, away):
                cluster.wait_for(it.topic.name, leader=3)
            its_lives.end(keep=100)
            other_lives.end(keep=100)
            running.topic.produce(its_events.take(20))
            away.topic.produce(other_events.take(90))
            assert [next(iter(it.topic.ends().values())) for it in (running, away)] == [120, 190]
            committed_to_its_end(running, job)
            assert measured(running, "plumbline_truncated_records_total") == 60
            assert measured(running, "plumbline_recreated_topics_total") == 0
            finish(job)
        with away.job("--until-caught-up") as other:
            assert other.done()["consumed"] == 90
            (told,) = other.events("kafka_log_truncated")
        assert (told["offset"], told["ends_at"], told["back_to"]) == (160, 100, 100)
        problems = [*its_lives.problems(), *other_lives.problems()]
        assert not problems, problems[:10]


def upsert(text: str, name: str = "doc/a") -> Message:
    return Message(name.encode(), json.dumps({"id": name, "text": text}).encode())


@pytest.mark.timeout(240)
def test_a_producers_clock_that_is_ahead_is_seen(scenario: Callable[..., Scenario]) -> None:
    """Its events win until their time has come; that, and what loses to them, is counted."""
    it = scenario(settings=metrics())
    now = int(time.time() * 1000)
    ahead = now + 1_800_000

    def send(text: str, stamp: int) -> None:
        it.topic.produce([upsert(text)], timestamps=[stamp])
        it.wait_caught_up(job)

    with it.job() as job:
        send("An honest text.", now - 5000)
        send("A text from the future.", ahead)
        assert measured(it, "plumbline_future_events_total") == 1
        assert measured(it, "plumbline_shadowed_events_total") == 0
        send("A later text, honestly stamped.", now)
        assert measured(it, "plumbline_shadowed_events_total") == 1
        send("A text behind it.", ahead + 1)
        # Neither of them took no time at all to become searchable.
        assert measured(it, "plumbline_event_to_searchable_seconds_count") == 1
        assert measured(it, "plumbline_event_to_searchable_seconds_sum") >= 5
        (told,) = job.events("event_from_the_future")
        assert 1700 < told["ahead_seconds"] < 1801
        assert job.events("event_shadowed")
        finished = finish(job)
    assert (finished["embedded"], finished["stale"]) == (3, 1)
    assert it.expected()["doc/a"].text == "A text behind it."
    problems = it.problems()
    assert not problems, problems[:10]


@pytest.mark.timeout(240)
def test_clocks_decide_nothing_by_version(scenario: Callable[..., Scenario]) -> None:
    """Ordered by the producer's number, a wrong stamp is counted and hides no later event."""
    it = scenario(settings=merged(metrics(), {"kafka": {"order_by": "version"}}))
    now = int(time.time() * 1000)
    body = {"id": "doc/a", "text": "A text from the future.", "version": 1}
    later = {"id": "doc/a", "text": "A later one.", "version": 2}
    with it.job() as job:
        for event, stamp in ((body, now + 1_800_000), (later, now)):
            message = Message(b"doc/a", json.dumps(event).encode())
            it.topic.produce([message], timestamps=[stamp])
            it.wait_caught_up(job)
        assert measured(it, "plumbline_future_events_total") == 1
        assert measured(it, "plumbline_shadowed_events_total") == 0
        finish(job)
    assert it.expected()["doc/a"].text == "A later one."
    problems = it.problems()
    assert not problems, problems[:10]


def test_a_broker_can_refuse_the_future(scenario: Callable[..., Scenario]) -> None:
    """By itself what is more than an hour ahead, and with the runbook's setting what is less."""
    it = scenario()
    now = int(time.time() * 1000)
    with pytest.raises(KafkaError, match=r"(?i)timestamp"):
        it.topic.produce([upsert("far ahead")], timestamps=[now + 7_200_000])
    configs = {"message.timestamp.after.max.ms": "60000"}
    with administering(it) as admin:
        resource = ConfigResource(ConfigResourceType.TOPIC, it.topic.name, configs=configs)
        admin.alter_configs([resource])
    with pytest.raises(KafkaError, match=r"(?i)timestamp"):
        it.topic.produce([upsert("ahead")], timestamps=[now + 1_800_000])
    it.topic.produce([upsert("honest")], timestamps=[now])
    assert len(it.topic.records) == 1
