"""Vectors of queries, kept so that the monitor sees when people begin to ask something else.

Only vectors, with when they came and under which contract: never a text. They live in a collection
of their own with a fixed number of slots that are written over in turn, so it never grows. Points
have no vector of Qdrant's, because versions differ in dimension; the vector is a field.

Recording never slows a search and never fails one: a search hands its vector to a short queue, a
thread writes what is there in one request, and what does not fit or cannot be written is dropped.
"""

from __future__ import annotations

import base64
import binascii
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from pipelines.core.errors import SettingsError

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipelines.core.qdrant import Qdrant

__all__ = ["SLOTS", "QueryRecorder", "RecordedQueries", "queries_collection", "read_queries"]

SLOTS = 8192
"""Queries kept of an index, whatever the number of processes that search it."""

_NAMESPACE = uuid.UUID("0f3e2f51-4f0c-5a3e-8f0e-2a51b1b7c1a7")
_QUEUE = 512
_BATCH = 64
"""Points of a request: small, because the embedded engine does one thing at a time."""
_EVERY_SECONDS = 1.0
_PAGE = 1000
_FIELDS = ("timestamp", "fingerprint", "vector")

_log = structlog.get_logger()


def queries_collection(index: str) -> str:
    """Name of the collection that keeps an index's queries."""
    return f"plumbline-queries--{index}"


@dataclass(frozen=True)
class RecordedQueries:
    """Vectors of queries, oldest first.

    Parameters
    ----------
    vectors
        Shape (n, dimension), float32, as the encoder gave them.
    timestamps
        Milliseconds since the epoch, by the clocks of those who searched.
    slots
        Where each is kept: stands for an id.
    """

    vectors: npt.NDArray[np.float32] = field(repr=False)
    timestamps: npt.NDArray[np.int64] = field(repr=False)
    slots: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.slots)


class QueryRecorder:
    """Keeps a share of the queries of one index. Thread-safe; its methods never raise.

    Parameters
    ----------
    qdrant, index
        Where to.
    ratio
        Share of the queries that is kept, 0 to 1, drawn at random.
    slots
        See `SLOTS`; all processes of an index must agree.
    clock
        Seconds since the epoch; tests bring their own.
    """

    def __init__(
        self,
        qdrant: Qdrant,
        index: str,
        ratio: float,
        *,
        slots: int = SLOTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= ratio <= 1:
            raise SettingsError(f"the share of recorded queries is {ratio:g}: valid is 0 to 1")
        self._qdrant = qdrant
        self._index = index
        self._collection = queries_collection(index)
        self._ratio = ratio
        self._slots = slots
        self._clock = clock
        # Each process goes round the slots in turn, from where chance puts it. Chance is not
        # seeded here: two processes must not write over the same slots at the same time.
        self._chance = random.Random()  # noqa: S311 - no secret
        self._next = self._chance.randrange(slots)
        self._queue: queue.Queue[tuple[str, int, bytes]] = queue.Queue(_QUEUE)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ready = False
        self.dropped = 0
        """Queries that were drawn and not kept: the queue was full, or the store said no."""

    def record(self, fingerprint: str, vector: npt.NDArray[Any]) -> None:
        """Keeps a query's vector, or not; returns at once."""
        if self._ratio <= 0 or self._chance.random() >= self._ratio:
            return
        data = np.asarray(vector, dtype="<f4").tobytes()
        try:
            self._queue.put_nowait((fingerprint, round(self._clock() * 1000), data))
        except queue.Full:
            self.dropped += 1
            return
        if self._thread is None:
            self._start()

    def flush(self) -> None:
        """Writes what waits, in this thread; for the end of a process and for tests."""
        batch = []
        while True:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        for start in range(0, len(batch), _BATCH):
            self._write(batch[start : start + _BATCH])

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop, name="plumbline-queries", daemon=True
                )
                self._thread.start()

    def _loop(self) -> None:
        while True:
            batch = [self._queue.get()]
            # What comes within a second goes in one request.
            until = time.monotonic() + _EVERY_SECONDS
            while len(batch) < _BATCH and (left := until - time.monotonic()) > 0:
                try:
                    batch.append(self._queue.get(timeout=left))
                except queue.Empty:
                    break
            self._write(batch)

    def _write(self, batch: list[tuple[str, int, bytes]]) -> None:
        from qdrant_client import models

        try:
            with self._lock:
                first, self._next = self._next, (self._next + len(batch)) % self._slots
            self._ensure()
            points = [
                models.PointStruct(
                    id=_slot_id(self._index, (first + number) % self._slots),
                    vector={},
                    payload={
                        "fingerprint": fingerprint,
                        "timestamp": timestamp,
                        "vector": base64.b64encode(data).decode("ascii"),
                    },
                )
                for number, (fingerprint, timestamp, data) in enumerate(batch)
            ]
            self._qdrant.try_call("upsert", self._collection, points=points, wait=False)
        except Exception as error:  # noqa: BLE001 - no search may end because of this
            self.dropped += len(batch)
            self._ready = False
            _log.warning("queries_not_recorded", index=self._index, error=type(error).__name__)

    def _ensure(self) -> None:
        from qdrant_client import models

        if self._ready:
            return
        if not self._qdrant.try_call("collection_exists", self._collection):
            self._qdrant.try_call("create_collection", self._collection, vectors_config={})
        for name, schema in (
            ("fingerprint", models.PayloadSchemaType.KEYWORD),
            ("timestamp", models.PayloadSchemaType.INTEGER),
        ):
            self._qdrant.try_call(
                "create_payload_index", self._collection, field_name=name, field_schema=schema
            )
        self._ready = True


def read_queries(
    qdrant: Qdrant,
    index: str,
    fingerprint: str,
    dimension: int,
    *,
    since: int,
    until: int,
) -> RecordedQueries:
    """The recorded queries of a window that were encoded under a contract.

    Parameters
    ----------
    since, until
        Milliseconds since the epoch: at least, and below.

    Raises
    ------
    ServiceUnavailableError
        The store stayed out of reach.
    """
    from qdrant_client import models

    collection = queries_collection(index)
    found: list[tuple[int, str, npt.NDArray[np.float32]]] = []
    if qdrant.call("collection_exists", collection):
        where = models.Filter(
            must=[
                models.FieldCondition(
                    key="fingerprint", match=models.MatchValue(value=fingerprint)
                ),
                models.FieldCondition(key="timestamp", range=models.Range(gte=since, lt=until)),
            ]
        )
        offset = None
        while True:
            points, offset = qdrant.call(
                "scroll",
                collection,
                scroll_filter=where,
                limit=_PAGE,
                offset=offset,
                with_payload=list(_FIELDS),
            )
            for point in points:
                vector = _vector((point.payload or {}).get("vector"), dimension)
                if vector is not None:
                    found.append((int(point.payload["timestamp"]), str(point.id), vector))
            if offset is None:
                break
    found.sort(key=lambda entry: entry[:2])
    return RecordedQueries(
        np.stack([vector for *_, vector in found])
        if found
        else np.zeros((0, dimension), np.float32),
        np.asarray([timestamp for timestamp, *_ in found], np.int64),
        tuple(slot for _, slot, _ in found),
    )


def _slot_id(index: str, slot: int) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{index}\0{slot}"))


def _vector(text: object, dimension: int) -> npt.NDArray[np.float32] | None:
    if not isinstance(text, str):
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(data) != 4 * dimension:
        return None
    return np.frombuffer(data, "<f4").astype(np.float32)
