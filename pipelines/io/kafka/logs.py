"""kafka-python's log lines, as ours."""

from __future__ import annotations

import logging
import threading
import time

import structlog

__all__ = ["tame_kafka_logging"]

_REPEAT_SECONDS = 30.0
"""A reconnect loop writes the same few lines several times a second; a person reads one."""

_lock = threading.Lock()
_installed = False


class _Forward(logging.Handler):
    """Hands kafka-python's warnings to structlog, each kind at most once in a while."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last: dict[tuple[str, str], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Log it as `kafka_client`, unless its kind was logged just now."""
        if "not found in cluster metadata" in str(record.msg):
            return  # a replay topic may be missing, and a missing source is reported by us
        kind = (record.name, str(record.msg))
        now = time.monotonic()
        if now - self._last.get(kind, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return
        if len(self._last) > 1000:
            self._last.clear()
        self._last[kind] = now
        try:
            # Lost connections are an outage's noise; the reader says what they amount to.
            structlog.get_logger().warning(
                "kafka_client", source=record.name, message=record.getMessage()
            )
        except Exception:  # noqa: BLE001 - a log line must never end the client's I/O thread
            self.handleError(record)


def tame_kafka_logging() -> None:
    """Send kafka-python's warnings to structlog and drop the rest. Idempotent, thread-safe.

    Below WARNING kafka-python logs whole requests, logins among them, so its level is fixed
    whatever the root logger's is.
    """
    global _installed  # noqa: PLW0603 - one logging tree a process
    with _lock:
        if _installed:
            return
        logger = logging.getLogger("kafka")
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        logger.addHandler(_Forward())
        _installed = True
