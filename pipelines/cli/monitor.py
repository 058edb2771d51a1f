"""`plumbline monitor`: the service, one round of its probes, references and history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.flags import (
    Config,
    IndexName,
    Json,
    QdrantPath,
    QdrantUrl,
    impatient,
    settings_from,
)
from pipelines.cli.output import print_json, say

if TYPE_CHECKING:
    from monitors.probes.base import LagReader
    from pipelines.core.settings import Settings

__all__ = ["register"]

_group = typer.Typer(
    no_args_is_help=True, help="Watch a live index: probes on a schedule, in Prometheus metrics."
)
_reference = typer.Typer(
    no_args_is_help=True, help="The sample of vectors that drift is measured against."
)
_group.add_typer(_reference, name="reference")


def register(app: typer.Typer) -> None:
    """Adds the group to the command."""
    app.add_typer(_group, name="monitor")


@_group.command(epilog="Example: plumbline monitor run --port 9109")
def run(
    context: typer.Context,
    port: Annotated[
        int | None,
        typer.Option("--port", help="Of /metrics, /healthz and /readyz; 0 for any free one."),
    ] = None,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Run every probe on its schedule until stopped, and serve the metrics.

    Of several that watch the same index one runs the probes; the others stand by, and serve the
    same metrics where the store is a PostgreSQL. SIGTERM or Ctrl-C stops; a second one at once.
    """
    settings = settings_from(
        context,
        config=config,
        index=index,
        qdrant_url=qdrant_url,
        qdrant_path=qdrant_path,
        more={"monitor": {"port": port}},
        log_level="info",
    )
    from pipelines.cli.signals import stopping

    with stopping() as stop:
        from monitors.service import MonitorService

        MonitorService(settings, lag=_lag(settings)).run(stop)


@_group.command(epilog="Example: plumbline monitor once --probe canary --probe integrity")
def once(
    context: typer.Context,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            "--probe", metavar="NAME", help="Only this one; may be repeated. Default: all."
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="NAME",
            help="A version by name, such as a rollout's candidate. Default: the live one.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look only: the store keeps nothing of it.")
    ] = False,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Run probes once on the live version and print what they find.

    Exit code 1 on an alarm and only then, 3 where a service is out of reach, 4 where it could not
    look for another reason, else 0.
    """
    settings = settings_from(
        context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
    )
    from monitors.once import run_once
    from pipelines.cli.monitor_output import exit_code_of, print_round, round_as_json

    with _unanswered(), _quiet():
        found = run_once(
            settings, probe or (), lag=_lag(settings), record=not dry_run, version=version
        )
    code = exit_code_of(found.runs)
    if json:
        print_json(round_as_json(found, code))
    else:
        print_round(found)
    raise typer.Exit(code)


@_group.command(epilog="Example: plumbline monitor history --probe drift --limit 20")
def history(
    context: typer.Context,
    probe: Annotated[
        str | None, typer.Option("--probe", metavar="NAME", help="Only runs of this one.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many.")] = 30,
    resets: Annotated[
        bool, typer.Option("--resets", help="What was taken back, by whom and why, in their place.")
    ] = False,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
) -> None:
    """Show the newest runs that the store keeps."""
    settings = settings_from(context, config=config, index=index)
    from monitors.probes import PROBES
    from monitors.store import open_store
    from pipelines.cli.monitor_output import (
        print_history,
        print_resets,
        reset_event_as_json,
        stored_as_json,
    )

    if probe is not None and probe not in PROBES:
        PROBES[probe]  # says which are valid
    store = open_store(settings.monitor)
    try:
        if resets:
            events = store.resets(settings.index, probe=probe, limit=limit)
        else:
            runs = store.history(settings.index, probe=probe, limit=limit)
    finally:
        store.close()
    if resets and json:
        print_json([reset_event_as_json(event) for event in events])
    elif resets:
        print_resets(events)
    elif json:
        print_json([stored_as_json(one) for one in runs])
    else:
        print_history(runs)


@_group.command(
    epilog="Example: plumbline monitor reset integrity --reason 'the archive is gone on purpose'"
)
def reset(
    context: typer.Context,
    probe: Annotated[str, typer.Argument(metavar="PROBE", help="integrity, golden or drift.")],
    reason: Annotated[
        str | None,
        typer.Option("--reason", metavar="TEXT", help="Why; kept in the history of resets."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be taken back.")
    ] = False,
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="NAME", help="In place of the live version."),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="WHO", help="Default: you, on this host.")
    ] = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Take back an alarm over a change that you accept: what is there now is the new baseline.

    The probe gives up what it remembers and looks once more. A monitor that runs goes on from
    there. Exit code 1 where nothing was taken back, or the probe alarms for another reason; 3 and
    4 as of `monitor once`.
    """
    from pipelines.core.errors import SettingsError

    if not dry_run and not (reason or "").strip():
        raise SettingsError(
            "a reset wants a --reason, for those who read the history; --dry-run only shows what "
            "would be taken back"
        )
    settings = impatient(
        settings_from(
            context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
        )
    )
    from monitors.reset import reset_probe
    from pipelines.cli.monitor_output import exit_code_of_reset, print_reset, reset_as_json
    from pipelines.core.process import this_actor

    with _quiet():
        standing = reset_probe(
            settings,
            probe,
            reason=(reason or "").strip(),
            by=by or this_actor(),
            version=version,
            dry_run=dry_run,
        )
    code = exit_code_of_reset(standing)
    if json:
        print_json(reset_as_json(standing, code))
    else:
        print_reset(standing)
    raise typer.Exit(code)


@_reference.command(
    name="set",
    epilog="Example: plumbline monitor reference set --reason 'spring catalogue is in'",
)
def set_(
    context: typer.Context,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the history.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Default: kind and time.")
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="documents or queries.")
    ] = "documents",
    by: Annotated[
        str | None, typer.Option("--by", metavar="WHO", help="Default: you, on this host.")
    ] = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Take what came to the live version lately as the reference that drift is measured against."""
    from pipelines.core.errors import SettingsError

    if not reason.strip():
        raise SettingsError("--reason is empty: say why, for those who read the history")
    settings = impatient(
        settings_from(
            context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
        )
    )
    from dataclasses import asdict

    from monitors.reference import set_reference
    from pipelines.core.process import this_actor

    key, kept = set_reference(
        settings, kind=kind, name=name, reason=reason.strip(), by=by or this_actor()
    )
    if json:
        print_json({"version": key.version, **asdict(kept)})
        return
    say(f"in force: {kept.name}, {kept.rows:,} vectors of {kept.kind} from {key.version}")


@_reference.command(epilog="Example: plumbline monitor reference show --json")
def show(
    context: typer.Context,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Show the references of the live version, and who put them in force, when and why."""
    settings = impatient(
        settings_from(
            context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
        )
    )
    from dataclasses import asdict

    from monitors.reference import show_references
    from pipelines.cli.monitor_output import print_references

    key, references, events = show_references(settings)
    if json:
        print_json(
            {
                "version": key.version,
                "references": [asdict(one) for one in references],
                "history": [asdict(event) for event in events],
            }
        )
        return
    print_references(key.version, references, events)


def _lag(settings: Settings) -> LagReader | None:
    """Asks Kafka where a topic is set; the monitor itself knows no Kafka."""
    if not settings.kafka.names_topics:
        return None
    from pipelines.io.kafka.lag import lag_reader

    return lag_reader(settings)


@contextmanager
def _quiet() -> Iterator[None]:
    """The table says what the probes found: their log lines would say it twice."""
    import structlog

    with structlog.testing.capture_logs():
        yield


@contextmanager
def _unanswered() -> Iterator[None]:
    """What would end the command with 1, which says that a probe alarms, ends it with 4."""
    from pipelines.cli.output import report_error
    from pipelines.core.errors import ExitCode

    try:
        yield
    except Exception as error:  # noqa: BLE001 - the command ends with it, whatever it is
        code = report_error(error)
        raise typer.Exit(ExitCode.UNANSWERED if code == ExitCode.NO else code) from None
