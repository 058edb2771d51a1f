"""Asks the golden queries, and sets what they find beside the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monitors.golden.baseline import Baseline, DocumentState, Ranking, Store
from monitors.golden.golden_set import GoldenSet

__all__ = ["Comparable", "Observation", "align", "ask"]

_JUDGED_PER_QUERY = 500
"""Judged documents of one query that a filtered search names, at most."""


@dataclass(frozen=True)
class Observation:
    """What one run found.

    Parameters
    ----------
    rankings
        Query to documents, as users get them.
    existing
        The same over the documents that existed at the baseline; empty without one.
    states
        Of every judged document, and of those the baseline ranked and this run did not.
    filtered
        Queries for which the unfiltered answer held too few documents of the baseline.
    """

    rankings: Mapping[str, Ranking] = field(repr=False)
    existing: Mapping[str, Ranking] = field(repr=False)
    states: Mapping[str, DocumentState] = field(repr=False)
    filtered: int = 0

    @property
    def served(self) -> dict[str, Sequence[str]]:
        """Query to document ids, as users get them."""
        return {query: ranking.ids for query, ranking in self.rankings.items()}


@dataclass(frozen=True)
class Comparable:
    """Baseline and current run over the same documents and judgements.

    Parameters
    ----------
    qrels
        Judgements of documents that the baseline had and that nobody has deleted since.
    before, after
        Query to documents: those that existed at the baseline, without what was deleted since.
    deleted, lost, absent
        Judged documents: deleted since the baseline; gone since without a tombstone, which count
        as misses; and those that the baseline did not have.
    """

    qrels: Mapping[str, Mapping[str, int]] = field(repr=False)
    before: Mapping[str, Ranking] = field(repr=False)
    after: Mapping[str, Ranking] = field(repr=False)
    deleted: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()


def ask(
    golden: GoldenSet,
    vectors: Mapping[str, npt.NDArray[np.float32]],
    store: Store,
    *,
    depth: int,
    needed: int,
    states: Mapping[str, DocumentState],
    baseline: Baseline | None = None,
) -> Observation:
    """Asks every scored query.

    With a baseline, the answers are restricted to documents that existed then. Where new ones have
    pushed them out, so that fewer than `needed` are left, the query is asked again among those that
    the baseline ranked for it and those judged for it, by an index of their ids.

    Parameters
    ----------
    vectors
        Query to its vector; a query without one finds nothing.
    depth
        Documents to ask for.
    states
        Of every judged document.
    """
    rankings: dict[str, Ranking] = {}
    existing: dict[str, Ranking] = {}
    vanished: set[str] = set()
    filtered = 0
    for query in golden.scored:
        vector = vectors.get(query.id)
        found = [] if vector is None else store.search(vector, depth)
        rankings[query.id] = Ranking.of(found)
        if baseline is None:
            continue
        kept = {item.document_id: item for item in found if baseline.existed(item)}
        before = baseline.rankings.get(query.id, Ranking((), ()))
        if vector is not None and len(kept) < needed and len(found) == depth:
            filtered += 1
            present = [d for d in query.judged if d in baseline.present][:_JUDGED_PER_QUERY]
            among = list(dict.fromkeys([*before.ids, *present]))
            for item in store.search(vector, depth, among) if among else ():
                kept.setdefault(item.document_id, item)
        existing[query.id] = Ranking.of(sorted(kept.values(), key=lambda item: -item.score))
        vanished.update(document for document in before.ids if document not in kept)
    unknown = sorted(vanished.difference(states))
    return Observation(
        rankings, existing, {**states, **(store.states(unknown) if unknown else {})}, filtered
    )


def align(
    golden: GoldenSet, baseline: Baseline, observed: Observation, forgiven: Sequence[str] = ()
) -> Comparable:
    """The two runs over the documents that count in both.

    Parameters
    ----------
    forgiven
        Judged documents that an earlier run has seen deleted: their tombstones may be purged since.
    """
    states = observed.states
    known_deleted = frozenset(forgiven)
    deleted, lost, absent = set(), set(), set()
    for document in golden.judged:
        state = states.get(document, DocumentState.GONE)
        if document not in baseline.present:
            absent.add(document)
        elif state is DocumentState.DELETED or (
            state is DocumentState.GONE and document in known_deleted
        ):
            deleted.add(document)
        elif state is DocumentState.GONE:
            lost.add(document)
    qrels = {}
    for query in golden.scored:
        kept = {
            document: grade
            for document, grade in query.judged.items()
            if document in baseline.present and document not in deleted
        }
        if any(grade >= 1 for grade in kept.values()) and query.id in baseline.rankings:
            qrels[query.id] = kept
    before, after = {}, {}
    for query_id in qrels:
        now = observed.existing[query_id]
        then = baseline.rankings[query_id]
        # A lost document keeps its place in the baseline: its absence is the damage.
        stays = {
            document
            for document in then.ids
            if states.get(document) is DocumentState.PRESENT or document in lost
        }
        before[query_id] = then.only(stays.union(now.ids))
        after[query_id] = now
    return Comparable(qrels, before, after, frozenset(deleted), frozenset(lost), frozenset(absent))
