"""The write protocol under every interleaving of its writers' requests, with crashes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.core.planning import Planner
from pipelines.core.plans import Action, Plan
from pipelines.core.points import DENSE, OURS, Head, StoredChunk, point_id
from pipelines.core.position import OrderBy, Position
from pipelines.core.records import Event
from pipelines.core.writing import DocumentWriter, Written, _Batch
from tests.support.interleave import (
    CharacterChunker,
    HashEncoder,
    Report,
    Scenario,
    WriterSpec,
    explore,
    make_writer,
    memory_store,
    stand_in_version,
)

TEXTS = {"one": "a", "two": "bc", "three": "def", "other two": "gh", "gone": None}
"""What a document may become: so many characters, so many chunks; or deleted."""


def event(time: int, text: str | None, document_id: str = "A", **metadata: Any) -> Event:
    position = Position("t", 0, offset=time, timestamp=time)
    if text is None:
        return Event(document_id, position, deleted=True)
    return Event(document_id, position, text=text, metadata=metadata)


def run(scenario: Scenario, **limits: int) -> Report:
    report = explore(scenario, **limits)
    assert report.ends > 0
    return report


def assert_holds(scenario: Scenario) -> Report:
    report = run(scenario)
    assert report.problems == [], report.problems[0]
    assert report.complete
    return report


@pytest.mark.parametrize("old", TEXTS)
@pytest.mark.parametrize("new", TEXTS)
def test_a_zombie_races_the_live_job(old: str, new: str) -> None:
    """An old writer beside the job that took over, both killed anywhere: the newest wins whole."""
    before, older, newer = event(1, "xyz"), event(2, TEXTS[old]), event(3, TEXTS[new])
    assert_holds(
        Scenario(
            before=((before,),),
            writers=(
                WriterSpec("live", ((older,), (newer,)), restarts=1),
                WriterSpec("zombie", ((older,),), may_die=True),
            ),
        )
    )


@pytest.mark.parametrize("old", TEXTS)
@pytest.mark.parametrize("new", TEXTS)
def test_a_backfill_races_the_live_job(old: str, new: str) -> None:
    """Old and new written at once into an empty version, both killed and redelivered anywhere."""
    older, newer = event(1, TEXTS[old]), event(2, TEXTS[new])
    report = assert_holds(
        Scenario(
            (
                WriterSpec("live", ((newer,),), restarts=2),
                WriterSpec("backfill", ((older,),), restarts=2),
            )
        )
    )
    assert report.leftovers == 0


@pytest.mark.parametrize(
    "texts", [("ab", "ab", "cde"), ("abc", "de", "de"), ("abc", "abc", "abc"), ("a", None, "a")]
)
def test_metadata_changes_race_texts(texts: tuple[str | None, ...]) -> None:
    """Stored vectors are reused only for the text they were made from, whoever is in between."""
    first, second, third = (
        event(time, text, **({} if text is None else {"lang": f"v{time}"}))
        for time, text in enumerate(texts, start=1)
    )
    assert_holds(
        Scenario(
            before=((first,),),
            writers=(
                WriterSpec("live", ((second,), (third,)), restarts=1),
                WriterSpec("zombie", ((second,),), may_die=True, restarts=1),
            ),
        )
    )


def test_the_position_moves_while_others_write() -> None:
    """The same text and metadata at newer positions, against a writer of another text between."""
    same = event(1, "ab"), event(3, "ab")
    assert_holds(
        Scenario(
            before=((same[0],),),
            writers=(
                WriterSpec("live", ((same[1],),), restarts=1),
                WriterSpec("replay", ((event(2, "cde"),),), restarts=1),
            ),
        )
    )


@pytest.mark.parametrize(
    ("texts_a", "texts_b"), [(("abc", "d"), ("e", "fgh")), (("abc", None), (None, "de"))]
)
def test_two_documents_share_a_group(
    texts_a: tuple[str | None, str | None], texts_b: tuple[str | None, str | None]
) -> None:
    """One condition for a group of documents refuses none of them for good."""
    # Crosswise: each batch has the newer event of one document and the older of the other.
    batches = (
        (event(1, texts_a[0], "A"), event(4, texts_b[1], "B")),
        (event(3, texts_a[1], "A"), event(2, texts_b[0], "B")),
    )
    assert_holds(
        Scenario(
            (
                WriterSpec("live", (batches[0],), restarts=1),
                WriterSpec("replay", (batches[1],), restarts=1),
            )
        )
    )


def test_versions_decide_against_the_clock() -> None:
    """Ordered by version, a newer version with an older timestamp wins every race."""

    def versioned(version: int, time: int, text: str | None) -> Event:
        position = Position("t", 0, offset=time, timestamp=time, version=version)
        return Event("A", position, text=text or "", deleted=text is None)

    old, middle, new = versioned(1, 9, "abc"), versioned(2, 5, None), versioned(3, 1, "de")
    assert_holds(
        Scenario(
            order_by=OrderBy.VERSION,
            writers=(
                WriterSpec("live", ((middle,), (new,)), restarts=1),
                WriterSpec("backfill", ((old,),), restarts=1),
            ),
        )
    )


@pytest.mark.parametrize("texts", [("a", "bcd", "ef"), ("abc", None, "de"), ("ab", "cde", "f")])
def test_three_writers(texts: tuple[str | None, ...]) -> None:
    """Live job, mortal zombie and backfill at once: nothing stale but what the dying left last."""
    first, second, third = (event(time, text) for time, text in enumerate(texts, start=1))
    assert_holds(
        Scenario(
            (
                WriterSpec("live", ((second,), (third,))),
                WriterSpec("zombie", ((second,),), may_die=True),
                WriterSpec("backfill", ((first,),)),
            )
        )
    )


def test_a_zombie_that_dies_last_leaves_chunks() -> None:
    """The one case the protocol leaves to the sweep is real, and the search does see it."""
    older, newer = event(1, "abc"), event(2, "d")
    report = assert_holds(
        Scenario(
            (
                WriterSpec("live", ((older, newer),)),
                WriterSpec("zombie", ((older,),), may_die=True),
            )
        )
    )
    assert report.leftovers > 0


def drop_the_condition(method: str, kwargs: dict[str, Any]) -> None:
    """Mutant: an upsert that overwrites whatever is there."""
    if method == "upsert":
        kwargs["update_filter"] = None


class NoCleanUp(DocumentWriter):
    """Mutant: the clean-up after the read-back is skipped."""

    def _clean_up(self, batch: Any) -> Generator[str, None, None]:
        yield from ()


class CleanUpOfWritersOnly(DocumentWriter):
    """Mutant: an event found stale or applied already cleans nothing."""

    def _clean_up(self, batch: Any) -> Generator[str, None, None]:
        batch.plans = [plan for plan in batch.plans if plan.writes]
        yield from super()._clean_up(batch)


class CleanUpByOwnPosition(DocumentWriter):
    """Mutant: a writer deletes what is older than itself, not what is older than the head."""

    def _clean_up(self, batch: Any) -> Generator[str, None, None]:
        for plan in batch.plans:
            head = batch.heads.get(plan.event.document_id)
            if head is not None:
                batch.heads[plan.event.document_id] = at(head, plan.event)
        yield from super()._clean_up(batch)


def at(head: Head, own: Event) -> Head:
    """The head as if the event were its own."""
    return replace(head, position=own.position)


class CleanUpFirst(DocumentWriter):
    """Mutant: chunks older than the event go before its head is there."""

    def steps(self, plans: Sequence[Plan]) -> Generator[str, None, list[Written]]:
        early = _Batch(plans)
        for plan in plans:
            if plan.writes and plan.stored is not None:
                early.heads[plan.event.document_id] = at(plan.stored, plan.event)
        yield from self._clean_up(early)
        return (yield from super().steps(plans))


class HeadFirst(DocumentWriter):
    """Mutant: the head is written before its chunks."""

    def _items(self, plan: Plan, *, heads: bool) -> Iterable[Any]:
        return super()._items(plan, heads=not heads)


class NoReadBack(DocumentWriter):
    """Mutant: what a group's condition refused is not repeated."""

    def _upsert_guarded(
        self, step: str, items: Sequence[Any], batch: Any
    ) -> Generator[str, None, dict[str, Any]]:
        for group in self._groups(items):
            yield f"upsert {step}"
            self._upsert(group, group[0].position, batch)
        yield f"read back {step}"
        return self._read([item.point.id for item in items])


class NoReadBackOfChunks(NoReadBack):
    """Mutant: the same, of chunks alone."""

    def _upsert_guarded(
        self, step: str, items: Sequence[Any], batch: Any
    ) -> Generator[str, None, dict[str, Any]]:
        kind = NoReadBack if step == "chunks" else DocumentWriter
        return (yield from kind._upsert_guarded(self, step, items, batch))


class TrustingPlanner(Planner):
    """Mutant: vectors are reused because the head says so, without asking each point."""

    def _reuse_vectors(self, plans: Iterable[Plan]) -> None:
        for plan in plans:
            if plan.action in (Action.PAYLOAD, Action.MOVE) and plan.stored is not None:
                self._trust(plan)

    def _trust(self, plan: Plan) -> None:
        assert plan.stored is not None
        ids = [point_id("docs", plan.event.document_id, n) for n in range(plan.stored.chunks)]
        records = self._qdrant.call(
            "retrieve", self._version.name, ids=ids, with_payload=True, with_vectors=[DENSE]
        )
        plan.chunks = [
            StoredChunk(r.payload[OURS]["chunk"], r.payload[OURS]["start"], r.payload[OURS]["end"])
            for r in records
        ]
        plan.vectors = np.asarray([r.vector[DENSE] for r in records], dtype=np.float32)


class MovesTheHeadOnly(Planner):
    """Mutant: where the text is the same, only the head gets the new position."""

    def _reuse_vectors(self, plans: Iterable[Plan]) -> None:
        plans = list(plans)
        super()._reuse_vectors(plans)
        for plan in plans:
            if plan.action in (Action.PAYLOAD, Action.MOVE):
                plan.chunks = plan.chunks[:1]


def races() -> list[Callable[[dict[str, Any]], Scenario]]:
    """Scenarios that between them catch every mutant below."""
    grown, shrunk, same = event(2, "bcd"), event(3, "e"), event(4, "bcd", lang="en")
    crosswise = (
        (event(1, "abc", "A"), event(4, "fgh", "B")),
        (event(3, "de", "A"), event(2, "ij", "B")),
    )
    return [
        lambda mutation: Scenario(
            before=((event(1, "xy"),),),
            writers=(
                WriterSpec("live", ((grown,), (shrunk,)), restarts=1),
                WriterSpec("zombie", ((grown,),), restarts=1),
            ),
            **mutation,
        ),
        lambda mutation: Scenario(
            (
                WriterSpec("live", (crosswise[0],), restarts=1),
                WriterSpec("replay", (crosswise[1],), restarts=1),
            ),
            **mutation,
        ),
        lambda mutation: Scenario(
            before=((grown,),),
            writers=(
                WriterSpec("live", ((same,),), restarts=1),
                WriterSpec("replay", ((event(3, "klm"),),), restarts=1),
            ),
            **mutation,
        ),
    ]


MUTANTS: dict[str, dict[str, Any]] = {
    "condition dropped": {"mangle": drop_the_condition},
    "no clean-up": {"kind": NoCleanUp},
    "clean-up of writers only": {"kind": CleanUpOfWritersOnly},
    "clean-up by own position": {"kind": CleanUpByOwnPosition},
    "clean-up first": {"kind": CleanUpFirst},
    "head first": {"kind": HeadFirst},
    "no read-back": {"kind": NoReadBack},
    "no read-back of chunks": {"kind": NoReadBackOfChunks},
    "vectors trusted": {"planner": TrustingPlanner},
    "head alone moves": {"planner": MovesTheHeadOnly},
}


def test_the_races_hold_without_a_mutation() -> None:
    """What the mutants fail at, the protocol passes."""
    for race in races():
        assert_holds(race({}))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant: str) -> None:
    """Each rule of the protocol is needed: without it the search finds a wrong index."""
    found = [problem for race in races() for problem in explore(race(MUTANTS[mutant])).problems]
    assert found, f"{mutant}: not caught"


def test_a_step_is_announced_before_each_request() -> None:
    """`steps` yields before every request, so that pausing there interleaves everything."""
    store = memory_store()
    requests: list[str] = []

    class Counting:
        local = True

        settings = store.settings

        def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
            requests.append(method)
            return store.call(method, *args, **kwargs)

    counting: Any = Counting()
    encoder: Any = HashEncoder()
    chunker: Any = CharacterChunker()
    planner = Planner(counting, stand_in_version(), encoder, chunker)
    for batch in ([event(1, "abc"), event(2, "de", "B")], [event(3, "f"), event(4, None, "B")]):
        plans, _ = planner.reconcile(batch)
        planner.cut(plans)
        planner.encode(plans)
        requests.clear()
        announced: list[str] = []
        for step in make_writer(counting).steps(plans):
            assert len(announced) == len(requests), announced
            announced.append(step)
        assert len(announced) == len(requests), announced
