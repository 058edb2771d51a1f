"""Alertmanager for tests: one on loopback, and somebody who is told by its webhook."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.support.processes import Server, ServerProcess, free_port, servers_dir, stamped

__all__ = [
    "INSTALL_HINT",
    "AlertmanagerServer",
    "Message",
    "WebhookReceiver",
    "alertmanager_available",
    "amtool",
]

INSTALL_HINT = "Alertmanager is not installed: python deploy/local/install.py alertmanager"


_HOME = servers_dir() / "alertmanager"
_SERVER = _HOME / "bin" / "alertmanager"
_AMTOOL = _HOME / "usr" / "bin" / "amtool"


def alertmanager_available() -> bool:
    """Whether install.py has put it there."""
    return stamped("alertmanager") and _SERVER.exists() and _AMTOOL.exists()


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs amtool to its end."""
    return subprocess.run(
        [str(_AMTOOL), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        # Its settings lie in the home folder; a user's must not count here.
        env={"HOME": tempfile.gettempdir()},
    )


@dataclass(frozen=True)
class Message:
    """One alert of a message: when it came, whether it fires, and what it says."""

    at: float
    firing: bool
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def name(self) -> str:
        """Of the alert."""
        return self.labels["alertname"]


class WebhookReceiver:
    """Keeps what an Alertmanager posts; use it as a context manager."""

    def __init__(self) -> None:
        self.port = free_port()
        self._lock = threading.Lock()
        self._messages: list[Message] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver._take(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing: the messages are kept."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
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
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/alerts"

    def _take(self, content: Mapping[str, Any]) -> None:
        now = time.monotonic()
        with self._lock:
            for alert in content["alerts"]:
                firing = alert["status"] == "firing"
                made = Message(now, firing, alert["labels"], alert["annotations"])
                self._messages.append(made)

    @property
    def messages(self) -> list[Message]:
        """All of them, in the order in which they came."""
        with self._lock:
            return list(self._messages)

    def firing(self) -> set[str]:
        """Names of the alerts that it has been told of, and not of their end."""
        state: dict[tuple[tuple[str, str], ...], Message] = {}
        for message in self.messages:
            state[tuple(sorted(message.labels.items()))] = message
        return {message.name for message in state.values() if message.firing}


class AlertmanagerServer(Server):
    """An Alertmanager of its own for a test; use it as a context manager.

    Parameters
    ----------
    config
        Its configuration file, which is copied.
    """

    def __init__(self, config: Path) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="plumbline-alertmanager-"))
        self._config = self._folder / "alertmanager.yml"
        content = yaml.safe_load(config.read_text("utf-8"))
        self._config.write_text(yaml.safe_dump(content), "utf-8")

    @property
    def address(self) -> str:
        """`host:port`, for Prometheus."""
        return f"127.0.0.1:{self.port}"

    def start(self, timeout_seconds: float = 60.0) -> Self:
        """Start it and wait until it answers."""
        self._process = ServerProcess(
            [
                str(_SERVER),
                f"--config.file={self._config}",
                f"--storage.path={self._folder / 'data'}",
                f"--web.listen-address={self.address}",
                # Nobody to talk to.
                "--cluster.listen-address=",
            ],
            self._folder / "alertmanager.log",
            environment={"GOMAXPROCS": "1"},
        )
        self._process.wait_ready(self._answers, timeout_seconds)
        return self

    def close(self) -> None:
        """End it in order and remove its folder."""
        if self._process is not None:
            self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        return amtool("alert", "query", f"--alertmanager.url=http://{self.address}").returncode == 0

    def active(self) -> list[dict[str, Any]]:
        """Alerts that it has, those that are inhibited too, with `status`."""
        done = amtool(
            "alert",
            "query",
            "--inhibited",
            "--active",
            "--output=json",
            f"--alertmanager.url=http://{self.address}",
        )
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
        return found
