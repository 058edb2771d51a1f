"""`plumbline dead-letters`: look at the events that cannot be applied, and send them again."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.flags import (
    BootstrapServers,
    Config,
    IndexName,
    Json,
    Topics,
    impatient,
    settings_from,
)
from pipelines.cli.output import print_json, print_table, say

__all__ = ["register"]

_group = typer.Typer(
    no_args_is_help=True, help="List the events that cannot be applied; send mended ones again."
)


def register(app: typer.Typer) -> None:
    """Adds the group to the command."""
    app.add_typer(_group, name="dead-letters")
