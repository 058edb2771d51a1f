"""Header keys that are not UTF-8, which Kafka carries and kafka-python cannot read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from kafka.record.default_records import ControlRecord, DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

__all__ = ["accept_any_header_key"]

_lock = threading.Lock()
_installed = False


def accept_any_header_key() -> None:
    r"""Make kafka-python read a header key that is not UTF-8 as escaped text.

    Without it one such record stops its partition for ever: kafka-python calls the whole batch
    corrupt. The bytes that do not decode become ``\xNN``. Only the record that fails is parsed
    by our code, the others take kafka-python's path. Idempotent, thread-safe.
    """
    global _installed  # noqa: PLW0603 - the class that is patched is one a process
    with _lock:
        if _installed:
            return
        original: Callable[[Any], Any] = DefaultRecordBatch._read_msg

        def read(batch: Any) -> Any:
            try:
                return original(batch)
            except UnicodeDecodeError:
                # Nothing was consumed: the position moves when a record is complete.
                return _read_leniently(batch)

        DefaultRecordBatch._read_msg = read
        _installed = True


def _read_leniently(batch: Any) -> DefaultRecord:
    """One record of message format 2, https://kafka.apache.org/documentation/#recordheader."""
    buffer = batch._buffer
    length, start = decode_varint(buffer, batch._pos)
    _attributes, at = decode_varint(buffer, start)
    delta, at = decode_varint(buffer, at)
    appended = batch.timestamp_type == batch.LOG_APPEND_TIME
    timestamp = batch.max_timestamp if appended else batch.first_timestamp + delta
    offset_delta, at = decode_varint(buffer, at)

    def field(at: int) -> tuple[bytes | None, int]:
        size, at = decode_varint(buffer, at)
        if size < 0:
            return None, at
        if at + size > len(buffer):
            raise ValueError("a field ends behind its batch")
        return bytes(buffer[at : at + size]), at + size

    key, at = field(at)
    value, at = field(at)
    count, at = decode_varint(buffer, at)
    headers = []
    for _ in range(count):
        name, at = field(at)
        content, at = field(at)
        if name is None:
            raise ValueError("a header has no key")
        headers.append((name.decode("utf-8", "backslashreplace"), content))
    if at - start != length:
        raise ValueError("the record is not as long as it says")
    batch._pos = at
    kind = ControlRecord if batch.is_control_batch else DefaultRecord
    return kind(
        length,
        batch.base_offset + offset_delta,
        timestamp,
        batch.timestamp_type,
        key,
        value,
        headers,
    )
