"""The monitor's three pages: `/metrics`, `/healthz` and `/readyz`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import make_wsgi_app

from pipelines.core.endpoint import Endpoint, Protection

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
    protection
        Of `/metrics`; default: plain HTTP, no login. The other two pages need no login, and say
        why they say no only to who has one.

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
        protection: Protection | None = None,
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
                known = protection is None or protection.admits(
                    environ.get("HTTP_AUTHORIZATION", "")
                )
                checks = health.checks if known else {}
                body = json.dumps({"ok": health.ok, "checks": checks}) + "\n"
                return _answer(start_response, status, "application/json", body)
            return _answer(
                start_response,
                "404 Not Found",
                "text/plain; charset=utf-8",
                "there are /metrics, /healthz and /readyz\n",
            )

        self._endpoint = Endpoint(
            app,
            host,
            port,
            key="monitor.port",
            protection=protection,
            open_paths=frozenset({"/healthz", "/readyz"}),
        )
        self.port = self._endpoint.port

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self._endpoint.alive

    def close(self) -> None:
        """Answers no more."""
        self._endpoint.close()


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
