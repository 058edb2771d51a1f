"""What the stack is made of, in the order of starting."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.local.stack.broker import broker
from deploy.local.stack.monitoring import alertmanager, prometheus, write_configuration
from deploy.local.stack.options import REPOSITORY, Options
from deploy.local.stack.ports import Port
from deploy.local.stack.service import Service
from deploy.local.stack.settings import StackSettings
from pipelines.core.settings import Settings, secret

__all__ = ["services"]

_COMMAND = str(Path(sys.executable).with_name("plumbline"))
"""The command a user types, of this environment."""


def services(options: Options, given: StackSettings) -> list[Service]:
    """What is to run; the files that it needs are written."""
    settings = given.settings
    configuration = write_configuration(options, settings)
    found: list[Service] = []
    if given.broker_port is not None:
        found.append(broker(options, given.broker_port))
    if given.own_qdrant:
        found.append(_qdrant(options, settings))
    found.append(alertmanager(options, configuration))
    found.append(_ingest(options, given))
    found.append(_monitor(options, given))
    found.append(prometheus(options, configuration))
    return found


def _qdrant(options: Options, settings: Settings) -> Service:
    address = f"http://127.0.0.1:{options.qdrant_port}"
    store = settings.qdrant
    key = secret(store.api_key, store.api_key_file, "qdrant.api_key")
    return Service(
        name="qdrant",
        stage=1,
        command=[
            *(sys.executable, "-m", "deploy.local.trial_qdrant"),
            *("--port", str(options.qdrant_port)),
            *("--path", str(options.data("qdrant").resolve())),
        ],
        folder=REPOSITORY,
        ports=[Port(options.qdrant_port, "--qdrant-port")],
        address=f"{address} (to try things out with; see `qdrant.url`)",
        health=f"{address}/readyz",
        grace_seconds=20.0,
        environment={} if key is None else {"QDRANT__SERVICE__API_KEY": key},
    )


def _ingest(options: Options, given: StackSettings) -> Service:
    metrics = given.settings.metrics
    assert metrics.port is not None, "stack_settings has checked it"
    return _plumbline(
        options,
        given,
        name="ingest",
        stage=2,
        arguments=["ingest", "--create"],
        port=Port(metrics.port, "`metrics.port` in the settings file", metrics.host),
        page="/metrics",
        # It drains first.
        grace_seconds=given.settings.ingest.drain_seconds + 10.0,
    )


def _monitor(options: Options, given: StackSettings) -> Service:
    monitor = given.settings.monitor
    return _plumbline(
        options,
        given,
        name="monitor",
        stage=3,  # the index is there by then
        arguments=["monitor", "run"],
        port=Port(monitor.port, "`monitor.port` in the settings file", monitor.host),
        page="/readyz",
        grace_seconds=30.0,
    )


def _plumbline(
    options: Options,
    given: StackSettings,
    *,
    name: str,
    stage: int,
    arguments: list[str],
    port: Port,
    page: str,
    grace_seconds: float,
) -> Service:
    scheme = "http" if given.settings.metrics.tls_cert_file is None else "https"
    host = "127.0.0.1" if port.host in ("", "0.0.0.0", "::") else port.host
    address = f"{scheme}://{host}:{port.number}"
    return Service(
        name=name,
        stage=stage,
        command=[_COMMAND, *arguments, "--config", str(options.settings.resolve())],
        folder=Path.cwd(),  # what the settings name relatively is seen from where they were read
        ports=[port],
        address=f"{address}/metrics",
        health=f"{address}{page}",
        grace_seconds=grace_seconds,
        configuration=given.text,
        environment=given.settings.secret_environment(),
    )
