"""`plumbline index`: make versions, list them, look at one, sweep and purge one, adopt."""

from __future__ import annotations

from pathlib import Path
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
    impatient,
    settings_from,
)
from pipelines.cli.index_alias import alias
from pipelines.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from pipelines.core.adopt import Fields
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = ["register"]

_group = typer.Typer(no_args_is_help=True, help="Make, list and show the versions of an index.")


def register(app: typer.Typer) -> None:
    """Adds the group to the command."""
    _group.command(epilog="Example: plumbline index alias docs--all-minilm-l6-v2--0123456789ab")(
        alias
    )
    app.add_typer(_group, name="index")


@_group.command(epilog="Example: plumbline index create --index docs --qdrant-path ./data")
def create(
    context: typer.Context,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Make the version of the settings' contract; the first one of an index is live at once.

    Does nothing when the version is there already. A further version does not become live.
    """
    settings = impatient(
        settings_from(
            context,
            config=config,
            index=index,
            qdrant_url=qdrant_url,
            qdrant_path=qdrant_path,
        )
    )
    from pipelines.core.encoder import load_encoder
    from pipelines.core.qdrant import connect
    from pipelines.core.versions import create_version, find_version, live_version_name

    qdrant = connect(settings)
    qdrant.call("get_collections")  # out of reach is said before a model is loaded
    encoder = load_encoder(settings.contract, settings.runtime)
    existed = find_version(qdrant, settings.index, encoder.contract.fingerprint) is not None
    version = create_version(qdrant, settings, encoder)
    live = live_version_name(qdrant, settings.index)
    if json:
        print_json({**_summary(version, live), "created": not existed})
        return
    say(f"{'exists already' if existed else 'created'}: {version.name}")
    if live != version.name:
        say(f"the live version of {version.index} is still {live}")


@_group.command(name="list", epilog="Example: plumbline index list --json")
def list_(
    context: typer.Context,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """List the versions of every index, or of the one given with --index."""
    settings = impatient(
        settings_from(context, config=config, qdrant_url=qdrant_url, qdrant_path=qdrant_path)
    )
    from pipelines.core.qdrant import connect
    from pipelines.core.versions import list_versions, live_version_name

    qdrant = connect(settings)
    found = []
    for version in list_versions(qdrant, index):
        live = live_version_name(qdrant, version.index)
        found.append({**_summary(version, live), **_sizes(qdrant, version, exact=False)})
    if json:
        print_json(found)
        return
    if not found:
        say("no versions yet: `plumbline index create` makes one")
        return
    print_table(
        ["index", "version", "live", "points", "order by", "created"],
        [
            (
                row["index"],
                row["version"],
                "yes" if row["live"] else "",
                f"{row['points']:,}",
                row["order_by"],
                row["created_at"],
            )
            for row in found
        ],
        right=["points"],
    )


@_group.command(epilog="Example: plumbline index show --index docs")
def show(
    context: typer.Context,
    version: Annotated[
        str | None, typer.Argument(help="Name of a version. Default: the live one.")
    ] = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Show a version: contract, fingerprint, consumer group, and what it holds."""
    settings = impatient(
        settings_from(
            context,
            config=config,
            index=index,
            qdrant_url=qdrant_url,
            qdrant_path=qdrant_path,
        )
    )
    from pipelines.core.qdrant import connect
    from pipelines.core.versions import live_version_name

    qdrant = connect(settings)
    opened = _open(qdrant, settings.index, version)
    contract = opened.contract.to_json()
    answer: dict[str, Any] = {
        **_summary(opened, live_version_name(qdrant, opened.index)),
        "consumer_group": opened.group_id,
        **_sizes(qdrant, opened, exact=True),
        "contract": contract,
    }
    if json:
        print_json(answer)
        return
    rows = [(key, value) for key, value in answer.items() if key != "contract"]
    rows += [(f"contract.{key}", value) for key, value in contract.items()]
    print_table(["field", "value"], [(key, _shown(value)) for key, value in rows])


@_group.command(epilog="Example: plumbline index sweep --dry-run")
def sweep(
    context: typer.Context,
    version: Annotated[
        str | None, typer.Argument(help="Name of a version. Default: the live one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted.")] = False,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Delete chunks that are older than their document's head: what a writer that died has left.

    Safe beside a running job: the rule is the job's own. Nothing else is ever deleted.
    """
    settings = impatient(
        settings_from(
            context,
            config=config,
            index=index,
            qdrant_url=qdrant_url,
            qdrant_path=qdrant_path,
        )
    )
    from dataclasses import asdict

    from pipelines.core import sweep as sweeping
    from pipelines.core.qdrant import connect

    qdrant = connect(settings)
    opened = _open(qdrant, settings.index, version)
    report = sweeping.sweep(qdrant, opened, dry_run=dry_run)
    if json:
        print_json({"version": opened.name, "dry_run": dry_run, **asdict(report)})
        return
    done = "would be deleted" if dry_run else "deleted"
    count = report.older if dry_run else report.deleted
    say(
        f"{report.chunks:,} chunks looked at; {count:,} of {report.documents:,} documents {done}; "
        f"{report.headless:,} without a head stay"
    )


@_group.command(
    name="purge-tombstones",
    short_help="Take tombstones away that nothing older can come after.",
    epilog="Example: plumbline index purge-tombstones --dry-run",
)
def purge_tombstones(
    context: typer.Context,
    version: Annotated[
        str | None, typer.Argument(help="Name of a version. Default: the live one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted.")] = False,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            min=0,
            help="In place of rollout.tombstone_days; never less than the topics' retention.",
        ),
    ] = None,
    allow_kept_topics: Annotated[
        bool,
        typer.Option(
            "--allow-kept-topics",
            help="Also where a topic keeps records for ever; never reset the group's offsets then.",
        ),
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(
            "--every", metavar="HOURS", min=0.01, help="Again and again, until it is stopped."
        ),
    ] = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Take tombstones away that nothing older can come after.

    They must be older than what every topic keeps and than rollout.tombstone_days, and below the
    committed position of the version's consumer group; no rollout may be open. Each condition is
    shown with its figure. From then on a replayed dead letter that is older is refused.

    Exit code 1 where a condition refuses. With --every a refusal, or a service out of reach, is
    said and tried again next time.
    """
    settings = impatient(
        settings_from(
            context,
            config=config,
            index=index,
            bootstrap_servers=bootstrap_servers,
            topics=topic,
            qdrant_url=qdrant_url,
            qdrant_path=qdrant_path,
        )
    )
    from pipelines.cli.index_output import print_purge
    from pipelines.cli.output import report_error
    from pipelines.cli.signals import stopping
    from pipelines.core.errors import ExitCode, PlumblineError, SettingsError
    from pipelines.core.purge import PurgeReport
    from pipelines.core.purge import purge_tombstones as purge
    from pipelines.core.qdrant import connect
    from pipelines.io.kafka.admin import topic_retentions
    from pipelines.io.kafka.lag import lag_reader

    def once() -> PurgeReport:
        qdrant = connect(settings)
        report = purge(
            qdrant,
            settings,
            _open(qdrant, settings.index, version),
            topics=topic_retentions(settings),
            lag=lag_reader(settings),
            older_than_days=older_than,
            allow_kept_topics=allow_kept_topics,
            dry_run=dry_run,
        )
        if json:
            print_json(report.to_json())
        else:
            print_purge(report)
        return report

    if every is None:
        raise typer.Exit(ExitCode.NO if once().refused else ExitCode.OK)
    with stopping() as stop:
        while not stop.is_set():
            try:
                once()
            except SettingsError:
                raise
            except PlumblineError as error:
                report_error(error)
            stop.wait(every * 3600)


@_group.command(
    short_help="Make a version from a collection that another tool filled.",
    epilog="Example: plumbline index adopt articles --contract minilm.yaml --like langchain "
    "--dry-run",
)
def adopt(
    context: typer.Context,
    collection: Annotated[
        str, typer.Argument(help="Collection, or alias, to read; it is never changed.")
    ],
    contract: Annotated[
        Path,
        typer.Option(
            "--contract",
            metavar="FILE",
            help="What its vectors were made under: the keys of `contract`.",
        ),
    ],
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="TOOL",
            help="Fields as this tool names them: langchain, llama-index, haystack, airbyte. "
            "Options below win.",
        ),
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(
            "--id-field",
            metavar="PATH",
            help="Document id in the payload, such as metadata.source; @point: the point's own.",
        ),
    ] = None,
    text_field: Annotated[
        str | None, typer.Option("--text-field", metavar="PATH", help="The text that was encoded.")
    ] = None,
    title_field: Annotated[
        str | None, typer.Option("--title-field", metavar="PATH", help="Title, if there is one.")
    ] = None,
    metadata_fields: Annotated[
        str | None,
        typer.Option(
            "--metadata-fields",
            metavar="PATH,…",
            help="What to keep beside it; of an object its members. Default: the rest.",
        ),
    ] = None,
    chunked: Annotated[
        bool,
        typer.Option("--chunked", help="Points with the same id are one document's chunks."),
    ] = False,
    chunk_field: Annotated[
        str | None,
        typer.Option(
            "--chunk-field", metavar="PATH", help="Number that orders them; implies --chunked."
        ),
    ] = None,
    vector: Annotated[
        str | None,
        typer.Option("--vector", metavar="NAME", help="Which vector, where there are several."),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            min=0,
            help="Documents encoded anew and compared; 0: all.",
            show_default=True,
        ),
    ] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sample.")] = 0,
    skip_unmapped: Annotated[
        bool,
        typer.Option("--skip-unmapped", help="Go on without what cannot be mapped."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look and verify only.")] = False,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Make a version from a collection that another tool filled.

    Its vectors are copied, not computed anew, after a sample of its texts, encoded under the
    declared contract, gave the vectors that are stored. Documents stand at positions older than
    any event, so that the first event of each wins. What cannot be mapped is listed.

    Exit code 1 where the answer is no. Killed, the same command goes on where it was.
    """
    settings = impatient(
        settings_from(
            context, config=config, index=index, qdrant_url=qdrant_url, qdrant_path=qdrant_path
        )
    )
    from pipelines.cli.candidates import read_contract
    from pipelines.cli.index_output import adoption_progress, print_adoption
    from pipelines.core import adopt as adopting
    from pipelines.core.encoder import load_encoder
    from pipelines.core.errors import ExitCode
    from pipelines.core.qdrant import connect

    settings = settings.model_copy(update={"contract": read_contract(contract)})
    fields = _fields(
        like,
        document_id=id_field,
        text=text_field,
        title=title_field,
        metadata=metadata_fields,
        chunked=chunked,
        chunk=chunk_field,
    )
    qdrant = connect(settings)
    source = adopting.open_source(qdrant, collection, vector)
    encoder = load_encoder(settings.contract, settings.runtime)
    with adoption_progress() as progress:
        report = adopting.adopt(
            qdrant,
            settings,
            encoder,
            source,
            fields,
            sample=sample,
            seed=seed,
            skip_unmapped=skip_unmapped,
            dry_run=dry_run,
            progress=progress,
        )
    if json:
        print_json(report.to_json())
    else:
        print_adoption(report)
    raise typer.Exit(ExitCode.NO if report.refused else ExitCode.OK)


def _fields(
    like: str | None,
    *,
    document_id: str | None,
    text: str | None,
    title: str | None,
    metadata: str | None,
    chunked: bool,
    chunk: str | None,
) -> Fields:
    from dataclasses import replace

    from pipelines.core.adopt import SHAPES, Fields
    from pipelines.core.errors import SettingsError, UnknownNameError

    if like is not None and like not in SHAPES:
        raise UnknownNameError(f"--like {like!r}: valid are {', '.join(SHAPES)}")
    if like is not None:
        base = SHAPES[like]
        document_id, text = document_id or base.document_id, text or base.text
    elif document_id is None or text is None:
        raise SettingsError(
            "say where ids and texts stand: --id-field and --text-field, or --like langchain, "
            "llama-index, haystack or airbyte"
        )
    else:
        base = Fields(document_id, text)
    names = base.metadata
    if metadata is not None:
        names = tuple(name.strip() for name in metadata.split(",") if name.strip())
    return replace(
        base,
        document_id=document_id,
        text=text,
        title=title or base.title,
        metadata=names,
        chunked=chunked or base.chunked or chunk is not None,
        chunk=chunk or base.chunk,
    )


def _open(qdrant: Qdrant, index: str, version: str | None) -> Version:
    from pipelines.core.errors import IndexMissingError
    from pipelines.core.versions import live_version_name, open_version

    name = version or live_version_name(qdrant, index)
    if name is None:
        raise IndexMissingError(
            f"no index {index!r} in Qdrant at {qdrant.where}. `plumbline index list` "
            "shows what there is, `plumbline index create` makes it."
        )
    return open_version(qdrant, name)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "—" if value in (None, "") else str(value)


def _summary(version: Version, live: str | None) -> dict[str, Any]:
    return {
        "index": version.index,
        "version": version.name,
        "live": version.name == live,
        "fingerprint": version.fingerprint,
        "model": version.contract.model_name,
        "order_by": version.order_by.value,
        "created_at": version.created_at,
    }


def _sizes(qdrant: Qdrant, version: Version, *, exact: bool) -> dict[str, int]:
    if not exact:
        return {"points": qdrant.call("count", version.name, exact=False).count}
    from qdrant_client import models

    from pipelines.core.points import OURS

    head = models.FieldCondition(key=f"{OURS}.chunk", match=models.MatchValue(value=0))
    gone = models.FieldCondition(key=f"{OURS}.deleted", match=models.MatchValue(value=True))

    def count(condition: models.Filter | None) -> int:
        return int(qdrant.call("count", version.name, count_filter=condition, exact=True).count)

    return {
        "points": count(None),
        "documents": count(models.Filter(must=[head], must_not=[gone])),
        "tombstones": count(models.Filter(must=[gone])),
    }
