"""`plumbline index`: make versions, list them, look at one, sweep and purge one, adopt."""

from __future__ import annotations

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
from pipelines.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = ["register"]

_group = typer.Typer(no_args_is_help=True, help="Make, list and show the versions of an index.")


def register(app: typer.Typer) -> None:
    """Adds the group to the command."""
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
