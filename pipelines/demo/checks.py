"""What the demo claims, checked against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from monitors.probes.base import Level
from pipelines.core.index import Hit
from pipelines.core.plans import Outcome
from pipelines.demo.health import Finding
from pipelines.demo.questions import TOP, Question
from pipelines.demo.waves import Wave

if TYPE_CHECKING:
    from pipelines.ingest import IngestResult

__all__ = ["Checks"]


@dataclass
class Checks:
    """Claims that held, and sentences about those that did not."""

    held: int = 0
    failed: list[str] = field(default_factory=list)

    def expect(self, claim: str, holds: bool, found: object = "") -> None:
        """Counts a claim; one that does not hold is kept with what was found instead."""
        if holds:
            self.held += 1
        else:
            self.failed.append(f"{claim}{f': found {found}' if found != '' else ''}")

    def run(self, name: str, wave: Wave, result: IngestResult) -> None:
        """Everything sent was consumed, has the outcome it must have, and is committed."""
        counts = result.counts
        self.accounted(name, result, len(wave.messages))
        for outcome in Outcome:
            expected = wave.outcomes.get(outcome, 0)
            found = counts.outcomes[outcome]
            self.expect(f"{name}: {expected} events are {outcome}", found == expected, found)
        reasons = {reason.value: count for reason, count in sorted(wave.reasons.items())}
        self.expect(
            f"{name}: dead letters by reason are {reasons}",
            counts.reasons == reasons,
            counts.reasons,
        )

    def redelivery(self, name: str, result: IngestResult, sent: int, embedded: int) -> None:
        """All was consumed again, and only what came back was embedded.

        Which of a document's older events count as stale depends on how they fall into batches,
        so `unchanged` and `stale` are taken together here.
        """
        outcomes = result.counts.outcomes
        self.accounted(name, result, sent)
        self.expect(
            f"{name}: {embedded} events are embedded",
            outcomes[Outcome.EMBEDDED] == embedded,
            outcomes[Outcome.EMBEDDED],
        )
        for outcome in (Outcome.PAYLOAD_ONLY, Outcome.DELETED):
            self.expect(f"{name}: no event is {outcome}", outcomes[outcome] == 0, outcomes[outcome])

    def answer(
        self, when: str, question: Question, hits: Sequence[Hit], *, wanted: bool = True
    ) -> None:
        """One of the expected documents is among the first answers; none is, where not wanted."""
        found = any(hit.document_id in question.expected for hit in hits[:TOP])
        expected = " or ".join(sorted(question.expected))
        self.expect(
            f"{when}: “{question.text}” {'finds' if wanted else 'does not find'} {expected}",
            found is wanted,
            [hit.document_id for hit in hits],
        )

    def noticed(self, what: str, finding: Finding, least: Level) -> None:
        """The probe says so, at this level or above it."""
        found = finding.failure or (finding.level.value if finding.level else "nothing")
        wanted = (Level.WARNING, Level.ALARM) if least is Level.WARNING else (Level.ALARM,)
        self.expect(f"{what}: {finding.probe} notices", finding.level in wanted, found)

    def no_alarm(self, when: str, found: Mapping[str, Finding]) -> None:
        """Every probe ran, and none alarms."""
        for finding in found.values():
            self.expect(
                f"{when}: {finding.probe} gives no alarm",
                finding.level not in (None, Level.ALARM),
                finding.failure or finding.words,
            )

    def accounted(self, name: str, result: IngestResult, sent: int) -> None:
        """The equation holds, nothing is missing and every offset is committed."""
        counts = result.counts
        self.expect(f"{name}: {sent} events are consumed", counts.consumed == sent, counts.consumed)
        self.expect(f"{name}: every event has an outcome", counts.balanced, counts.accounted)
        self.expect(
            f"{name}: all offsets are committed", not result.uncommitted, result.uncommitted
        )
