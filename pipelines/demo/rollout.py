"""The demo's last act: another chunker is tried, refused where it is worse, built and switched to.

Everything here is what the commands of `plumbline rollout` do, in this process: the embedded store
belongs to one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.padding import Padding

from monitors.golden.files import read_golden
from pipelines.core.index import Index
from pipelines.core.plans import Outcome
from pipelines.core.qdrant import connect
from pipelines.core.settings import ChunkSettings
from pipelines.core.versions import list_versions
from pipelines.demo.broker import Message
from pipelines.demo.corpus import Document
from pipelines.demo.health import lose
from pipelines.demo.waves import Wave

if TYPE_CHECKING:
    from rich.console import Console

    from monitors.golden.evaluate import Row
    from pipelines.core.rollout import Rollout
    from pipelines.core.settings import ContractSettings, Settings
    from pipelines.demo.checks import Checks
    from pipelines.rollout.plan import PlanReport
    from pipelines.rollout.verify import VerifyReport

__all__ = ["RolloutAct", "news"]

_SEED = 23
_LOST = 20
_SAMPLE = 150
_FEW_DIMENSIONS = 12

NEWCOMER = "news/today"
NEWS = "The bakery on the corner sells rye bread with caraway seeds from seven o'clock."

Ingest = Callable[[Wave, str], None]
"""Sends a wave, if it has events, and runs the job of the version until it has caught up."""


def news(documents: Sequence[Document], now_ms: int) -> Wave:
    """Some texts change, and one document is new: what comes in while a version is replaced."""
    dice = random.Random(_SEED)  # noqa: S311 - the same every time
    changed = dice.sample(list(documents), min(20, len(documents)))
    events = [
        {
            "id": document.id,
            "title": document.title,
            "text": f"{document.text}\n\nRevised while two versions were live.",
            "metadata": document.metadata,
        }
        for document in changed
    ]
    events.append({"id": NEWCOMER, "title": "", "text": NEWS, "metadata": {"kind": "news"}})
    messages = [
        Message(str(event["id"]).encode(), json.dumps(event).encode(), timestamp=now_ms)
        for event in events
    ]
    parts = [("texts change and one document is new", len(events), "embedded, in both versions")]
    return Wave(messages, {Outcome.EMBEDDED: len(events)}, parts)


@dataclass
class RolloutAct:
    """Plays it.

    Parameters
    ----------
    ingest
        See `Ingest`.
    documents
        Of the index; `golden_file` judges some of them.
    now_ms
        Asked for the time of the events that come in.
    """

    console: Console
    settings: Settings
    checks: Checks
    ingest: Ingest
    golden_file: Path
    documents: Sequence[Document]
    now_ms: Callable[[], int]

    def play(self) -> None:
        """From the plan to the end, with a refusal and a rollback on the way."""
        contract = self.settings.contract
        self._too_small(contract.model_copy(update={"truncate_dim": _FEW_DIMENSIONS}))
        smaller = contract.model_copy(update={"chunk": ChunkSettings(size=120, overlap=10)})
        planned = self._plan("chunks of 120 tokens instead of 200", smaller)
        live, candidate = planned.rollout.live.name, planned.rollout.candidate.name

        self._build(live, candidate)
        self._refused(candidate)
        self._mended()
        self._promoted(candidate)

        self._say("", "The world goes on; both versions receive what comes:")
        wave = news(self.documents, self.now_ms())
        self.ingest(wave, candidate)
        self.ingest(Wave([], {}, []), live)
        self._finds_news("after the switch", candidate)

        self._rolled_back(live)
        self._finds_news("after the rollback", live)
        self._dropped(candidate)

    def _too_small(self, contract: ContractSettings) -> None:
        from pipelines.rollout.retire import abort

        planned = self._plan(f"{_FEW_DIMENSIONS} dimensions instead of 384", contract)
        verdict = planned.figures.golden[1].verdict()
        self.checks.expect("the plan says that so few dimensions are worse", verdict == "worse")
        gone = abort(self.settings, reason="too few dimensions: recall is worse")
        self.checks.expect("a plan can be given up", gone.state == "aborted", gone.state)

    def _plan(self, what: str, contract: ContractSettings) -> PlanReport:
        from pipelines.rollout.plan import plan

        with self.console.status(f"Planning: {what} …"):
            found = plan(
                self.settings, contract, golden=read_golden(self.golden_file), sample=_SAMPLE
            )
        figures = found.figures
        live, new = (row.means["recall"][0] for row in figures.golden)
        change = figures.golden[1].tests["recall"]
        low, high = change.interval
        self._line(
            f"[bold]plan[/bold]: {escape(what)}: {figures.tokens:,} tokens, about "
            f"{figures.seconds[0]:.0f} s, {figures.storage.total / 2**20:.0f} MiB; recall@"
            f"{figures.golden[0].k} {live:.3f} → {new:.3f} ({change.change:+.3f}, 95 % "
            f"{low:+.3f} to {high:+.3f}): [bold]{_verdict(figures.golden[1])}[/bold]"
        )
        return found

    def _build(self, live: str, candidate: str) -> None:
        from pipelines.rollout.build import build

        with self.console.status("Building the candidate beside the live version …"):
            built = build(self.settings)
        note = built.to_json().get("backfill", {})
        self._line(
            f"[bold]build[/bold]: {note.get('documents', 0):,} documents embedded anew beside "
            f"{escape(live)}, which answered all the while"
        )
        self.checks.expect("the build is complete", built.complete)
        alias = Index(self.settings).version().name
        self.checks.expect("searches still reach the old version", alias == live, alias)
        self.checks.expect("the candidate is another version", candidate != live)

    def _refused(self, candidate: str) -> None:
        dice = random.Random(_SEED)  # noqa: S311 - the same every time
        lost = [document.id for document in dice.sample(list(self.documents), _LOST)]
        lose(self.settings, candidate, lost)
        self._say(f"Somebody loses {_LOST} documents of the candidate. May it go live?")
        report = self._verify()
        row = next((row for row in report.rows if row.outcome == "refuse"), None)
        self.checks.expect("a candidate that lacks documents is refused", not report.ok)
        if row is not None:
            self._line(
                f"[bold]verify[/bold]: [red]refused[/red] by {row.name}: {escape(row.words)}"
            )
        self.checks.expect(
            "the check of documents refuses it",
            row is not None and row.name == "documents",
            row.name if row is not None else "nothing",
        )

    def _mended(self) -> None:
        from pipelines.rollout.build import build

        with self.console.status("Filling it again: only what is missing is embedded …"):
            build(self.settings, again=True)
        report = self._verify()
        verdict = "[green]passed[/green]" if report.ok else "[red]not passed[/red]"
        self._line(f"[bold]verify[/bold], filled again: {verdict}")
        for row in report.rows:
            self._line(f"  [dim]{row.name}: {escape(row.words)}[/dim]")
        self.checks.expect(
            "filled again, the candidate passes every check", report.ok, report.words
        )

    def _promoted(self, candidate: str) -> None:
        from pipelines.rollout.switch import promote

        moved = promote(self.settings, reason="smaller chunks, no loss of recall")
        seconds = float(moved.note("promotion").get("alias_seconds", 0.0))
        self._line(f"[bold]promote[/bold]: one alias operation, {seconds * 1000:.0f} ms")
        alias = Index(self.settings).version().name
        self.checks.expect("searches reach the new version", alias == candidate, alias)

    def _rolled_back(self, live: str) -> None:
        from pipelines.rollout.switch import rollback

        moved = rollback(self.settings, reason="to show that nothing is lost")
        self._line(f"[bold]rollback[/bold]: {escape(self._words(moved))}")
        alias = Index(self.settings).version().name
        self.checks.expect("searches reach the old version again", alias == live, alias)

    def _dropped(self, candidate: str) -> None:
        from pipelines.rollout.retire import retire

        retire(self.settings, now=candidate, reason="the demo ends")
        names = [version.name for version in list_versions(connect(self.settings))]
        self._line(f"[bold]retire[/bold]: {escape(candidate)} is dropped")
        self.checks.expect("one version is left", candidate not in names and len(names) == 1, names)

    def _finds_news(self, when: str, version: str) -> None:
        hits = Index(self.settings).search("where can I buy bread in the morning?", limit=3)
        found = [hit.document_id for hit in hits]
        mark = "[green]✓[/green]" if NEWCOMER in found else "[red]✗[/red]"
        self._line(f"{mark} {when}, a search finds what came in meanwhile")
        self.checks.expect(f"{when}: {version} has the news", NEWCOMER in found, found)

    def _verify(self) -> VerifyReport:
        from pipelines.rollout.verify import verify

        with self.console.status("Comparing the candidate with the live version …"):
            return verify(self.settings, golden=self.golden_file)

    @staticmethod
    def _words(rollout: Rollout) -> str:
        return f"{rollout.live.name} is live again; it has received every event meanwhile"

    def _line(self, text: str) -> None:
        self.console.print(Padding(text, (0, 0, 0, 2), expand=False), highlight=False)

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.console.print(f"  {line}", highlight=False, markup=False)


def _verdict(row: Row) -> str:
    test = row.tests["recall"]
    if test.change == test.interval[0] == test.interval[1] == 0:
        return "no query finds less, none more"
    return row.verdict()
