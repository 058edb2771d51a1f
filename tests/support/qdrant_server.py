"""A stand-in Qdrant server, so that several processes share a Qdrant where no server is installed.

It is `deploy.local.trial_qdrant` with faults on request (`qdrant_faulty`), and no proof of gRPC,
isolation, a full disk or HNSW: those take a real server, which the tests use in its place when
PLUMBLINE_TEST_QDRANT_URL names one (`qdrant_url`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.support.processes import Server, ServerProcess, free_port

__all__ = ["QdrantServer", "qdrant_url"]

REAL_SERVER = "PLUMBLINE_TEST_QDRANT_URL"
CONTROL = "/_faults"
_PROGRAM = "tests.support.qdrant_faulty"


class QdrantServer(Server):
    """The stand-in as a process of its own; use it as a context manager.

    Parameters
    ----------
    path
        Directory that keeps the data, which then survives `kill` and `restart`; `None` for
        memory, which is a fifth faster.
    api_key
        Asked of every request when given.
    read_only_api_key
        Another one, which may only read.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        api_key: str | None = None,
        read_only_api_key: str | None = None,
    ) -> None:
        self.path = path
        self.port = free_port()
        self._api_key = api_key
        self._read_only_api_key = read_only_api_key
        self._logs = Path(tempfile.mkdtemp(prefix="plumbline-qdrant-"))

    @property
    def url(self) -> str:
        """For `QdrantClient(url=...)`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, timeout_seconds: float = 60.0) -> Self:
        """Start it and wait until it answers."""
        where = ["--memory"] if self.path is None else ["--path", str(self.path)]
        secret = {} if self._api_key is None else {"QDRANT__SERVICE__API_KEY": self._api_key}
        if self._read_only_api_key is not None:
            secret["QDRANT__SERVICE__READ_ONLY_API_KEY"] = self._read_only_api_key
        self._process = ServerProcess(
            [sys.executable, "-m", _PROGRAM, "--port", str(self.port), *where],
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
