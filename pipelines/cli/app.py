"""The command itself: its groups, its global options, and what becomes of an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import (
    backfill,
    dead_letters,
    demo,
    doctor,
    golden,
    index,
    ingest,
    monitor,
    rollout,
    search,
    worker_pool,
)
from pipelines.cli.flags import State
from pipelines.cli.output import report_error

__all__ = ["app", "run"]

app = typer.Typer(
    name="plumbline",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: loading what draws rich's frames takes twice as long as everything else.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Keeps a vector index true to a Kafka topic of documents and to its embedding model.\n\n"
        "Start with `plumbline demo`, or with `plumbline doctor` on your own settings."
    ),
    epilog="Exit codes: 0 done · 1 the answer is no · 2 usage or settings · 3 a service is out "
    "of reach · 4 a probe could not look",
)
doctor.register(app)
demo.register(app)
ingest.register(app)
worker_pool.register(app)
backfill.register(app)
search.register(app)
index.register(app)
dead_letters.register(app)
golden.register(app)
rollout.register(app)
monitor.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from pipelines import __version__

        typer.echo(f"plumbline {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            envvar="PLUMBLINE_CONFIG",
            help="Settings file. Default: plumbline.yaml in this folder, if there is one.",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    del version  # its callback has dealt with it
    context.obj = State(config)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; every error has become a message by then.

    Parameters
    ----------
    arguments
        Default: those of the process.
    """
    try:
        app(args=arguments, prog_name="plumbline")
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone. Python would complain at its own exit.
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return 0
    except Exception as error:  # noqa: BLE001 - the last stop of every error
        return report_error(error)
    return 0
