"""`plumbline index alias`: where searches go, and how to put it right after a restore."""

from __future__ import annotations

from typing import Annotated

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

__all__ = ["alias"]


def alias(
    context: typer.Context,
    version: Annotated[
        str | None, typer.Argument(help="Point the alias at this version. Default: show it.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Although it points elsewhere, or a rollout's record does."),
    ] = False,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Show which version searches go to, or put the alias back after a restore.

    Qdrant's snapshots carry collections and no aliases. This is no switch: nothing is verified.
    Exit code 1 where the alias is missing or not where the last rollout left it.
    """
    settings = impatient(
        settings_from(
            context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
        )
    )
    from pipelines.rollout.alias import point_alias, show_alias

    if version is None:
        report = show_alias(settings)
    else:
        report = point_alias(settings, version, force=force)
    astray = report.version is None or report.recorded not in (None, report.version)
    if json:
        print_json({**report.to_json(), "ok": not astray})
    elif report.version is None:
        say(f"{report.index} has no alias: searches find nothing")
    elif report.before != report.version:
        say(f"{report.index} → {report.version}, was {report.before or 'nowhere'}")
    else:
        say(f"{report.index} → {report.version}")
    if astray and report.recorded is not None and not json:
        say(
            f"the last rollout left it at {report.recorded}: "
            f"`plumbline index alias {report.recorded}` puts it back"
        )
    raise typer.Exit(1 if astray and version is None else 0)
