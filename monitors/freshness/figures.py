"""The freshness probe's gauges."""

from __future__ import annotations

from monitors.probes.base import FigureFamily

__all__ = ["FAMILIES"]

OLDEST = FigureFamily(
    "plumbline_freshness_oldest_unprocessed_seconds",
    "Longest time that an event has waited to become searchable; 0 when caught up.",
    unit="seconds",
)
LAGGING = FigureFamily(
    "plumbline_freshness_lag_records",
    "Records that the version's consumer group has not committed, over all partitions.",
    unit="records",
)
STALLED = FigureFamily(
    "plumbline_freshness_stalled_partitions",
    "Partitions that hold events older than the objective and whose committed offset stands still.",
    unit="partitions",
)
EXPIRED = FigureFamily(
    "plumbline_freshness_expired_records",
    "Records that the topic dropped before the group committed them.",
    unit="records",
)
PARTITION_LAG = FigureFamily(
    "plumbline_freshness_partition_lag_records",
    "Records that the group has not committed in one partition; the 200 that lag most.",
    labels=("topic", "partition"),
    unit="records",
)
PARTITION_OLDEST = FigureFamily(
    "plumbline_freshness_partition_oldest_seconds",
    "Time that the first record not committed in one partition has waited.",
    labels=("topic", "partition"),
    unit="seconds",
)
MEDIAN = FigureFamily(
    "plumbline_freshness_searchable_median_seconds",
    "Median time from an event's timestamp to when it was indexed, over recently indexed ones.",
    unit="seconds",
)
P95 = FigureFamily(
    "plumbline_freshness_searchable_p95_seconds",
    "95th percentile of the time from an event's timestamp to when it was indexed.",
    unit="seconds",
)
NEWEST = FigureFamily(
    "plumbline_freshness_newest_event_timestamp_seconds",
    "Timestamp of the newest event in the version, seconds since the epoch.",
    unit="seconds since the epoch",
)

FAMILIES: tuple[FigureFamily, ...] = (
    *(OLDEST, LAGGING, STALLED, EXPIRED, PARTITION_LAG, PARTITION_OLDEST, MEDIAN, P95, NEWEST),
)
