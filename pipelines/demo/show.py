"""The demo's tables and its progress bar."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from monitors.probes.base import Level
from pipelines.core.accounting import ACCOUNT
from pipelines.core.dead_letters import DeadLetter
from pipelines.core.errors import Reason
from pipelines.core.index import Hit
from pipelines.core.plans import Outcome
from pipelines.demo.health import Finding
from pipelines.demo.questions import TOP, Question
from pipelines.demo.waves import Wave

if TYPE_CHECKING:
    from pipelines.ingest import IngestResult

__all__ = [
    "accounting",
    "answers",
    "dead_letters",
    "findings",
    "headline",
    "progress",
    "speed",
    "wave_contents",
]

_REFRESH_SECONDS = 0.2

_EXAMPLES = (Reason.MISSING_TEXT, Reason.UNKNOWN_FIELD)


def headline(console: Console, number: int, text: str) -> None:
    """Opens an act."""
    console.print()
    console.rule(f"[bold]{number}  {escape(text)}", align="left", style="cyan")


def wave_contents(console: Console, wave: Wave) -> None:
    """What is about to happen, and what must come of it."""
    for what, count, becomes in wave.parts:
        console.print(f"  {count:>6,} {what} [dim]→ {becomes}[/dim]", highlight=False)


@contextmanager
def progress(console: Console, total: int) -> Iterator[Callable[[], None]]:
    """A spinner while the job starts; from the call it yields on, a bar of the events settled.

    Nothing of it stays, and nothing is shown where there is no terminal.
    """
    settled_before = ACCOUNT.counts().accounted
    status = console.status("Starting the job: model, reference vectors, lease …")
    bar = Progress(
        TextColumn("  events"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("events", total=total)
    done = threading.Event()

    def follow() -> None:
        while not done.wait(_REFRESH_SECONDS):
            bar.update(task, completed=ACCOUNT.counts().accounted - settled_before)

    def begin() -> None:
        status.stop()
        bar.reset(task)
        bar.start()

    follower = threading.Thread(target=follow, name="plumbline-demo-progress", daemon=True)
    follower.start()
    status.start()
    try:
        yield begin
    finally:
        status.stop()
        done.set()
        follower.join()
        bar.stop()


def speed(console: Console, result: IngestResult, tokens: float) -> None:
    """Documents a second of the first run, and the version that it wrote."""
    per_second = result.counts.consumed / max(result.seconds, 1e-9)
    console.print(
        f"  [green]✓[/green] {result.counts.consumed:,} documents, {tokens:,.0f} tokens, "
        f"{result.seconds:.1f} s: [bold]{per_second:,.0f} documents/s[/bold]\n"
        f"    version [cyan]{escape(result.version)}[/cyan]",
        highlight=False,
        soft_wrap=True,
    )


def accounting(console: Console, runs: Sequence[tuple[str, IngestResult]]) -> None:
    """Where every event went, run by run."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name, _ in runs:
        table.add_column(name, justify="right")
    for outcome in Outcome:
        table.add_row(
            outcome.replace("_", " ").replace("dead lettered", "dead letters"),
            *(f"{result.counts.outcomes[outcome]:,}" for _, result in runs),
        )
    table.add_section()
    table.add_row("consumed", *(f"{result.counts.consumed:,}" for _, result in runs), style="bold")
    table.add_row(
        "adds up",
        *(
            "[green]✓ balanced[/green]" if result.counts.balanced else "[red]✗[/red]"
            for _, result in runs
        ),
    )
    table.add_row("seconds", *(f"{result.seconds:.1f}" for _, result in runs), style="dim")
    table.add_row(
        "events/s",
        *(f"{result.counts.consumed / max(result.seconds, 1e-9):,.0f}" for _, result in runs),
        style="dim",
    )
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def dead_letters(console: Console, letters: Sequence[DeadLetter]) -> None:
    """Why events were refused and how often, and what some of the letters say."""
    reasons = Counter(letter.reason for letter in letters)
    console.print("\n  Dead letters by reason, each kept with its original bytes:", highlight=False)
    counts = [f"[red]{escape(reason)}[/red] {count}" for reason, count in sorted(reasons.items())]
    console.print(Padding(Columns(counts, padding=(0, 3)), (0, 0, 0, 3), expand=False))
    examples = {letter.reason: letter.message for letter in letters}
    for reason in _EXAMPLES:
        if reason in examples:
            line = f"[red]{escape(reason)}[/red]: [dim]{escape(examples[reason])}[/dim]"
            console.print(Padding(line, (0, 0, 0, 3), expand=False), highlight=False)
    console.print()


def answers(
    console: Console,
    question: Question,
    hits: Sequence[Hit],
    *,
    wanted: bool = True,
    when: str = "",
) -> None:
    """One question and its first answers; the expected one, or its absence, is marked."""
    suffix = f" [dim]{escape(when)}[/dim]" if when else ""
    console.print(f"  [bold]“{escape(question.text)}”[/bold]{suffix}", highlight=False)
    for hit in list(hits)[:TOP]:
        expected = hit.document_id in question.expected
        mark = ("[green]✓[/green]" if wanted else "[red]✗[/red]") if expected else " "
        part = f" [dim](part {hit.chunk + 1} of {hit.chunks})[/dim]" if hit.chunks > 1 else ""
        console.print(
            f"   {mark} {hit.score:.2f}  [cyan]{escape(hit.document_id)}[/cyan]{part}",
            f"[dim]{escape(_first_line(hit.text))}[/dim]",
            highlight=False,
            no_wrap=True,
            overflow="ellipsis",
        )


_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.ALARM: "red"}


def findings(console: Console, found: Iterable[Finding]) -> None:
    """What probes said, one line each and as many more as the words take."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in found:
        if finding.level is None:
            level, words = "[red]failed[/red]", finding.failure
        else:
            colour = _COLOURS.get(finding.level, "dim")
            level, words = f"[{colour}]{finding.level.value}[/{colour}]", finding.words
        table.add_row(finding.probe, level, escape(words), style="")
    console.print(Padding(table, (0, 0, 0, 2), expand=False), highlight=False)


def _first_line(text: str) -> str:
    return " ".join(text.split())[:160]
