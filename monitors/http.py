"""The monitor's three pages: `/metrics`, `/healthz` and `/readyz`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from pipelines.core.errors import SettingsError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Health", "HttpServer"]


@dataclass(frozen=True)
class Health:
    """An answer to `/healthz` or `/readyz`.

    Parameters
    ----------
    checks
        What was looked at, in words.
    """

    ok: bool
    checks: dict[str, str]


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Says nothing: every scrape would be a line."""


class HttpServer:
    """Serves on a thread of its own until `close`.

    Parameters
    ----------
    host, port
        0 picks a free port; see `port`.
    registry
        What `/metrics` shows, in OpenMetrics' format when asked for.
    alive, ready
        Asked at each request.

    Raises
    ------
    SettingsError
        The port cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        alive: Callable[[], Health],
        ready: Callable[[], Health],
    ) -> None:
        metrics: Any = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path == "/metrics":
                answer: Iterable[bytes] = metrics(environ, start_response)
                return answer
            if path in ("/healthz", "/readyz"):
                health = alive() if path == "/healthz" else ready()
                status = "200 OK" if health.ok else "503 Service Unavailable"
                body = json.dumps({"ok": health.ok, "checks": health.checks}) + "\n"
                return _answer(start_response, status, "application/json", body)
            return _answer(
                start_response,
                "404 Not Found",
                "text/plain; charset=utf-8",
                "there are /metrics, /healthz and /readyz\n",
            )

        try:
            self._server = make_server(host, port, app, ThreadingWSGIServer, _QuietHandler)
        except OSError as error:
            raise SettingsError(
                f"monitor.port {port} on {host} cannot be had: {error.strerror}. Choose another, "
                "or 0 for any free one."
            ) from None
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="monitor http", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Answers no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _answer(start_response: Any, status: str, kind: str, body: str) -> Iterable[bytes]:
    data = body.encode()
    start_response(
        status,
        [
            ("Content-Type", kind),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
        ],
    )
    return [data]
