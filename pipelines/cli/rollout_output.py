"""How `plumbline rollout` shows what it found and did."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipelines.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from pipelines.core.rollout import Rollout
    from pipelines.rollout.auto_rollback import SoakReport
    from pipelines.rollout.build import BuildReport
    from pipelines.rollout.plan import PlanReport
    from pipelines.rollout.status import RolloutStatus
    from pipelines.rollout.verify import VerifyReport

__all__ = [
    "bar",
    "build_progress",
    "duration",
    "show_build",
    "show_moved",
    "show_plan",
    "show_soak",
    "show_soak_run",
    "show_status",
    "show_verify",
    "size",
]


def duration(seconds: float) -> str:
    """Seconds in words that fit: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.1f} days"


def size(count: float) -> str:
    """Bytes in the unit that fits: `3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit in ("B", "KiB") else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


@contextmanager
def bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error, one line for each thing that is done; silent elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield show


@contextmanager
def build_progress() -> Iterator[Callable[[Mapping[str, Any]], None] | None]:
    """A bar of tokens with rate and ETA on a terminal; `None` elsewhere: the log has the lines."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[words]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("filling", total=None, words="")

        def show(at: Mapping[str, Any]) -> None:
            words = f"{at.get('tokens_done', 0):,} of {at.get('tokens_total', 0):,} tokens"
            eta = at.get("eta_seconds")
            if eta is not None:
                words += f", {duration(float(eta))} left"
            if at.get("throttled"):
                words += ", making room for live events"
            progress.update(
                task,
                completed=float(at.get("tokens_done", 0)),
                total=float(at.get("tokens_total", 0)) or None,
                words=words,
            )

        yield show


def show_plan(report: PlanReport) -> None:
    """Tables of what is there, what it takes, what changes, and how recall compares."""
    figures, rollout = report.figures, report.rollout
    say(f"rollout {rollout.rollout_id} of {rollout.index}: {rollout.live.name} →")
    say(f"  {rollout.candidate.name}")
    print_table(
        ["contract", "live", "candidate"],
        [(name, _value(live), _value(new)) for name, (live, new) in figures.changes.items()],
    )
    seconds, low, high = figures.seconds
    storage = figures.storage
    rows = [
        ("documents", f"{figures.documents:,} (and {figures.tombstones:,} tombstones)"),
        ("measured on", f"{figures.sample:,} documents"),
        ("chunks", f"{figures.chunks:,} ({figures.points:,} points in live)"),
        ("tokens", f"{figures.tokens:,}"),
        ("longer than max tokens", f"{figures.truncated_ratio:.1%} of the chunks"),
        (
            "time here, at full speed",
            f"{duration(seconds)} (95 %: {duration(low)} to {duration(high)})",
        ),
        (
            "storage",
            f"{size(storage.total)}: vectors {size(storage.vectors)}"
            + (f", quantized {size(storage.quantized)}" if storage.quantized else "")
            + (f", graph {size(storage.graph)}" if storage.graph else "")
            + f", payload {size(storage.payload)}",
        ),
    ]
    if figures.free is not None:
        rows.append(("free disk", size(figures.free)))
    print_table(["plan", ""], rows)
    if figures.golden:
        say(
            f"{figures.golden_queries:,} golden queries, exact search over the sample (scores are "
            "higher than on the whole index; compare them with each other only):"
        )
        k = figures.golden[0].k
        print_table(
            ["system", f"recall@{k}", f"nDCG@{k}", "change of recall", "recall is"],
            [
                (
                    row.system,
                    _mean(row.means["recall"]),
                    _mean(row.means["ndcg"]),
                    _change(row),
                    row.verdict() or "the first",
                )
                for row in figures.golden
            ],
        )
    else:
        say("no golden set: recall was not compared (--golden FILE, or monitor.golden.file)")
    say("nothing is built yet. next: plumbline rollout build")


def show_build(report: BuildReport) -> None:
    """What was filled, how fast, and what follows."""
    found = report.to_json()
    print_table(["build", ""], [(key.replace("_", " "), _value(v)) for key, v in found.items()])
    say("next: plumbline rollout verify")


def show_status(report: RolloutStatus) -> None:
    """State, progress, what it waits for, next command, and the moves so far."""
    if report.rollout is None:
        say(f"{report.index}: no rollout yet; searches reach {report.alias or 'nothing'}")
        say(f"next: {report.next_command}")
        return
    rollout = report.rollout
    rows = [
        ("state", rollout.state.value),
        ("searches reach", report.alias or "nothing"),
        ("live when planned", rollout.live.name),
        ("candidate", rollout.candidate.name),
        ("a command runs", report.running or "no"),
        ("waits for", report.waits_for or "nothing"),
    ]
    rows += [
        (key.replace("_", " "), _value(value))
        for key, value in report.progress.items()
        if not isinstance(value, dict | list)
    ]
    print_table([f"rollout {rollout.rollout_id} of {rollout.index}", ""], rows)
    print_table(
        ["at", "from", "to", "by", "reason"],
        [
            (move.at, move.before or "", move.after, move.actor, move.reason)
            for move in rollout.history
        ],
    )
    earlier = [past for past in report.history if past.rollout_id != rollout.rollout_id]
    if earlier:
        print_table(
            ["earlier rollout", "ended", "as", "to"],
            [
                (past.rollout_id, past.history[-1].at, past.state, past.candidate.name)
                for past in earlier
            ],
        )
    say(f"next: {report.next_command}")


def show_verify(report: VerifyReport) -> None:
    """Every check with its figure and its bound."""
    print_table(
        ["check", "figure", "bound", "", "in words"],
        [(row.name, row.figure, row.bound, row.outcome, row.words) for row in report.rows],
    )
    if report.ok:
        say("the candidate is ready. next: plumbline rollout promote")
    else:
        say("the candidate was not shown to be good enough: live stays as it is")


def show_moved(rollout: Rollout, *, as_json: bool) -> None:
    """Where the rollout stands after a command."""
    from pipelines.core.rollout import NEXT_COMMAND

    if as_json:
        print_json(
            {
                "rollout": rollout.rollout_id,
                "index": rollout.index,
                "state": rollout.state.value,
                "live": rollout.live.name,
                "candidate": rollout.candidate.name,
                "notes": {name: dict(note) for name, note in rollout.notes.items()},
            }
        )
        return
    last = rollout.history[-1]
    say(f"rollout {rollout.rollout_id} of {rollout.index} is {rollout.state}: {last.reason}")
    say(f"next: {NEXT_COMMAND[rollout.state]}")


def show_soak_run(run: Any) -> None:
    """One look of the soak, a line."""
    say(run.words())


def show_soak(report: SoakReport) -> None:
    """How the soak ended."""
    for line in report.words():
        say(line)


def _mean(values: tuple[float, float, float]) -> str:
    mean, low, high = values
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _change(row: Any) -> str:
    test = row.tests.get("recall")
    if test is None:
        return ""
    low, high = test.interval
    return f"{test.change:+.3f} [{low:+.3f}, {high:+.3f}]"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "—"
    return "—" if value in (None, "") else str(value)
