"""The trial server of `deploy/local` with faults on request, as a process.

python -m tests.support.qdrant_faulty --port 6333 --path DIR
python -m tests.support.qdrant_faulty --port 0 --memory
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import time
import warnings
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic_core import from_json, to_json

from deploy.local.trial_qdrant.server import Handler, TrialServer
from tests.support.qdrant_faults import Faults
from tests.support.qdrant_server import CONTROL


class _Server(TrialServer):
    """The server, and the faults in force."""

    def __init__(
        self,
        address: tuple[str, int],
        location: str,
        api_key: str | None,
        read_only_api_key: str | None,
    ) -> None:
        self.faults = Faults()
        super().__init__(address, location, api_key, _Handler, read_only_api_key=read_only_api_key)


class _Handler(Handler):
    """One connection, whose requests may meet a fault."""

    server: _Server

    def handle_request(self) -> None:
        started = time.perf_counter()
        body = self.read_body()
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
        answer = self.answer(url.path, dict(parse_qsl(url.query)), body)
        if fault is not None and harmful:
            self._harm(fault)
            return
        self.send_answer(started, *answer)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_request  # noqa: N815

    def _control(self, body: bytes) -> None:
        faults = self.server.faults
        try:
            if self.command == "POST":
                faults.add(from_json(body))
            elif self.command == "DELETE":
                faults.clear()
        except (TypeError, ValueError) as error:
            self.send(400, to_json({"status": {"error": str(error)}}))
            return
        self.send(200, to_json({"result": faults.report(), "status": "ok", "time": 0.0}))

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
        self.send(fault.status, to_json(answer), headers)


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
        os.environ.get("QDRANT__SERVICE__READ_ONLY_API_KEY"),
    )
    print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever(poll_interval=0.05)
    finally:
        server.api.close()


if __name__ == "__main__":
    main()
