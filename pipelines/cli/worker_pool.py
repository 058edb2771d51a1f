"""`plumbline worker-pool`: the workers of a Flink task manager."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.flags import Config, settings_from
from pipelines.cli.output import warn

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "worker-pool",
        short_help="Start workers for a Flink task manager on this host.",
        epilog="Example: plumbline worker-pool --port 50000",
    )(worker_pool)


def worker_pool(
    context: typer.Context,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, help="Of the pool; 0 picks a free one.")
    ] = 50_000,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="Address to listen on. Whoever reaches it can have workers started.",
        ),
    ] = "127.0.0.1",
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port", min=0, max=65_535, help="Of the workers' metrics (metrics.port)."
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Start and stop workers as a Flink task manager on this host asks, and serve their metrics.

    One pool for each task manager, on its host or in its pod, with the secrets of Kafka and Qdrant
    in its environment or their files in place: they do not travel with the job. SIGTERM ends the
    workers too; the job then starts again elsewhere, or waits for a pool.
    """
    settings = settings_from(
        context, config=config, more={"metrics": {"port": metrics_port}}, log_level="info"
    )
    from pipelines.cli.signals import stopping
    from pipelines.flink.pool import serve_pool

    with stopping() as stop, serve_pool(host, port, settings.metrics) as (bound, _):
        warn(f"worker pool on {host}:{bound}")
        stop.wait()
