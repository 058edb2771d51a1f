"""`plumbline ingest`: the streaming job, its signals and its end."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.flags import (
    BootstrapServers,
    Config,
    IndexName,
    Json,
    QdrantPath,
    QdrantUrl,
    Topics,
    settings_from,
)
from pipelines.cli.output import print_json, print_table, say, warn

if TYPE_CHECKING:
    from pipelines.core.versions import Version
    from pipelines.ingest import IngestResult

__all__ = ["register"]


class Runner(StrEnum):
    """Where the pipeline runs."""

    IN_PROCESS = "in-process"
    FLINK = "flink"
    PORTABLE = "portable"
    """Whatever takes pipelines by Beam's job API, such as Prism."""


class Environment(StrEnum):
    """Where Flink runs the steps that are written in Python."""

    LOOPBACK = "LOOPBACK"
    EXTERNAL = "EXTERNAL"
    DOCKER = "DOCKER"
    PROCESS = "PROCESS"


_group = typer.Typer(
    invoke_without_command=True,
    epilog="Example: plumbline ingest --create --topic documents --until-caught-up",
    short_help="Run the job that keeps a version true to its topics.",
)

JobEndpoint = Annotated[
    str | None,
    typer.Option(
        "--job-endpoint",
        metavar="HOST:PORT",
        help="Beam's job server for Flink (flink.job_endpoint).",
    ),
]
Parallelism = Annotated[
    int | None,
    typer.Option(
        "--parallelism", min=1, metavar="N", help="Subtasks on Flink (flink.parallelism)."
    ),
]
BeamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--beam-option",
        metavar="--NAME=VALUE",
        help="Further option of Beam; may be repeated.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command, and those for a job on Flink below it."""
    from pipelines.cli import ingest_flink

    ingest_flink.register(_group)
    app.add_typer(_group, name="ingest")


@_group.callback()
def ingest(
    context: typer.Context,
    until_caught_up: Annotated[
        bool,
        typer.Option(
            "--until-caught-up", help="Stop at the ends that the partitions have at the start."
        ),
    ] = False,
    standby: Annotated[
        bool,
        typer.Option(
            "--standby", help="Wait while another job writes this version, then take over."
        ),
    ] = False,
    create: Annotated[
        bool, typer.Option("--create", help="Make the index when it does not exist.")
    ] = False,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="NAME",
            help="Write this version, under its own contract. Default: the settings' contract.",
        ),
    ] = None,
    json: Json = False,
    runner: Annotated[Runner, typer.Option("--runner", help="Where it runs.")] = Runner.IN_PROCESS,
    job_endpoint: JobEndpoint = None,
    environment_type: Annotated[
        Environment | None,
        typer.Option(
            "--environment-type",
            help="Where Flink finds Python; LOOPBACK is this process (flink.environment).",
        ),
    ] = None,
    environment_config: Annotated[
        str | None,
        typer.Option(
            "--environment-config",
            metavar="TEXT",
            help="Address, image or command of that environment (flink.environment_config).",
        ),
    ] = None,
    parallelism: Parallelism = None,
    beam_option: BeamOption = None,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Keep a version true to its topics until stopped, or until it has caught up.

    SIGTERM or Ctrl-C finishes what is under way, within `ingest.drain_seconds`; a second one
    leaves at once. Nothing is lost either way: offsets are committed after their effect.

    With `--runner flink` and workers outside this process the job is submitted, and goes on when
    this command has ended: `status`, `stop` and `resume` are for it.
    """
    if context.invoked_subcommand is not None:
        return
    settings = settings_from(
        context,
        config=config,
        index=index,
        bootstrap_servers=bootstrap_servers,
        topics=topic,
        qdrant_url=qdrant_url,
        qdrant_path=qdrant_path,
        more={
            "flink": {
                "job_endpoint": job_endpoint,
                "environment": environment_type.value if environment_type is not None else None,
                "environment_config": environment_config,
                "parallelism": parallelism,
            }
        },
        log_level="info",
    )
    from pipelines.core.errors import SettingsError

    if version is not None and create:
        raise SettingsError("--version names a version that exists; --create makes one: give one")
    if runner is Runner.IN_PROCESS and (job_endpoint is not None or parallelism is not None):
        raise SettingsError("--job-endpoint and --parallelism are for --runner flink or portable")
    if runner is not Runner.IN_PROCESS and settings.flink.job_endpoint is None:
        raise SettingsError(
            f"--runner {runner} needs Beam's job server: flink.job_endpoint or --job-endpoint, "
            "such as localhost:8099"
        )
    more = beam_option or []
    if runner is Runner.FLINK and settings.flink.detached and not until_caught_up:
        from pipelines.cli.ingest_flink import submit

        submit(
            settings,
            create=create,
            version=version,
            standby=standby,
            more_options=more,
            as_json=json,
        )
        return
    from pipelines.cli.progress import show_progress
    from pipelines.cli.signals import draining

    with draining(settings.ingest.drain_seconds, in_process=runner is Runner.IN_PROCESS):
        from pipelines.ingest import run_ingest

        attached: AttachedJob | None = None
        if runner is Runner.FLINK:
            from pipelines.flink.attached import AttachedJob
            from pipelines.flink.options import job_name

            attached = AttachedJob(settings)

        def options(target: Version) -> list[str]:
            if runner is Runner.IN_PROCESS:
                return more
            from pipelines.flink.options import beam_options, portable_options

            choose = beam_options if runner is Runner.FLINK else portable_options
            return choose(settings, target.name, more=more)

        def ready(target: Version) -> None:
            if attached is not None:
                attached.begin(job_name(target.name))
            progress.start(target.name)

        with show_progress(sys.stderr) as progress:
            result = run_ingest(
                settings,
                until_caught_up=until_caught_up,
                standby=standby,
                create=create,
                version=version,
                runner="in-process" if runner is Runner.IN_PROCESS else "PortableRunner",
                pipeline_options=options,
                on_ready=ready,
                on_end=None if attached is None else attached.end,
                on_wait=warn,
            )
    _report(result, as_json=json)
    raise typer.Exit(result.exit_code)


def _report(result: IngestResult, *, as_json: bool) -> None:
    counts = result.counts
    if as_json:
        print_json(
            {
                "version": result.version,
                "seconds": round(result.seconds, 3),
                "consumed": counts.consumed,
                "outcomes": counts.outcomes,
                "dead_letters": counts.reasons,
                "balanced": counts.balanced,
                "uncommitted": _uncommitted(result),
                "exit_code": result.exit_code,
            }
        )
        return
    rows: list[tuple[str, str]] = [("consumed", f"{counts.consumed:,}")]
    rows += [(name.replace("_", "-"), f"{count:,}") for name, count in counts.outcomes.items()]
    rows += [(f"  {reason}", f"{count:,}") for reason, count in counts.reasons.items()]
    say(result.version)
    print_table(["events", "count"], rows, right=["count"])
    if result.seconds > 0:
        rate = counts.consumed / result.seconds
        say(f"{counts.consumed:,} events in {result.seconds:.1f} s ({rate:,.0f}/s)")
    if not counts.balanced:
        warn(
            f"{counts.consumed:,} events were consumed and {counts.accounted:,} accounted for. "
            "What was not accounted for is not committed: start again to read it again."
        )
    behind = _uncommitted(result)
    if behind:
        warn(
            f"committed offsets are behind what was written in {len(behind)} partitions: "
            f"{', '.join(list(behind)[:5])}. Nothing is lost: start again to read them again."
        )


def _uncommitted(result: IngestResult) -> dict[str, dict[str, Any]]:
    return {
        f"{topic}/{partition}": {"written": written, "committed": committed}
        for (topic, partition), (written, committed) in result.uncommitted.items()
    }
