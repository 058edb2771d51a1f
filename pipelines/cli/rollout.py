"""`plumbline rollout`: replace the live version by another one, without breaking search."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.flags import (
    BootstrapServers,
    Config,
    IndexName,
    Json,
    QdrantPath,
    QdrantUrl,
    Topics,
    impatient,
    settings_from,
)
from pipelines.cli.output import print_json

if TYPE_CHECKING:
    from monitors.golden.golden_set import GoldenSet
    from pipelines.core.settings import Settings

__all__ = ["register"]

_group = typer.Typer(
    no_args_is_help=True,
    help="Replace the live version by another one: plan, build, verify, promote, roll back.",
)

Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="Why; kept in the rollout's history."),
]
Golden = Annotated[
    Path | None,
    typer.Option(
        "--golden", metavar="FILE", help="Golden set. Default: `monitor.golden.file`, if any."
    ),
]


class Source(StrEnum):
    """Where the past comes from."""

    VERSION = "version"
    TOPIC = "topic"


def register(app: typer.Typer) -> None:
    """Adds the group to the command."""
    app.add_typer(_group, name="rollout")


@_group.command(epilog="Example: plumbline rollout plan --contract candidate.yaml")
def plan(
    context: typer.Context,
    contract: Annotated[
        Path, typer.Option("--contract", metavar="FILE", help="The candidate's contract, whole.")
    ],
    golden: Golden = None,
    sample: Annotated[
        int, typer.Option("--sample", min=1, metavar="N", help="Documents to measure on.")
    ] = 500,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Say what a candidate takes and changes: time, storage, recall. Builds nothing."""
    settings = impatient(
        settings_from(
            context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
        )
    )
    from pipelines.cli.candidates import read_contract
    from pipelines.cli.rollout_output import bar, show_plan
    from pipelines.rollout.plan import plan as run

    candidate = read_contract(contract)
    with bar() as progress:
        report = run(
            settings,
            candidate,
            golden=_golden_set(settings, golden),
            sample=sample,
            progress=progress,
        )
    print_json(report.to_json()) if json else show_plan(report)


@_group.command(epilog="Example: plumbline rollout build --from version")
def build(
    context: typer.Context,
    source: Annotated[
        Source,
        typer.Option(
            "--from",
            help="Fill from the live version's stored texts, or by replaying a compacted topic.",
        ),
    ] = Source.VERSION,
    job: Annotated[
        bool,
        typer.Option(
            "--job/--no-job",
            help="Start the candidate's ingest job here; --no-job where it is deployed elsewhere.",
        ),
    ] = True,
    again: Annotated[
        bool,
        typer.Option("--again", help="Fill a candidate that is built once more: what it lacks."),
    ] = False,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Fill the candidate beside the live version, which goes on receiving every event.

    Can be stopped or killed at any moment and started again: finished ranges are not done twice.
    """
    settings = settings_from(
        context,
        config=config,
        index=index,
        bootstrap_servers=bootstrap_servers,
        topics=topic,
        qdrant_url=qdrant_url,
        qdrant_path=qdrant_path,
        log_level="info",
    )
    from pipelines.cli.rollout_output import build_progress, show_build
    from pipelines.cli.signals import stopping
    from pipelines.rollout.build import build as run

    with stopping() as stop, build_progress() as progress:
        report = run(
            settings,
            source=source.value,
            start_job=job,
            again=again,
            on_progress=progress,
            stop=stop,
        )
    print_json(report.to_json()) if json else show_build(report)


@_group.command(epilog="Example: plumbline rollout status --json")
def status(
    context: typer.Context,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Show the state, the progress, what it waits for, and the next sensible command."""
    settings = impatient(
        settings_from(
            context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
        )
    )
    from pipelines.cli.rollout_output import show_status
    from pipelines.rollout.status import status as run

    report = run(settings)
    print_json(report.to_json()) if json else show_status(report)


@_group.command(epilog="Example: plumbline rollout verify --golden golden.yaml")
def verify(
    context: typer.Context,
    golden: Golden = None,
    without_golden: Annotated[
        str | None,
        typer.Option(
            "--without-golden",
            metavar="REASON",
            help="Verify without a golden set; the reason is kept in the record.",
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            metavar="M",
            help="Loss of mean recall that is too much. Default: `rollout.margin`.",
        ),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option(
            "--level",
            metavar="P",
            help="Chance of passing a candidate at the margin. Default: `rollout.level`.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", metavar="N", help="Depth of that recall. Default: `rollout.k`."),
    ] = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Prove the candidate: documents, canaries, latency, recall. Exit code 1 when it is not."""
    settings = impatient(
        settings_from(
            context,
            config=config,
            index=index,
            bootstrap_servers=bootstrap_servers,
            topics=topic,
            qdrant_url=qdrant_url,
            qdrant_path=qdrant_path,
            more={"rollout": {"margin": margin, "level": level, "k": k}},
        )
    )
    from pipelines.cli.rollout_output import bar, show_verify
    from pipelines.rollout.verify import verify as run

    with bar() as progress:
        report = run(settings, golden=golden, without_golden=without_golden, progress=progress)
    print_json(report.to_json()) if json else show_verify(report)
    raise typer.Exit(0 if report.ok else 1)


@_group.command(epilog='Example: plumbline rollout promote --reason "better chunks"')
def promote(
    context: typer.Context,
    force: Annotated[
        bool,
        typer.Option("--force", help="Switch although the candidate did not pass; needs --reason."),
    ] = False,
    reason: Reason = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Switch searches to the candidate, in one step. The previous version keeps every event."""
    settings = impatient(
        settings_from(
            context,
            config=config,
            index=index,
            bootstrap_servers=bootstrap_servers,
            topics=topic,
            qdrant_url=qdrant_url,
            qdrant_path=qdrant_path,
        )
    )
    from pipelines.cli.rollout_output import show_moved
    from pipelines.rollout.switch import promote as run

    show_moved(run(settings, force=force, reason=reason), as_json=json)


@_group.command(epilog="Example: plumbline rollout soak --auto-rollback --interval 3600")
def soak(
    context: typer.Context,
    golden: Golden = None,
    auto_rollback: Annotated[
        bool, typer.Option("--auto-rollback", help="Roll back when the new version is worse.")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=1, metavar="SECONDS", help="Between two looks.")
    ] = 3600.0,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Score both versions side by side until the soak is over. Exit code 1 after a rollback."""
    settings = settings_from(
        context,
        config=config,
        index=index,
        bootstrap_servers=bootstrap_servers,
        topics=topic,
        qdrant_url=qdrant_url,
        qdrant_path=qdrant_path,
    )
    from pipelines.cli.rollout_output import show_soak, show_soak_run
    from pipelines.cli.signals import stopping
    from pipelines.rollout.auto_rollback import soak as run

    with stopping() as stop:
        report = run(
            settings,
            golden=golden or settings.monitor.golden.file,
            auto_rollback=auto_rollback,
            interval_seconds=interval,
            stop_event=stop,
            on_run=None if json else show_soak_run,
        )
    print_json(report.to_json()) if json else show_soak(report)
    raise typer.Exit(1 if report.rolled_back else 0)


@_group.command(epilog='Example: plumbline rollout rollback --reason "worse on part numbers"')
def rollback(
    context: typer.Context,
    reason: Reason = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until the previous version has caught up."),
    ] = False,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Switch searches back to the previous version, in one step. No write is lost."""
    settings = impatient(
        settings_from(
            context,
            config=config,
            index=index,
            bootstrap_servers=bootstrap_servers,
            topics=topic,
            qdrant_url=qdrant_url,
            qdrant_path=qdrant_path,
        )
    )
    from pipelines.cli.rollout_output import show_moved
    from pipelines.rollout.switch import rollback as run

    show_moved(run(settings, reason=reason, wait=wait), as_json=json)


@_group.command(epilog="Example: plumbline rollout retire")
def retire(
    context: typer.Context,
    now: Annotated[
        str | None,
        typer.Option(
            "--now",
            metavar="VERSION",
            help="Do not wait for the soak's end; name the version that is dropped.",
        ),
    ] = None,
    reason: Reason = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Drop the version that lost: the previous one, or after a rollback the candidate."""
    settings = impatient(
        settings_from(
            context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
        )
    )
    from pipelines.cli.rollout_output import show_moved
    from pipelines.rollout.retire import retire as run

    show_moved(run(settings, now=now, reason=reason), as_json=json)


@_group.command(epilog='Example: plumbline rollout abort --reason "wrong model"')
def abort(
    context: typer.Context,
    reason: Reason = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Give the rollout up before the switch: the candidate is dropped, live is left alone."""
    settings = impatient(
        settings_from(
            context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
        )
    )
    from pipelines.cli.rollout_output import show_moved
    from pipelines.rollout.retire import abort as run

    show_moved(run(settings, reason=reason), as_json=json)


def _golden_set(settings: Settings, given: Path | None) -> GoldenSet | None:
    from monitors.golden.files import read_golden

    path = given or settings.monitor.golden.file
    return None if path is None else read_golden(path)
