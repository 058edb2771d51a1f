"""Prometheus metrics of a backfill, one set a process.

Names and labels are an interface: dashboards and alerts use them.
"""

from __future__ import annotations

import threading

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

__all__ = ["BackfillMetrics", "backfill_metrics"]

_LABELS = ["index", "version"]


class BackfillMetrics:
    """Every metric family of a backfill, registered on `registry`; `version` is the target."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.documents = Counter(
            "plumbline_backfill_documents",
            "Heads of the source by what became of them in the target.",
            [*_LABELS, "outcome"],
            registry=registry,
        )
        self.tokens = Counter(
            "plumbline_backfill_tokens", "Tokens encoded.", _LABELS, registry=registry
        )
        self.tokens_left = Gauge(
            "plumbline_backfill_remaining_tokens",
            "Tokens that are still to be encoded, estimated.",
            _LABELS,
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.documents_left = Gauge(
            "plumbline_backfill_remaining_documents",
            "Heads of the source that are still to be read.",
            _LABELS,
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.eta_seconds = Gauge(
            "plumbline_backfill_eta_seconds",
            "Seconds until the backfill is done, at the rate of late; NaN before it can be told.",
            _LABELS,
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.throttle_seconds = Counter(
            "plumbline_backfill_throttle_seconds",
            "Seconds paused so that live events keep their freshness.",
            _LABELS,
            registry=registry,
        )
        self.share = Gauge(
            "plumbline_backfill_speed_ratio",
            "Share of the time that the throttle lets the backfill work; 1 is full speed.",
            _LABELS,
            registry=registry,
            multiprocess_mode="mostrecent",
        )


_lock = threading.Lock()
_metrics: BackfillMetrics | None = None


def backfill_metrics() -> BackfillMetrics:
    """The process's metrics, on prometheus-client's default registry."""
    global _metrics  # noqa: PLW0603 - one set a process, made when first asked for
    with _lock:
        if _metrics is None:
            _metrics = BackfillMetrics(REGISTRY)
        return _metrics
