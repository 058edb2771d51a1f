"""The golden gate on stores in memory: what is compared, and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitors.golden.baseline import DocumentState, Found
from monitors.golden.golden_set import GoldenQuery, GoldenSet
from pipelines.core.errors import SettingsError
from pipelines.rollout.gate import Asked, GateReport, golden_gate


class Answers:
    """A store whose query q finds what it is told; a vector is the number of its query."""

    def __init__(
        self,
        rankings: Sequence[Sequence[str]],
        documents: set[str],
        deleted: set[str] | None = None,
    ) -> None:
        self._rankings = rankings
        self._documents = documents
        self._deleted = deleted or set()

    def search(self, vector: Any, limit: int, among: Any = None) -> list[Found]:
        ids = self._rankings[int(vector[0])][:limit]
        return [Found(document, 1.0 / rank) for rank, document in enumerate(ids, start=1)]

    def states(self, document_ids: Sequence[str]) -> dict[str, DocumentState]:
        return {
            document: DocumentState.PRESENT
            if document in self._documents
            else DocumentState.DELETED
            if document in self._deleted
            else DocumentState.GONE
            for document in document_ids
        }


N = 300
DOCUMENTS = [f"d{number}" for number in range(N)]


def golden(judged: Mapping[str, str] | None = None) -> GoldenSet:
    pairs = judged or {f"q{number}": f"d{number}" for number in range(N)}
    queries = [
        GoldenQuery(query, "a question", {document: 1}, line)
        for line, (query, document) in enumerate(pairs.items(), start=1)
    ]
    return GoldenSet(tuple(queries), Path("golden.yaml"))


def asked(store: Answers, queries: int = N) -> Asked:
    return Asked(store, {f"q{n}": np.array([n], np.float32) for n in range(queries)})


def found(*, missed: Sequence[int] = (), n: int = N) -> Answers:
    """Each query finds its document first, but for those that are missed."""
    other = [f"d{number}" for number in range(50)]
    rankings = [
        [d for d in other if d != f"d{q}"] if q in missed else [f"d{q}", *other] for q in range(n)
    ]
    return Answers(rankings, set(DOCUMENTS))


def gate(live: Answers, candidate: Answers, **changes: Any) -> GateReport:
    settings: dict[str, Any] = {"k": 10, "margin": 0.02, "level": 0.05, **changes}
    report = golden_gate(golden(), asked(live), asked(candidate), **settings)
    json.dumps(report.to_json(), allow_nan=False)
    return report


def test_the_same_answers_pass() -> None:
    """A candidate that finds what live finds passes on 300 queries, with figures in its words."""
    report = gate(found(), found())
    assert report.outcome == "pass"
    assert report.test.queries == N
    assert "recall@10 is 1.000 against live's 1.000 on 300 queries" in report.words


def test_a_worse_candidate_is_refused_and_names_its_queries() -> None:
    """A tenth of the queries lost is refused, and the worst are named."""
    report = gate(found(), found(missed=range(30)))
    assert report.outcome == "refuse"
    assert report.lost == 30
    assert report.candidate == pytest.approx(0.9)
    assert len(report.worst) == 10
    assert ("q0", 1.0, 0.0) in report.worst
    assert "shown to lose more than the margin of 0.02" in report.words


def test_a_loss_near_the_margin_is_undecided() -> None:
    """Five queries of 300 lost: shown neither way, and worse than live for certain."""
    report = gate(found(), found(missed=range(5)))
    assert report.outcome == "undecided"
    assert "not enough queries to tell" in report.words
    assert "It is shown to be worse than live" in report.words


def test_few_queries_are_undecided_and_say_how_many_would_do() -> None:
    """Fifty queries without a change do not show a margin of .02."""
    judged = {f"q{number}": f"d{number}" for number in range(50)}
    report = golden_gate(
        golden(judged), asked(found()), asked(found()), k=10, margin=0.02, level=0.05
    )
    assert report.outcome == "undecided"
    assert "about 133 queries like these would do" in report.words


def test_documents_of_one_version_alone_do_not_count() -> None:
    """What only one version holds neither takes a place among the k nor counts as a miss."""
    news = [f"new{number}" for number in range(25)]
    rankings = [[*news, f"d{q}", *DOCUMENTS[:50]] for q in range(N)]
    ahead = Answers(rankings, {*DOCUMENTS, *news})
    assert gate(ahead, found()).outcome == "pass"
    assert gate(found(), ahead).outcome == "pass"
    # Not there yet: its query is left out.
    behind = Answers(found()._rankings, set(DOCUMENTS[1:]))
    report = gate(found(), behind)
    assert report.left_out == 1
    assert report.outcome == "pass"


def test_a_query_that_the_candidate_cannot_encode_finds_nothing() -> None:
    """A query without a vector in the candidate is a loss, not an error."""
    report = golden_gate(
        golden(), asked(found()), asked(found(), N - 20), k=10, margin=0.02, level=0.05
    )
    assert report.lost == 20
    assert report.outcome == "refuse"


def test_a_golden_set_of_another_index_is_refused() -> None:
    """Judged documents that live has never seen: an error that names some, and a remedy."""
    judged = {f"q{number}": f"other{number}" for number in range(N)}
    with pytest.raises(SettingsError, match=r"golden set of another index.*knows 0.*other0"):
        golden_gate(golden(judged), asked(found()), asked(found()), k=10, margin=0.02, level=0.05)


def test_deleted_documents_are_known() -> None:
    """A set whose documents were deleted since belongs to the index, and compares nothing."""
    gone = Answers(found()._rankings, set(), set(DOCUMENTS))
    report = gate(gone, gone)
    assert report.outcome == "undecided"
    assert report.left_out == N
    assert "no judged query can be compared" in report.words


def test_nothing_judged_is_refused() -> None:
    """A set without a relevant document cannot compare anything."""
    empty = GoldenSet((GoldenQuery("q0", "a question", {"d0": 0}, 1),), Path("golden.yaml"))
    with pytest.raises(SettingsError, match="no query has a relevant document"):
        golden_gate(empty, asked(found()), asked(found()), k=10, margin=0.02, level=0.05)
