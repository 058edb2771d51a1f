"""Toxiproxy between a job and its services: cuts, delays and slow lines on real connections."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.support.processes import (
    Server,
    ServerProcess,
    free_port,
    listening,
    servers_dir,
    stamped,
)

__all__ = ["INSTALL_HINT", "Toxiproxy", "toxiproxy_available"]

INSTALL_HINT = "Toxiproxy is not installed: python deploy/local/install.py toxiproxy"


def _program() -> Path:
    return servers_dir() / "toxiproxy" / "bin" / "server"


def toxiproxy_available() -> bool:
    """Whether install.py has put it there."""
    return stamped("toxiproxy") and _program().exists()


class Toxiproxy(Server):
    """The proxy's server as a process of its own; use it as a context manager."""

    def __init__(self) -> None:
        self._port = free_port()
        self._logs = Path(tempfile.mkdtemp(prefix="plumbline-toxiproxy-"))

    def start(self, timeout_seconds: float = 30.0) -> Self:
        """Start it and wait until it takes orders."""
        self._process = ServerProcess(
            [str(_program()), "-host", "127.0.0.1", "-port", str(self._port)],
            self._logs / "toxiproxy.log",
        )
        self._process.wait_ready(lambda: listening(self._port), timeout_seconds)
        return self

    def close(self) -> None:
        """End it at once, and all connections with it."""
        if self._process is not None:
            self._process.kill()
        shutil.rmtree(self._logs, ignore_errors=True)

    def proxy(self, name: str, listen: int, upstream: int) -> None:
        """Passes connections to a loopback port on to another."""
        body = {"name": name, "listen": f"127.0.0.1:{listen}", "upstream": f"127.0.0.1:{upstream}"}
        self._call("POST", "/proxies", body)

    def cut(self, name: str) -> None:
        """Ends all connections of a proxy and refuses new ones."""
        self._call("POST", f"/proxies/{name}", {"enabled": False})

    def delay(self, name: str, milliseconds: int) -> None:
        """Holds every answer of the service back for so long."""
        toxic = {
            "name": "delay",
            "type": "latency",
            "stream": "downstream",
            "attributes": {"latency": milliseconds, "jitter": milliseconds // 3},
        }
        self._call("POST", f"/proxies/{name}/toxics", toxic)

    def swallow(self, name: str) -> None:
        """Accepts connections and lets no byte through either way."""
        for stream in ("upstream", "downstream"):
            toxic = {"name": stream, "type": "timeout", "stream": stream, "attributes": {}}
            toxic["attributes"] = {"timeout": 0}
            self._call("POST", f"/proxies/{name}/toxics", toxic)

    def mend(self) -> None:
        """Takes all faults away."""
        self._call("POST", "/reset")

    def _call(self, method: str, path: str, body: Any = None) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10):
            pass
