"""Samples of what a version stores, taken with a few bounded requests.

Point ids are hashes of document id and chunk number (`pipelines.core.points.point_id`), so points
in the order of their ids stand in an order that has nothing to do with what they say. A scroll
from an id drawn at random is therefore a random sample without replacement: no request reads more
than a page, another draw gives another sample, and the same seed over the same points gives the
same one, which the random query of the engines cannot promise.

A point that is written while the sample is read shows as it was before or after, never in between.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.points import DENSE, OURS

if TYPE_CHECKING:
    import numpy.typing as npt
    from qdrant_client import models

    from monitors.probes.base import Deadline
    from pipelines.core.qdrant import Qdrant

__all__ = [
    "Sample",
    "count_points",
    "live_points",
    "newest_timestamp",
    "recent_since",
    "sample_points",
    "sample_vectors",
]

_PAGE_BYTES = 2 * 1024 * 1024
_BYTES_PER_COMPONENT = 22
"""JSON of a float32 that became a float of Python."""

_VECTOR_PAYLOAD = tuple(
    f"{OURS}.{name}" for name in ("document_id", "chunk", "text_hash", "fingerprint", "timestamp")
)


@dataclass(frozen=True)
class Sample:
    """Stored vectors, drawn at random, with what they belong to; row by row.

    Parameters
    ----------
    vectors
        Shape (n, dimension), float32, as they are stored: unit length on cosine collections.
    document_ids
        Of each row; a document may have several chunks in it.
    chunks
        Number of the chunk within its document.
    text_hashes
        Of the whole document's title and text.
    fingerprints
        Of the contract that the point says it was written under.
    timestamps
        Event times, milliseconds since the epoch; -1 where Kafka had none.
    """

    vectors: npt.NDArray[np.float32] = field(repr=False)
    document_ids: tuple[str, ...] = field(repr=False)
    chunks: tuple[int, ...] = field(repr=False)
    text_hashes: tuple[str, ...] = field(repr=False)
    fingerprints: tuple[str, ...] = field(repr=False)
    timestamps: npt.NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.document_ids)


def live_points(
    *, since: int | None = None, until: int | None = None, heads: bool = False
) -> models.Filter:
    """Condition: a point of a document that is not deleted.

    Parameters
    ----------
    since, until
        Event time, milliseconds since the epoch: at least, and below.
    heads
        Only chunk 0 of each document.
    """
    from qdrant_client import models

    must: list[Any] = []
    if since is not None or until is not None:
        window = models.Range(gte=since, lt=until)
        must.append(models.FieldCondition(key=f"{OURS}.timestamp", range=window))
    if heads:
        must.append(models.FieldCondition(key=f"{OURS}.chunk", match=models.MatchValue(value=0)))
    deleted = models.FieldCondition(key=f"{OURS}.deleted", match=models.MatchValue(value=True))
    return models.Filter(must=must, must_not=[deleted])


def sample_points(
    qdrant: Qdrant,
    collection: str,
    size: int,
    *,
    where: models.Filter,
    random: np.random.Generator,
    with_payload: Sequence[str],
    with_vectors: bool,
    dimension: int = 0,
    deadline: Deadline | None = None,
) -> Iterator[Any]:
    """Points as the store gives them, drawn at random, each at most once.

    Parameters
    ----------
    size
        How many at most; all that match when there are fewer.
    where
        What they must be: `live_points`.
    random
        Decides which: one draw.
    dimension
        Of the vectors, for the size of a page.
    deadline
        Checked before each request.

    Raises
    ------
    ProbeTimeoutError
        The deadline has passed.
    """
    start = str(uuid.UUID(bytes=random.bytes(16)))
    seen: set[str] = set()
    page = _page(dimension)
    # From the drawn id to the last, then from the first on until the drawn one comes.
    for first, last in ((start, None), (None, start)):
        offset: Any = first
        while len(seen) < size:
            if deadline is not None:
                deadline.check()
            points, offset = qdrant.call(
                "scroll",
                collection,
                scroll_filter=where,
                limit=min(page, size - len(seen)),
                offset=offset,
                with_payload=list(with_payload),
                with_vectors=[DENSE] if with_vectors else False,
            )
            for point in points:
                key = str(point.id)
                if (last is not None and key >= last) or key in seen:
                    return
                seen.add(key)
                yield point
            if offset is None:
                break


def sample_vectors(
    qdrant: Qdrant,
    collection: str,
    size: int,
    *,
    dimension: int,
    random: np.random.Generator,
    since: int | None = None,
    until: int | None = None,
    heads: bool = False,
    deadline: Deadline | None = None,
) -> Sample:
    """Stored vectors of documents that are not deleted.

    Parameters
    ----------
    size
        Points, at most.
    dimension
        Of the version's contract. A stored vector of another one cannot be: the store refuses it.
    since, until, heads
        See `live_points`.
    random, deadline
        See `sample_points`.

    Raises
    ------
    ProbeTimeoutError
        The deadline has passed.
    """
    vectors: list[Any] = []
    parts: list[dict[str, Any]] = []
    for point in sample_points(
        qdrant,
        collection,
        size,
        where=live_points(since=since, until=until, heads=heads),
        random=random,
        with_payload=_VECTOR_PAYLOAD,
        with_vectors=True,
        dimension=dimension,
        deadline=deadline,
    ):
        vector = (point.vector or {}).get(DENSE)
        ours = (point.payload or {}).get(OURS)
        if vector is None or not isinstance(ours, dict) or "document_id" not in ours:
            continue  # not ours, or being deleted: the integrity probe counts those
        vectors.append(np.asarray(vector, np.float32))
        parts.append(ours)
    return Sample(
        vectors=np.stack(vectors) if vectors else np.zeros((0, dimension), np.float32),
        document_ids=tuple(str(ours["document_id"]) for ours in parts),
        chunks=tuple(int(ours.get("chunk", 0)) for ours in parts),
        text_hashes=tuple(str(ours.get("text_hash", "")) for ours in parts),
        fingerprints=tuple(str(ours.get("fingerprint", "")) for ours in parts),
        timestamps=np.asarray([int(ours.get("timestamp", -1)) for ours in parts], np.int64),
    )


def count_points(qdrant: Qdrant, collection: str, where: models.Filter) -> int:
    """How many points there are, exactly; one request that reads no point."""
    return int(qdrant.call("count", collection, count_filter=where, exact=True).count)


def newest_timestamp(qdrant: Qdrant, collection: str, until: int) -> int | None:
    """Event time of the newest point below `until`; `None` without one. One request."""
    from qdrant_client import models

    key = f"{OURS}.timestamp"
    points, _ = qdrant.call(
        "scroll",
        collection,
        scroll_filter=live_points(until=until),
        order_by=models.OrderBy(key=key, direction=models.Direction.DESC),
        limit=1,
        with_payload=[key],
        with_vectors=False,
    )
    return int(points[0].payload[OURS]["timestamp"]) if points else None


def recent_since(
    qdrant: Qdrant, collection: str, least: int, *, until: int, span_seconds: float
) -> int | None:
    """From when on documents are like those that come now, as far as their age can tell.

    An index often begins with a load of old documents that are unlike what comes afterwards. A
    reference that is half of those differs from every day by so much that a change hardly adds to
    it.

    Parameters
    ----------
    least
        Points there must be from then on.
    until
        Event time, milliseconds since the epoch, of the end.
    span_seconds
        How far back, at least; doubled until there are enough points.

    Returns
    -------
    since
        Event time; `None` when it takes all there are, those without an event time too.
    """
    span = round(span_seconds * 1000)
    while span < until:
        since = until - span
        if count_points(qdrant, collection, live_points(since=since, until=until)) >= least:
            return since
        span *= 2
    return None


def _page(dimension: int) -> int:
    return max(32, min(1000, _PAGE_BYTES // max(1, dimension * _BYTES_PER_COMPONENT)))
