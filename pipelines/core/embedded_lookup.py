"""Points by their document, where the embedded engine would look at every payload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pipelines.core.points import OURS

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["DocumentLookup"]

_KEY = f"{OURS}.document_id"

_HARMLESS = frozenset(
    {
        "collection_exists",
        "count",
        "create_payload_index",
        "delete",
        "delete_payload_index",
        "delete_vectors",
        "facet",
        "get_aliases",
        "get_collection",
        "get_collection_aliases",
        "get_collections",
        "info",
        "query_batch_points",
        "query_points",
        "query_points_groups",
        "retrieve",
        "scroll",
        "update_collection",
        "update_collection_aliases",
        "update_vectors",
    }
)
"""Methods after which no document has a point that it had not before."""

PointId = int | str | UUID

Ids = dict[str, dict[PointId, None]]
"""Document to ids of points, as an ordered set."""


class DocumentLookup:
    """Carries out scrolls and deletes whose condition names documents without a walk.

    The engine evaluates a condition on every payload: at 15,000 points, .9 s to find the chunks of
    a batch and .2 s for each document whose older chunks are deleted. This remembers which points
    a document has ever had, reads those, and asks the engine's own code whether the condition
    holds.

    Nothing is ever taken out of what it remembers, so a point that is gone is looked for in vain
    and no point that is there is missed: every write passes `note`.

    Parameters
    ----------
    client
        With the embedded engine, locked by the caller: a delete reads before it deletes.
    """

    def __init__(self, client: QdrantClient) -> None:
        self._client = client
        self._collections: dict[str, Ids] = {}

    def note(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Sees a request before the engine does; what it does not know makes it forget."""
        name = str(args[0] if args else kwargs.get("collection_name"))
        known = self._collections.get(name)
        if known is None or method in _HARMLESS:
            return
        points = kwargs.get("points")
        if method == "upsert" and isinstance(points, list):
            _add(known, points)
        else:
            del self._collections[name]

    def answer(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The engine's answer, or `NotImplemented` where it has to find it by itself."""
        if method == "scroll" and len(args) == 1 and "order_by" not in kwargs:
            return self._scroll(args[0], **kwargs)
        if method == "delete" and len(args) == 1:
            return self._delete(args[0], **kwargs)
        return NotImplemented

    def _scroll(
        self,
        name: str,
        *,
        scroll_filter: Any = None,
        limit: int = 10,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        **others: Any,
    ) -> Any:
        ids = None if others else self._matching(name, scroll_filter)
        if ids is None:
            return NotImplemented
        # The engine's order, and its way to turn pages: the next page begins with `offset`.
        ids.sort(key=_order)
        if offset is not None:
            ids = [one for one in ids if _order(one) >= _order(offset)]
        records = self._client.retrieve(
            name, ids[:limit], with_payload=with_payload, with_vectors=with_vectors
        )
        return records, ids[limit] if len(ids) > limit else None

    def _delete(self, name: str, *, points_selector: Any = None, **others: Any) -> Any:
        ids = self._matching(name, points_selector)
        if ids is None:
            return NotImplemented
        if ids:
            return self._client.delete(name, points_selector=list(ids), **others)
        from qdrant_client import models

        return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)

    def _matching(self, name: str, condition: Any) -> list[PointId] | None:
        """Ids of the points for which the condition holds; `None` when it names no documents."""
        documents = _documents(condition)
        if documents is None:
            return None
        from qdrant_client.local.payload_filters import check_filter

        known = self._known(name)
        if known is None:
            return None
        candidates = [
            one for document in dict.fromkeys(documents) for one in known.get(document, ())
        ]
        return [
            record.id
            for record in self._client.retrieve(name, candidates, with_payload=True)
            if check_filter(condition, record.payload or {}, record.id, {})
        ]

    def _known(self, name: str) -> Ids | None:
        known = self._collections.get(name)
        if known is None:
            # By its own name: writes do not go through an alias.
            if name not in {one.name for one in self._client.get_collections().collections}:
                return None
            count = self._client.count(name).count
            records, _ = self._client.scroll(name, limit=count + 1, with_payload=[_KEY])
            known = self._collections[name] = {}
            _add(known, records)
        return known


def _order(point_id: PointId) -> tuple[str, int]:
    """The engine's order of ids."""
    return ("", point_id) if isinstance(point_id, int) else (str(point_id), 0)


def _add(known: Ids, points: Iterable[Any]) -> None:
    """Remembers points under what a condition on the document could find them by."""
    from qdrant_client.local.utils import normalize_point_id

    for point in points:
        ours = (point.payload or {}).get(OURS)
        value = ours.get("document_id") if isinstance(ours, Mapping) else None
        for document in value if isinstance(value, list) else [value]:
            if isinstance(document, str):
                known.setdefault(document, {})[normalize_point_id(point.id)] = None


def _documents(condition: Any) -> list[str] | None:
    """Documents outside of which the condition never holds; `None` when it names none.

    Only conditions on payloads are taken: what else a condition may ask, the engine knows.
    """
    from qdrant_client import models

    if not isinstance(condition, models.Filter) or not _on_payload(condition):
        return None
    must = condition.must if isinstance(condition.must, list) else []
    for one in must:
        if isinstance(one, models.FieldCondition) and one.key == _KEY:
            match = one.match
            if isinstance(match, models.MatchValue) and isinstance(match.value, str):
                return [match.value]
            if isinstance(match, models.MatchAny):
                return [value for value in match.any if isinstance(value, str)]
    return None


def _on_payload(condition: Any) -> bool:
    from qdrant_client import models

    if isinstance(condition, models.FieldCondition):
        return True
    if not isinstance(condition, models.Filter) or condition.min_should is not None:
        return False
    clauses = (condition.must, condition.should, condition.must_not)
    parts = [
        part
        for clause in clauses
        if clause is not None
        for part in (clause if isinstance(clause, list) else [clause])
    ]
    return all(_on_payload(part) for part in parts)
