"""The HTTP server in front of the API."""

from __future__ import annotations

import re
import sys
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic_core import to_json

from deploy.local.trial_qdrant.engine import open_engine
from deploy.local.trial_qdrant.rest import Api, ApiError

__all__ = ["Handler", "TrialServer"]

_READS = re.compile(r".*/(points(/scroll|/count|/query(/batch|/groups)?)?|facet)/?")
"""Paths whose POST changes nothing."""


def _writes(method: str, path: str) -> bool:
    """Whether a request may change something."""
    return method != "GET" and not (method == "POST" and _READS.fullmatch(path))


class TrialServer(ThreadingHTTPServer):
    """The HTTP server and what its handlers share.

    Parameters
    ----------
    address
        Host and port; 0 takes any free one, see `server_port`.
    location
        Directory that keeps the data, made when it is not there, or `:memory:`.
    api_key
        Asked of every request; `None` asks for none.
    read_only_api_key
        Another key, which may only read.
    handler
        Of one connection.
    """

    daemon_threads = True
    # The client opens a connection for every request: the default of 5 waiting ones refuses some.
    request_queue_size = 256

    def __init__(
        self,
        address: tuple[str, int],
        location: str,
        api_key: str | None,
        handler: type[Handler] | None = None,
        *,
        read_only_api_key: str | None = None,
    ) -> None:
        memory = location == ":memory:"
        # The port first: who cannot have it must not open the data of the one that has it.
        super().__init__(address, handler or Handler)
        try:
            self.api = Api(
                open_engine(location), None if memory else Path(location) / "settings.json"
            )
        except BaseException:
            self.server_close()
            raise
        self.api_key = api_key
        self.read_only_api_key = read_only_api_key

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless it is that the client has gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, asks the API, writes answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # headers and body in one packet
    timeout = 120
    server: TrialServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
        """Say nothing: thousands of requests are no news."""

    def handle_request(self) -> None:
        """Answer one request."""
        started = time.perf_counter()
        body = self.read_body()
        url = urlsplit(self.path)
        self.send_answer(started, *self.answer(url.path, dict(parse_qsl(url.query)), body))

    # The names by which the base class finds a method's handler.
    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_request  # noqa: N815

    def read_body(self) -> bytes:
        """The request's body."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any, str | None]:
        """Status, result and error of one request; a result of bytes is plain text."""
        if path in ("/healthz", "/readyz", "/livez"):
            return 200, b"healthz check passed", None
        if self.server.api_key is not None:
            bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            given = self.headers.get("api-key") or bearer
            if not given:
                return 401, b"Must provide an API key or an Authorization bearer token", None
            if given == self.server.read_only_api_key:
                if _writes(self.command, path):
                    return 403, None, "Forbidden: Global manage access is required"
            elif given != self.server.api_key:
                return 401, b"Invalid API key or JWT", None
        if path == "/":
            # The client's own version, so that its check of compatibility passes.
            release = version("qdrant-client")
            return 200, {"title": "qdrant stand-in", "version": release, "commit": None}, None
        try:
            return 200, self.server.api.handle(self.command, path, query, body), None
        except ApiError as error:
            return error.status, None, str(error)
        except Exception as error:  # noqa: BLE001  (a fault of the stand-in must be an answer)
            traceback.print_exc()
            return 500, None, f"Service internal error: {error!r}"

    def send_answer(self, started: float, status: int, result: Any, error: str | None) -> None:
        """Write what `answer` gave, in the envelope that the server's own answers have."""
        if isinstance(result, bytes):
            self.send(status, result, content_type="text/plain")
            return
        answer = {"result": result, "status": "ok", "time": time.perf_counter() - started}
        if error is not None:
            answer = {"status": {"error": error}, "time": time.perf_counter() - started}
        # What the server is, at `/`, comes without an envelope.
        self.send(status, to_json(result if urlsplit(self.path).path == "/" else answer))

    def send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        content_type: str = "application/json",
    ) -> None:
        """Write one answer."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
