"""The demo from the first line to the last."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from rich.console import Console
from rich.markup import escape

from pipelines.core.errors import ExitCode
from pipelines.core.index import Hit, Index
from pipelines.core.metrics import job_metrics
from pipelines.core.plans import Outcome
from pipelines.core.settings import Settings
from pipelines.demo import show
from pipelines.demo.broker import EmbeddedBroker
from pipelines.demo.checks import Checks
from pipelines.demo.corpus import standard_library
from pipelines.demo.questions import (
    ABOUT_DELETED,
    ABOUT_REPLACEMENT,
    QUESTIONS,
    TOP,
    Question,
)
from pipelines.demo.waves import DELETED, REPLACED, Wave, all_documents, changes, comeback
from pipelines.demo.workspace import TOPIC, Workspace

if TYPE_CHECKING:
    from pipelines.core.versions import Version
    from pipelines.ingest import IngestResult

__all__ = ["DEFAULT_DOCUMENTS", "DEFAULT_FOLDER", "run_demo"]

DEFAULT_DOCUMENTS = 3000
"""Of the 3,700 to 4,200 that Python 3.11 to 3.13 have: enough to be real, a minute's work."""

DEFAULT_FOLDER = Path("plumbline-data/demo")


def run_demo(
    folder: Path | None = None,
    *,
    documents: int | None = None,
    keep: bool = True,
    console: Console | None = None,
) -> int:
    """Shows the ingest job at work on an embedded broker and an embedded store.

    Parameters
    ----------
    folder
        Where the index goes; default `plumbline-data/demo`, or a temporary folder when nothing is
        kept. A demo's folder is emptied at the start, so that it can run again; any other one
        is left alone.
    documents
        How many docstrings of the standard library, at most; default 3,000.
    keep
        Keep the index at the end, so that it can be searched.
    console
        Where to; by default standard output.

    Returns
    -------
    int
        0 when everything the demo claims was measured to be so, 1 otherwise.

    Raises
    ------
    PlumblineError
        Something is missing on this machine, or a job stopped.
    """
    if console is None:
        # Where nobody can say how wide it is, rich would cut lines at 80.
        console = Console(width=None if sys.stdout.isatty() else 100)
    if folder is None:
        folder = DEFAULT_FOLDER if keep else Path(tempfile.mkdtemp(prefix="plumbline-demo-"))
    with (
        Workspace(folder, keep=keep) as workspace,
        EmbeddedBroker([TOPIC]) as broker,
        _kafka_clients_closed(),
    ):
        settings = workspace.settings(broker.address)
        for topic in (settings.dead_letter_topic, settings.replay_topic):
            broker.size(topic)  # the embedded broker makes a topic when somebody asks for it
        demo = _Demo(console, settings, broker)
        demo.play(documents or DEFAULT_DOCUMENTS)
        code = demo.verdict()
        if keep and code == ExitCode.OK:
            workspace.write_settings()
            _next_steps(console, workspace)
        elif keep:
            console.print(f"The job's log: {workspace.log_file}", markup=False, soft_wrap=True)
        return code


@contextmanager
def _kafka_clients_closed() -> Iterator[None]:
    """Those that a job leaves open for the next one would miss the broker when it is gone."""
    try:
        yield
    finally:
        from pipelines.io.kafka import close_consumers
        from pipelines.io.kafka.producer import close_producers

        close_consumers()
        close_producers()


class _Demo:
    def __init__(self, console: Console, settings: Settings, broker: EmbeddedBroker) -> None:
        self.console = console
        self.settings = settings
        self.broker = broker
        self.checks = Checks()
        self.runs: list[tuple[str, IngestResult]] = []
        self.version: Version | None = None
        self.started = time.monotonic()
        self.tokens_before = _tokens_encoded()

    def play(self, limit: int) -> None:
        """The acts, in order."""
        wanted = {DELETED, REPLACED}.union(*(question.expected for question in QUESTIONS))
        with self.console.status("Reading the docstrings of the standard library …"):
            documents = standard_library(limit, keep=wanted)
        ids = {document.id for document in documents}

        show.headline(self.console, 1, "Documents flow in")
        python = ".".join(str(part) for part in sys.version_info[:3])
        self._say(
            f"{len(documents):,} docstrings of Python {python}'s standard library go to a topic.",
            "The job reads it, embeds them with all-MiniLM-L6-v2 and writes them to Qdrant.",
        )
        first = all_documents(documents, _now_ms())
        result = self._ingest("documents", first)
        self.checks.run("documents", first, result)
        show.speed(self.console, result, _tokens_encoded() - self.tokens_before)
        index = Index(self.settings)
        stars = [
            question for question in (ABOUT_DELETED, ABOUT_REPLACEMENT) if question.expected <= ids
        ]
        before = [self._ask(index, question) for question in stars]
        parts_before = self._parts(index, REPLACED)

        show.headline(self.console, 2, "The world changes, and some of it is broken")
        second = changes(documents, _now_ms())
        result = self._ingest("changes", second.wave)
        self.checks.run("changes", second.wave, result)
        self._check_metadata(index, [document.id for document in second.relabelled])
        self._dead_letters(second.wave)
        for question, hits in zip(stars, before, strict=True):
            self._compare(index, question, hits)
        if REPLACED in ids:
            parts = self._parts(index, REPLACED)
            self._say(f"Vectors of {REPLACED}: {parts_before} before, {parts} after.")
            self.checks.expect(f"{REPLACED} had several vectors", parts_before > 1, parts_before)
            self.checks.expect(f"{REPLACED} has one vector now", parts == 1, parts)

        show.headline(self.console, 3, "Everything comes again")
        third = comeback(second.deleted, _now_ms())
        assert self.version is not None, "the first run has set it"
        self.broker.rewind(TOPIC, self.version.group_id)
        sent = self.broker.size(TOPIC) + len(third.messages)
        self._say("The consumer group's offsets go back to the start: all is redelivered. And:")
        result = self._ingest("redelivery", third, total=sent)
        embedded = third.outcomes[Outcome.EMBEDDED]
        self.checks.redelivery("redelivery", result, sent, embedded)
        self._say(
            f"{result.counts.consumed:,} events cost "
            f"{result.counts.outcomes[Outcome.EMBEDDED]:,} embeddings.",
        )
        if DELETED in ids:
            hits = self._ask(index, ABOUT_DELETED)
            show.answers(self.console, ABOUT_DELETED, hits[:1], when=f"{DELETED} came back")
            self.checks.answer("after the comeback", ABOUT_DELETED, hits)

        show.headline(self.console, 4, "Every event is accounted for")
        show.accounting(self.console, self.runs)

        show.headline(self.console, 5, "Ask it something")
        for question in QUESTIONS:
            if question.expected & ids:  # every Python's library is a little different
                hits = self._ask(index, question)
                show.answers(self.console, question, hits)
                self.checks.answer("at the end", question, hits)

    def _ingest(self, name: str, wave: Wave, total: int | None = None) -> IngestResult:
        show.wave_contents(self.console, wave)
        self.broker.send(TOPIC, wave.messages)
        with show.progress(self.console, total or len(wave.messages)) as begin:
            # Beam takes seconds to import, and says on the way what it has not found: into the log.
            from pipelines.ingest import run_ingest

            def ready(version: Version) -> None:
                self.version = version
                begin()

            result = run_ingest(self.settings, until_caught_up=True, create=True, on_ready=ready)
        self.runs.append((name, result))
        return result

    def _ask(self, index: Index, question: Question) -> list[Hit]:
        return index.search(question.text, limit=TOP)

    def _parts(self, index: Index, module: str) -> int:
        """How many vectors the docstring of a module has."""
        where = {"module": module, "kind": "module"}
        return len(index.search(module, limit=100, chunks=True, where=where))

    def _check_metadata(self, index: Index, relabelled: list[str]) -> None:
        hits = index.search("anything", limit=len(relabelled) + 1, where={"reviewed": True})
        self.checks.expect(
            "exactly the documents with new metadata are found by it",
            sorted(hit.document_id for hit in hits) == sorted(relabelled),
            len(hits),
        )

    def _dead_letters(self, wave: Wave) -> None:
        from pipelines.io.kafka.dead_letters import read_dead_letters

        letters = list(read_dead_letters(self.settings))
        reasons = Counter(letter.reason for letter in letters)
        self.checks.expect(
            "the dead-letter topic holds every dead letter once", reasons == wave.reasons, reasons
        )
        sent = Counter((message.key, message.value) for message in wave.messages)
        self.checks.expect(
            "dead letters keep key and value to the byte",
            all(sent[letter.key, letter.value] for letter in letters),
        )
        show.dead_letters(self.console, letters)

    def _compare(self, index: Index, question: Question, before: list[Hit]) -> None:
        after = self._ask(index, question)
        (document,) = question.expected
        deleted = question is ABOUT_DELETED
        what = f"after {document} {'was deleted' if deleted else 'got another text'}"
        show.answers(self.console, question, before[:1], wanted=deleted, when="before")
        show.answers(self.console, question, after[:1], wanted=not deleted, when=what)
        self.checks.answer("before the changes", question, before, wanted=deleted)
        self.checks.answer(what, question, after, wanted=not deleted)

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.console.print(f"  {line}", highlight=False, markup=False)

    def verdict(self) -> int:
        """Says whether all claims held; the exit code."""
        self.console.print()
        held, failed = self.checks.held, self.checks.failed
        if not failed:
            self.console.print(
                f"[bold green]✓ {held} claims checked, all hold.[/bold green] "
                f"{time.monotonic() - self.started:.0f} s in all.",
                highlight=False,
            )
            return ExitCode.OK
        for claim in failed:
            self.console.print(f"[bold red]✗[/bold red] {escape(claim)}", highlight=False)
        self.console.print(
            f"[bold red]{len(failed)} of {held + len(failed)} claims do not hold.[/bold red]"
        )
        return ExitCode.NO


def _tokens_encoded() -> float:
    job_metrics()  # the family is on the registry from its first use
    return REGISTRY.get_sample_value("plumbline_tokens_total") or 0.0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _next_steps(console: Console, workspace: Workspace) -> None:
    plumbline = _command()
    config = workspace.settings_file
    show.headline(console, 6, "What to try next")
    for line in (
        f"{plumbline} search --config {config} 'how do I parse a date?'",
        f"{plumbline} index show --config {config}",
        f"{plumbline} doctor --help",
    ):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print("  README.md has the settings for a Kafka and a Qdrant of your own.")


def _command() -> str:
    """How the reader starts `plumbline` from here."""
    if shutil.which("plumbline"):
        return "plumbline"
    started = Path(sys.argv[0])
    return os.path.relpath(started) if started.name == "plumbline" else "plumbline"
