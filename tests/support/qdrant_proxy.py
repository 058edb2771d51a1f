"""A proxy in front of a Qdrant: the stand-in's faults on a real one, and other keys upstream."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic_core import to_json

from tests.support.qdrant_faults import Fault, Faults

__all__ = ["QdrantProxy"]

_HOP = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive", "host"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.rules = Faults()
        self.keys: dict[str, str] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that are killed are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    timeout = 120
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.rules.take(self.command, urlsplit(self.path).path)
        if fault is not None:
            time.sleep(fault.delay_seconds)
        harmful = fault is not None and bool(fault.status or fault.drop)
        if fault is not None and harmful and fault.when == "before":
            self._harm(fault)
            return
        status, headers, content = self._forward(body)
        if fault is not None and harmful:
            self._harm(fault)
            return
        self._send(status, headers, content)

    # The names by which the base class finds a method's handler.
    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_request  # noqa: N815

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = self.server.upstream
        kind = http.client.HTTPSConnection if upstream.scheme == "https" else None
        connection = (kind or http.client.HTTPConnection)(upstream.netloc, timeout=120)
        try:
            headers = {k.lower(): v for k, v in self.headers.items() if k.lower() not in _HOP}
            if "api-key" in headers:
                headers["api-key"] = self.server.keys.get(headers["api-key"], headers["api-key"])
            connection.request(self.command, upstream.path + self.path, body, headers)
            answer = connection.getresponse()
            kept = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def _harm(self, fault: Fault) -> None:
        if fault.drop is not None:
            self.close_connection = True
            if fault.drop == "reset":
                # Lingering for 0 s makes the close a reset.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
            return
        headers = {"Content-Type": "application/json"}
        if fault.retry_after is not None:
            headers["Retry-After"] = f"{fault.retry_after:g}"
        assert fault.status is not None
        answer = {"status": {"error": fault.message}, "time": 0.0}
        self._send(fault.status, headers, to_json(answer))

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class QdrantProxy:
    """Passes requests on, with the fault methods of `QdrantServer`; a context manager.

    Parameters
    ----------
    upstream
        Address of the server.
    keys
        API keys of clients to those that are sent upstream in their place; others go as they come.
        May be changed at any time: the server then decides on the next request by another key.
    """

    def __init__(self, upstream: str, keys: Mapping[str, str] | None = None) -> None:
        self._server = _Server(upstream)
        self._server.keys.update(keys or {})
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """For `QdrantClient(url=...)`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def keys(self) -> dict[str, str]:
        """As given; change it to change what the server is told from now on."""
        return self._server.keys

    def faults(self, path: str = "", **settings: Any) -> None:
        """Put a fault in force; see `QdrantServer.faults`."""
        self._server.rules.add({"path": path, **settings})

    def clear_faults(self) -> None:
        """Forget all faults and counts."""
        self._server.rules.clear()

    def fault_hits(self) -> list[int]:
        """How many requests each fault has hit."""
        return [rule["hits"] for rule in self._server.rules.report()["rules"]]

    def requests(self) -> dict[str, int]:
        """How many requests came, by `"METHOD /path"`."""
        return dict(self._server.rules.report()["requests"])
