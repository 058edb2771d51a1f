"""How live events fare while something else works: the job's own metrics, and its lag in Kafka."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from pipelines.core.errors import PlumblineError
from pipelines.core.lag import PartitionLag
from pipelines.core.settings import Settings
from pipelines.core.throttle import Freshness
from pipelines.core.versions import Version
from pipelines.io.kafka.lag import lag_reader
from pipelines.io.metrics_page import MetricsPage

__all__ = ["SearchableQuantile", "WaitingTime", "live_freshness"]

_QUANTILE = 0.99
_WINDOW_SECONDS = 30.0

_FAMILY = "plumbline_event_to_searchable_seconds"

_log = structlog.get_logger()


class WaitingTime:
    """How long the oldest unread record has waited, by this process's own clock.

    Timestamps of records are the producers', and may lie far back (a catch-up, an import, a clock
    that is wrong). Here a record counts as waiting since a look first saw the partition's end
    behind it: an upper bound on the wait is one interval of looks more.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._ends: dict[tuple[str, int], deque[tuple[float, int]]] = {}

    def look(self, lags: Sequence[PartitionLag]) -> float:
        """Seconds that the oldest unread record of all partitions has waited; 0 for none."""
        now = self._now()
        oldest = now
        for lag in lags:
            seen = self._ends.setdefault((lag.topic, lag.partition), deque())
            read = lag.committed or 0
            end = read + lag.records
            while seen and seen[0][1] <= read:
                seen.popleft()
            if lag.records and (not seen or seen[-1][1] < end):
                seen.append((now, end))
            if seen:
                oldest = min(oldest, seen[0][0])
        return now - oldest


class SearchableQuantile:
    """The 99th percentile of the seconds from event to searchable, of the last half minute.

    Parameters
    ----------
    read
        Gives the text of the job's `/metrics`, `None` where there is none.
    version
        What it writes: another job's figures are not live's.
    """

    def __init__(
        self,
        read: Callable[[], str | None],
        version: str,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._version = version
        self._now = now
        self._seen: deque[tuple[float, dict[float, float]]] = deque()

    def look(self) -> float | None:
        """`None` when the job does not answer, is another one, or wrote nothing lately."""
        text = self._read()
        if text is None:
            return None
        return self.take(text)

    def take(self, text: str) -> float | None:
        """The same, of a page that was read."""
        from prometheus_client.parser import text_string_to_metric_families

        buckets: dict[float, float] = {}
        writes = False
        for family in text_string_to_metric_families(text):
            if family.name == "plumbline_encoder_info":
                writes = writes or any(
                    sample.labels.get("version") == self._version for sample in family.samples
                )
            if family.name == _FAMILY:
                for sample in family.samples:
                    if sample.name == f"{_FAMILY}_bucket":
                        buckets[float(sample.labels["le"])] = sample.value
        if not writes or not buckets:
            self._seen.clear()
            return None
        now = self._now()
        if self._seen and buckets[max(buckets)] < self._seen[-1][1].get(max(buckets), 0):
            self._seen.clear()  # it was started anew
        self._seen.append((now, buckets))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW_SECONDS:
            self._seen.popleft()
        before = self._seen[0][1]
        return _quantile({le: count - before.get(le, 0) for le, count in buckets.items()})


def _quantile(cumulative: dict[float, float]) -> float | None:
    """Interpolated within its bucket; of the last one its lower border."""
    borders = sorted(cumulative)
    total = cumulative[borders[-1]]
    if total <= 0:
        return None
    rank = _QUANTILE * total
    below, low = 0.0, 0.0
    for border in borders:
        count = cumulative[border]
        if count >= rank:
            if border == float("inf"):
                return low
            return low + (border - low) * (rank - below) / max(count - below, 1e-9)
        below, low = count, border
    return low


def live_freshness(
    settings: Settings, version: Version, *, look_seconds: float = 2.0
) -> Callable[[], Freshness | None]:
    """A function that tells how the version's own events fare. Each call asks Kafka and the job.

    The job's figure counts from the events' timestamps, which may lie far back; where the wait in
    Kafka contradicts it, the wait counts.

    Parameters
    ----------
    settings
        `kafka`; `metrics` says where the job serves its metrics, on this machine or, with
        `rollout.live_metrics_url`, elsewhere.
    look_seconds
        How often it will be called: what a look cannot tell apart.
    """
    read = lag_reader(settings, read_seconds=0.0, patience_seconds=5.0)
    waiting = WaitingTime()
    searchable: SearchableQuantile | None = None
    if settings.rollout.live_metrics_url is not None or settings.metrics.port:
        page = MetricsPage(settings.metrics, settings.rollout.live_metrics_url)
        searchable = SearchableQuantile(page.read, version.name)

    def look() -> Freshness | None:
        quantile = None if searchable is None else searchable.look()
        try:
            lags = read(version)
        except PlumblineError as error:
            _log.debug("lag_unknown", version=version.name, error=str(error))
            return None if quantile is None else Freshness(None, quantile)
        waited = waiting.look(lags)
        seconds = waited if quantile is None else min(quantile, waited + look_seconds)
        return Freshness(sum(lag.records for lag in lags), seconds)

    return look
