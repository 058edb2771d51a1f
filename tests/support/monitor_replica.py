"""A service of the monitor on a thread of this process."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from monitors.service import MonitorService
from pipelines.core.settings import Settings

__all__ = ["Replica"]


class Replica:
    """A service on a thread, and what it says over HTTP."""

    def __init__(self, settings: Settings, probes: Mapping[str, Any]) -> None:
        self.probes = probes
        self.stop = threading.Event()
        self.service = MonitorService(settings, probes=probes, poll_seconds=0.3)
        self.thread = threading.Thread(target=self.service.run, args=(self.stop,), daemon=True)
        self.thread.start()

    def get(self, path: str, accept: str = "") -> tuple[int, str, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.service.port}{path}", headers={"Accept": accept}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode(), answer.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), error.headers["Content-Type"]

    def health(self, path: str) -> tuple[int, dict[str, str]]:
        status, body, _ = self.get(path)
        return status, json.loads(body)["checks"]

    def values(self) -> dict[tuple[Any, ...], float]:
        """Sample name and label values (version, probe, others) to the value."""
        first = ("version", "probe")

        def key(sample: Any) -> tuple[Any, ...]:
            others = sorted(set(sample.labels) - {"index", *first})
            names = [*(name for name in first if name in sample.labels), *others]
            return (sample.name, *(sample.labels[name] for name in names))

        families = text_string_to_metric_families(self.get("/metrics")[1])
        return {key(sample): sample.value for family in families for sample in family.samples}

    def end(self) -> float:
        """Stops it; gives the seconds that took."""
        begun = time.monotonic()
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()
        return time.monotonic() - begun
