"""Prometheus metrics of the job, one set a process.

Names and labels are an interface: dashboards and alerts use them.
"""

from __future__ import annotations

import threading

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["JobMetrics", "job_metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# Searchable latency spans a live stream (under a second) and a catch-up of days.
_LONG_SECONDS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class JobMetrics:
    """Every metric family of the ingest job, registered on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.consumed = Counter(
            "plumbline_consumed_events", "Records read from Kafka.", ["topic"], registry=registry
        )
        self.events = Counter(
            "plumbline_events",
            "Events by what became of them; the outcomes add up to the events consumed.",
            ["outcome"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "plumbline_dead_letters",
            "Events that cannot be applied.",
            ["reason"],
            registry=registry,
        )
        self.batch_events = Histogram(
            "plumbline_batch_events", "Events in a batch.", buckets=_SIZES, registry=registry
        )
        self.batch_tokens = Histogram(
            "plumbline_batch_tokens",
            "Tokens encoded for a batch.",
            buckets=tuple(2**power for power in range(6, 20)),
            registry=registry,
        )
        self.encoded = Counter(
            "plumbline_encoded_documents",
            "Documents whose text was encoded, whatever became of the vectors: what a kill or a "
            "repeat costs is the difference to those embedded.",
            registry=registry,
        )
        self.tokens = Counter("plumbline_tokens", "Tokens encoded.", registry=registry)
        self.truncated = Counter(
            "plumbline_truncated_texts",
            "Texts longer than the model's max tokens; the rest of them has no vector.",
            registry=registry,
        )
        self.encode_seconds = Histogram(
            "plumbline_encode_seconds",
            "Seconds to encode a batch.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.write_seconds = Histogram(
            "plumbline_write_seconds",
            "Seconds to write a batch, read-back included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.searchable_seconds = Histogram(
            "plumbline_event_to_searchable_seconds",
            "Seconds from an event's timestamp until it can be searched.",
            buckets=_LONG_SECONDS,
            registry=registry,
        )
        self.lag = Gauge(
            "plumbline_consumer_lag_records",
            "Records between the position read and the end of the partition.",
            ["topic", "partition"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.committed = Gauge(
            "plumbline_committed_offset",
            "Offset committed for the consumer group.",
            ["topic", "partition"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.commit_failures = Counter(
            "plumbline_commit_failures", "Offset commits that failed.", registry=registry
        )
        self.data_loss = Counter(
            "plumbline_data_loss_records",
            "Records the topic dropped before they were read.",
            ["topic"],
            registry=registry,
        )
        self.recreated = Counter(
            "plumbline_recreated_topics", "Topics found re-created.", ["topic"], registry=registry
        )
        self.truncated_records = Counter(
            "plumbline_truncated_records",
            "Records that were read and have vanished from the topic since: a leader without them "
            "took over.",
            ["topic"],
            registry=registry,
        )
        self.future = Counter(
            "plumbline_future_events",
            "Events stamped more than a second ahead of this machine's clock; their time until "
            "searchable is not known and not observed.",
            ["topic"],
            registry=registry,
        )
        self.shadowed = Counter(
            "plumbline_shadowed_events",
            "Events left out as stale because the document's stored state is stamped in the "
            "future: later events that lose to a wrong clock.",
            ["topic"],
            registry=registry,
        )
        self.kafka_silence = Gauge(
            "plumbline_kafka_silence_seconds",
            "Seconds for which a broker has not answered what it was asked; below 1 while all do.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.retries = Counter(
            "plumbline_retries",
            "Requests repeated because a service did not answer.",
            ["service"],
            registry=registry,
        )
        self.canary_distance = Gauge(
            "plumbline_canary_distance",
            "Greatest cosine distance of a canary to its stored vector.",
            ["kind"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.encoder_info = Gauge(
            "plumbline_encoder_info",
            "The encoder of this process; always 1.",
            ["index", "version", "fingerprint", "model", "device", "dtype"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )


_lock = threading.Lock()
_metrics: JobMetrics | None = None


def job_metrics() -> JobMetrics:
    """The process's metrics, on prometheus-client's default registry."""
    global _metrics  # noqa: PLW0603 - one set a process, made when first asked for
    with _lock:
        if _metrics is None:
            _metrics = JobMetrics(REGISTRY)
        return _metrics
