"""A stand-in Qdrant server, so that several processes share a Qdrant where no server is installed.

    python -m tests.support.qdrant_server --port 6333 --path DIR
    python -m tests.support.qdrant_server --port 0 --memory

It has what we call of the REST API (`qdrant_rest`) and faults on request (`qdrant_faults`), and is
no proof of gRPC, read-only keys, isolation, a full disk or HNSW: those take a real server, which
the tests use in its place when PLUMBLINE_TEST_QDRANT_URL names one (`qdrant_url`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import struct
import sys
import tempfile
import time
import traceback
import urllib.request
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic_core import from_json, to_json

from tests.support.processes import ServerProcess, free_port

__all__ = ["QdrantServer", "qdrant_url"]

REAL_SERVER = "PLUMBLINE_TEST_QDRANT_URL"
CONTROL = "/_faults"


class _Server(ThreadingHTTPServer):
    """The HTTP server and what its handlers share."""

    daemon_threads = True
    # The client opens a connection for every request: the default of 5 waiting ones refuses some.
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], location: str, api_key: str | None) -> None:
        # Imported here, so that a test that only starts the process stays light.
        from tests.support.qdrant_engine import open_engine
        from tests.support.qdrant_faults import Faults
        from tests.support.qdrant_rest import Api

        memory = location == ":memory:"
        self.api = Api(open_engine(location), None if memory else Path(location) / "settings.json")
        self.faults = Faults()
        self.api_key = api_key
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that is gone is what some tests are about.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, applies faults, asks the API, writes answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # headers and body in one packet
    timeout = 120
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
        """Say nothing: thousands of requests are no news."""

    def handle_request(self) -> None:
        started = time.perf_counter()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        if url.path == CONTROL:
            self._control(body)
            return
        fault = self.server.faults.take(self.command, url.path)
        if fault is not None:
            time.sleep(fault.delay_seconds)
        harmful = fault is not None and bool(fault.status or fault.drop)
        if fault is not None and harmful and fault.when == "before":
            self._harm(fault)
            return
        status, result, error = self._answer(url.path, dict(parse_qsl(url.query)), body)
        if fault is not None and harmful:
            self._harm(fault)
            return
        if isinstance(result, bytes):
            self._send(status, result, content_type="text/plain")
            return
        answer = {"result": result, "status": "ok", "time": time.perf_counter() - started}
        if error is not None:
            answer = {"status": {"error": error}, "time": time.perf_counter() - started}
        self._send(status, to_json(result if url.path == "/" else answer))

    # The names by which the base class finds a method's handler.
    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_request  # noqa: N815

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any, str | None]:
        """Status, result and error of one request."""
        from tests.support.qdrant_rest import ApiError

        if path in ("/healthz", "/readyz", "/livez"):
            return 200, b"healthz check passed", None
        if self.server.api_key is not None:
            bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            given = self.headers.get("api-key") or bearer
            if not given:
                return 401, b"Must provide an API key or an Authorization bearer token", None
            if given != self.server.api_key:
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

    def _control(self, body: bytes) -> None:
        faults = self.server.faults
        try:
            if self.command == "POST":
                faults.add(from_json(body))
            elif self.command == "DELETE":
                faults.clear()
        except (TypeError, ValueError) as error:
            self._send(400, to_json({"status": {"error": str(error)}}))
            return
        self._send(200, to_json({"result": faults.report(), "status": "ok", "time": 0.0}))

    def _harm(self, fault: Any) -> None:
        if fault.drop is not None:
            self.close_connection = True
            if fault.drop == "reset":
                # Lingering for 0 s makes the close a reset.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
            return
        headers = {}
        if fault.retry_after is not None:
            headers["Retry-After"] = f"{fault.retry_after:g}"
        answer = {"status": {"error": fault.message}, "time": 0.0}
        self._send(fault.status, to_json(answer), headers)

    def _send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        content_type: str = "application/json",
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class QdrantServer:
    """The stand-in as a process of its own; use it as a context manager.

    Parameters
    ----------
    path
        Directory that keeps the data, which then survives `kill` and `restart`; `None` for
        memory, which is a fifth faster.
    api_key
        Asked of every request when given.
    """

    def __init__(self, path: Path | None = None, *, api_key: str | None = None) -> None:
        self.path = path
        self.port = free_port()
        self._api_key = api_key
        self._logs = Path(tempfile.mkdtemp(prefix="plumbline-qdrant-"))
        self._process: ServerProcess | None = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """For `QdrantClient(url=...)`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> ServerProcess:
        """The running server: its pid, its log, pause and resume."""
        if self._process is None:
            raise RuntimeError("the Qdrant server is not started")
        return self._process

    def start(self, timeout_seconds: float = 60.0) -> Self:
        """Start it and wait until it answers."""
        where = ["--memory"] if self.path is None else ["--path", str(self.path)]
        secret = {} if self._api_key is None else {"QDRANT__SERVICE__API_KEY": self._api_key}
        self._process = ServerProcess(
            [sys.executable, "-m", __name__, "--port", str(self.port), *where],
            self._logs / "qdrant.log",
            environment=secret,
        )
        self._process.wait_ready(lambda: self._call("GET", "/readyz") is not None, timeout_seconds)
        return self

    def stop(self) -> None:
        """End it in order; port and directory stay for `restart`."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would; port and directory stay for `restart`."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> Self:
        """Stop it if it runs, and start it again on the same port and directory."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """End it for good; what `path` names is the caller's to remove."""
        self.stop()
        shutil.rmtree(self._logs, ignore_errors=True)

    def faults(self, path: str = "", **settings: Any) -> None:
        """Put a fault in force for coming requests.

        Parameters
        ----------
        path
            Regular expression searched for in the request's path.
        settings
            The other fields of `tests.support.qdrant_faults.Fault`: `method`, `times` (default 1),
            `skip`, `when`, `status`, `message`, `retry_after`, `delay_seconds`, `drop`.
        """
        self._call("POST", CONTROL, {"path": path, **settings})

    def clear_faults(self) -> None:
        """Forget all faults and counts."""
        self._call("DELETE", CONTROL)

    def fault_hits(self) -> list[int]:
        """How many requests each fault has hit, in the order in which they were put in force."""
        return [rule["hits"] for rule in self._report()["rules"]]

    def requests(self) -> dict[str, int]:
        """How many requests came, by `"METHOD /path"`, since start or `clear_faults`."""
        return dict(self._report()["requests"])

    def _report(self) -> dict[str, Any]:
        return dict(json.loads(self._call("GET", CONTROL))["result"])

    def _call(self, method: str, path: str, body: Any = None) -> bytes:
        request = urllib.request.Request(
            self.url + path, method=method, data=None if body is None else json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return bytes(response.read())


@contextlib.contextmanager
def qdrant_url(path: Path | None = None) -> Iterator[str]:
    """Address of a Qdrant for tests: the real one of PLUMBLINE_TEST_QDRANT_URL, else a stand-in.

    The real one is shared and keeps what it holds: every test uses index names of its own.

    Parameters
    ----------
    path
        Where a stand-in keeps its data; `None` for memory.
    """
    real = os.environ.get(REAL_SERVER)
    if real:
        yield real
        return
    with QdrantServer(path) as server:
        yield server.url


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=6333, help="0 for any; it is printed")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--path", help="directory that keeps the data")
    where.add_argument("--memory", action="store_true", help="keep the data in memory")
    arguments = parser.parse_args()
    # The engine warns of its size and of what it ignores; both are known here.
    warnings.simplefilter("ignore")
    # From the environment, as the real server takes it: a command line is for all to read.
    server = _Server(
        ("127.0.0.1", arguments.port),
        ":memory:" if arguments.memory else arguments.path,
        os.environ.get("QDRANT__SERVICE__API_KEY"),
    )
    print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever(poll_interval=0.05)
    finally:
        server.api.close()


if __name__ == "__main__":
    main()
