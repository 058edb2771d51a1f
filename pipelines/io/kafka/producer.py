"""The process's producer: every send awaited, what is too large told apart from what failed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from pipelines.core.dead_letters import WireRecord
from pipelines.core.errors import PlumblineError
from pipelines.core.retry import retrying
from pipelines.core.settings import Settings
from pipelines.io.kafka.connection import CONNECT_SECONDS, _closing_on_error, client_config, watched
from pipelines.io.kafka.errors import translate
from pipelines.io.kafka.stop import STOP

__all__ = ["close_producers", "send_all"]

_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)

_MAX_REQUEST_BYTES = 256 * 1024 * 1024
"""Above what any broker takes: the broker decides what is too large, after compression."""

_lock = threading.Lock()
_producers: dict[str, KafkaProducer] = {}


def send_all(
    settings: Settings,
    topic: str,
    records: Sequence[WireRecord],
    *,
    should_stop: Callable[[], bool] = STOP.is_set,
) -> list[int]:
    """Send records and wait until all in-sync replicas have each of them.

    At least once: what fails half way is sent again, so a record may be there twice. Order is not
    kept. Safe to call from several threads, which share one producer.

    Parameters
    ----------
    should_stop
        Asked between tries of an outage.

    Returns
    -------
    list[int]
        Indices of the records that the broker found too large. They were not written.

    Raises
    ------
    ServiceUnavailableError
        Kafka stayed out of reach for `kafka.outage_timeout_seconds`.
    ServiceRefusedError, SettingsError, SystemicError
        Kafka refused in a way that another try would not change.
    """
    pending = list(range(len(records)))
    too_large: list[int] = []

    def attempt() -> None:
        nonlocal pending
        if pending:
            pending = _try(settings, topic, records, pending, too_large)

    retrying(
        attempt,
        timeout_seconds=settings.kafka.outage_timeout_seconds,
        settings=settings.retry,
        what="Kafka",
        should_stop=should_stop,
    )
    return sorted(too_large)


def close_producers() -> None:
    """Close the producers of the process, at the end of a run. Nothing is buffered in them."""
    with _lock:
        producers = list(_producers.values())
        _producers.clear()
    for producer in producers:
        _close(producer)


def _try(
    settings: Settings,
    topic: str,
    records: Sequence[WireRecord],
    pending: list[int],
    too_large: list[int],
) -> list[int]:
    """One try; raises when something is left over, after noting in `pending` what went well."""
    what = f"writing to {topic}"
    producer = _producer(settings)
    deadline = time.monotonic() + _delivery_seconds(settings)
    sent: list[tuple[int, Any]] = []
    failure: BaseException | None = None
    for index in pending:
        record = records[index]
        try:
            future = producer.send(
                topic, value=record.value, key=record.key, headers=list(record.headers)
            )
        except _TOO_LARGE:
            too_large.append(index)
        except Exception as error:  # noqa: BLE001 - translated below, after the rest is awaited
            failure = error
            break
        else:
            sent.append((index, future))
    # No `flush`: nothing lingers, and it fails when kafka-python splits a batch that is too large.
    done = set(too_large)
    for index, future in sent:
        try:
            future.get(timeout=max(0.0, deadline - time.monotonic()))
        except _TOO_LARGE:
            too_large.append(index)
        except Exception as error:  # noqa: BLE001 - translated below, after the rest is awaited
            failure = failure or error
            continue
        done.add(index)
    done.update(too_large)
    left = [index for index in pending if index not in done]
    if failure is None:
        return left
    # What has settled stays settled; a producer that failed may be in any state.
    pending[:] = left
    manager = watched(producer._sender._client)
    # A refused login shows to the sender as metadata that never comes.
    failure = manager.refused or failure
    _drop(settings, producer)
    if isinstance(failure, PlumblineError):
        raise failure
    raise translate(failure, what) from failure


def _delivery_seconds(settings: Settings) -> float:
    return settings.kafka.request_timeout_seconds * 1.5 + 1.0


def _producer(settings: Settings) -> KafkaProducer:
    """The producer for these settings, made once a process."""
    key = f"{settings.index}\0{settings.kafka.model_dump_json()}"
    with _lock:
        producer = _producers.get(key)
        if producer is None:
            producer = _producers[key] = _connect(settings)
        return producer


def _drop(settings: Settings, producer: KafkaProducer) -> None:
    key = f"{settings.index}\0{settings.kafka.model_dump_json()}"
    with _lock:
        if _producers.get(key) is producer:
            del _producers[key]
    _close(producer)


def _close(producer: KafkaProducer) -> None:
    with contextlib.suppress(Exception):
        producer.close(timeout=1)


def _connect(settings: Settings) -> KafkaProducer:
    timeout_ms = int(settings.kafka.request_timeout_seconds * 1000)
    config = client_config(settings) | {
        "acks": "all",
        # Duplicates are told by their position. Idempotence would need a right of its own
        # (IdempotentWrite, before Kafka 3.0) and makes a producer unusable after some errors.
        "enable_idempotence": False,
        "delivery_timeout_ms": int(_delivery_seconds(settings) * 1000),
        "max_block_ms": min(timeout_ms, int(CONNECT_SECONDS * 1000)),
        "max_request_size": _MAX_REQUEST_BYTES,
        # The broker's limit is on what is compressed: what reached the source topic compressed
        # would not fit otherwise.
        "compression_type": "gzip",
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
    with _closing_on_error(config, CONNECT_SECONDS):
        return KafkaProducer(**config)
