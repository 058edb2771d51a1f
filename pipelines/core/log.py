"""Structured logs: an event name and identifiers, on standard error.

JSON lines where a program reads them, columns on a terminal. Times are UTC, ISO 8601. What the
libraries log through `logging` comes out the same way, from warnings up.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import structlog

from pipelines.core.redact import redact, redact_text

__all__ = ["configure_logging"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_KEPT = frozenset({"event", "level", "timestamp", "logger"})

_QUIET = ("apache_beam", "httpx", "httpcore", "kafka", "qdrant_client", "transformers", "urllib3")
"""Libraries that say too much below a warning, requests and headers among it."""


_NOISE = ("apitools not found",)
"""Beam says so at its import; it is about Google Cloud services, which nothing here uses."""


class _StandardError:
    """Whatever `sys.stderr` is when a line is written: a progress display may stand in for it.

    A line that cannot be written, to a full disk or to nobody, stops no work.
    """

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    style: Literal["auto", "json", "console"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Sends the process's logs to standard error. Call it again to change level or style.

    Parameters
    ----------
    level
        Least level of Plumbline's own events. Libraries stay at `warning`.
    style
        `auto`: `console` when the stream is a terminal, else `json`.
    stream
        Default: standard error.
    """
    out: Any = stream if stream is not None else _StandardError()
    terminal = stream if stream is not None else sys.stderr
    console = style == "console" or (style == "auto" and terminal.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception_as_text,
        _redacted,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=terminal.isatty(), exception_formatter=_plain)
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        # Off, so that loggers made at import time follow a later call.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, _LEVELS[level]))
    handler.addFilter(_is_news)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of every option that is the runner's and not its own.
    logging.getLogger("apache_beam.options.pipeline_options").setLevel(logging.ERROR)
    logging.captureWarnings(True)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOISE)


def _exception_as_text(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    # Never with local variables: they hold documents and logins.
    return structlog.processors.format_exc_info(logger, method, event)


def _redacted(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Masks secrets and document text in everything but the event's name."""
    for key, value in event.items():
        if key.startswith("_"):
            continue  # structlog's own, taken out before the line is written
        if key in _KEPT:
            event[key] = redact_text(value) if isinstance(value, str) else value
        else:
            event[key] = redact(value, key)
    return event


def _plain(stream: TextIO, exc_info: Any) -> None:
    structlog.dev.plain_traceback(stream, exc_info)
