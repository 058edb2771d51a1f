"""Options that commands share, and the settings they lead to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from pipelines.core.settings import Settings

__all__ = [
    "BootstrapServers",
    "Config",
    "IndexName",
    "Json",
    "QdrantPath",
    "QdrantUrl",
    "State",
    "Topics",
    "impatient",
    "settings_from",
]

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Settings file. Default: plumbline.yaml in this folder, if there is one.",
    ),
]
IndexName = Annotated[
    str | None,
    typer.Option("--index", metavar="NAME", help="Name of the index."),
]
BootstrapServers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        metavar="HOST:PORT,…",
        help="Kafka brokers.",
    ),
]
Topics = Annotated[
    list[str] | None,
    typer.Option(
        "--topic",
        metavar="NAME",
        help="Topic of documents; may be repeated.",
    ),
]
QdrantUrl = Annotated[
    str | None,
    typer.Option("--qdrant-url", metavar="URL", help="Qdrant server to use."),
]
QdrantPath = Annotated[
    Path | None,
    typer.Option(
        "--qdrant-path",
        metavar="FOLDER",
        help="Folder of the embedded Qdrant, instead of a server.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_IMPATIENT_SECONDS = 10.0


@dataclass(frozen=True)
class State:
    """What the global options said."""

    config: Path | None = None


def settings_from(
    context: typer.Context,
    *,
    config: Path | None = None,
    index: str | None = None,
    bootstrap_servers: str | None = None,
    topics: Sequence[str] | None = None,
    qdrant_url: str | None = None,
    qdrant_path: Path | None = None,
    more: Mapping[str, Any] | None = None,
    log_level: Literal["info", "warning", "error"] = "warning",
) -> Settings:
    """The settings of this command; logging follows them from here on.

    Parameters
    ----------
    config
        The command's own `--config`; the global one counts without.
    more
        Further overrides, nested as in the file.
    log_level
        Least level that is logged, unless the settings ask for `debug`. A command whose answer is
        its output logs warnings only; a job logs what the settings say (`info`).

    Raises
    ------
    SettingsError
        See `pipelines.core.settings.load_settings`.
    """
    from pipelines.core.log import configure_logging
    from pipelines.core.redact import remember_settings
    from pipelines.core.settings import load_settings

    state = context.obj if isinstance(context.obj, State) else State()
    overrides: dict[str, Any] = {
        "index": index,
        "kafka": {
            "bootstrap_servers": bootstrap_servers,
            "topics": list(topics) if topics else None,
        },
        "qdrant": {
            "url": qdrant_url,
            "path": str(qdrant_path) if qdrant_path is not None else None,
        },
        **(more or {}),
    }
    settings = load_settings(config or state.config, overrides)
    remember_settings(settings)
    own = settings.log_level
    rank = ("debug", "info", "warning", "error")
    level = own if own == "debug" else max(own, log_level, key=rank.index)
    configure_logging(level, settings.log_format)
    return settings


def impatient(settings: Settings) -> Settings:
    """The same settings for a command somebody waits for: an outage is reported, not sat out."""

    def shorter(section: Any) -> Any:
        seconds = min(section.outage_timeout_seconds, _IMPATIENT_SECONDS)
        request = {
            name: min(getattr(section, name), _IMPATIENT_SECONDS)
            for name in ("timeout_seconds", "request_timeout_seconds")
            if hasattr(section, name)
        }
        return section.model_copy(update={"outage_timeout_seconds": seconds, **request})

    return settings.model_copy(
        update={"kafka": shorter(settings.kafka), "qdrant": shorter(settings.qdrant)}
    )
