"""A Kafka broker inside this process: librdkafka's mock cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from pipelines.core.errors import PlumblineError, ServiceUnavailableError

__all__ = ["EmbeddedBroker", "Message"]

_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Message:
    """One record to send.

    Parameters
    ----------
    key, value
        `None` is Kafka's null.
    timestamp
        Milliseconds since the epoch.
    """

    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)
    timestamp: int


class EmbeddedBroker:
    """Speaks the Kafka protocol on a free port of the loopback, for as long as it is open.

    What it holds is in memory and gone with it. Topics come to be when they are asked for, with
    four partitions; each partition keeps the newest 5 MiB.

    Parameters
    ----------
    topics
        Topics to make.

    Raises
    ------
    PlumblineError
        The package that carries it is not installed.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        try:
            from confluent_kafka import Producer
        except ImportError:
            raise PlumblineError(
                "the demo's broker is part of confluent-kafka, which is not installed: "
                "pip install 'plumbline[demo]'"
            ) from None
        self._producer: Any = Producer(
            {
                "bootstrap.servers": "",
                "test.mock.num.brokers": 1,
                # On standard error it would say that it is a mock, and what it does not support.
                "log_level": 0,
                # As the Java producer does, so that a key's partition is what users know.
                "partitioner": "murmur2_random",
            }
        )
        broker = next(iter(self._producer.list_topics(timeout=_TIMEOUT_SECONDS).brokers.values()))
        self.address = f"{broker.host}:{broker.port}"
        for topic in topics:
            self._partitions(topic)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The mock lives as long as its producer; nothing else refers to it.
        self._producer = None

    def send(self, topic: str, messages: Iterable[Message]) -> int:
        """Sends the messages in order and waits until all are acknowledged; returns how many.

        Raises
        ------
        ServiceUnavailableError
            One was not acknowledged.
        """
        failed: list[str] = []

        def delivered(error: Any, _message: Any) -> None:
            if error is not None:
                failed.append(str(error))

        count = 0
        for message in messages:
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
            count += 1
        left = self._producer.flush(_TIMEOUT_SECONDS)
        if failed or left:
            raise ServiceUnavailableError(
                f"the embedded broker did not take {len(failed) + left} of {count} records"
                + (f": {failed[0]}" if failed else "")
            )
        return count

    def rewind(self, topic: str, group_id: str) -> None:
        """Sets a consumer group's offsets to the beginning, as an operator would to redeliver."""
        from confluent_kafka import TopicPartition

        consumer = self._consumer(group_id)
        try:
            consumer.commit(
                offsets=[
                    TopicPartition(topic, partition, 0) for partition in self._partitions(topic)
                ],
                asynchronous=False,
            )
        finally:
            consumer.close()

    def size(self, topic: str) -> int:
        """Records that the topic holds."""
        from confluent_kafka import TopicPartition

        consumer = self._consumer("plumbline-demo")
        try:
            total = 0
            for partition in self._partitions(topic):
                low, high = consumer.get_watermark_offsets(
                    TopicPartition(topic, partition), timeout=_TIMEOUT_SECONDS
                )
                total += high - low
            return total
        finally:
            consumer.close()

    def _partitions(self, topic: str) -> list[int]:
        found = self._producer.list_topics(topic, timeout=_TIMEOUT_SECONDS).topics[topic]
        return sorted(found.partitions)

    def _consumer(self, group_id: str) -> Any:
        from confluent_kafka import Consumer

        return Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": group_id,
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
