"""The image's health check: well, unwell, behind a login, and not there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.core.settings import load_settings
from tests.support.processes import free_port

SCRIPT = Path(__file__).parents[2] / "deploy" / "docker" / "healthy.py"


@contextmanager
def serving(statuses: dict[str, int]) -> Iterator[int]:
    """A server that answers each path with its status; gives the port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def healthy(*arguments: str, ingest: int, monitor: int) -> int:
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT, *arguments],
        env={
            **os.environ,
            "PLUMBLINE_METRICS__PORT": str(ingest),
            "PLUMBLINE_MONITOR__PORT": str(monitor),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (401, 0), (503, 1), (404, 1)])
@pytest.mark.parametrize(("what", "path"), [("ingest", "/metrics"), ("monitor", "/healthz")])
def test_the_page_decides(what: str, path: str, status: int, code: int) -> None:
    """Yes for a page that is there, with or without a login; no for one that says no."""
    with serving({path: status}) as port:
        ports = {"ingest": free_port(), "monitor": free_port(), what: port}
        assert healthy(what, **ports) == code
        assert healthy(**ports) == code


def test_nothing_there_is_not_healthy() -> None:
    """A process that does not listen is not well."""
    assert healthy(ingest=free_port(), monitor=free_port()) == 1


def test_an_unknown_name_is_refused() -> None:
    """A typing error in a health check does not look like health."""
    with serving({"/metrics": 200}) as port:
        assert healthy("ingst", ingest=port, monitor=port) == 2


def test_it_knows_the_default_ports() -> None:
    """Without variables it looks where the settings' defaults are."""
    settings = load_settings()
    text = SCRIPT.read_text(encoding="utf-8")
    assert f'"PLUMBLINE_METRICS__PORT", {settings.metrics.port}, "/metrics"' in text
    assert f'"PLUMBLINE_MONITOR__PORT", {settings.monitor.port}, "/healthz"' in text
