"""The golden gate: is the candidate's search shown to be as good as live's, but for a margin?

The same judged queries are asked of both versions, each with the encoder of its own contract and
as users search, and the documents that both versions hold are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from monitors.golden.baseline import DocumentState, Store
from monitors.golden.golden_set import GoldenSet
from monitors.golden.measures import score
from pipelines.core.errors import SettingsError
from pipelines.rollout.non_inferiority import Decision, NonInferiority

__all__ = ["Asked", "GateReport", "check_belongs", "golden_gate"]

Floats = npt.NDArray[np.float64]

_SPARE = 20
"""Documents asked for beyond k: those that only one version holds yet are left out."""

_DEEPEST = 1000
_WORST = 10
_KNOWN_SHARE = 0.5
"""Less than half of the judged documents known: the set is of another index."""


@dataclass(frozen=True)
class Asked:
    """A version to ask.

    Parameters
    ----------
    store
        Where it is searched.
    vectors
        Query to its vector under the version's own contract; one that the model refuses is absent
        and finds nothing.
    """

    store: Store
    vectors: Mapping[str, npt.NDArray[np.float32]] = field(repr=False)


@dataclass(frozen=True)
class GateReport:
    """What the gate says.

    Parameters
    ----------
    test
        Of the recalls, query by query.
    k
        Depth of the recall.
    live, candidate
        Mean recall@k, 0 to 1.
    left_out
        Queries none of whose relevant documents is in both versions.
    lost, gained
        Queries with less and with more recall in the candidate.
    worst
        Ids of the queries that lose most, with the recall of live and of the candidate.
    """

    test: NonInferiority
    k: int
    live: float
    candidate: float
    left_out: int
    lost: int
    gained: int
    worst: Sequence[tuple[str, float, float]]

    @property
    def outcome(self) -> Decision:
        """`pass`, `refuse` or `undecided`."""
        return self.test.outcome

    @property
    def words(self) -> str:
        """The decision and its reasons, in a sentence or two."""
        test, recall = self.test, f"recall@{self.k}"
        low, high = test.interval
        sure = f"{1 - test.level:.0%}"
        measured = (
            f"{recall} is {self.candidate:.3f} against live's {self.live:.3f} on {test.queries:,} "
            f"queries, a difference of {test.difference:+.3f} ({low:+.3f} to {high:+.3f}, each "
            f"bound at {sure})"
        )
        if not test.queries:
            return (
                "no judged query can be compared: none has a relevant document that both versions "
                "hold"
            )
        if self.outcome == "pass":
            return f"{measured}: it loses less than the margin of {test.margin:g}"
        if self.outcome == "refuse":
            return f"{measured}: it is shown to lose more than the margin of {test.margin:g}"
        worse = (
            " It is shown to be worse than live, but not by more than the margin."
            if test.worse
            else ""
        )
        if test.enough is None:
            advice = (
                "so near the margin that hardly any number of queries would tell: judge it as one "
                "that loses the margin"
            )
        else:
            advice = f"about {max(test.enough, test.queries + 1):,} queries like these would do"
        return (
            f"not enough queries to tell whether it loses less than the margin of {test.margin:g}: "
            f"{measured}; {advice}.{worse}"
        )

    def to_json(self) -> dict[str, Any]:
        """For the rollout's record and for programs."""
        test = self.test
        low, high = test.interval
        return {
            "outcome": self.outcome,
            "words": self.words,
            "k": self.k,
            "margin": test.margin,
            "level": test.level,
            "queries": test.queries,
            "left_out": self.left_out,
            "live": round(self.live, 6),
            "candidate": round(self.candidate, 6),
            "difference": round(test.difference, 6),
            "low": round(low, 6),
            "high": round(high, 6),
            "p_pass": test.p_pass,
            "p_refuse": test.p_refuse,
            "enough_queries": test.enough if self.outcome == "undecided" else None,
            "lost": self.lost,
            "gained": self.gained,
            "worst": [
                {"query": query, "live": before, "candidate": after}
                for query, before, after in self.worst
            ],
        }


def golden_gate(
    golden: GoldenSet,
    live: Asked,
    candidate: Asked,
    *,
    k: int,
    margin: float,
    level: float,
    watch: Callable[[int, int], None] = lambda _done, _total: None,
) -> GateReport:
    """Asks every judged query of both versions and tests the difference of recall@k.

    Only documents that both versions hold count, judged ones and found ones, so that one that has
    reached a single version so far helps or harms nobody.

    Parameters
    ----------
    margin
        Loss of mean recall that is too much.
    level
        Greatest chance that a candidate exactly at the margin passes, and that it is refused.
    watch
        Told after each query how many are done, of how many.

    Raises
    ------
    SettingsError
        The golden set belongs to another index.
    """
    judged = golden.judged
    here, there = live.store.states(judged), candidate.store.states(judged)
    check_belongs(golden, here)
    qrels = {}
    for query, grades in golden.qrels.items():
        both = {
            document: grade
            for document, grade in grades.items()
            if here.get(document) is DocumentState.PRESENT
            and there.get(document) is DocumentState.PRESENT
        }
        if any(grade >= 1 for grade in both.values()):
            qrels[query] = both
    runs: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for number, query in enumerate(qrels, start=1):
        for run, asked, other in ((runs[0], live, candidate), (runs[1], candidate, live)):
            run[query] = _common(asked, other, query, k)
        watch(number, len(qrels))
    before, after = (score(qrels, run, (k,)) for run in runs)
    test = NonInferiority.of(after.recall[k], before.recall[k], margin=margin, level=level)
    return GateReport(
        test=test,
        k=k,
        live=before.means(k).get("recall", 0.0),
        candidate=after.means(k).get("recall", 0.0),
        left_out=len(golden.qrels) - len(qrels),
        lost=int((test.differences < -1e-9).sum()),
        gained=int((test.differences > 1e-9).sum()),
        worst=_worst(before.queries, before.recall[k], after.recall[k]),
    )


def check_belongs(golden: GoldenSet, states: Mapping[str, DocumentState]) -> None:
    """Passes when the golden set's documents are known to the index, deleted ones too.

    Raises
    ------
    SettingsError
        Nothing is judged, or fewer than half of the judged documents are known.
    """
    if not golden.scored:
        raise SettingsError(
            f"{golden.source}: no query has a relevant document, so that nothing can be compared"
        )
    relevant = golden.relevant
    unknown = [d for d in relevant if states.get(d, DocumentState.GONE) is DocumentState.GONE]
    known = len(relevant) - len(unknown)
    if known < _KNOWN_SHARE * len(relevant):
        raise SettingsError(
            f"{golden.source} seems to be the golden set of another index: of its "
            f"{len(relevant):,} relevant documents live knows {known:,} (unknown are "
            f"{', '.join(unknown[:3])}{', …' if len(unknown) > 3 else ''}). Give the one of this "
            "index; `plumbline golden check` compares a set with an index."
        )


def _common(asked: Asked, other: Asked, query: str, k: int) -> list[str]:
    """The first k documents for a query that the other version holds too."""
    vector = asked.vectors.get(query)
    if vector is None:
        return []
    depth = k + _SPARE
    while True:
        found = [item.document_id for item in asked.store.search(vector, depth)]
        states = other.store.states(found)
        both = [document for document in found if states[document] is DocumentState.PRESENT]
        if len(both) >= k or len(found) < depth or depth >= _DEEPEST:
            return both[:k]
        depth = min(_DEEPEST, 4 * depth)


def _worst(queries: Sequence[str], before: Floats, after: Floats) -> list[tuple[str, float, float]]:
    losses = after - before
    order = sorted(range(len(queries)), key=lambda row: (losses[row], queries[row]))
    return [
        (queries[row], round(float(before[row]), 6), round(float(after[row]), 6))
        for row in order[:_WORST]
        if losses[row] < -1e-9
    ]
