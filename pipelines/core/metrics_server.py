"""The job's endpoint: `/metrics`, and `/healthz` and `/readyz` for what watches a process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

from pipelines.core.endpoint import Application, Endpoint, Protection
from pipelines.core.metrics import job_metrics
from pipelines.core.settings import MetricsSettings

__all__ = ["serve_metrics"]

_HEALTH = frozenset({"/healthz", "/readyz"})

_log = structlog.get_logger()


@contextmanager
def serve_metrics(settings: MetricsSettings) -> Iterator[int | None]:
    """Serves the metrics while the block runs; gives the port, `None` when it is turned off.

    A job serves once everything has been checked and it is about to read, and a job that cannot
    go on ends by itself. So `/healthz` and `/readyz` say no more than that the process is there
    and past its start: enough for a kubelet, and no second opinion on an outage.

    With `PROMETHEUS_MULTIPROC_DIR` set, as on a host of many worker processes, the endpoint adds
    up what all of them wrote there.

    Raises
    ------
    SettingsError
        The port, the certificate or the password cannot be had.
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
    protection = Protection(settings)
    endpoint = Endpoint(
        _pages(registry),
        settings.host,
        settings.port,
        key="metrics.port",
        protection=protection,
        open_paths=_HEALTH,
    )
    _log.info(
        "metrics_serving",
        host=settings.host,
        port=endpoint.port,
        scheme=protection.scheme,
        login=protection.has_login,
    )
    try:
        yield endpoint.port
    finally:
        endpoint.close()


def _pages(registry: CollectorRegistry) -> Application:
    metrics: Any = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ.get("PATH_INFO") not in _HEALTH:
            page: Iterable[bytes] = metrics(environ, start_response)
            return page
        body = b'{"ok": true}\n'
        start_response(
            "200 OK",
            [("Content-Type", "application/json"), ("Content-Length", str(len(body)))],
        )
        return [body]

    return answer
