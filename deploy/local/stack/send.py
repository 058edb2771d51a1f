"""Send documents to the topic, one JSON event a line, as any producer would."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from deploy.local.stack.errors import NotReadyError, StackError
from pipelines.core.errors import PlumblineError

if TYPE_CHECKING:
    from pipelines.core.settings import Settings

__all__ = ["send"]

_CONNECT_SECONDS = 10
_SEND_SECONDS = 30.0


def send(settings: Settings, topic: str, lines: Iterable[str]) -> int:
    """Send every line under its id as the key; gives how many the broker has acknowledged.

    Raises
    ------
    StackError
        A line is no event with an id; those before it are sent.
    """
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

    from pipelines.io.kafka.connection import client_config

    where = settings.kafka.bootstrap_servers
    futures = []
    try:
        producer = KafkaProducer(
            **client_config(settings), acks="all", bootstrap_timeout_ms=_CONNECT_SECONDS * 1000
        )
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    key = _id(line, number)
                    futures.append(
                        producer.send(topic, key=key.encode(), value=line.strip().encode())
                    )
        finally:
            for future in futures:
                future.get(timeout=_SEND_SECONDS)
            producer.close(timeout=1)
    except (KafkaError, PlumblineError) as error:
        raise NotReadyError(f"Kafka at {where}: {error or type(error).__name__}") from None
    return len(futures)


def _id(line: str, number: int) -> str:
    try:
        event: Any = json.loads(line)
    except ValueError:
        raise StackError(f"line {number} is no JSON") from None
    found = event.get("id") if isinstance(event, dict) else None
    if not isinstance(found, str):
        raise StackError(
            f'line {number} has no id: an event is {{"id": "kb/42", "text": "…"}}, on one line'
        )
    return found
