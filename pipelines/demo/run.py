"""The demo from the first line to the last."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from rich.console import Console
from rich.markup import escape

from monitors.golden.native import write_native
from monitors.probes.base import Level
from pipelines.core.errors import ExitCode
from pipelines.core.index import Hit, Index
from pipelines.core.metrics import job_metrics
from pipelines.core.plans import Outcome
from pipelines.core.settings import Settings
from pipelines.demo import show
from pipelines.demo.broker import EmbeddedBroker
from pipelines.demo.checks import Checks
from pipelines.demo.corpus import Document, standard_library
from pipelines.demo.damage import DamagedEncoders, OtherPooling, OtherQueryPrompt, flood
from pipelines.demo.health import Finding, golden_queries, lose, probe
from pipelines.demo.questions import (
    ABOUT_DELETED,
    ABOUT_REPLACEMENT,
    QUESTIONS,
    TOP,
    Question,
)
from pipelines.demo.rollout import RolloutAct
from pipelines.demo.waves import DELETED, REPLACED, Wave, all_documents, changes, comeback
from pipelines.demo.workspace import TOPIC, Workspace

if TYPE_CHECKING:
    from monitors.encoders import Encoders
    from pipelines.core.versions import Version
    from pipelines.ingest import IngestResult

__all__ = ["DEFAULT_DOCUMENTS", "DEFAULT_FOLDER", "run_demo"]

DEFAULT_DOCUMENTS = 1000
"""Of the 3,700 to 4,200 that Python 3.11 to 3.13 have: enough to be real, and twice embedded in the
time that a newcomer has."""

DEFAULT_FOLDER = Path("plumbline-data/demo")

_FLOOD = 150
"""Notices of the flood, at least."""

_LOST = 20
"""Golden documents that vanish, about."""


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
        How many docstrings of the standard library, at most; default 1,000.
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
        demo = _Demo(console, settings, broker, workspace.golden_file)
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
    def __init__(
        self, console: Console, settings: Settings, broker: EmbeddedBroker, golden_file: Path
    ) -> None:
        self.console = console
        self.settings = settings
        self.broker = broker
        self.golden_file = golden_file
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

        touched = {d.id for d in (*second.deleted, *second.relabelled, *second.updated)}
        untouched = [document for document in documents if document.id not in touched]
        self._watch(untouched)
        self._replace(untouched)

    def _watch(self, documents: list[Document]) -> None:
        """The monitor: all is well; then something breaks, again and again."""
        show.headline(self.console, 6, "Is it healthy?")
        golden = golden_queries(documents)
        write_native(golden, self.golden_file)
        self._say(
            f"A golden set of {len(golden)} queries: the first sentence of a docstring must find",
            "the docstring. Eight probes look at the index; this run is what later ones are",
            "compared with.",
        )
        first = self._probe()
        show.findings(self.console, first.values())
        self.checks.no_alarm("the first look", first)

        show.headline(self.console, 7, "Break it on purpose: who notices?")
        for what, damage in (
            ("A library upgrade changes how the monitor's encoder pools", OtherPooling),
            ("Somebody puts “query: ” before every search", OtherQueryPrompt),
        ):
            found = self._probe("canary", encoders=DamagedEncoders(self.settings, damage))
            self._noticed(what, found, "canary")

        notices = flood(documents, max(_FLOOD, len(documents) // 10), _now_ms())
        self._say("", "A build bot floods the topic:")
        result = self._ingest("flood", notices)
        self.checks.run("flood", notices, result)
        self._noticed("The flood is in the index", self._probe("drift"), "drift", Level.WARNING)

        assert self.version is not None, "the first run has set it"
        lost = [query.id for query in golden[:: max(1, len(golden) // _LOST)]]
        lose(self.settings, self.version.name, lost)
        found = self._probe("golden", "integrity")
        self._noticed(
            f"{len(lost)} documents vanish from the store, without an event", found, "integrity"
        )
        self.checks.noticed("lost documents", found["golden"], Level.WARNING)

        self._say("", "The topic still has them. The group's offsets go back to the start:")
        self.broker.rewind(TOPIC, self.version.group_id)
        sent = self.broker.size(TOPIC)
        again = Wave([], {}, [])
        result = self._ingest("healing", again, total=sent)
        self.checks.redelivery("healing", result, sent, len(lost))
        healed = self._probe("golden", "integrity", "fidelity")
        show.findings(self.console, healed.values())
        self.checks.no_alarm("healed", healed)

    def _replace(self, documents: list[Document]) -> None:
        """A rollout: planned, built, refused, mended, promoted, rolled back."""
        show.headline(self.console, 8, "Cut documents differently, without breaking search")

        def ingest(wave: Wave, version: str) -> None:
            result = self._ingest("rollout", wave, version=version)
            done = result.counts.balanced and not result.uncommitted
            self.checks.expect(f"the job of {version} accounts for every event", done)

        RolloutAct(
            self.console,
            self.settings,
            self.checks,
            ingest,
            self.golden_file,
            documents,
            _now_ms,
        ).play()

    def _probe(self, *names: str, encoders: Encoders | None = None) -> Mapping[str, Finding]:
        # Comes with Beam, which is not to be imported before the log is set up.
        from pipelines.io.kafka.lag import lag_reader

        with self.console.status("The probes look …"):
            return probe(self.settings, names, encoders=encoders, lag=lag_reader(self.settings))

    def _noticed(
        self,
        what: str,
        found: Mapping[str, Finding],
        by: str,
        least: Level = Level.ALARM,
    ) -> None:
        """Shows what was broken and what the probes said, and checks that the right one did."""
        self.console.print(f"\n  [bold]{escape(what)}[/bold]", highlight=False)
        show.findings(self.console, found.values())
        self.checks.noticed(what, found[by], least)

    def _ingest(
        self, name: str, wave: Wave, total: int | None = None, version: str | None = None
    ) -> IngestResult:
        show.wave_contents(self.console, wave)
        self.broker.send(TOPIC, wave.messages)
        with show.progress(self.console, total or len(wave.messages)) as begin:
            # Beam takes seconds to import, and says on the way what it has not found: into the log.
            from pipelines.ingest import run_ingest

            def ready(written: Version) -> None:
                self.version = written
                begin()

            result = run_ingest(
                self.settings,
                until_caught_up=True,
                create=version is None,
                version=version,
                on_ready=ready,
            )
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
    show.headline(console, 9, "What to try next")
    for line in (
        f"{plumbline} search --config {config} 'how do I parse a date?'",
        f"{plumbline} index show --config {config}",
        f"{plumbline} monitor once --config {config}",
        f"{plumbline} golden check {workspace.golden_file} --config {config}",
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
