"""`plumbline dead-letters`: look at the events that cannot be applied, and send them again."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

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
from pipelines.cli.output import print_json, print_table, say, warn
from pipelines.core.errors import ExitCode, Reason, UnknownNameError

if TYPE_CHECKING:
    from pipelines.core.dead_letters import DeadLetter
    from pipelines.core.purge import PurgeRecord
    from pipelines.core.replay import ReplayPlan
    from pipelines.core.settings import Settings
    from pipelines.io.kafka.dead_letters import ReplayResult

__all__ = ["register"]

_group = typer.Typer(
    no_args_is_help=True, help="List the events that cannot be applied; send mended ones again."
)

_KEY_LENGTH = 200
_EVENT = ("index", "topic", "partition", "offset")
_DRAIN_SECONDS = 30.0

Reasons = Annotated[
    list[str] | None,
    typer.Option(
        "--reason", metavar="REASON", help="Only events refused for this; may be repeated."
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the group to the command."""
    app.add_typer(_group, name="dead-letters")


@_group.command(
    name="list",
    short_help="List the dead letters, or count them by reason.",
    epilog="Example: plumbline dead-letters list --reason missing_text --limit 5",
)
def list_(
    context: typer.Context,
    reason: Reasons = None,
    count: Annotated[
        bool, typer.Option("--count", help="Count events by reason instead of listing them.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="Newest so many.", show_default=True)
    ] = 20,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
) -> None:
    """List the dead letters, or count them by reason.

    Dead letters are delivered at least once: an event counts once, by its newest letter. Shows
    where an event stood and why it was refused, never what it says.
    """
    reasons = _checked(reason or ())
    settings = impatient(
        settings_from(
            context,
            config=config,
            index=index,
            bootstrap_servers=bootstrap_servers,
            topics=topic,
        )
    )
    from pipelines.io.kafka.dead_letters import read_dead_letters

    foreign = 0

    def on_foreign(_error: Exception) -> None:
        nonlocal foreign
        foreign += 1

    # Reason of each event by its newest letter: a number and a word, whatever the topic holds.
    newest: dict[tuple[Any, ...], str] = {}
    kept: deque[dict[str, Any]] = deque(maxlen=None if count else limit * 4)
    for letter in read_dead_letters(settings, on_foreign=on_foreign):
        newest[letter.index, *letter.event] = letter.reason
        if not count and (not reasons or letter.reason in reasons):
            kept.append(_shown(letter))
    counts = Counter(found for found in newest.values() if not reasons or found in reasons)
    if count:
        _print_counts(counts, as_json=json)
    else:
        letters = [
            letter
            for letter in _newest_of_each(kept)
            if newest[tuple(letter[name] for name in _EVENT)] == letter["reason"]
        ]
        _print_letters(letters[-limit:], total=counts.total(), as_json=json)
    if foreign:
        warn(
            f"{foreign} records of {settings.dead_letter_topic} are no dead letters of this "
            "release and were passed over"
        )


@_group.command(
    short_help="Send dead letters again that would be accepted today.",
    epilog="Example: plumbline dead-letters replay --reason text_too_large --execute --rate 50",
)
def replay(
    context: typer.Context,
    reason: Reasons = None,
    execute: Annotated[
        bool, typer.Option("--execute", help="Send them. Without it, only say what would be sent.")
    ] = False,
    rate: Annotated[
        float, typer.Option("--rate", min=0.1, help="Events per second, at most.")
    ] = 100.0,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="Send no more than so many.")
    ] = None,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
) -> None:
    """Send dead letters again that today's code and settings would accept. A dry run at first.

    They go to the replay topic, which the job reads too, under their first position: what is
    newer in the index stays. An event is replayed three times at most. Running it again sends
    nothing twice.
    """
    reasons = _checked(reason or ())
    settings = impatient(
        settings_from(
            context,
            config=config,
            index=index,
            bootstrap_servers=bootstrap_servers,
            topics=topic,
        )
    )
    from pipelines.cli.signals import draining
    from pipelines.io.kafka.dead_letters import plan_replay_of_topic
    from pipelines.io.kafka.dead_letters import replay as send
    from pipelines.io.kafka.stop import STOP

    plan = plan_replay_of_topic(settings, reasons=reasons, limit=limit, purges=_purges(settings))
    if not execute:
        _print_plan(plan, None, as_json=json)
        return
    total = len(plan.planned)

    def on_progress(sent: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{sent:,} of {total:,} sent")
            sys.stderr.flush()

    with draining(_DRAIN_SECONDS, in_process=True):
        result = send(
            settings, plan, per_second=rate, should_stop=STOP.is_set, on_progress=on_progress
        )
    if sys.stderr.isatty() and total:
        sys.stderr.write("\n")
    _print_plan(plan, result, as_json=json)
    whole = result.sent == total
    raise typer.Exit(ExitCode.OK if whole else ExitCode.NO)


def _purges(settings: Settings) -> list[PurgeRecord]:
    """What was purged of the index; the job asks too, so a store out of reach stops nothing."""
    from pipelines.core.control import Control
    from pipelines.core.errors import ServiceUnavailableError
    from pipelines.core.purge import PurgeLog
    from pipelines.core.qdrant import connect, disconnect

    path = settings.qdrant.path
    if settings.qdrant.url is None and path is not None and not path.exists():
        return []  # opening it would make it
    try:
        return PurgeLog(Control(connect(settings))).of_index(settings.index)
    except ServiceUnavailableError as error:
        warn(
            f"cannot ask which tombstones were purged ({error}); the job will refuse events that "
            "are older (behind_purge)"
        )
        return []
    finally:
        disconnect(settings)  # an embedded store belongs to one process: the job may want it


def _checked(reasons: Sequence[str]) -> tuple[str, ...]:
    valid = [known.value for known in Reason]
    for name in reasons:
        if name not in valid:
            import difflib

            near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"valid are {', '.join(valid)}"
            raise UnknownNameError(f"--reason {name!r}: {hint}")
    return tuple(reasons)


def _shown(letter: DeadLetter) -> dict[str, Any]:
    key = letter.key
    return {
        "reason": letter.reason,
        "message": letter.message,
        "index": letter.index,
        "key": None if key is None else key[:_KEY_LENGTH].decode("utf-8", "backslashreplace"),
        "topic": letter.origin.topic,
        "partition": letter.origin.partition,
        "offset": letter.origin.offset,
        "timestamp": letter.origin.timestamp,
        "replays": letter.origin.replays,
        "refused_at": datetime.fromtimestamp(letter.time, UTC).isoformat(timespec="seconds"),
        "value_bytes": letter.value_bytes,
        "value_sha256": letter.value_sha256,
        "omitted": list(letter.omitted),
        "stored_at": list(letter.stored_at) if letter.stored_at is not None else None,
    }


def _newest_of_each(letters: Sequence[dict[str, Any]] | deque[dict[str, Any]]) -> list[Any]:
    """One letter an event, the last one, in the order of the topic."""
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    for letter in letters:
        event = tuple(letter[name] for name in _EVENT)
        last.pop(event, None)
        last[event] = letter
    return list(last.values())


def _print_counts(counts: Counter[str], *, as_json: bool) -> None:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if as_json:
        print_json({"total": counts.total(), "reasons": dict(ordered)})
        return
    rows = [(name, f"{number:,}") for name, number in ordered]
    print_table(["reason", "events"], [*rows, ("total", f"{counts.total():,}")], right=["events"])


def _print_letters(letters: list[dict[str, Any]], *, total: int, as_json: bool) -> None:
    if as_json:
        print_json(letters)
        return
    if not letters:
        say("no dead letters")
        return
    print_table(
        ["reason", "key", "stood at", "refused at", "message"],
        [
            (
                letter["reason"],
                letter["key"] if letter["key"] is not None else "—",
                f"{letter['topic']}/{letter['partition']}/{letter['offset']}",
                letter["refused_at"],
                letter["message"],
            )
            for letter in letters
        ],
    )
    if total > len(letters):
        say(f"the newest {len(letters)} of {total:,}; --limit shows more, --count sums up")


def _print_plan(plan: ReplayPlan, result: ReplayResult | None, *, as_json: bool) -> None:
    counts: list[dict[str, Any]] = [
        {"verdict": verdict.value, "reason": reason, "events": number}
        for (verdict, reason), number in sorted(plan.counts.items())
    ]
    if as_json:
        print_json(
            {
                "executed": result is not None,
                "to_send": len(plan.planned),
                "sent": result.sent if result is not None else 0,
                "too_large": result.too_large if result is not None else 0,
                "gone": result.gone if result is not None else 0,
                "stopped": result.stopped if result is not None else False,
                "counts": counts,
                "still_refused_for": [
                    {"reason": then, "today": today, "events": number}
                    for (then, today), number in sorted(plan.still_refused_for.items())
                ],
                "duplicates": plan.duplicates,
            }
        )
        return
    if counts:
        print_table(
            ["verdict", "reason", "events"],
            [
                (row["verdict"].replace("_", " "), row["reason"], f"{row['events']:,}")
                for row in counts
            ],
            right=["events"],
        )
    if result is None:
        say(f"{len(plan.planned):,} would be sent; --execute sends them")
        return
    say(f"{result.sent:,} sent")
    if result.too_large:
        warn(f"{result.too_large:,} are too large for the replay topic: raise max.message.bytes")
    if result.gone:
        warn(f"{result.gone:,} are gone from the dead-letter topic meanwhile (its retention)")
    if result.stopped:
        warn("stopped before the end: run it again to go on")
