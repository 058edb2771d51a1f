"""The job's `/metrics` endpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

from pipelines.core.errors import SettingsError
from pipelines.core.metrics import job_metrics
from pipelines.core.settings import MetricsSettings

__all__ = ["serve_metrics"]

_log = structlog.get_logger()


@contextmanager
def serve_metrics(settings: MetricsSettings) -> Iterator[int | None]:
    """Serves the metrics while the block runs; gives the port, `None` when it is turned off.

    With `PROMETHEUS_MULTIPROC_DIR` set, as on a host of many worker processes, the endpoint adds
    up what all of them wrote there.

    Raises
    ------
    SettingsError
        The port cannot be had.
    """
    job_metrics()
    if settings.port is None:
        yield None
        return
    registry: CollectorRegistry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    try:
        server, thread = start_http_server(settings.port, settings.host, registry)
    except OSError as error:
        raise SettingsError(
            f"metrics.port {settings.port} on {settings.host} cannot be had: {error.strerror}. "
            "Choose another, 0 for any free one, or null for none."
        ) from None
    port = server.server_port
    _log.info("metrics_serving", host=settings.host, port=port)
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
