"""The control collection: small records that several processes change without losing a write.

A record is one point without a vector in `plumbline-control`. It has a kind, a name and an epoch
that counts its writes. Every write is conditional on the epoch it was decided on, and read back:
of two writers that decided on the same epoch exactly one finds its own write there.

Some of what it holds is nowhere else. So a process that has seen the collection takes its absence
for what it is, neither for an empty one nor for a reason to make another: only one that starts
without having seen it makes it.
"""

from __future__ import annotations

import threading
import uuid
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import IndexMissingError, PlumblineError, StoreConflictError

if TYPE_CHECKING:
    from pipelines.core.qdrant import Qdrant

__all__ = ["CONTROL_COLLECTION", "Control", "ControlRecord"]

CONTROL_COLLECTION = "plumbline-control"

_NAMESPACE = uuid.UUID("6f1f4f0e-6f0b-5d3c-9c55-0a4c1c1f7f0d")
_PAGE = 256

_seen: weakref.WeakSet[Qdrant] = weakref.WeakSet()
"""Connections that have found the collection."""


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """One record as it was read.

    Parameters
    ----------
    kind, name
        Together its identity: `("lease", "ingest:docs--minilm--0123456789ab")`.
    epoch
        How often it has been written, from 1.
    fields
        What the kind keeps, JSON values.
    """

    kind: str
    name: str
    epoch: int
    fields: Mapping[str, Any] = field(repr=False)


class Control:
    """Reads and conditionally writes control records.

    Parameters
    ----------
    qdrant
        Connection to the store; the collection is made by the first write, unless it has been
        there in this connection's time.
    patient
        Whether an outage of the store is waited out (default), or raised as `TransientError`.
    """

    def __init__(self, qdrant: Qdrant, *, patient: bool = True) -> None:
        self._qdrant = qdrant
        self._call = qdrant.call if patient else qdrant.try_call
        self._lock = threading.Lock()
        self._ready = False

    def impatient(self) -> Control:
        """The same collection, for a caller that repeats by itself."""
        return Control(self._qdrant, patient=False)

    @property
    def local(self) -> bool:
        """True on the embedded engine, which one process at a time can open."""
        return self._qdrant.local

    @property
    def outage_timeout_seconds(self) -> float:
        """How long the store may be out of reach before a job gives up."""
        return self._qdrant.settings.outage_timeout_seconds

    def read(self, kind: str, name: str) -> ControlRecord | None:
        """The record, or `None` when it was never written.

        Raises
        ------
        StoreConflictError
            The point is not one of ours, or the collection was dropped.
        """
        if not self._exists():
            return None
        points = self._ask("retrieve", ids=[_point_id(kind, name)], with_payload=True)
        return _record(points[0].payload or {}) if points else None

    def list(self, kind: str) -> list[ControlRecord]:
        """Every record of a kind, by name; raises as `read`."""
        from qdrant_client import models

        if not self._exists():
            return []
        found: list[ControlRecord] = []
        offset = None
        while True:
            points, offset = self._ask(
                "scroll",
                scroll_filter=models.Filter(must=[_equals("kind", kind)]),
                limit=_PAGE,
                offset=offset,
                with_payload=True,
            )
            found.extend(_record(point.payload or {}) for point in points)
            if offset is None:
                return sorted(found, key=lambda record: record.name)

    def swap(
        self, kind: str, name: str, *, seen: ControlRecord | None, fields: Mapping[str, Any]
    ) -> ControlRecord | None:
        """The record as written, or `None` when somebody else wrote it since `seen`.

        Parameters
        ----------
        seen
            What the decision was made on; `None` when there was no record.
        fields
            All fields of the new state.

        Raises
        ------
        ServiceUnavailableError, TransientError
            The store stayed out of reach. The write may have happened, or may happen yet: read
            the record again before deciding anything.
        StoreConflictError
            The collection was dropped, or is not ours.
        """
        from qdrant_client import models

        self._ensure()
        expected = 0 if seen is None else seen.epoch
        write = uuid.uuid4().hex
        payload = {**fields, "kind": kind, "name": name, "epoch": expected + 1, "write": write}
        # A point that is missing is inserted whatever the filter says; one that is there is
        # replaced only when the filter holds. No record has epoch 0: absent means insert only.
        # The epoch alone would take a record that was removed and made anew for the one seen.
        condition = [_equals("epoch", expected)]
        if seen is not None:
            condition.append(_equals("write", str(seen.fields.get("write"))))
        self._ask(
            "upsert",
            points=[models.PointStruct(id=_point_id(kind, name), vector={}, payload=payload)],
            update_filter=models.Filter(must=condition),
            # One replica decides: filters evaluated on each in its own order could disagree.
            ordering=models.WriteOrdering.STRONG,
            wait=True,
        )
        stored = self.read(kind, name)
        if stored is None or stored.fields.get("write") != write:
            return None
        return stored

    def remove(self, kind: str, names: Sequence[str]) -> None:
        """Removes records by name, whoever wrote them last: for what has ended for good."""
        from qdrant_client import models

        if not names or not self._exists():
            return
        for start in range(0, len(names), _PAGE):
            some = models.FieldCondition(
                key="name", match=models.MatchAny(any=list(names[start : start + _PAGE]))
            )
            self._ask(
                "delete",
                points_selector=models.FilterSelector(
                    filter=models.Filter(must=[_equals("kind", kind), some])
                ),
                wait=True,
            )

    def try_write(self) -> bool:
        """Asks once for a write that changes nothing; False where there is no collection yet.

        Raises
        ------
        TransientError
            The store does not answer, or is out of disk.
        ServiceRefusedError
            The key may not write.
        """
        from qdrant_client import models

        if not self._exists():
            return False
        # Of a record that never was, in the mode that adds none: a deletion would pass a limit.
        nobody = models.PointStruct(id=_point_id("", ""), vector={}, payload={})
        self.impatient()._ask(
            "upsert", points=[nobody], update_mode=models.UpdateMode.UPDATE_ONLY, wait=True
        )
        return True

    def _ask(self, method: str, **arguments: Any) -> Any:
        """A request about the collection, which was there a moment ago."""
        try:
            return self._call(method, CONTROL_COLLECTION, **arguments)
        except IndexMissingError:
            raise self._gone() from None

    def _gone(self) -> StoreConflictError:
        return StoreConflictError(
            f"the collection {CONTROL_COLLECTION} is gone from Qdrant at {self._qdrant.where}: "
            "somebody dropped it while this process ran. It holds leases, the record of a rollout "
            "and what was purged, but no documents: nothing was committed that is not written. "
            "Restore its snapshot, if there is one, and start again; a process that starts makes "
            'it anew where it is missing ("The control collection is dropped" in docs/degraded.md '
            "says what is lost with it)."
        )

    def _exists(self) -> bool:
        """Whether there is a collection to read; reading makes none."""
        with self._lock:
            if not self._ready and self._is_there():
                self._accept()
            return self._ready

    def _ensure(self) -> None:
        with self._lock:
            if self._ready:
                return
            if not self._is_there():
                self._create()
            self._accept()

    def _is_there(self) -> bool:
        """Raises where it was there before."""
        there = bool(self._call("collection_exists", CONTROL_COLLECTION))
        if not there and self._qdrant in _seen:
            raise self._gone()
        return there

    def _accept(self) -> None:
        self._check_shape()
        _seen.add(self._qdrant)
        self._ready = True

    def _create(self) -> None:
        from qdrant_client import models

        try:
            self._call("create_collection", CONTROL_COLLECTION, vectors_config={})
        except PlumblineError:
            # Another process may have been quicker.
            if not self._call("collection_exists", CONTROL_COLLECTION):
                raise
        if self.local:
            return  # It has no payload indexes.
        for key, schema in (
            ("kind", models.PayloadSchemaType.KEYWORD),
            ("write", models.PayloadSchemaType.KEYWORD),
            ("epoch", models.PayloadSchemaType.INTEGER),
        ):
            self._call(
                "create_payload_index", CONTROL_COLLECTION, field_name=key, field_schema=schema
            )

    def _check_shape(self) -> None:
        info = self._ask("get_collection")
        if info.config.params.vectors:
            raise StoreConflictError(
                f"the collection {CONTROL_COLLECTION} holds vectors, so Plumbline did not make "
                "it. Plumbline keeps its leases and rollouts under this name: rename or drop "
                "that collection."
            )


def _point_id(kind: str, name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{kind}\0{name}"))


def _equals(key: str, value: str | int) -> Any:
    from qdrant_client import models

    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _record(payload: Mapping[str, Any]) -> ControlRecord:
    kind, name, epoch = payload.get("kind"), payload.get("name"), payload.get("epoch")
    if not (isinstance(kind, str) and isinstance(name, str) and isinstance(epoch, int)):
        raise StoreConflictError(
            f"a point of {CONTROL_COLLECTION} has no kind, name and epoch, so Plumbline did not "
            "write it. Remove it."
        )
    return ControlRecord(kind, name, epoch, dict(payload))
