"""`plumbline search`: ask the live version of an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

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
from pipelines.cli.output import console, print_json

if TYPE_CHECKING:
    from pipelines.core.index import Hit

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        short_help="Ask the live version of an index.",
        epilog='Example: plumbline search "how do I read a file line by line" --limit 5 '
        "--filter lang=en",
    )(search)


def search(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Most hits.")] = 10,
    chunks: Annotated[
        bool, typer.Option("--chunks", help="Give chunks instead of documents.")
    ] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEY=VALUE",
            help="Metadata that hits must have. Repeated: all keys, any value of one key. Numbers, "
            "true and false count as such; quote a text that looks like one: lang='\"42\"'.",
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="NAME", help="Search this version, not the live one."),
    ] = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Search the live version of an index with the encoder it was written with."""
    settings = impatient(
        settings_from(
            context,
            config=config,
            index=index,
            qdrant_url=qdrant_url,
            qdrant_path=qdrant_path,
        )
    )
    conditions = parse_filters(where or ())
    from pipelines.core.index import Index

    hits = Index(settings).search(
        query, limit, chunks=chunks, where=conditions or None, version=version
    )
    if json:
        print_json([asdict(hit) for hit in hits])
    else:
        _print_hits(hits, chunks=chunks)


def parse_filters(filters: Sequence[str]) -> dict[str, Any]:
    """Metadata key to the value it must have, or to several of which one will do.

    Parameters
    ----------
    filters
        `key=value`; JSON scalars keep their type, everything else is text.

    Raises
    ------
    SettingsError
        A filter has no `=` or no key.
    """
    import json

    from pipelines.core.errors import SettingsError

    found: dict[str, list[Any]] = {}
    for text in filters:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise SettingsError(f"--filter {text!r}: expected KEY=VALUE, such as lang=en")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        found.setdefault(key, []).append(
            parsed if isinstance(parsed, str | int | float | bool) else value
        )
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _print_hits(hits: Sequence[Hit], *, chunks: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    out = console()
    if not hits:
        out.print("nothing found")
        return
    for number, hit in enumerate(hits, start=1):
        head = Text.assemble(
            (f"{number:>3}. ", "dim"), (f"{hit.score:.3f}  ", "cyan"), (hit.document_id, "bold")
        )
        if chunks or hit.chunks > 1:
            head.append(f"  chunk {hit.chunk + 1} of {hit.chunks}", "dim")
        out.print(head)
        if hit.title:
            out.print(Padding(Text(hit.title), (0, 0, 0, 5)))
        excerpt = " ".join(hit.text.split())
        if excerpt:
            short = excerpt if len(excerpt) <= 240 else f"{excerpt[:239]}…"
            out.print(Padding(Text(short, "dim"), (0, 0, 0, 5)))
