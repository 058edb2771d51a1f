"""The Prometheus that tests start: it scrapes, evaluates rules, and says what it objects to."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from tests.conftest import require
from tests.support.processes import free_port, wait_until
from tests.support.prometheus_server import PrometheusError, PrometheusServer, Scrape
from tests.support.prometheus_tools import INSTALL_HINT, prometheus_available

RULES = """
groups:
  - name: one
    interval: 1h
    rules:
      - {record: "test:twice", expr: "2 * test_size"}
      - {alert: TestTooLarge, expr: "test_size > 4", labels: {severity: info}}
"""


@pytest.fixture
def exporter() -> Iterator[tuple[int, Gauge]]:
    """A page of metrics of this process, and the gauge on it."""
    registry, port = CollectorRegistry(), free_port()
    gauge = Gauge("test_size", "Of something.", registry=registry)
    server, thread = start_http_server(port, "127.0.0.1", registry)
    yield port, gauge
    server.shutdown()
    server.server_close()
    thread.join()


def test_it_answers_with_what_it_scraped(exporter: tuple[int, Gauge], tmp_path: Path) -> None:
    """Series, rules however long their own interval, alerts, ranges, and targets that change."""
    require(prometheus_available(), INSTALL_HINT)
    port, gauge = exporter
    gauge.set(3)
    rules = tmp_path / "rules.yml"
    rules.write_text(RULES, "utf-8")
    scrape = Scrape("test", port, {"index": "docs"})
    with PrometheusServer([scrape], [rules]) as prometheus:
        prometheus.wait_up()
        (sample,) = wait_until(lambda: prometheus.query("test:twice"))
        assert sample.labels == {
            "__name__": "test:twice",
            "index": "docs",
            "instance": f"127.0.0.1:{port}",
            "job": "test",
        }
        assert sample.value == 6
        assert prometheus.firing() == set()
        gauge.set(5)
        wait_until(lambda: prometheus.firing() == {"TestTooLarge"})
        now = time.time()
        (ranged,) = prometheus.query_range("test_size", now - 60, now, 1)
        assert {value for _, value in ranged.points} == {3, 5}
        assert math.isnan(prometheus.value("test_no_such_metric"))
        assert prometheus.label_values("index", "test_size") == ["docs"]
        assert "test:twice" in prometheus.metric_names()
        with pytest.raises(PrometheusError, match="parse error"):
            prometheus.query("test_size{")
        prometheus.scrape([])
        assert prometheus.targets() == []
        assert prometheus.rules()[0]["health"] == "ok"
