"""Every interleaving of writers of one version, request by request, with crashes in between.

A writer is a function of the answers it got: it is run again from its start with those answers
until it asks for more, and thrown away. So writers are paused, copied and killed at no cost, and
what two paths of the search have in common is worked out once. Requests go to the embedded engine
in memory.

An upsert of several points is played point by point, since a batch is neither atomic nor isolated:
others get in between, and a crash may leave a part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models

from pipelines.core.encoder.base import Encoded
from pipelines.core.errors import PlumblineError
from pipelines.core.planning import Planner
from pipelines.core.points import DENSE, OURS, Head, head_of, point_id
from pipelines.core.position import OrderBy
from pipelines.core.qdrant import Qdrant
from pipelines.core.records import Event
from pipelines.core.settings import QdrantSettings, RetrySettings
from pipelines.core.writing import DocumentWriter

__all__ = [
    "COLLECTION",
    "DIMENSION",
    "CharacterChunker",
    "HashEncoder",
    "Report",
    "Scenario",
    "WriterSpec",
    "explore",
    "make_writer",
    "memory_store",
    "stand_in_version",
    "vector_of",
]

DIMENSION = 4
INDEX = "docs"
COLLECTION = "docs--tiny--000000000000"


def vector_of(text: str) -> list[float]:
    """A vector that tells texts apart: no component is zero."""
    digest = hashlib.sha256(text.encode()).digest()
    return [(1 + digest[i]) / 256 for i in range(DIMENSION)]


class HashEncoder:
    """Encodes a text as `vector_of` says; refuses those that contain `refuse`."""

    def __init__(self, refuse: str | None = None) -> None:
        self.refuse = refuse
        self.texts: list[str] = []

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        self.texts.extend(texts)
        refused = {
            row: "not a number"
            for row, text in enumerate(texts)
            if self.refuse and self.refuse in text
        }
        vectors = np.asarray([vector_of(text) for text in texts], dtype=np.float32)
        return Encoded(vectors, refused, [1] * len(texts), [False] * len(texts))


class CharacterChunker:
    """Cuts a text into its characters, so that a test says with its text how many chunks it has."""

    def chunk(self, title: str, text: str) -> list[Any]:
        return [
            SimpleNamespace(number=i, start=i, end=i + 1, text=character)
            for i, character in enumerate(text)
        ]


def stand_in_version(fingerprint: str = "000000000000") -> Any:
    """What planning asks of a version."""
    contract = SimpleNamespace(
        render=lambda title, text: f"{title} {text}".strip(), max_tokens=16, chunk=None
    )
    return SimpleNamespace(name=COLLECTION, index=INDEX, fingerprint=fingerprint, contract=contract)


def memory_store(**settings: Any) -> Qdrant:
    """An embedded engine in memory with one empty collection.

    Distance dot: vectors stay as they are, to the last bit.
    """
    client = QdrantClient(":memory:")
    store = Qdrant(
        client,
        "memory",
        QdrantSettings(**{"outage_timeout_seconds": 1.0, **settings}),
        RetrySettings(first_seconds=0.01, max_seconds=0.02),
    )
    client.create_collection(
        COLLECTION,
        vectors_config={DENSE: models.VectorParams(size=DIMENSION, distance=models.Distance.DOT)},
    )
    return store


def make_writer(
    qdrant: Any,
    order_by: OrderBy = OrderBy.TIMESTAMP,
    kind: type[DocumentWriter] = DocumentWriter,
    fingerprint: str = "000000000000",
) -> DocumentWriter:
    """A writer of the one collection of `memory_store`."""
    return kind(
        qdrant,
        COLLECTION,
        index=INDEX,
        fingerprint=fingerprint,
        order_by=order_by,
        chunked=True,
    )


@dataclass(frozen=True)
class WriterSpec:
    """One writer: a job, a zombie of it, a backfill, a replay.

    Parameters
    ----------
    batches
        What it works through, batch by batch.
    restarts
        How often it may be killed at any moment, also after its end, and be started anew: from
        its first batch, or from the one it was at.
    may_die
        Whether it may also be killed for good: its events are those of others, too.
    """

    name: str
    batches: tuple[tuple[Event, ...], ...]
    restarts: int = 0
    may_die: bool = False


@dataclass(frozen=True)
class Scenario:
    """Writers that meet over the same documents.

    Parameters
    ----------
    before
        Batches that were written, one after another, before the writers start.
    kind
        Class of the writer; tests put a broken one here.
    planner
        Class of the planner, likewise.
    mangle
        Changes the arguments of a request on its way, given its method.
    """

    writers: tuple[WriterSpec, ...]
    before: tuple[tuple[Event, ...], ...] = ()
    order_by: OrderBy = OrderBy.TIMESTAMP
    kind: type[DocumentWriter] = DocumentWriter
    planner: type[Planner] = Planner
    mangle: Callable[[str, dict[str, Any]], None] | None = None
    max_request_bytes: int = 8 * 1024 * 1024

    @cached_property
    def events(self) -> dict[str, Event]:
        """Every event by its key."""
        batches = [*self.before, *(batch for writer in self.writers for batch in writer.batches)]
        return {event.event_key: event for batch in batches for event in batch}

    @cached_property
    def newest(self) -> dict[str, Event]:
        """The event that must win, by document."""
        found: dict[str, Event] = {}
        for event in self.events.values():
            known = found.get(event.document_id)
            if known is None or known.position < event.position:
                found[event.document_id] = event
        return found


@dataclass
class Report:
    """What a search found."""

    states: int = 0
    ends: int = 0
    leftovers: int = 0
    """Ends at which a zombie that died last has left older chunks: the documented case."""
    complete: bool = True
    problems: list[str] = field(default_factory=list)
    """Each with the path that leads to it."""


class _Suspended(BaseException):
    """The writer asks for something that it has no answer to yet."""

    def __init__(self, method: str, kwargs: dict[str, Any]) -> None:
        self.method = method
        self.kwargs = kwargs


class _Answers:
    """Stands in for `Qdrant`: gives the answers there are, then suspends the writer."""

    local = True

    def __init__(self, answers: Sequence[Any], settings: QdrantSettings) -> None:
        self._answers = iter(answers)
        self.settings = settings

    def call(self, method: str, collection: str, **kwargs: Any) -> Any:
        for answer in self._answers:
            return answer
        raise _Suspended(method, kwargs)


@dataclass(frozen=True)
class _Request:
    method: str
    kwargs: dict[str, Any]
    pieces: int
    documents: frozenset[str]
    label: str


Store = tuple[int, ...]
"""The points there are, each a number given to its content."""


@dataclass(frozen=True, slots=True)
class _Running:
    """Where a writer stands. `batch` is -1 at its end, and -2 once it is dead."""

    batch: int = 0
    answers: tuple[int, ...] = ()
    piece: int = 0
    restarts: int = 0


_State = tuple[Store, tuple[_Running, ...], frozenset[str]]
"""Points, writers, and the documents that a mortal writer wrote after the last clean-up."""

_END, _DEAD = -1, -2


class _Numbers:
    """Gives equal things one small number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.things: list[Any] = []

    def number(self, key: str, thing: Any) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self.things)
            self.things.append(thing)
        return self._numbers[key]


class _Engine:
    """The embedded engine, put into any state that was seen before."""

    def __init__(self) -> None:
        self._store = memory_store()
        self._points = _Numbers()
        self._loaded: Store = ()

    def point(self, number: int) -> models.PointStruct:
        found: models.PointStruct = self._points.things[number]
        return found

    def head(self, number: int) -> Head:
        found = head_of(self.point(number).payload)
        assert found is not None
        return found

    def apply(self, store: Store, method: str, kwargs: dict[str, Any]) -> tuple[Store, Any]:
        self._load(store)
        answer = self._store.call(method, COLLECTION, **kwargs)
        if method in ("upsert", "delete"):
            self._loaded = self._dump()
            return self._loaded, None
        return store, answer

    def _load(self, store: Store) -> None:
        if store == self._loaded:
            return
        there, wanted = set(self._loaded), set(store)
        kept = {self.point(number).id for number in wanted}
        gone = [self.point(n).id for n in there - wanted if self.point(n).id not in kept]
        if gone:
            self._store.call("delete", COLLECTION, points_selector=gone)
        if wanted - there:
            new = [self.point(number) for number in sorted(wanted - there)]
            self._store.call("upsert", COLLECTION, points=new)
        self._loaded = store

    def _dump(self) -> Store:
        records, _ = self._store.call(
            "scroll", COLLECTION, limit=1000, with_payload=True, with_vectors=True
        )
        numbers = []
        for record in records:
            record.payload[OURS].pop("indexed_at", None)
            vector = record.vector or {}
            key = json.dumps([str(record.id), record.payload, vector], sort_keys=True)
            point = models.PointStruct(id=record.id, payload=record.payload, vector=vector)
            numbers.append(self._points.number(key, point))
        return tuple(sorted(numbers))


class _Search:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.engine = _Engine()
        self._settings = QdrantSettings(max_request_bytes=scenario.max_request_bytes)
        self._answers = _Numbers()
        self._answers.number("null", None)
        self._requests = _Numbers()
        self._next: dict[tuple[int, int, tuple[int, ...]], int | str | None] = {}
        self._effects: dict[tuple[Store, int, int], tuple[Store, int]] = {}
        self._checked: dict[Store, list[str]] = {}

    def next_request(self, writer: int, running: _Running) -> int | str | None:
        """Number of the writer's next request, `None` at the end of its batch, or its error."""
        key = (writer, running.batch, running.answers)
        if key not in self._next:
            self._next[key] = self._run(writer, running)
        return self._next[key]

    def _run(self, writer: int, running: _Running) -> int | str | None:
        scenario = self.scenario
        answers = _Answers([self._answers.things[n] for n in running.answers], self._settings)
        planner = scenario.planner(
            answers,  # type: ignore[arg-type]
            stand_in_version(),
            HashEncoder(),  # type: ignore[arg-type]
            CharacterChunker(),
        )
        documents = make_writer(answers, scenario.order_by, scenario.kind)
        try:
            plans, _ = planner.reconcile(scenario.writers[writer].batches[running.batch])
            planner.cut(plans)
            planner.encode(plans)
            documents.write(plans)
        except _Suspended as wanted:
            return self._request(wanted.method, wanted.kwargs)
        except PlumblineError as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _request(self, method: str, kwargs: dict[str, Any]) -> int:
        if self.scenario.mangle is not None:
            self.scenario.mangle(method, kwargs)
        label, pieces, documents = method, 1, frozenset[str]()
        if method == "upsert":
            points = kwargs["points"]
            for point in points:
                point.payload[OURS].pop("indexed_at", None)
            pieces = len(points)
            label = f"upsert {', '.join(_shown(point) for point in points)}"
            documents = frozenset(point.payload[OURS]["document_id"] for point in points)
        key = json.dumps([method, kwargs], sort_keys=True, default=_jsonable)
        return self._requests.number(key, _Request(method, kwargs, pieces, documents, label))

    def request(self, number: int) -> _Request:
        found: _Request = self._requests.things[number]
        return found

    def effect(self, store: Store, number: int, piece: int) -> tuple[Store, int]:
        """Points after a piece of a request, and the number of the answer."""
        key = (store, number, piece)
        if key not in self._effects:
            request = self.request(number)
            kwargs = request.kwargs
            if request.method == "upsert":
                kwargs = {**kwargs, "points": [kwargs["points"][piece]]}
            after, answer = self.engine.apply(store, request.method, kwargs)
            shown = json.dumps(answer, sort_keys=True, default=_jsonable)
            self._effects[key] = (after, self._answers.number(shown, answer))
        return self._effects[key]

    def answered_head(self, answers: tuple[int, ...], document_id: str) -> Head | None:
        """The document's head as the writer read it last."""
        wanted = point_id(INDEX, document_id, 0)
        for number in reversed(answers):
            answer = self._answers.things[number]
            for record in answer if isinstance(answer, list) else ():
                if str(record.id) == wanted:
                    return head_of(record.payload)
        return None

    def check(self, store: Store) -> list[str]:
        """What must hold at every moment."""
        if store not in self._checked:
            self._checked[store] = list(self._problems(store))
        return self._checked[store]

    def _problems(self, store: Store) -> Iterator[str]:
        points = {}
        for number in store:
            point = self.engine.point(number)
            ours = (point.payload or {})[OURS]
            points[ours["document_id"], ours["chunk"]] = self.engine.head(number)
            yield from self._check_point(point)
        for (document_id, number), head in points.items():
            if number != 0:
                continue
            for chunk in range(1, head.chunks):
                there = points.get((document_id, chunk))
                if there is None or there.position < head.position:
                    yield f"the head of {document_id} stands without its chunk {chunk}"

    def _check_point(self, point: models.PointStruct) -> Iterator[str]:
        """Everything a point says and is must be of one event."""
        payload = dict(point.payload or {})
        ours = payload.pop(OURS)
        event = self.scenario.events[ours["event_key"]]
        vectors: Any = point.vector or {}
        vector = vectors.get(DENSE)
        if event.deleted:
            if vector is not None or payload or not ours.get("deleted"):
                yield f"{_shown(point)}: a tombstone with something of a document"
            return
        start, end = ours["start"], ours["end"]
        wanted = vector_of(f"{event.title} {event.text[start:end]}".strip())
        if vector is None or not np.allclose(vector, wanted, atol=1e-6):
            yield f"{_shown(point)}: its vector is of another text"
        if (start, end) != (ours["chunk"], ours["chunk"] + 1) or ours["chunks"] != len(event.text):
            yield f"{_shown(point)}: it is stamped on another text"
        if payload != event.metadata or ours["text_hash"] != event.text_hash:
            yield f"{_shown(point)}: its payload is of another event"
        if ours["chunk"] == 0 and (ours["title"], ours["text"]) != (event.title, event.text):
            yield f"{_shown(point)}: its text is of another event"

    def check_end(self, store: Store, late: frozenset[str]) -> Iterator[str]:
        """What must hold once nobody is under way; the empty text stands for a leftover."""
        mortal = {
            event.event_key
            for writer in self.scenario.writers
            if writer.may_die
            for batch in writer.batches
            for event in batch
        }
        heads = [self.engine.head(number) for number in store]
        numbers = [(self.engine.point(n).payload or {})[OURS]["chunk"] for n in store]
        for document_id, event in self.scenario.newest.items():
            chunks = {
                number: head
                for head, number in zip(heads, numbers, strict=True)
                if head.document_id == document_id
            }
            first = chunks.get(0)
            if first is None or first.event_key != event.event_key:
                yield f"at the end the head of {document_id} is not of the newest event"
                continue
            for number in range(max(first.chunks, 1), max(chunks) + 1):
                chunk = chunks.get(number)
                if chunk is None:
                    continue
                if document_id in late and chunk.event_key in mortal:
                    yield ""
                else:
                    yield f"at the end the stale chunk {number} of {document_id} is left"
            for number in range(1, first.chunks):
                if number not in chunks or chunks[number].event_key != first.event_key:
                    yield f"at the end chunk {number} of {document_id} is of another event"


def _jsonable(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_none=True)
    return str(value)


def _shown(point: models.PointStruct) -> str:
    ours = (point.payload or {})[OURS]
    return f"{ours['document_id']}/{ours['chunk']}@{ours['timestamp']}"


def explore(scenario: Scenario, *, max_states: int = 2_000_000, max_problems: int = 1) -> Report:
    """Searches every interleaving of the scenario's writers and their crashes.

    Returns
    -------
    Report
        `complete` is False when the search was given up at `max_states`.
    """
    search = _Search(scenario)
    report = Report()
    store: Store = ()
    for batch in scenario.before:
        alone = Scenario((WriterSpec("before", (batch,)),))
        store = _write_alone(search, alone, store)
    running = tuple(_Running(restarts=writer.restarts) for writer in scenario.writers)
    start: _State = (store, running, frozenset())
    parents: dict[_State, tuple[_State | None, str]] = {start: (None, "start")}
    waiting = deque([start])
    while waiting:
        state = waiting.pop()
        report.states += 1
        if report.states > max_states:
            report.complete = False
            return report
        ended = True
        for problem, label, following in _moves(search, state):
            ended = False
            if problem:
                report.problems.append(_told(parents, state, label, problem))
                if len(report.problems) >= max_problems:
                    return report
            if following is not None and following not in parents:
                parents[following] = (state, label)
                waiting.append(following)
        if ended or all(writer.batch < 0 for writer in state[1]):
            report.ends += 1
            for problem in search.check_end(state[0], state[2]):
                if not problem:
                    report.leftovers += 1
                    continue
                report.problems.append(_told(parents, state, "", problem))
                if len(report.problems) >= max_problems:
                    return report
    return report


def _write_alone(search: _Search, scenario: Scenario, store: Store) -> Store:
    """Points after one undisturbed writer; the search is only lent its engine."""
    alone = _Search(scenario)
    alone.engine = search.engine
    running = _Running()
    while (number := alone.next_request(0, running)) is not None:
        assert isinstance(number, int), number
        for piece in range(alone.request(number).pieces):
            store, answer = alone.effect(store, number, piece)
        running = _Running(0, (*running.answers, answer))
    return store


def _moves(search: _Search, state: _State) -> Iterator[tuple[str, str, _State | None]]:
    """What may happen next: (problem or empty, label, state after it)."""
    store, writers, late = state
    for row, running in enumerate(writers):
        spec = search.scenario.writers[row]

        def after(
            changed: _Running,
            store: Store = store,
            late: frozenset[str] = late,
            row: int = row,
        ) -> _State:
            return store, (*writers[:row], changed, *writers[row + 1 :]), late

        begun = running.batch != 0 or bool(running.answers) or running.piece > 0
        if running.restarts and begun and running.batch != _DEAD:
            fresh = _Running(restarts=running.restarts - 1)
            yield "", f"{spec.name} is killed and starts anew", after(fresh)
            if running.batch > 0:
                resumed = _Running(running.batch, restarts=running.restarts - 1)
                yield "", f"{spec.name} is killed and resumes", after(resumed)
        if running.batch < 0:
            continue
        if spec.may_die and begun:
            yield "", f"{spec.name} dies", after(_Running(_DEAD))
        number = search.next_request(row, running)
        if isinstance(number, str):
            yield f"{spec.name} stops: {number}", spec.name, None
            continue
        if number is None:
            batch = running.batch + 1
            if batch == len(spec.batches):
                batch = _END
            yield "", f"{spec.name} ends a batch", after(_Running(batch, (), 0, running.restarts))
            continue
        request = search.request(number)
        new_store, answer = search.effect(store, number, running.piece)
        label = f"{spec.name}: {request.label} [{running.piece + 1}/{request.pieces}]"
        if running.piece + 1 < request.pieces:
            changed = _Running(running.batch, running.answers, running.piece + 1, running.restarts)
        else:
            changed = _Running(running.batch, (*running.answers, answer), 0, running.restarts)
        new_late = late
        if spec.may_die:
            new_late = late | request.documents
        elif request.method == "scroll" and late:
            new_late = frozenset(
                document_id for document_id in late if not _cleans(search, running, document_id)
            )
        problems = search.check(new_store) if new_store != store else []
        problem = "; ".join([*problems, *_backwards(search, store, new_store)])
        yield problem, label, after(changed, new_store, new_late)


def _cleans(search: _Search, running: _Running, document_id: str) -> bool:
    """Whether the clean-up that starts now is bound by the document's final head."""
    head = search.answered_head(running.answers, document_id)
    return head is not None and head.event_key == search.scenario.newest[document_id].event_key


def _backwards(search: _Search, before: Store, after: Store) -> Iterator[str]:
    if before == after:
        return
    heads = {}
    for number in after:
        if (search.engine.point(number).payload or {})[OURS]["chunk"] == 0:
            head = search.engine.head(number)
            heads[head.document_id] = head
    for number in before:
        if (search.engine.point(number).payload or {})[OURS]["chunk"] != 0:
            continue
        old = search.engine.head(number)
        new = heads.get(old.document_id)
        if new is None or new.position < old.position:
            yield f"the head of {old.document_id} goes backwards"


def _told(
    parents: dict[_State, tuple[_State | None, str]], state: _State, label: str, problem: str
) -> str:
    path = [label] if label else []
    current: _State | None = state
    while current is not None:
        current, step = parents[current]
        path.append(step)
    return "\n  ".join([problem, *reversed(path)])
