"""`plumbline ingest status`, `stop` and `resume`: the job on a Flink cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.flags import (
    BootstrapServers,
    Config,
    IndexName,
    Json,
    QdrantUrl,
    Topics,
    impatient,
    settings_from,
)
from pipelines.cli.output import print_json, print_table, say, warn

if TYPE_CHECKING:
    from pipelines.core.settings import Settings
    from pipelines.flink.rest import FlinkJob

__all__ = ["register", "submit"]

RestUrl = Annotated[
    str | None,
    typer.Option("--rest-url", metavar="URL", help="Flink's REST API (flink.rest_url)."),
]
VersionName = Annotated[
    str | None,
    typer.Option("--version", metavar="NAME", help="The job of this version."),
]


def register(group: typer.Typer) -> None:
    """Adds the commands to `plumbline ingest`."""
    group.command(epilog="Example: plumbline ingest status --json")(status)
    group.command(epilog="Example: plumbline ingest stop")(stop)
    group.command(epilog="Example: plumbline ingest resume --parallelism 4")(resume)


def status(
    context: typer.Context,
    version: VersionName = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    rest_url: RestUrl = None,
) -> None:
    """Show the index's jobs on Flink: state, restarts, last checkpoint. Exit code 1: none runs."""
    settings = settings_from(
        context, config=config, index=index, more={"flink": {"rest_url": rest_url}}
    )
    from pipelines.flink.operate import jobs_of_index, version_of
    from pipelines.flink.rest import FlinkRest

    jobs = [
        job
        for job in jobs_of_index(FlinkRest(settings.flink.rest_url), settings.index)
        if version in (None, version_of(job))
    ]
    if json:
        print_json({"jobs": [_as_json(job) for job in jobs]})
    elif jobs:
        for job in jobs:
            say(version_of(job))
            print_table(["job", job.job_id], _rows(job))
    else:
        say(f"Flink at {settings.flink.rest_url} knows no job of the index {settings.index!r}.")
    raise typer.Exit(0 if any(job.state == "RUNNING" for job in jobs) else 1)


def stop(
    context: typer.Context,
    version: VersionName = None,
    cancel: Annotated[
        bool,
        typer.Option(
            "--cancel", help="Without a savepoint: resume at the offsets of the last checkpoint."
        ),
    ] = False,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    rest_url: RestUrl = None,
    qdrant_url: QdrantUrl = None,
) -> None:
    """Stop the job on Flink with a savepoint, which `resume` starts from."""
    settings = settings_from(
        context,
        config=config,
        index=index,
        qdrant_url=qdrant_url,
        more={"flink": {"rest_url": rest_url}},
    )
    from pipelines.core.qdrant import connect
    from pipelines.flink.operate import stop_job

    stopped = stop_job(settings, connect(impatient(settings)), version=version, cancel=cancel)
    if json:
        print_json(
            {
                "version": stopped.version,
                "job_id": stopped.job_id,
                "savepoint": stopped.savepoint or None,
            }
        )
        return
    say(f"{stopped.version}: job {stopped.job_id} has ended")
    say(f"savepoint: {stopped.savepoint}" if stopped.savepoint else "without a savepoint")
    say("Go on with: plumbline ingest resume")


def resume(
    context: typer.Context,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="NAME",
            help="Write this version, under its own contract. Default: the settings' contract.",
        ),
    ] = None,
    savepoint: Annotated[
        str | None,
        typer.Option(
            "--savepoint",
            metavar="PATH",
            help="Start from this savepoint or retained checkpoint. Default: the one of `stop`.",
        ),
    ] = None,
    from_offsets: Annotated[
        bool,
        typer.Option(
            "--from-offsets",
            help="Start at the committed offsets, whatever savepoint there is. Nothing is lost.",
        ),
    ] = False,
    standby: Annotated[
        bool,
        typer.Option("--standby", help="Wait while workers of the last run still hold the lease."),
    ] = False,
    parallelism: Annotated[
        int | None,
        typer.Option(
            "--parallelism", min=1, metavar="N", help="Subtasks on Flink (flink.parallelism)."
        ),
    ] = None,
    beam_option: Annotated[
        list[str] | None,
        typer.Option(
            "--beam-option", metavar="--NAME=VALUE", help="Further option of Beam; repeatable."
        ),
    ] = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
    qdrant_url: QdrantUrl = None,
) -> None:
    """Submit the job to Flink again, from its savepoint; without one from the committed offsets."""
    settings = settings_from(
        context,
        config=config,
        index=index,
        bootstrap_servers=bootstrap_servers,
        topics=topic,
        qdrant_url=qdrant_url,
        more={"flink": {"parallelism": parallelism}},
        log_level="info",
    )
    from pipelines.core.errors import SettingsError

    if not settings.flink.detached:
        raise SettingsError(
            "flink.environment is LOOPBACK: such a job lives in the process that runs it and is "
            "started with `plumbline ingest --runner flink`"
        )
    if from_offsets and savepoint is not None:
        raise SettingsError("--savepoint and --from-offsets are two places to start from: give one")
    submit(
        settings,
        version=version,
        savepoint=savepoint,
        recorded=savepoint is None and not from_offsets,
        standby=standby,
        more_options=beam_option or [],
        as_json=json,
    )


def submit(
    settings: Settings,
    *,
    create: bool = False,
    version: str | None = None,
    standby: bool = False,
    savepoint: str | None = None,
    recorded: bool = False,
    more_options: Sequence[str] = (),
    as_json: bool = False,
) -> None:
    """Submits a job that goes on without this command, and says what runs.

    Parameters
    ----------
    recorded
        Start from the savepoint that `stop` has recorded, when there is one.
    """
    from pipelines.cli.signals import draining
    from pipelines.flink.operate import version_of

    with draining(settings.ingest.drain_seconds, in_process=False):
        from pipelines.flink.submit import submit_ingest

        done = submit_ingest(
            settings,
            create=create,
            version=version,
            standby=standby,
            savepoint=savepoint,
            recorded=recorded,
            more_options=more_options,
            on_wait=warn,
        )
    if as_json:
        print_json(
            {
                "version": version_of(done.job),
                "job_id": done.job.job_id,
                "name": done.job.name,
                "parallelism": done.job.parallelism,
                "savepoint": done.savepoint or None,
                "seconds": round(done.seconds, 3),
            }
        )
        return
    say(
        f"{done.version}: job {done.job.job_id} runs on Flink, {done.seconds:.1f} s after the start"
    )
    say(f"from {done.savepoint or 'the committed offsets'}")
    say("Look at it with `plumbline ingest status`, stop it with `plumbline ingest stop`.")


def _rows(job: FlinkJob) -> list[tuple[str, str]]:
    rows = [
        ("state", job.state if job.state != "RUNNING" or job.running else "RUNNING, not all of it"),
        ("since", _ago(job.seconds)),
        ("restarts", "unknown" if job.restarts is None else str(job.restarts)),
        ("parallelism", str(job.parallelism)),
    ]
    if job.checkpoint is None:
        rows.append(("last checkpoint", "none"))
    else:
        last = job.checkpoint
        rows.append(
            (
                "last checkpoint",
                f"{_ago(time.time() - last.at)} ago, {last.bytes:,} bytes in {last.seconds:.1f} s",
            )
        )
    if job.failure:
        rows.append(("last failure", job.failure))
    return rows


def _ago(seconds: float) -> str:
    whole = max(round(seconds), 0)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if whole >= 2 * length:
            return f"{whole / length:.1f} {unit}"
    return f"{whole} s"


def _as_json(job: FlinkJob) -> dict[str, Any]:
    from pipelines.flink.operate import version_of

    last = job.checkpoint
    return {
        "version": version_of(job),
        "job_id": job.job_id,
        "name": job.name,
        "state": job.state,
        "running": job.running,
        "uptime_seconds": round(job.seconds, 3),
        "restarts": job.restarts,
        "parallelism": job.parallelism,
        "last_checkpoint": None
        if last is None
        else {
            "age_seconds": round(time.time() - last.at, 3),
            "seconds": last.seconds,
            "bytes": last.bytes,
            "path": last.path or None,
        },
        "failure": job.failure or None,
        "tasks": {name: dict(states) for name, states in job.tasks.items()},
    }
