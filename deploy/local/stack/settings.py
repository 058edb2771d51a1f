"""Plumbline's settings as the services of the stack get them: yours, with the gaps filled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from deploy.local.stack.errors import StackError
from deploy.local.stack.options import Options
from pipelines.core.errors import SettingsError
from pipelines.core.settings import Settings, load_settings

__all__ = ["StackSettings", "stack_settings"]

_DEFAULT_STORE = Path("./plumbline-data")
"""What the settings say when they name neither folder nor URL."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_HEADER = "# Written by `make up` at each start: what it was given, and what it has filled in.\n"


@dataclass(frozen=True)
class StackSettings:
    """What the services run with.

    Parameters
    ----------
    settings
        Yours, complete.
    own_qdrant
        Whether Qdrant is started here.
    broker_port
        The port that Kafka is started on; `None` where the brokers are somebody else's.
    text
        What the file says that the services read.
    """

    settings: Settings
    own_qdrant: bool
    broker_port: int | None
    text: str


def stack_settings(options: Options) -> StackSettings:
    """The settings of the file and the environment, with the gaps filled, and written down.

    Where they name no Qdrant, it is the one that is started here; the monitor's history and the
    logs of a rollout go to the state folder, unless the settings say otherwise.

    Raises
    ------
    StackError
        They are not valid, or say something that cannot be started.
    """
    try:
        given = load_settings(options.config)
        own_qdrant = given.qdrant.url is None
        settings = load_settings(options.config, _gaps(options, given))
    except SettingsError as error:
        raise StackError(str(error)) from None
    _check(options, settings)
    return StackSettings(settings, own_qdrant, _broker_port(settings), _write(options, settings))


def _gaps(options: Options, given: Settings) -> dict[str, Any]:
    """What is filled in."""
    more: dict[str, Any] = {}
    if given.qdrant.url is None:
        if given.qdrant.path not in (None, _DEFAULT_STORE):
            raise StackError(
                "`qdrant.path` is the embedded store, which belongs to one process, and `make up` "
                "starts several. Leave it out, and a server to try things out with is started; or "
                "set `qdrant.url`."
            )
        more["qdrant"] = {"url": f"http://127.0.0.1:{options.qdrant_port}"}
    monitor = given.monitor
    if monitor.database_url is None and monitor.database_url_file is None:
        database = options.data("monitor").resolve() / "monitor.db"
        more["monitor"] = {"database_url": f"sqlite:///{database}"}
    if "job_directory" not in given.rollout.model_fields_set:
        more["rollout"] = {"job_directory": str(options.data("rollout").resolve())}
    return more


def _check(options: Options, settings: Settings) -> None:
    if not settings.kafka.names_topics:
        raise StackError(
            f"{options.config} names no topics: set `kafka.topics`, such as [documents]"
        )
    for name, port in (
        ("metrics.port", settings.metrics.port),
        ("monitor.port", settings.monitor.port),
    ):
        if not port:
            raise StackError(
                f"`{name}` is {'null' if port is None else port}: Prometheus needs one that it "
                "can know"
            )


def _broker_port(settings: Settings) -> int | None:
    servers = [part.strip() for part in settings.kafka.bootstrap_servers.split(",")]
    if len(servers) != 1:
        return None
    address = urlsplit(f"//{servers[0]}")
    if address.hostname not in _LOOPBACK:
        return None
    return 9092 if address.port is None else address.port


def _write(options: Options, settings: Settings) -> str:
    """Write what differs from the defaults, without secrets; gives what was written."""
    values = _differing(
        json.loads(settings.public_json()), json.loads(Settings.model_construct().public_json())
    )
    url = settings.monitor.database_url
    if url is not None and url.get_secret_value().startswith("sqlite:"):  # no login in it
        values.setdefault("monitor", {})["database_url"] = url.get_secret_value()
    text = _HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    options.settings.parent.mkdir(parents=True, exist_ok=True)
    options.settings.write_text(text, encoding="utf-8")
    return text


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            inner = _differing(value, default)
            if inner:
                found[key] = inner
        elif value != default:
            found[key] = value
    return found
