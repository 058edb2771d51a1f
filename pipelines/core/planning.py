"""From a batch of events to plans that can be written: read, decide, cut, encode."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from pipelines.core.control import Control
from pipelines.core.metrics import job_metrics
from pipelines.core.plans import Action, Plan, decide
from pipelines.core.points import (
    DENSE,
    HEAD_FIELDS,
    OURS,
    VECTOR_FIELDS,
    Head,
    StoredChunk,
    head_of,
    point_id,
)
from pipelines.core.purge.record import PurgeLog, behind_purge
from pipelines.core.records import Event

if TYPE_CHECKING:
    from pipelines.core.chunker import Chunker
    from pipelines.core.encoder import Encoder
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = ["Planner", "Refusal"]

_log = structlog.get_logger()

Refusal = tuple[Event, str]
"""An event that the encoder gave no usable vector for, and why."""


class Planner:
    """Decides what a batch's documents need, and gets it.

    Parameters
    ----------
    qdrant, version
        Where the documents stand.
    encoder, chunker
        Of the version's contract.
    replay_topic
        Events whose record came from it are replays, which may be older than what was purged.
    """

    def __init__(
        self,
        qdrant: Qdrant,
        version: Version,
        encoder: Encoder,
        chunker: Chunker,
        *,
        replay_topic: str | None = None,
    ) -> None:
        self._replay_topic = replay_topic
        self._purges = PurgeLog(Control(qdrant))
        self._qdrant = qdrant
        self._version = version
        self._encoder = encoder
        self._chunker = chunker

    def reconcile(self, events: Sequence[Event]) -> tuple[list[Plan], list[Event]]:
        """One plan a document, from one read of the heads.

        Documents whose text did not change get their stored vectors in a second read.

        Returns
        -------
        plans
            One for each document of the batch.
        repeated
            Events that stand in the batch more than once, each further time.
        """
        candidates, repeated = _by_document(events)
        heads = self._heads(list(candidates))
        behind = self._behind_purge(candidates, heads)
        plans = []
        for document_id, events_of in candidates.items():
            refused = behind.get(document_id, [])
            left = [event for event in events_of if event not in refused] if refused else events_of
            if left:
                plan = decide(left, heads.get(document_id), self._version.fingerprint)
            else:
                plan = Plan(events_of[0], Action.REFUSED)
            plan.behind_purge = refused
            plans.append(plan)
        self._reuse_vectors(plans)
        return plans, repeated

    def _behind_purge(
        self, candidates: Mapping[str, Sequence[Event]], heads: Mapping[str, Head]
    ) -> dict[str, list[Event]]:
        """Replayed events that a tombstone would beat, had it not been purged.

        Asked after the heads were read, and put on record before a tombstone goes: a head that
        was not there because of a purge is on record by now. Where there is a head, it decides.
        """
        replayed = {
            document_id: found
            for document_id, events in candidates.items()
            if document_id not in heads
            and (found := [event for event in events if self._is_replay(event)])
        }
        if not replayed:
            return {}
        records = self._purges.of_index(self._version.index)
        behind = {
            document_id: [event for event in events if behind_purge(records, event.position)]
            for document_id, events in replayed.items()
        }
        return {document_id: events for document_id, events in behind.items() if events}

    def _is_replay(self, event: Event) -> bool:
        record = event.record
        return (
            not event.deleted
            and record is not None
            and self._replay_topic is not None
            and record.topic == self._replay_topic
        )

    def cut(self, plans: Iterable[Plan]) -> None:
        """Cuts what is to be encoded into chunks, and renders the text of each."""
        for plan in plans:
            if plan.action is not Action.EMBED or plan.vectors is not None:
                continue
            event = plan.event
            pieces = self._chunker.chunk(event.title, event.text)
            plan.chunks = [StoredChunk(piece.number, piece.start, piece.end) for piece in pieces]
            render = self._version.contract.render
            plan.texts = [render(event.title, piece.text) for piece in pieces]

    def encode(self, plans: Sequence[Plan]) -> list[Refusal]:
        """Encodes what needs it, all in one call of the encoder.

        Where the encoder refuses a document's newest event, the batch's next newest one takes
        its place, and so on; a document whose every event is refused keeps a plan that writes
        nothing.

        Returns
        -------
        The refused events, for the dead letters.
        """
        refusals: list[Refusal] = []
        waiting = [plan for plan in plans if plan.texts]
        while waiting:
            refused = self._encode_once(waiting)
            replaced = []
            for plan, message in refused:
                refusals.append((plan.event, message))
                self._take_next(plan)
                replaced.append(plan)
            self._reuse_vectors(replaced)
            self.cut(replaced)
            waiting = [plan for plan in replaced if plan.texts]
        return refusals

    def _take_next(self, plan: Plan) -> None:
        if not plan.older:
            # Nothing is left to write; the event itself is accounted for as a dead letter.
            plan.action, plan.chunks, plan.texts = Action.REFUSED, [], []
            return
        following = decide(plan.older, plan.stored, self._version.fingerprint)
        plan.event, plan.action, plan.older = following.event, following.action, following.older
        plan.created_at, plan.chunks, plan.texts = following.created_at, following.chunks, []
        plan.vectors = None

    def _encode_once(self, plans: Sequence[Plan]) -> list[tuple[Plan, str]]:
        metrics = job_metrics()
        texts = [text for plan in plans for text in plan.texts]
        started = time.perf_counter()
        encoded = self._encoder.encode_documents(texts)
        metrics.encode_seconds.observe(time.perf_counter() - started)
        metrics.encoded.inc(len(plans))
        tokens = sum(encoded.tokens)
        metrics.tokens.inc(tokens)
        metrics.batch_tokens.observe(tokens)
        truncated = sum(encoded.truncated)
        if truncated:
            metrics.truncated.inc(truncated)
        refused = []
        cut_short = []
        row = 0
        for plan in plans:
            rows = range(row, row + len(plan.texts))
            row = rows.stop
            if any(encoded.truncated[r] for r in rows):
                cut_short.append(plan.event.document_id)
            problems = [encoded.refused[r] for r in rows if r in encoded.refused]
            plan.texts = []
            plan.tokens += sum(
                min(count, self._version.contract.max_tokens)
                for count in encoded.tokens[rows.start : rows.stop]
            )
            if problems:
                refused.append((plan, problems[0]))
            else:
                plan.vectors = encoded.vectors[rows.start : rows.stop]
        if cut_short:
            _log.warning(
                "texts_truncated",
                count=truncated,
                max_tokens=self._version.contract.max_tokens,
                document_ids=cut_short[:5],
            )
        return refused

    def _heads(self, document_ids: Sequence[str]) -> dict[str, Head]:
        ids = [point_id(self._version.index, document_id, 0) for document_id in document_ids]
        found = {}
        for record in self._qdrant.call(
            "retrieve",
            self._version.name,
            ids=ids,
            with_payload=list(HEAD_FIELDS),
            with_vectors=False,
        ):
            head = head_of(record.payload)
            if head is not None:
                found[head.document_id] = head
        return found

    def _reuse_vectors(self, plans: Iterable[Plan]) -> None:
        """Stored vectors for the plans whose text did not change; the others must be encoded.

        A vector is reused only from a point that says itself it was made from this text under
        this contract; where one of a document's points does not, all are encoded anew.
        """
        wanted = {}
        for plan in plans:
            if plan.action not in (Action.PAYLOAD, Action.MOVE) or plan.stored is None:
                continue
            if plan.stored.chunks == 0:
                plan.action = Action.EMBED
            for number in range(plan.stored.chunks):
                key = point_id(self._version.index, plan.event.document_id, number)
                wanted[key] = (plan, number)
        if not wanted:
            return
        records = self._qdrant.call(
            "retrieve",
            self._version.name,
            ids=list(wanted),
            with_payload=list(VECTOR_FIELDS),
            with_vectors=[DENSE],
        )
        found: dict[int, dict[int, tuple[StoredChunk, Any]]] = {}
        for record in records:
            plan, number = wanted[str(record.id)]
            ours = (record.payload or {}).get(OURS) or {}
            vector = (record.vector or {}).get(DENSE)
            if (
                vector is None
                or ours.get("text_hash") != plan.event.text_hash
                or ours.get("fingerprint") != self._version.fingerprint
            ):
                continue
            chunk = StoredChunk(number, int(ours["start"]), int(ours["end"]))
            found.setdefault(id(plan), {})[number] = (chunk, vector)
        for plan in {id(plan): plan for plan, _ in wanted.values()}.values():
            pieces = found.get(id(plan), {})
            if plan.stored is None or len(pieces) != plan.stored.chunks or not pieces:
                plan.action = Action.EMBED
                continue
            ordered = [pieces[number] for number in sorted(pieces)]
            plan.chunks = [chunk for chunk, _ in ordered]
            plan.vectors = np.asarray([vector for _, vector in ordered], dtype=np.float32)


def _by_document(events: Sequence[Event]) -> tuple[dict[str, list[Event]], list[Event]]:
    """Events of each document, newest first, each event once; and the repeats."""
    grouped: dict[str, dict[str, Event]] = {}
    repeated = []
    for event in events:
        of_document = grouped.setdefault(event.document_id, {})
        if event.event_key in of_document:
            repeated.append(event)
        else:
            of_document[event.event_key] = event
    ordered = {
        document_id: sorted(found.values(), key=lambda event: event.position.key, reverse=True)
        for document_id, found in grouped.items()
    }
    return ordered, repeated
