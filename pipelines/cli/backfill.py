"""`plumbline backfill`: fills one version from another one, outside a rollout."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from pipelines.cli.flags import Config, IndexName, Json, QdrantPath, QdrantUrl, settings_from
from pipelines.cli.ingest import BeamOption, JobEndpoint, Parallelism, Runner
from pipelines.cli.output import print_json, print_table, say, warn

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        short_help="Fill a version from another one's stored texts.",
        epilog="Example: plumbline backfill --to docs--model--0123456789ab",
    )(backfill)


def backfill(
    context: typer.Context,
    to: Annotated[str, typer.Option("--to", metavar="VERSION", help="The version to fill.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="VERSION", help="The version to read. Default: the live one."
        ),
    ] = None,
    json: Json = False,
    runner: Annotated[Runner, typer.Option("--runner", help="Where it runs.")] = Runner.IN_PROCESS,
    job_endpoint: JobEndpoint = None,
    parallelism: Parallelism = None,
    beam_option: BeamOption = None,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Embed anew what a version stores, into another version of the index, at the same positions.

    `plumbline rollout build` does this and everything around it; alone it fills a version whose
    own job runs already. Can be stopped or killed at any moment and started again: finished ranges
    are not done twice. Newer states in the target stay.
    """
    settings = settings_from(
        context,
        config=config,
        index=index,
        qdrant_url=qdrant_url,
        qdrant_path=qdrant_path,
        more={"flink": {"job_endpoint": job_endpoint, "parallelism": parallelism}},
        log_level="info",
    )
    options = beam_option or []
    ends = ExitStack()
    if runner is not Runner.IN_PROCESS:
        from pipelines.flink.options import backfill_options

        options = backfill_options(settings, to, more=options)
    if runner is Runner.FLINK:
        from pipelines.flink.attached import AttachedJob
        from pipelines.flink.options import backfill_name

        job = AttachedJob(settings)
        job.begin(backfill_name(to))
        ends.callback(job.end)
    from pipelines.backfill import fill_version
    from pipelines.cli.rollout_output import build_progress
    from pipelines.cli.signals import stopping

    with stopping() as stop, build_progress() as progress, ends:
        report = fill_version(
            settings,
            to,
            source,
            stop=stop,
            tell=progress,
            runner=None if runner is Runner.IN_PROCESS else "PortableRunner",
            pipeline_options=options,
        )
    found = report.to_json()
    if json:
        print_json(found)
    else:
        print_table(
            ["backfill", ""],
            [
                (name.replace("_", " "), value)
                for name, value in found.items()
                if value not in ({}, [])
            ],
        )
        if not report.complete:
            say("stopped: the same command goes on")
    if report.counts.refused:
        warn(f"{report.counts.refused:,} documents were refused: {report.counts.refusals}")
