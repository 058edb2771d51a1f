"""The write protocol: newest wins on the server, whatever else writes at the same time.

For the documents of a batch, after their heads were read (`pipelines.transforms.reconcile`):

1. upsert the chunks other than heads, each conditional on its own stored position being older;
2. read them back, and repeat alone what a group's condition refused;
3. upsert the heads in groups, read them back, and repeat alone what a group's condition refused;
4. delete the document's chunks that are older than the head read back. This one rule removes
   excess chunks and the traces of beaten or dead writers alike, so it also runs for events found
   stale or applied already: they may be the redelivery of one that died half way.

At every moment a head never goes backwards, and never stands without its chunks.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from pipelines.core.errors import RequestRefusedError, StoreConflictError
from pipelines.core.plans import Outcome, Plan
from pipelines.core.points import (
    DENSE,
    OURS,
    POSITION_FIELDS,
    Head,
    chunks_of,
    head_of,
    older_chunks,
    older_than,
    payload,
    point_id,
)
from pipelines.core.position import OrderBy, Position
from pipelines.core.qdrant import Qdrant
from pipelines.core.records import Event

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["DocumentWriter", "Written"]

_SCROLL_POINTS = 4096
# JSON of a float32 that became a float of Python takes up to 25 bytes with its comma, mostly 21; of
# a payload, besides id, text and metadata, up to 900 (of which 249 for the topic).
_BYTES_PER_COMPONENT = 22
_BYTES_PER_POINT = 1024


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one event."""

    event: Event
    outcome: Outcome
    refused: str | None = None
    """Why the store refused it, for the dead letter."""


@dataclass(slots=True)
class _Item:
    plan: Plan
    point: models.PointStruct
    size_bytes: int
    stored: Position | None

    @property
    def position(self) -> Position:
        return self.plan.event.position


@dataclass
class _Batch:
    plans: Sequence[Plan]
    heads: dict[str, Head] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def _json_bytes(value: Any) -> int:
    return len(to_json(value))


class DocumentWriter:
    """Writes plans into one version.

    Delivery: when `write` returns, the effect of every plan, or of something newer, is durable
    (on the embedded engine: after `Qdrant.sync`). Safe to repeat, and safe beside other writers of
    the same version.

    Parameters
    ----------
    qdrant, collection
        The store and the version's collection, by its own name.
    index
        Name of the index; part of the point ids.
    fingerprint
        Of the version; stamped on every point.
    order_by
        What makes an event newer.
    chunked
        Whether documents may have more than one point; without, there is nothing to clean up.
    store_text
        Whether heads keep title and text.
    """

    def __init__(
        self,
        qdrant: Qdrant,
        collection: str,
        *,
        index: str,
        fingerprint: str,
        order_by: OrderBy,
        chunked: bool,
        store_text: bool = True,
    ) -> None:
        self._qdrant = qdrant
        self._collection = collection
        self._index = index
        self._fingerprint = fingerprint
        self._order_by = order_by
        self._chunked = chunked
        self._store_text = store_text

    def write(self, plans: Sequence[Plan]) -> list[Written]:
        """Carries out the plans; one `Written` for each plan's event, in their order.

        Raises
        ------
        ServiceUnavailableError, ServiceRefusedError, IndexMissingError
            See `Qdrant.call`; nothing must be committed then.
        """
        steps = self.steps(plans)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                result: list[Written] = done.value
                return result

    def steps(self, plans: Sequence[Plan]) -> Generator[str, None, list[Written]]:
        """The same, yielding a step's name before each request, so that tests can interleave."""
        batch = _Batch(plans)
        for plan in plans:
            if plan.stored is not None:
                batch.heads[plan.event.document_id] = plan.stored
        writing = [plan for plan in plans if plan.writes]

        chunks = [item for plan in writing for item in self._items(plan, heads=False)]
        if chunks:
            yield from self._upsert_guarded("chunks", chunks, batch)
        heads = [
            item
            for plan in writing
            if plan.event.document_id not in batch.refused
            for item in self._items(plan, heads=True)
        ]
        if heads:
            found = yield from self._upsert_guarded("heads", heads, batch)
            batch.heads.update({head.document_id: head for head in found.values()})
        yield from self._bare_tombstones(batch)
        if self._chunked:
            yield from self._clean_up(batch)
        return [self._result(plan, batch) for plan in plans]

    def _result(self, plan: Plan, batch: _Batch) -> Written:
        refused = batch.refused.get(plan.event.document_id)
        if refused is not None:
            return Written(plan.event, Outcome.DEAD_LETTERED, refused)
        if not plan.writes:
            return Written(plan.event, plan.outcome)
        head = batch.heads[plan.event.document_id]
        ours = head.event_key == plan.event.event_key
        return Written(plan.event, plan.outcome if ours else Outcome.STALE)

    def _items(self, plan: Plan, *, heads: bool) -> Iterable[_Item]:
        from qdrant_client import models

        rest = _BYTES_PER_POINT + _json_bytes([plan.event.document_id, plan.event.metadata])
        for row, chunk in enumerate(plan.chunks):
            if (chunk.number == 0) is not heads:
                continue
            vector: dict[str, Any] = {}
            size = rest
            if plan.vectors is not None:
                vector = {DENSE: plan.vectors[row].tolist()}
                size += plan.vectors.shape[1] * _BYTES_PER_COMPONENT
            if heads and self._store_text:
                size += _json_bytes([plan.event.title, plan.event.text])
            yield _Item(
                plan,
                models.PointStruct(
                    id=point_id(self._index, plan.event.document_id, chunk.number),
                    vector=vector,
                    payload=payload(
                        plan.event,
                        fingerprint=self._fingerprint,
                        chunk=chunk,
                        chunks=0 if plan.event.deleted else len(plan.chunks),
                        created_at=plan.created_at,
                        store_text=self._store_text,
                    ),
                ),
                size,
                None if plan.stored is None else plan.stored.position,
            )

    def _groups(self, items: Sequence[_Item]) -> Iterable[list[_Item]]:
        """Groups whose one condition, older than the oldest event, refuses none we know of."""
        limit = self._qdrant.settings.max_request_bytes
        group: list[_Item] = []
        size = 0
        for item in sorted(items, key=lambda item: item.position.key):
            beaten = group and item.stored is not None and not item.stored < group[0].position
            if group and (beaten or size + item.size_bytes > limit):
                yield group
                group, size = [], 0
            group.append(item)
            size += item.size_bytes
        if group:
            yield group

    def _upsert_guarded(
        self, step: str, items: Sequence[_Item], batch: _Batch
    ) -> Generator[str, None, dict[str, Head]]:
        for group in self._groups(items):
            yield f"upsert {step}"
            self._upsert(group, group[0].position, batch)
        documents = {item.plan.event.document_id for item in items}
        if len(documents) > 1 and documents <= batch.refused.keys():
            # Not one bad record among good ones: something between here and the store, or the
            # store itself, refuses writes as such.
            raise RequestRefusedError(
                f"every one of {len(documents)} documents was refused: "
                f"{batch.refused[items[0].plan.event.document_id]}"
            )
        yield f"read back {step}"
        found = self._read([item.point.id for item in items])
        for item in items:
            if item.plan.event.document_id in batch.refused:
                continue
            stored = found.get(str(item.point.id))
            if stored is not None and not stored.position < item.position:
                continue
            # The group's condition refused it: its stored position lies between the oldest
            # event of the group and its own.
            yield f"repeat {step}"
            self._upsert([item], item.position, batch)
            yield f"read back {step} again"
            found.update(self._read([item.point.id]))
            again = found.get(str(item.point.id))
            if item.plan.event.document_id in batch.refused or (
                again is not None and not again.position < item.position
            ):
                continue
            # A newer event may have won since, and its clean-up have taken the chunk away.
            yield f"look for a newer head than {step}"
            head_id = point_id(self._index, item.plan.event.document_id, 0)
            head = self._read([head_id]).get(head_id)
            if head is None or not item.position < head.position:
                raise StoreConflictError(
                    f"{self._collection}: point {item.point.id} was written and does not show. "
                    "Something deletes points of this version, or the store does not read its own "
                    "writes; check replicas and other writers."
                )
        return found

    def _upsert(self, group: Sequence[_Item], oldest: Position, batch: _Batch) -> None:
        try:
            self._qdrant.call(
                "upsert",
                self._collection,
                points=[item.point for item in group],
                update_filter=older_than(oldest, self._order_by),
                wait=True,
            )
        except RequestRefusedError as error:
            if len(group) > 1:
                middle = len(group) // 2
                self._upsert(group[:middle], oldest, batch)
                self._upsert(group[middle:], oldest, batch)
                return
            self._check_collection(group[0], oldest, error)
            batch.refused[group[0].plan.event.document_id] = str(error)

    def _check_collection(self, item: _Item, oldest: Position, error: RequestRefusedError) -> None:
        """Raises when a refusal need not be about the record.

        It need not when the collection is not what it was, or when it refuses a write that has
        nothing to refuse: of an empty point that never was, in the mode that adds none. A limit of
        Qdrant's strict mode (points, bytes) refuses that one too; a deletion it would let pass.
        """
        from qdrant_client import models

        info = self._qdrant.call("get_collection", self._collection)
        vectors = info.config.params.vectors
        dense = vectors.get(DENSE) if isinstance(vectors, dict) else None
        vector = item.plan.vectors
        if dense is None or (vector is not None and dense.size != vector.shape[1]):
            found = f"no vector {DENSE!r}" if dense is None else f"dimension {dense.size}"
            wanted = "one" if vector is None else f"dimension {vector.shape[1]}"
            raise StoreConflictError(
                f"the collection {self._collection} is not the one that this job opened: it has "
                f"{found}, expected is {wanted}. Somebody made it anew by hand. Nothing was "
                "committed that is not written. Drop that collection and restore the version from "
                "a snapshot, or start with `--create` to fill it from the topics."
            ) from error
        nobody = models.PointStruct(
            id=point_id(self._index, "", 0),  # no document has an empty id
            vector={DENSE: [1.0] + [0.0] * (dense.size - 1)},
            payload={},
        )
        try:
            self._qdrant.call(
                "upsert",
                self._collection,
                points=[nobody],
                update_filter=older_than(oldest, self._order_by),
                update_mode=models.UpdateMode.UPDATE_ONLY,
                wait=True,
            )
        except RequestRefusedError as refused:
            raise RequestRefusedError(
                f"{refused}. It refuses every write to {self._collection}, so no document is to "
                "blame: none became a dead letter, and nothing was committed that is not written. "
                "Mend what it names (a limit of `strict_mode_config` is changed by PATCH "
                f"/collections/{self._collection}), then start the job again."
            ) from refused

    def _read(self, ids: Sequence[Any]) -> dict[str, Head]:
        found = {}
        for start in range(0, len(ids), _SCROLL_POINTS):
            records = self._qdrant.call(
                "retrieve",
                self._collection,
                ids=list(ids[start : start + _SCROLL_POINTS]),
                with_payload=list(POSITION_FIELDS),
                with_vectors=False,
            )
            for record in records:
                head = head_of(record.payload)
                if head is not None:
                    found[str(record.id)] = head
        return found

    def _bare_tombstones(self, batch: _Batch) -> Generator[str, None, None]:
        """Takes the vectors off tombstones, also for deletes that are redelivered.

        A server that is optimising a segment may keep the vector of a point that is written
        without one (seen on 1.18.3), and vector search would find what is deleted.
        """
        from qdrant_client import models

        if self._qdrant.local:
            return
        ids = [
            point_id(self._index, plan.event.document_id, 0)
            for plan in batch.plans
            if plan.event.deleted
        ]
        if not ids:
            return
        yield "take vectors off tombstones"
        self._qdrant.call(
            "delete_vectors",
            self._collection,
            vectors=[DENSE],
            points=models.Filter(
                must=[
                    models.HasIdCondition(has_id=list(ids)),
                    # A document that has come back since keeps its vector.
                    models.FieldCondition(
                        key=f"{OURS}.deleted", match=models.MatchValue(value=True)
                    ),
                ]
            ),
            wait=True,
        )

    def _clean_up(self, batch: _Batch) -> Generator[str, None, None]:
        ids = [
            plan.event.document_id
            for plan in batch.plans
            if plan.event.document_id in batch.heads and plan.event.document_id not in batch.refused
        ]
        if not ids:
            return
        yield "look for older chunks"
        for document_id in self._with_older_chunks(ids, batch):
            yield "delete older chunks"
            self._qdrant.call(
                "delete",
                self._collection,
                points_selector=older_chunks(
                    document_id, batch.heads[document_id].position, self._order_by
                ),
                wait=True,
            )

    def _with_older_chunks(self, ids: Sequence[str], batch: _Batch) -> list[str]:
        """Documents that have chunks older than their head.

        Most have none, and a delete by condition costs the embedded engine a walk through the
        whole collection each.
        """
        found: dict[str, None] = {}
        offset = None
        while True:
            records, offset = self._qdrant.call(
                "scroll",
                self._collection,
                scroll_filter=chunks_of(ids),
                limit=_SCROLL_POINTS,
                offset=offset,
                with_payload=list(POSITION_FIELDS),
                with_vectors=False,
            )
            for record in records:
                chunk = head_of(record.payload)
                if chunk is not None and chunk.position < batch.heads[chunk.document_id].position:
                    found[chunk.document_id] = None
            if offset is None:
                return list(found)
