"""A real Prometheus reads protected endpoints of job and monitor, and only with the login."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import require
from tests.support.certificates import Authority
from tests.support.jobs import COMMAND, ENVIRONMENT, write_config
from tests.support.processes import ServerProcess, free_port, wait_until
from tests.support.prometheus_server import PrometheusServer, Scrape
from tests.support.prometheus_tools import INSTALL_HINT, prometheus_available
from tests.support.scenario import Scenario, merged
from tests.support.stream import Stream

PASSWORD = "walrus-in-the-attic"


def test_prometheus_scrapes_over_https_with_a_login(
    scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Job and monitor are up for who has the password and trusts the authority, down for others."""
    require(prometheus_available(), INSTALL_HINT)
    authority = Authority(tmp_path)
    issued = authority.issue("metrics")
    it = scenario()
    it.topic.produce(Stream(20_261_129, 10).take(20))
    ports = {"plumbline-ingest": free_port(), "plumbline-monitor": free_port()}
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    protection = {
        "tls_cert_file": str(issued.certificate),
        "tls_key_file": str(issued.key),
        "username": "prometheus",
        "password_file": str(tmp_path / "password"),
    }
    values: dict[str, Any] = merged(
        it.values,
        {
            "metrics": {"port": ports["plumbline-ingest"], **protection},
            "monitor": {
                "port": ports["plumbline-monitor"],
                "database_url": f"sqlite:///{tmp_path / 'monitor.db'}",
            },
        },
    )
    config = str(write_config(tmp_path / "protected.yaml", values))
    job = ServerProcess(
        [*COMMAND, "ingest", "--create", "--config", config],
        tmp_path / "ingest.log",
        environment=ENVIRONMENT,
    )
    monitor = ServerProcess(
        [*COMMAND, "monitor", "run", "--config", config],
        tmp_path / "monitor.log",
        environment=ENVIRONMENT,
    )
    login = {
        "scheme": "https",
        "tls_config": {"ca_file": str(authority.certificate)},
        "basic_auth": {"username": "prometheus", "password_file": str(tmp_path / "password")},
    }
    scrapes = [Scrape(name, port, configuration=login) for name, port in ports.items()]
    strangers = {
        "no-login": {**login, "basic_auth": {"username": "prometheus", "password": "x"}},
        "no-trust": {**login, "tls_config": {}},
        "no-tls": {"basic_auth": login["basic_auth"]},
    }
    for name, configuration in strangers.items():
        scrapes.append(Scrape(name, ports["plumbline-ingest"], configuration=configuration))
    try:
        with PrometheusServer(scrapes) as prometheus:
            for process in (job, monitor):
                process.wait_ready(
                    lambda: (
                        prometheus.value("sum(plumbline_consumed_events_total)") >= 20
                        and prometheus.value("count(plumbline_monitor_leader)") == 1
                    ),
                    120,
                    what="both are scraped",
                )
            wait_until(
                lambda: not [one for one in prometheus.targets() if one[2] == "unknown"],
                30,
                what="every target was tried",
            )
            health = {name: state for name, _, state in prometheus.targets()}
            assert health == {**dict.fromkeys(ports, "up"), **dict.fromkeys(strangers, "down")}
            stored = prometheus.query('{job=~"no-.*",__name__!~"up|scrape_.*"}')
            assert stored == []
        for process in (job, monitor):
            process.require_running()
            assert PASSWORD not in process.log()
    finally:
        job.kill()
        monitor.kill()
