"""How long the brokers have said nothing while they were being asked."""

from __future__ import annotations

import time
from typing import Any

import structlog

from pipelines.core.errors import ServiceUnavailableError
from pipelines.core.metrics import job_metrics

__all__ = ["Silence"]

_NOTICE_SECONDS = 5.0
_LARGEST_GAP_SECONDS = 1.0
"""Between two fetches a bundle is embedded and written, which may take long and says nothing of
Kafka; in an outage there is nothing to write, so the gaps are short."""

_log = structlog.get_logger()


class Silence:
    """A clock that runs only while somebody waits for Kafka.

    Parameters
    ----------
    timeout_seconds
        How much silence ends the job.
    group_id
        For the log.
    """

    def __init__(self, timeout_seconds: float, group_id: str) -> None:
        self._timeout = timeout_seconds
        self._group = group_id
        self._seconds: dict[Any, float] = {}
        self._heard: dict[Any, float] = {}
        self._entered = self._left = time.monotonic()
        self._noticed = False

    def enter(self) -> None:
        """A fetch begins."""
        self._entered = time.monotonic()

    def elapsed(self) -> float:
        """Seconds of waiting since the last fetch ended, and the next begins here."""
        now = time.monotonic()
        gap = min(max(self._entered - self._left, 0.0), _LARGEST_GAP_SECONDS)
        waited = now - self._entered + gap
        self._entered = self._left = now
        return waited

    def heard(self, who: Any, at: float) -> None:
        """Note the time of the last answer of a node; a new one ends its silence."""
        if at > self._heard.get(who, 0.0):
            self._heard[who] = at
            if self._seconds.pop(who, None) is not None:
                self._show()
            if self._noticed and not self._seconds:
                self._noticed = False
                _log.info("kafka_back", group=self._group)

    def add(self, who: Any, seconds: float) -> float:
        """Count silence of a node; returns its sum.

        Raises
        ------
        ServiceUnavailableError
            It has been silent for as long as the settings allow.
        """
        total = self._seconds.get(who, 0.0) + seconds
        self._seconds[who] = total
        self._show()
        if total > _NOTICE_SECONDS and not self._noticed:
            self._noticed = True
            _log.warning(
                "kafka_out_of_reach",
                group=self._group,
                node=str(who),
                seconds=round(total, 1),
                gives_up_after_seconds=self._timeout,
            )
        if total > self._timeout:
            raise ServiceUnavailableError(
                f"Kafka ({who}) has not answered for {self._timeout:g} s. Nothing was committed "
                "that is not written; start again when it is back."
            )
        return total

    def keep(self, nodes: set[Any]) -> None:
        """Forget nodes that lead no partition any more."""
        for who in self._seconds.keys() - nodes:
            del self._seconds[who]
        self._show()

    def _show(self) -> None:
        job_metrics().kafka_silence.set(max(self._seconds.values(), default=0.0))
