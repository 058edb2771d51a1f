"""Golden queries against a version in Qdrant: documents, at a bounded rate, within a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from monitors.golden.baseline import DocumentState, Found
from pipelines.core.points import DENSE, HEAD_FIELDS, OURS, Head, head_of, point_id

if TYPE_CHECKING:
    from monitors.golden.golden_set import GoldenQuery
    from pipelines.core.encoder import Encoder
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = ["MOST_PER_SECOND", "Pace", "VersionStore", "encode_golden", "unhurried"]

_FIELDS = [*HEAD_FIELDS, f"{OURS}.indexed_at"]
"""All of ours but title and text: a deep answer would carry megabytes of them."""

_IDS_PER_REQUEST = 500
_TEXTS_PER_BATCH = 64

_LEAST_PER_SECOND = 1.0
"""A small set is done soon at a pace that nobody feels."""
MOST_PER_SECOND = 20.0
"""More is for somebody to decide."""
_SHARE_OF_TIME = 0.8


class Watch(Protocol):
    """Says when the time is up; `monitors.probes.base.Deadline` is one."""

    def check(self) -> None:
        """Raises when it is."""
        ...


class Pace:
    """Holds queries to a rate, so that the live index is left alone.

    Parameters
    ----------
    per_second
        Queries, at most; `None` for a command that somebody waits for.
    """

    def __init__(
        self,
        per_second: float | None,
        watch: Watch | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap = 0.0 if per_second is None else 1 / per_second
        self._watch = watch
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    def for_reads(self) -> Pace:
        """For reads by id, which are no queries and not to be waited for as long: 20 a second."""
        return Pace(
            MOST_PER_SECOND if self._gap else None,
            self._watch,
            clock=self._clock,
            sleep=self._sleep,
        )

    def check(self) -> None:
        """Raises when the time is up."""
        if self._watch is not None:
            self._watch.check()

    def wait(self) -> None:
        """Until the next query may go out. Raises when the time is up."""
        self.check()
        now = self._clock()
        # In slices: a slow pace must not sleep past the deadline.
        while now < self._next:
            self._sleep(min(1.0, self._next - now))
            self.check()
            now = self._clock()
        # From now, not from when it was due: a pause is not caught up with in a burst.
        self._next = now + self._gap


def unhurried(queries: int, seconds: float, most: float = MOST_PER_SECOND) -> float:
    """Golden queries per second with which so many are done in time, and not sooner.

    Parameters
    ----------
    seconds
        Time of the run, of which four fifths are for the queries.
    most
        In any case; then a set may be too large for its time.

    Returns
    -------
    1 at least.
    """
    needed = queries / max(_SHARE_OF_TIME * seconds, 1.0)
    return min(max(needed, _LEAST_PER_SECOND), most)


class VersionStore:
    """Searches one version as `pipelines.core.index.Index` does: documents, best chunk each.

    Approximate search, as users have it. A hundred documents are hardly more work for the server
    than ten: its graph search visits as many candidates in any case. What a query needs besides,
    heads of chunks and a second answer among named documents, is read by ids and goes at once;
    states of many documents are read at a pace of their own.
    """

    def __init__(self, qdrant: Qdrant, version: Version, pace: Pace) -> None:
        self._qdrant = qdrant
        self._version = version
        self._pace = pace
        self._reads = pace.for_reads()
        self._heads: dict[str, Head] = {}

    def search(
        self, vector: npt.NDArray[np.float32], limit: int, among: Sequence[str] | None = None
    ) -> list[Found]:
        """The nearest documents, best first; only of these ids where some are given."""
        if among is None:
            self._pace.wait()
        else:
            self._pace.check()
        arguments: dict[str, Any] = {
            "collection_name": self._version.name,
            "query": vector.tolist(),
            "using": DENSE,
            "limit": limit,
            "query_filter": _only(among),
            "with_payload": _FIELDS,
        }
        if self._version.contract.chunk is None:
            points = self._qdrant.call("query_points", **arguments).points
        else:
            groups = self._qdrant.call(
                "query_points_groups",
                group_by=f"{OURS}.document_id",
                group_size=1,
                **arguments,
            ).groups
            points = [group.hits[0] for group in groups]
        return self._documents(points)

    def states(self, document_ids: Sequence[str]) -> dict[str, DocumentState]:
        """What there is of each of these ids."""
        heads = self._read_heads(document_ids, self._reads.wait)
        found = {}
        for document_id in document_ids:
            head = heads.get(document_id)
            if head is None:
                found[document_id] = DocumentState.GONE
            else:
                found[document_id] = (
                    DocumentState.DELETED if head.deleted else DocumentState.PRESENT
                )
        return found

    def _documents(self, points: list[Any]) -> list[Found]:
        read = [(point, head_of(point.payload)) for point in points]
        # A chunk that is older than its head belongs to what the head has replaced.
        missing = {
            chunk.document_id
            for point, chunk in read
            if chunk is not None
            and point.payload[OURS].get("chunk") != 0
            and chunk.document_id not in self._heads
        }
        if missing:
            self._heads.update(self._read_heads(sorted(missing), self._pace.check))
        found = []
        for point, chunk in read:
            if chunk is None or chunk.deleted:
                continue
            ours = point.payload[OURS]
            if ours.get("chunk") != 0:
                head = self._heads.get(chunk.document_id)
                if head is None or head.deleted or chunk.position < head.position:
                    continue
            found.append(
                Found(
                    chunk.document_id,
                    float(point.score),
                    chunk.created_at,
                    _milliseconds(ours.get("indexed_at")),
                )
            )
        return found

    def _read_heads(
        self, document_ids: Sequence[str], before_each: Callable[[], None]
    ) -> dict[str, Head]:
        found = {}
        for start in range(0, len(document_ids), _IDS_PER_REQUEST):
            before_each()
            ids = [
                point_id(self._version.index, document_id, 0)
                for document_id in document_ids[start : start + _IDS_PER_REQUEST]
            ]
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


def encode_golden(
    encoder: Encoder, queries: Sequence[GoldenQuery], watch: Watch | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Query to its vector, without those that the model gives none for."""
    vectors = {}
    for start in range(0, len(queries), _TEXTS_PER_BATCH):
        if watch is not None:
            watch.check()
        batch = queries[start : start + _TEXTS_PER_BATCH]
        encoded = encoder.encode_queries([query.text for query in batch])
        for row, query in enumerate(batch):
            if row not in encoded.refused:
                vectors[query.id] = encoded.vectors[row]
    return vectors


def _only(document_ids: Sequence[str] | None) -> Any:
    if document_ids is None:
        return None
    from qdrant_client import models

    return models.Filter(
        must=[
            models.FieldCondition(
                key=f"{OURS}.document_id", match=models.MatchAny(any=list(document_ids))
            )
        ]
    )


def _milliseconds(written: object) -> int | None:
    if not isinstance(written, str):
        return None
    try:
        at = datetime.fromisoformat(written)
    except ValueError:
        return None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
