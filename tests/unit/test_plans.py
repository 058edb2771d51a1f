"""What becomes of a document: the decision, `created_at`, repeats, and what the encoder refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipelines.core.planning import Planner
from pipelines.core.plans import Action, Outcome, Plan, decide
from pipelines.core.points import OURS, Head, point_id
from pipelines.core.position import Position
from pipelines.core.qdrant import Qdrant
from pipelines.core.records import Event
from tests.support.interleave import (
    COLLECTION,
    CharacterChunker,
    HashEncoder,
    make_writer,
    memory_store,
    stand_in_version,
    vector_of,
)

FINGERPRINT = "000000000000"


def event(
    time: int, text: str | None = "ab", document_id: str = "A", title: str = "", **metadata: Any
) -> Event:
    position = Position("t", 0, offset=time, timestamp=time)
    if text is None:
        return Event(document_id, position, deleted=True)
    return Event(document_id, position, title=title, text=text, metadata=metadata)


def head(of: Event, *, created_at: int | None = None, fingerprint: str = FINGERPRINT) -> Head:
    """The head that this event leaves behind."""
    return Head(
        of.document_id,
        of.position,
        of.event_key,
        of.deleted,
        0 if of.deleted else len(of.text),
        "" if of.deleted else of.text_hash,
        "" if of.deleted else of.metadata_hash,
        fingerprint,
        None if of.deleted else created_at or of.position.timestamp,
    )


@pytest.mark.parametrize(
    ("newest", "stored", "action", "outcome"),
    [
        (event(5), None, Action.EMBED, Outcome.EMBEDDED),
        (event(5), head(event(5)), Action.NOTHING, Outcome.UNCHANGED),
        (event(5), head(event(6)), Action.STALE, Outcome.STALE),
        (event(5), head(event(6, None)), Action.STALE, Outcome.STALE),
        (event(5), head(event(4)), Action.MOVE, Outcome.UNCHANGED),
        (event(5, lang="en"), head(event(4)), Action.PAYLOAD, Outcome.PAYLOAD_ONLY),
        (event(5, "cd"), head(event(4)), Action.EMBED, Outcome.EMBEDDED),
        (event(5, title="T"), head(event(4)), Action.EMBED, Outcome.EMBEDDED),
        (event(5), head(event(4, None)), Action.EMBED, Outcome.EMBEDDED),
        (event(5), head(event(4), fingerprint="other"), Action.EMBED, Outcome.EMBEDDED),
        (event(5, None), None, Action.DELETE, Outcome.DELETED),
        (event(5, None), head(event(4)), Action.DELETE, Outcome.DELETED),
        (event(5, None), head(event(4, None)), Action.MOVE_TOMBSTONE, Outcome.UNCHANGED),
        (event(5, None), head(event(5, None)), Action.NOTHING, Outcome.UNCHANGED),
        (event(5, None), head(event(6)), Action.STALE, Outcome.STALE),
    ],
)
def test_decisions(newest: Event, stored: Head | None, action: Action, outcome: Outcome) -> None:
    """Each pair of an event and what is stored has one answer, and is counted once."""
    plan = decide([newest], stored, FINGERPRINT)
    assert (action, outcome) == (plan.action, plan.outcome)
    assert plan.writes is (action not in (Action.NOTHING, Action.STALE))


def test_every_action_is_counted() -> None:
    """No action lacks an outcome: the accounting equation would not close."""
    outcomes = {Plan(event(1), action).outcome for action in Action}
    assert outcomes == set(Outcome)


@pytest.mark.parametrize(
    ("batch", "stored", "created"),
    [
        ([event(5)], None, 5),
        ([event(5), event(7, "c")], None, 5),
        ([event(5)], head(event(4), created_at=1), 1),
        ([event(5, "x"), event(6, "y")], head(event(4), created_at=1), 1),
        ([event(5)], head(event(4, None)), 5),
        ([event(5, None), event(6), event(7, "c")], head(event(4), created_at=1), 6),
        ([event(5), event(6, None), event(7)], None, 7),
        # Events at or below the stored position have had their say.
        ([event(3, None), event(5)], head(event(4), created_at=1), 1),
        ([event(3), event(5)], head(event(4, None)), 5),
        ([event(4, None), event(3), event(5)], head(event(4, None)), 5),
        ([event(5), event(6, None)], None, None),
    ],
)
def test_created_at_is_when_the_document_last_came_to_be(
    batch: list[Event], stored: Head | None, created: int | None
) -> None:
    """Updates keep it, a deletion ends it, and folding a batch equals applying it one by one."""
    newest_first = sorted(batch, key=lambda one: one.position.key, reverse=True)
    assert created == decide(newest_first, stored, FINGERPRINT).created_at


def planner_of(qdrant: Qdrant, encoder: HashEncoder) -> Planner:
    encode: Any = encoder
    chunker: Any = CharacterChunker()
    return Planner(qdrant, stand_in_version(), encode, chunker)


def apply(qdrant: Qdrant, events: Sequence[Event], encoder: HashEncoder) -> list[Plan]:
    """One batch, all the way; the plans as they were carried out."""
    planner = planner_of(qdrant, encoder)
    plans, _ = planner.reconcile(events)
    planner.cut(plans)
    planner.encode(plans)
    make_writer(qdrant).write(plans)
    return plans


def test_repeats_collapse_before_anything_is_encoded() -> None:
    """Ten events of a document in a batch cost one encoding, and the rest count as stale."""
    encoder = HashEncoder()
    events = [event(time, f"{time}") for time in range(10)]
    plans = apply(memory_store(), [*events[::-1], event(3, "b", "B")], encoder)
    assert [plan.event.position.offset for plan in plans] == [9, 3]
    assert [e.position.offset for e in plans[0].older] == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert encoder.texts == ["9", "b"]


def test_the_same_event_twice_in_a_batch_is_returned_as_repeated() -> None:
    """Every event is accounted for, also one that the broker delivered twice at once."""
    plans, repeated = planner_of(memory_store(), HashEncoder()).reconcile(
        [event(1), event(2), event(1), event(1)]
    )
    assert [plan.event.position.offset for plan in plans] == [2]
    assert len(plans[0].older) == 1
    assert [e.position.offset for e in repeated] == [1, 1]


def test_unchanged_texts_are_not_encoded() -> None:
    """New metadata, and the same text again, reuse the stored vectors of every chunk."""
    store, encoder = memory_store(), HashEncoder()
    apply(store, [event(1, "abc"), event(1, "de", "B")], encoder)
    encoder.texts.clear()
    plans = apply(store, [event(2, "abc", lang="en"), event(2, "de", "B")], encoder)
    assert [plan.action for plan in plans] == [Action.PAYLOAD, Action.MOVE]
    assert encoder.texts == []
    assert plans[0].vectors is not None
    assert np.allclose([vector_of(c) for c in "abc"], plans[0].vectors)
    assert [plan.created_at for plan in plans] == [1, 1]


def test_vectors_are_not_reused_from_points_of_another_text() -> None:
    """Where one chunk is of another event, all of the document is encoded anew."""
    store, encoder = memory_store(), HashEncoder()
    apply(store, [event(1, "abc")], encoder)
    store.call(
        "set_payload",
        COLLECTION,
        payload={"text_hash": "of another text"},
        key=OURS,
        points=[point_id("docs", "A", 2)],
    )
    encoder.texts.clear()
    plans = apply(store, [event(2, "abc", lang="en")], encoder)
    assert [plan.action for plan in plans] == [Action.EMBED]
    assert encoder.texts == ["a", "b", "c"]


def refuse(encoder: HashEncoder, qdrant: Qdrant, events: Sequence[Event]) -> Any:
    planner = planner_of(qdrant, encoder)
    plans, _ = planner.reconcile(events)
    planner.cut(plans)
    return plans, planner.encode(plans)


def test_a_refused_event_gives_way_to_the_next_newest() -> None:
    """What the encoder refuses is a dead letter; the event before it still takes effect."""
    events = [event(1, "ok"), event(2, "!a"), event(3, "b!"), event(4, "fine", "B")]
    plans, refusals = refuse(HashEncoder("!"), memory_store(), events)
    assert [e.position.offset for e, _ in refusals] == [3, 2]
    assert all(message == "not a number" for _, message in refusals)
    assert [plan.event.position.offset for plan in plans] == [1, 4]
    assert [plan.action for plan in plans] == [Action.EMBED, Action.EMBED]
    assert np.allclose([vector_of("o"), vector_of("k")], plans[0].vectors)
    assert plans[0].older == []


def test_a_document_whose_every_event_is_refused_writes_nothing() -> None:
    """It counts once, as a dead letter, and the rest of the batch goes through."""
    plans, refusals = refuse(HashEncoder("!"), memory_store(), [event(1, "!"), event(1, "b", "B")])
    assert len(refusals) == 1
    assert [plan.outcome for plan in plans] == [Outcome.DEAD_LETTERED, Outcome.EMBEDDED]
    assert [plan.writes for plan in plans] == [False, True]


def test_a_refused_event_gives_way_to_a_deletion() -> None:
    """The next newest event may delete: the document is gone, not left as it was."""
    store, encoder = memory_store(), HashEncoder("!")
    apply(store, [event(1, "ab")], encoder)
    plans, _ = refuse(encoder, store, [event(2, None), event(3, "!")])
    assert [plan.action for plan in plans] == [Action.DELETE]
    assert plans[0].vectors is None
    assert [(chunk.number, chunk.end) for chunk in plans[0].chunks] == [(0, 0)]


def test_a_refused_event_gives_way_to_what_is_stored() -> None:
    """Where the next newest is stale, or has the stored text, nothing is encoded for it."""
    store, encoder = memory_store(), HashEncoder("!")
    apply(store, [event(5, "ab")], encoder)
    encoder.texts.clear()
    plans, _ = refuse(encoder, store, [event(4, "old"), event(6, "!")])
    assert [plan.action for plan in plans] == [Action.STALE]
    plans, _ = refuse(encoder, store, [event(6, "ab", lang="en"), event(7, "!")])
    assert [plan.action for plan in plans] == [Action.PAYLOAD]
    assert np.allclose([vector_of("a"), vector_of("b")], plans[0].vectors)
    assert set(encoder.texts) == {"!"}


def test_refusals_and_outcomes_account_for_every_event() -> None:
    """plans + older + repeated + refused-and-replaced = the batch, whatever is refused."""
    events = [event(t, text) for t, text in enumerate(["!", "a", "!b", "a", "!"])]
    events += [event(t, "!", "B") for t in (1, 2)] + [event(3, "c", "C"), event(3, "c", "C")]
    encoder = HashEncoder("!")
    planner = planner_of(memory_store(), encoder)
    plans, repeated = planner.reconcile(events)
    planner.cut(plans)
    refusals = planner.encode(plans)
    plain = [plan for plan in plans if plan.action is not Action.REFUSED]
    older = sum(len(plan.older) for plan in plans)
    assert len(events) == len(plain) + older + len(repeated) + len(refusals)
