"""`plumbline golden`: look after a golden set, and choose a model by it."""

from __future__ import annotations

from pathlib import Path
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
from pipelines.cli.output import print_json, print_table, say

__all__ = ["register"]

_group = typer.Typer(
    no_args_is_help=True,
    help="Check a golden set (queries with judged documents), and score versions and models on it.",
)

GoldenFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="A golden set: YAML, or a folder with queries.jsonl and qrels.tsv (BEIR, TREC).",
    ),
]
Depths = Annotated[
    list[int] | None,
    typer.Option(
        "--k", min=1, max=1000, help="Depth of the measures; may be repeated. Default: 10."
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the group to the command."""
    app.add_typer(_group, name="golden")


@_group.command(epilog="Example: plumbline golden check golden.yaml --index docs")
def check(
    context: typer.Context,
    file: GoldenFile,
    file_only: Annotated[
        bool, typer.Option("--file-only", help="Look at the file alone, not at the index.")
    ] = False,
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="NAME", help="Compare with this version, not the live."),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, max=1000, help="Depth of recall.")] = 10,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Find what is wrong with a golden set, and say what change it can show.

    Malformed entries, duplicates, unjudged queries, judged documents that the index lacks: exit
    code 1 if there are any.
    """
    from monitors.golden.check import check_file, check_version

    findings, golden = check_file(file)
    if file_only:
        report = check_version(findings, golden, None, k)
    else:
        settings = impatient(
            settings_from(
                context,
                config=config,
                index=index,
                qdrant_url=qdrant_url,
                qdrant_path=qdrant_path,
            )
        )
        from monitors.golden.run import Pace, VersionStore, encode_golden
        from pipelines.core.index import Index, encoder_for
        from pipelines.core.qdrant import connect

        opened = Index(settings).version(version)
        vectors = encode_golden(encoder_for(opened, settings), golden.scored)
        store = VersionStore(connect(settings), opened, Pace(None))
        report = check_version(findings, golden, (opened.name, store, vectors), k)
    if json:
        print_json(report.to_json())
    else:
        if report.findings:
            print_table(
                ["what", "line", "where", "finding"],
                [(f.kind, f.line or "", f.where, f.message) for f in report.findings],
                right=["line"],
            )
        for line in report.words():
            say(line)
    if report.findings:
        raise typer.Exit(1)


@_group.command(
    epilog="Example: plumbline golden evaluate golden.yaml --model intfloat/e5-small-v2 "
    "--contract candidate.yaml"
)
def evaluate(
    context: typer.Context,
    file: GoldenFile,
    version: Annotated[
        list[str] | None,
        typer.Option(
            "--version",
            metavar="NAME",
            help="A version of the index; may be repeated. The first one is what the others are "
            "compared with. Default: the live one.",
        ),
    ] = None,
    contract: Annotated[
        list[Path] | None,
        typer.Option(
            "--contract",
            metavar="CANDIDATE.YAML",
            help="Settings of a contract that is not built; may be repeated. Tried in memory.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="The settings' contract with another model; may be repeated. Tried in memory.",
        ),
    ] = None,
    k: Depths = None,
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            min=1,
            max=1_000_000,
            help="With --contract or --model: documents that all systems are compared on, at most; "
            "those that are judged always count.",
        ),
    ] = 5000,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Score versions, models and settings side by side on a golden set.

    Means with 95 % intervals over the queries, and paired tests against the first system. Versions
    are searched as users search them. With a candidate that is not built, all systems search the
    same documents of the first version exactly, in memory.
    """
    from pipelines.cli.candidates import read_contract

    settings = impatient(
        settings_from(
            context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
        )
    )
    candidates = [(str(path), read_contract(path)) for path in contract or ()]
    for name in model or ():
        # The limit and the commit were the other model's.
        other = {"model": name, "revision": None, "max_tokens": None, "trust_remote_code": None}
        candidates.append((name, settings.contract.model_copy(update=other)))
    depths = tuple(dict.fromkeys(k or (10,)))
    from monitors.golden.files import read_golden
    from pipelines.cli.evaluation import evaluate_candidates, evaluate_versions

    golden = read_golden(file)
    if candidates:
        report = evaluate_candidates(
            settings, golden, depths, version or [None], candidates, sample
        )
    else:
        report = evaluate_versions(settings, golden, depths, version or [None])
    if json:
        print_json(report.to_json())
    else:
        report.show()


@_group.command(epilog="Example: plumbline golden convert beir/scifact golden.yaml")
def convert(
    context: typer.Context,
    source: GoldenFile,
    target: Annotated[Path, typer.Argument(metavar="TARGET.YAML", help="File to write.")],
    config: Config = None,
) -> None:
    """Write a golden set of BEIR or TREC in the format that is made to be reviewed."""
    from monitors.golden.files import read_golden
    from monitors.golden.native import write_native

    settings_from(context, config=config)
    golden = read_golden(source)
    write_native(golden.queries, target)
    say(f"{target}: {len(golden.queries):,} queries, {len(golden.scored):,} of them judged")
