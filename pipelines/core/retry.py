"""Bounded, jittered backoff around a service that may not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import stamina

from pipelines.core.errors import ServiceUnavailableError, TransientError
from pipelines.core.metrics import job_metrics
from pipelines.core.settings import RetrySettings

__all__ = ["retrying"]

T = TypeVar("T")


def retrying(
    operation: Callable[[], T],
    *,
    timeout_seconds: float,
    settings: RetrySettings,
    what: str,
    should_stop: Callable[[], bool] | None = None,
) -> T:
    """What `operation` returns, tried again while it raises `TransientError`.

    Parameters
    ----------
    operation
        Must be safe to repeat.
    timeout_seconds
        How long to go on; the last error is then the cause of `ServiceUnavailableError`.
    settings
        First and greatest pause. A server's Retry-After replaces the computed pause, up to the
        time that is left.
    what
        The service, for the message and the metric: "Qdrant", "Kafka".
    should_stop
        Asked after each failure; when it says True the error is raised at once.

    Raises
    ------
    ServiceUnavailableError
        The service did not recover in time.
    """

    def pause(error: Exception) -> bool | float:
        if not isinstance(error, TransientError):
            return False
        job_metrics().retries.labels(what.lower()).inc()
        if should_stop is not None and should_stop():
            return False
        if error.retry_after_seconds is not None:
            return min(max(error.retry_after_seconds, 0.0), timeout_seconds)
        return True

    try:
        for attempt in stamina.retry_context(
            on=pause,
            attempts=None,
            timeout=timeout_seconds,
            wait_initial=settings.first_seconds,
            wait_max=settings.max_seconds,
            wait_jitter=settings.first_seconds,
        ):
            with attempt:
                return operation()
    except TransientError as error:
        raise ServiceUnavailableError(
            f"{what} stayed out of reach for {timeout_seconds:g} s: {error}. Nothing was "
            "committed that is not written; start again when it is back."
        ) from error
    raise AssertionError("unreachable: the last attempt returns or raises")
