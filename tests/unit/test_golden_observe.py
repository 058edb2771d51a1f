"""Runs are compared over the documents and judgements that count in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from monitors.golden.baseline import Baseline, DocumentState, Found, Ranking
from monitors.golden.change import measure_change
from monitors.golden.golden_set import GoldenQuery, GoldenSet
from monitors.golden.observe import align, ask

CUT = 1000


def golden(**judged: Mapping[str, int]) -> GoldenSet:
    queries = [GoldenQuery(q, f"text {q}", of, n) for n, (q, of) in enumerate(judged.items())]
    return GoldenSet(tuple(queries), Path("golden.yaml"))


class Shelf:
    """A store that answers every query with the same list."""

    def __init__(self, found: Sequence[Found], states: Mapping[str, DocumentState] | None = None):
        self.found = list(found)
        self.states_of = dict(states or {})
        self.among: list[Sequence[str] | None] = []

    def search(self, vector, limit, among=None):
        self.among.append(among)
        kept = [f for f in self.found if among is None or f.document_id in among]
        return kept[:limit]

    def states(self, document_ids):
        here = {found.document_id for found in self.found}
        return {
            d: self.states_of.get(d, DocumentState.PRESENT if d in here else DocumentState.GONE)
            for d in document_ids
        }


def listed(*ids: str, created=CUT - 1, written=CUT - 1) -> list[Found]:
    return [Found(d, 1 - number / 100, created, written) for number, d in enumerate(ids)]


def baseline(present: Sequence[str], **rankings: Sequence[str]) -> Baseline:
    return Baseline(
        digest="x",
        depth=5,
        event_cut=CUT,
        clock_cut=CUT,
        rankings={
            q: Ranking(tuple(ids), tuple(1 - n / 100 for n in range(len(ids))))
            for q, ids in rankings.items()
        },
        present=frozenset(present),
    )


def observe(set_, base, store, forgiven=(), depth=5, needed=2):
    vectors = {q.id: np.zeros(2, np.float32) for q in set_.scored}
    states = store.states(set_.judged)
    observed = ask(set_, vectors, store, depth=depth, needed=needed, states=states, baseline=base)
    return observed, align(set_, base, observed, forgiven)


def test_growth_leaves_no_trace():
    """New documents are left out; what they pushed below the depth is asked for by its id."""
    set_ = golden(q={"a": 1})
    base = baseline(["a"], q=["b", "a", "c"])
    new = listed("n1", "n2", "n3", "n4", "n5", created=CUT + 1, written=CUT + 1)
    store = Shelf([*new, *listed("b", "a", "c")])
    observed, comparable = observe(set_, base, store)

    assert observed.rankings["q"].ids == ("n1", "n2", "n3", "n4", "n5")
    assert comparable.after["q"].ids == comparable.before["q"].ids == ("b", "a", "c")
    assert observed.filtered == 1
    assert store.among == [None, ["b", "a", "c"]]


def test_no_second_search_without_need():
    """Enough old documents in the answer, or an index that holds no more: one request."""
    base = baseline(["a"], q=["a", "b", "c"])
    for found in (listed("a", "b", "c", "e", "f"), listed("a")):
        store = Shelf(found)
        observe(golden(q={"a": 1}), base, store)
        assert store.among == [None]


@pytest.mark.parametrize(
    ("created", "written", "counts"),
    [
        (CUT - 1, CUT - 1, True),
        (None, None, True),
        (CUT + 1, CUT + 1, False),
        # An old timestamp that arrived after the baseline.
        (CUT - 900, CUT + 1, False),
        # A producer whose clock is ahead.
        (CUT + 1, CUT - 1, False),
    ],
)
def test_which_documents_existed(created, written, counts):
    """Created and written before the baseline, or known to it."""
    base = baseline(["a"], q=["a", "b"])
    assert base.existed(Found("z", 1, created, written)) is counts
    assert base.existed(Found("b", 1, CUT + 1, CUT + 1)), "ranked then: edited or re-created since"


def test_deleted_documents_leave_both_sides():
    """A judged document with a tombstone is no loss, and others move up in the baseline too."""
    set_ = golden(q={"a": 1, "b": 1}, only={"a": 1})
    base = baseline(["a", "b"], q=["a", "x", "b"], only=["a", "x"])
    store = Shelf(listed("b", "c"), {"a": DocumentState.DELETED, "x": DocumentState.DELETED})
    _, comparable = observe(set_, base, store)

    assert comparable.deleted == {"a"}
    assert comparable.qrels == {"q": {"b": 1}}
    assert comparable.before["q"].ids == ("b",)
    change = measure_change(comparable, [1])
    assert change.loss == 0
    assert change.rank_biased_overlap == 1


def test_a_purged_tombstone_is_remembered():
    """What an earlier run saw deleted stays forgiven after the tombstone has gone."""
    set_ = golden(q={"a": 1, "b": 1})
    base = baseline(["a", "b"], q=["a", "b"])
    store = Shelf(listed("b"))
    assert observe(set_, base, store)[1].lost == {"a"}
    _, comparable = observe(set_, base, store, forgiven=["a"])
    assert (comparable.lost, comparable.deleted) == (frozenset(), {"a"})
    back = observe(set_, base, Shelf(listed("a", "b")), forgiven=["a"])[1]
    assert back.deleted == frozenset(), "written again: it counts again"


def test_lost_documents_are_misses():
    """Gone without a tombstone: the baseline keeps its hit; those that nobody judged leave both."""
    set_ = golden(q={"a": 1})
    base = baseline(["a"], q=["u", "a", "b"])
    _, comparable = observe(set_, base, Shelf(listed("b")))

    assert comparable.lost == {"a"}
    assert comparable.before["q"].ids == ("a", "b")
    assert comparable.after["q"].ids == ("b",)
    change = measure_change(comparable, [2])
    assert change.loss == 1
    assert change.worst[0].rank_before == 1
    assert change.worst[0].rank_after is None


def test_documents_that_came_later_are_not_compared():
    """Judged, and not yet there at the baseline: finding them now is no gain, not to is no loss."""
    set_ = golden(q={"a": 1, "later": 1})
    base = baseline(["a"], q=["a", "b"])
    _, comparable = observe(set_, base, Shelf(listed("later", "a", "b", written=CUT + 1)))
    assert comparable.absent == {"later"}
    assert comparable.qrels == {"q": {"a": 1}}
    assert comparable.after["q"].ids == ("a", "b")


def test_a_query_without_vector_finds_nothing():
    """A model that refuses a query is damage that users see."""
    set_ = golden(q={"a": 1})
    base = baseline(["a"], q=["a"])
    observed = ask(
        set_,
        {},
        Shelf(listed("a")),
        depth=5,
        needed=1,
        states={"a": DocumentState.PRESENT},
        baseline=base,
    )
    assert measure_change(align(set_, base, observed), [1]).loss == 1


def test_the_baseline_survives_its_json():
    """As the store keeps it; another release's is none."""
    base = baseline(["a"], q=["a", "b"])
    assert Baseline.from_json(base.to_json()) == base
    assert Baseline.from_json(None) is None
    assert Baseline.from_json({**base.to_json(), "schema": 99}) is None
