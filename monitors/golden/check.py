"""What is wrong with a golden set, and what it can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitors.golden.baseline import DocumentState, Store
from monitors.golden.files import inspect_golden
from monitors.golden.golden_set import GoldenSet
from monitors.golden.measures import score
from monitors.golden.power import ENOUGH_QUERIES, Power, detectable_loss

__all__ = ["CheckReport", "Finding", "check_file", "check_version"]

Searched = tuple[str, Store, Mapping[str, npt.NDArray[np.float32]]]
"""Name of a version, where to search it, and the vectors of the queries."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to mend.

    Parameters
    ----------
    kind
        `malformed`, `duplicate`, `duplicate_text`, `unjudged`, `no_relevant`, `missing_document`,
        `deleted_document`.
    line
        In the file, from 1; `None` where the finding has none.
    where
        Field, query or document.
    """

    kind: str
    line: int | None
    where: str
    message: str


@dataclass(frozen=True)
class CheckReport:
    """What `plumbline golden check` answers.

    Parameters
    ----------
    version
        That it was compared with; `None` for the file alone.
    recall
        At `k` on that version, over the scored queries.
    """

    file: Path
    version: str | None
    k: int
    queries: int
    scored: int
    judged: int
    findings: Sequence[Finding] = field(repr=False)
    power: Power
    recall: float | None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **asdict(self),
            "file": str(self.file),
            "ok": not self.findings,
            "enough_queries": self.power.enough,
        }

    def words(self) -> list[str]:
        """For people."""
        size = f"{self.queries:,} queries, {self.scored:,} with a relevant document"
        lines = [f"{self.file}: {size}; {self.judged:,} documents judged"]
        if self.recall is not None:
            lines.append(f"recall@{self.k} on {self.version}: {self.recall:.3f}")
        power = self.power
        measured = "" if self.recall is not None else ", were every relevant document found now"
        if power.detectable_loss is None:
            lines.append("too few queries to prove even the loss of half of the recall")
        else:
            lines.append(
                f"a loss of {100 * power.detectable_loss:.1f} points of recall@{self.k} is found "
                f"with probability {power.power:.0%} at level {power.level:.0%}{measured}"
            )
        if not power.enough:
            lines.append(
                f"fewer than {ENOUGH_QUERIES} queries: a loss of four points will mostly go "
                "unnoticed. Judge more."
            )
        lines.append("nothing to mend" if not self.findings else f"{len(self.findings)} to mend")
        return lines


def check_file(path: Path) -> tuple[list[Finding], GoldenSet]:
    """What the file itself shows, and what can be read of it.

    Raises
    ------
    SettingsError
        There is no golden set, or it cannot be read at all.
    """
    golden, problems = inspect_golden(path)
    findings = [
        Finding(problem.kind, problem.line, problem.field, problem.message) for problem in problems
    ]
    texts: dict[str, str] = {}
    for query in golden.queries:
        first = texts.setdefault(" ".join(query.text.casefold().split()), query.id)
        if first != query.id:
            findings.append(
                Finding("duplicate_text", query.line, query.id, f"asks the same as {first}")
            )
        if not query.judged:
            findings.append(Finding("unjudged", query.line, query.id, "has no judged document"))
        elif not query.relevant:
            findings.append(
                Finding("no_relevant", query.line, query.id, "no document has a grade above 0")
            )
    return findings, golden


def check_version(
    findings: Sequence[Finding], golden: GoldenSet, searched: Searched | None, k: int
) -> CheckReport:
    """The file's findings, those against a version, and the power of the set.

    Parameters
    ----------
    searched
        `None`: the file alone; power then supposes that every relevant document is found.
    """
    found = list(findings)
    relevant = np.array([len(query.relevant) for query in golden.scored], np.int64)
    recall = None
    hits = np.minimum(relevant, k)
    if searched is not None:
        _, store, vectors = searched
        found += _absent(golden, store.states(golden.judged))
        rankings = {
            query: [item.document_id for item in store.search(vector, k)]
            for query, vector in vectors.items()
        }
        scores = score(golden.qrels, rankings, [k])
        recall = float(scores.recall[k].mean()) if scores.queries else 0.0
        hits = np.rint(scores.recall[k] * relevant).astype(np.int64)
    return CheckReport(
        file=golden.source,
        version=searched[0] if searched is not None else None,
        k=k,
        queries=len(golden.queries),
        scored=len(golden.scored),
        judged=len(golden.judged),
        findings=found,
        power=detectable_loss(hits, relevant),
        recall=recall,
    )


def _absent(golden: GoldenSet, states: Mapping[str, DocumentState]) -> list[Finding]:
    asked: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    for query in golden.queries:
        for document in query.judged:
            asked.setdefault(document, []).append(query.id)
            lines.setdefault(document, query.line)
    findings = []
    for document in golden.judged:
        state = states.get(document, DocumentState.GONE)
        if state is DocumentState.PRESENT:
            continue
        kind = "deleted_document" if state is DocumentState.DELETED else "missing_document"
        what = "was deleted from the index" if state is DocumentState.DELETED else "is not there"
        queries = asked[document]
        more = f" and {len(queries) - 3} more" if len(queries) > 3 else ""
        findings.append(
            Finding(
                kind,
                lines[document],
                document,
                f"{what}; judged for {', '.join(queries[:3])}{more}",
            )
        )
    return findings
