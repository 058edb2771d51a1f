"""One way to fill topics, whether the broker is Apache Kafka or librdkafka's in-process one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.kafka_server import KafkaServer, kafka_available

__all__ = ["Broker", "Message", "any_broker", "broker_of", "embedded_broker"]

_TIMEOUT_SECONDS = 60.0
_PARTITIONS = 4
"""What the in-process broker gives every topic; the other one is asked for as many."""


@dataclass(frozen=True)
class Message:
    """One record to send; `timestamp` in milliseconds since the epoch."""

    key: bytes | None
    value: bytes | None
    timestamp: int


class Broker:
    """A running broker.

    Parameters
    ----------
    name
        What it is, for tables.
    producer
        Sends to it.
    kafka
        Settings that reach it: the section `kafka` without topics.
    """

    def __init__(self, name: str, producer: Any, kafka: dict[str, Any]) -> None:
        self.name = name
        self.kafka = kafka
        self._producer = producer

    def create_topic(self, topic: str, partitions: int = _PARTITIONS) -> None:
        """Makes a topic with its dead-letter and its replay topic.

        Parameters
        ----------
        partitions
            Of the topic; the in-process broker gives every topic four.
        """
        names = [topic, f"{topic}.dead-letters", f"{topic}.dead-letters.replay"]
        if self.kafka.get("create_topics") is False:
            for name in names:  # the mock makes what it is asked for
                self._producer.list_topics(name, timeout=_TIMEOUT_SECONDS)
            return
        admin = AdminClient({"bootstrap.servers": self.kafka["bootstrap_servers"], "log_level": 3})
        # The events of tests carry times long past, which retention would soon act on.
        keep = {"retention.ms": "-1"}
        counts = (partitions, _PARTITIONS, _PARTITIONS)
        topics = [
            NewTopic(name, count, 1, config=keep) for name, count in zip(names, counts, strict=True)
        ]
        for made in admin.create_topics(topics).values():
            made.result(_TIMEOUT_SECONDS)

    def send(self, topic: str, messages: Iterable[Message]) -> int:
        """Appends the messages in their order and waits until all are acknowledged."""
        failed: list[str] = []

        def delivered(error: Any, _message: Any) -> None:
            if error is not None:
                failed.append(str(error))

        count = 0
        for message in messages:
            count += 1
            while True:
                try:
                    self._producer.produce(
                        topic,
                        key=message.key,
                        value=message.value,
                        timestamp=message.timestamp,
                        on_delivery=delivered,
                    )
                    break
                except BufferError:  # its queue is full: let some go out
                    self._producer.poll(0.1)
        left = self._producer.flush(_TIMEOUT_SECONDS)
        assert not failed, failed[0]
        assert not left, f"{left} of {count} records were not acknowledged"
        return count


@contextlib.contextmanager
def embedded_broker() -> Iterator[Broker]:
    """librdkafka's mock: in memory, four partitions a topic, the newest 5 MiB of each kept."""
    producer: Any = Producer(
        # It announces on standard error that it is a mock.
        {"bootstrap.servers": "ignored", "test.mock.num.brokers": 1, "log_level": 3}
    )
    (broker,) = producer.list_topics(timeout=_TIMEOUT_SECONDS).brokers.values()
    where = {
        "bootstrap_servers": f"{broker.host}:{broker.port}",
        # It does not say what it speaks, and refuses to be asked for topics with settings.
        "api_version": (2, 3),
        "create_topics": False,
    }
    yield Broker("librdkafka's mock broker", producer, where)


def broker_of(server: KafkaServer) -> Broker:
    """Apache Kafka that runs already."""
    # It would say on standard error that the broker is gone before it is itself.
    producer = Producer({"bootstrap.servers": server.bootstrap, "log_level": 2})
    return Broker("Apache Kafka", producer, {"bootstrap_servers": server.bootstrap})


@contextlib.contextmanager
def any_broker() -> Iterator[Broker]:
    """Apache Kafka in a process of its own where it is installed, else the mock."""
    if not kafka_available():
        with embedded_broker() as broker:
            yield broker
        return
    with KafkaServer() as server:
        yield broker_of(server)
