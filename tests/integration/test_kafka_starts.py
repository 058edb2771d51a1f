"""Where a candidate's consumer group starts: where live's stands, or at the beginning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from pipelines.core.errors import DataLossError, SystemicError
from pipelines.core.settings import Settings
from pipelines.io.kafka import start, start_at_beginning, start_like
from tests.support.brokers import Broker, Message, any_broker

pytest.importorskip("confluent_kafka")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with any_broker() as made:
        yield made


class Topic:
    """A topic with events in it, and groups that read it."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker, self.name = broker, name
        broker.create_topic(name)
        broker.send(
            name,
            [
                Message(
                    str(n).encode(), json.dumps({"id": str(n), "text": "x"}).encode(), 1_000_000 + n
                )
                for n in range(80)
            ],
        )

    def settings(self, **kafka: Any) -> Settings:
        return Settings(index="docs", kafka={**self.broker.kafka, "topics": [self.name], **kafka})

    def consumer(self, group: str) -> KafkaConsumer:
        kafka = self.broker.kafka
        more = {"api_version": kafka["api_version"]} if "api_version" in kafka else {}
        return KafkaConsumer(
            bootstrap_servers=kafka["bootstrap_servers"],
            group_id=group,
            enable_auto_commit=False,
            **more,
        )

    def commit(self, group: str, offsets: dict[int, int], metadata: str = "") -> None:
        consumer = self.consumer(group)
        consumer.commit(
            {
                TopicPartition(self.name, partition): OffsetAndMetadata(offset, metadata, -1)
                for partition, offset in offsets.items()
            }
        )
        consumer.close(autocommit=False)

    def committed(self, group: str) -> dict[int, int]:
        consumer = self.consumer(group)
        found = {p: consumer.committed(TopicPartition(self.name, p)) for p in range(4)}
        consumer.close(autocommit=False)
        return {p: offset for p, offset in found.items() if offset is not None}


@pytest.fixture
def topic(broker: Broker, request: pytest.FixtureRequest) -> Topic:
    return Topic(broker, f"starts-{request.node.name.removeprefix('test_')[:40]}")


def test_starts_where_the_other_group_stands(topic: Topic) -> None:
    """A partition that the other has not committed starts at its beginning."""
    topic.commit("live", {0: 5, 2: 7})
    start_like(topic.settings(), "candidate", "live")
    assert topic.committed("candidate") == {0: 5, 1: 0, 2: 7, 3: 0}


def test_a_group_that_has_started_keeps_its_offsets(topic: Topic) -> None:
    """A build that resumes does not set its job back, or ahead."""
    topic.commit("live", {0: 5, 1: 6, 2: 7, 3: 8})
    start_like(topic.settings(), "candidate", "live")
    topic.commit("live", {0: 9, 1: 9, 2: 9, 3: 9})
    assert start_like(topic.settings(), "candidate", "live") == {}
    assert start_at_beginning(topic.settings(), "candidate") == {}
    assert topic.committed("candidate") == {0: 5, 1: 6, 2: 7, 3: 8}


def test_a_re_created_topic_counts_anew(topic: Topic) -> None:
    """What live committed in the topic's earlier life says nothing of this one."""
    if "api_version" in topic.broker.kafka:
        pytest.skip("this broker tells no topic ids")
    topic.commit("live", {0: 5}, metadata="0" * 32)
    topic.commit("live", {1: 6})
    start_like(topic.settings(), "candidate", "live")
    assert topic.committed("candidate") == {0: 0, 1: 6, 2: 0, 3: 0}


def test_a_live_group_that_has_not_started(topic: Topic) -> None:
    """From the beginning where live will begin there; refused where nobody can tell yet."""
    with pytest.raises(SystemicError, match="has committed nothing yet"):
        start_like(topic.settings(start="latest"), "candidate", "nobody")
    assert topic.committed("candidate") == {}
    start_like(topic.settings(), "candidate", "nobody")
    assert topic.committed("candidate") == dict.fromkeys(range(4), 0)


def test_a_replay_needs_the_whole_topic(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where records are gone the refusal names the partition, and nothing is committed."""
    settings = topic.settings()
    with monkeypatch.context() as patch:
        patch.setattr(
            start.KafkaConsumer,
            "beginning_offsets",
            lambda _self, partitions, **_: dict.fromkeys(partitions, 3),
        )
        with pytest.raises(DataLossError, match=f"{topic.name}/0 begins at offset 3"):
            start_at_beginning(settings, "candidate")
        assert topic.committed("candidate") == {}
        # A compacted topic drops records that newer ones have replaced: nothing is lost.
        report = type("Report", (), {"cleanup_policy": "compact"})
        topics = type("Broker", (), {"topics": {topic.name: report}})
        patch.setattr(start, "check_broker", lambda _settings: topics)
        start_at_beginning(settings, "compacted")
        assert topic.committed("compacted") == dict.fromkeys(range(4), 3)
    start_at_beginning(settings, "candidate")
    assert topic.committed("candidate") == dict.fromkeys(range(4), 0)
