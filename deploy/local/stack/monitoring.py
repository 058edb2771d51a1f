"""Prometheus and Alertmanager as services of the stack, with the rules of `deploy/alerting`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.alerting.generate import generated
from deploy.alerting.load import load_objectives
from deploy.alerting.objectives import Objectives
from deploy.local.install import servers_dir
from deploy.local.stack.errors import StackError
from deploy.local.stack.options import Options
from deploy.local.stack.ports import Port
from deploy.local.stack.service import Service
from pipelines.core.errors import SettingsError
from pipelines.core.settings import MetricsSettings, Settings

__all__ = ["Configuration", "alertmanager", "prometheus", "write_configuration"]

_RETENTION = "35d"
"""A little more than the 30 days of an error budget."""


@dataclass(frozen=True)
class Configuration:
    """What was written for the two.

    Parameters
    ----------
    prometheus, alertmanager
        Their own files.
    texts
        What each file says, by its path below the state folder.
    """

    prometheus: Path
    alertmanager: Path
    texts: dict[str, str]


def write_configuration(options: Options, settings: Settings) -> Configuration:
    """Write the generated rules and configurations, with this machine's addresses in place.

    Raises
    ------
    StackError
        The file of objectives is not valid.
    """
    try:
        objectives = load_objectives(options.objectives)
        texts = generated(_here(objectives, options, settings))
    except SettingsError as error:
        raise StackError(str(error)) from None
    folder = options.data("prometheus").resolve()
    config = yaml.safe_load(texts["prometheus/prometheus.yml"])
    more = _access(settings.metrics, folder)
    for job in config["scrape_configs"]:
        job.update(more)
    texts["prometheus/prometheus.yml"] = yaml.safe_dump(config, sort_keys=False)
    options.data("alertmanager")
    for name, text in texts.items():
        (options.state / name).write_text(text, encoding="utf-8")
    return Configuration(
        prometheus=folder / "prometheus.yml",
        alertmanager=options.data("alertmanager").resolve() / "alertmanager.yml",
        texts=texts,
    )


def prometheus(options: Options, configuration: Configuration) -> Service:
    """Scrapes the job and the monitor, and evaluates the rules."""
    address = f"127.0.0.1:{options.prometheus_port}"
    folder = configuration.prometheus.parent
    return Service(
        name="prometheus",
        stage=4,
        command=[
            str(servers_dir() / "prometheus" / "usr" / "bin" / "prometheus"),
            f"--config.file={configuration.prometheus}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--storage.tsdb.retention.time={_RETENTION}",
            f"--web.listen-address={address}",
        ],
        folder=folder,
        ports=[Port(options.prometheus_port, "--prometheus-port")],
        address=f"http://{address}",
        health=f"http://{address}/-/ready",
        grace_seconds=20.0,
        configuration="\n".join(
            text for name, text in configuration.texts.items() if name.startswith("prometheus/")
        ),
        server="prometheus",
    )


def alertmanager(options: Options, configuration: Configuration) -> Service:
    """Tells people what Prometheus finds."""
    address = f"127.0.0.1:{options.alertmanager_port}"
    folder = configuration.alertmanager.parent
    return Service(
        name="alertmanager",
        stage=1,
        command=[
            str(servers_dir() / "alertmanager" / "bin" / "alertmanager"),
            f"--config.file={configuration.alertmanager}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--cluster.listen-address=",  # it is alone
        ],
        folder=folder,
        ports=[Port(options.alertmanager_port, "--alertmanager-port")],
        address=f"http://{address}",
        health=f"http://{address}/-/ready",
        grace_seconds=10.0,
        configuration=configuration.texts["alertmanager/alertmanager.yml"],
        server="alertmanager",
    )


def _here(objectives: Objectives, options: Options, settings: Settings) -> Objectives:
    """The objectives with the addresses of this stack."""
    metrics, monitor = settings.metrics, settings.monitor
    scraping = {
        "indexes": [
            {
                "index": settings.index,
                "ingest": [_target(metrics.host, metrics.port)],
                "backfill": [_target(metrics.host, settings.rollout.metrics_port)],
            }
        ],
        "monitors": [_target(monitor.host, monitor.port)],
        "alertmanagers": [f"127.0.0.1:{options.alertmanager_port}"],
    }
    values = objectives.model_dump(by_alias=True)
    values["scraping"] |= scraping
    return Objectives.model_validate(values)


def _target(host: str, port: int | None) -> str:
    return f"{'127.0.0.1' if host in ('', '0.0.0.0', '::') else host}:{port}"


def _access(metrics: MetricsSettings, folder: Path) -> dict[str, Any]:
    """How Prometheus gets at endpoints that speak TLS or ask for a login."""
    more: dict[str, Any] = {}
    if metrics.tls_cert_file is not None:
        # It comes from this very machine; the name in the certificate may be of another one.
        more["scheme"] = "https"
        more["tls_config"] = {"insecure_skip_verify": True}
    if metrics.username is not None:
        file = metrics.password_file
        if file is None and metrics.password is not None:
            file = folder / "metrics-password"
            file.unlink(missing_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as password:
                password.write(metrics.password.get_secret_value())
        more["basic_auth"] = {
            "username": metrics.username,
            "password_file": str(Path(str(file)).resolve()),
        }
    return more
