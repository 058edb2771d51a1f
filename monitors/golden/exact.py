"""Exact search in memory over a bounded choice of a version's documents.

So that a model or a setting can be tried on a team's own documents before anything is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from monitors.golden.baseline import Ranking
from monitors.sampling import count_points, live_points
from pipelines.core.errors import StoreConflictError
from pipelines.core.points import DENSE, OURS, point_id

if TYPE_CHECKING:
    from pipelines.core.encoder import Encoder
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.versions import Version

__all__ = [
    "DocumentMatrix",
    "Sample",
    "StoredDocument",
    "encode_documents",
    "read_sample",
    "stored_vectors",
]

_PAGE = 256
_QUERIES_PER_BLOCK = 64
_FIELDS = [f"{OURS}.{name}" for name in ("document_id", "chunks", "deleted", "title", "text")]

Progress = Callable[[int, int], None]
"""Documents done, and documents to do."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as its head keeps it."""

    id: str
    title: str = field(repr=False)
    text: str = field(repr=False)


@dataclass(frozen=True)
class Sample:
    """Documents to search, the same for every system that is compared.

    Parameters
    ----------
    total
        Documents of the version.
    """

    documents: tuple[StoredDocument, ...] = field(repr=False)
    total: int

    @property
    def complete(self) -> bool:
        """Whether it is the whole version."""
        return len(self.documents) >= self.total


@dataclass(frozen=True)
class DocumentMatrix:
    """Vectors of documents, in chunks.

    Parameters
    ----------
    ids
        Of the documents that have a vector.
    starts
        Row of each document's first chunk; its rows follow each other.
    vectors
        Shape (chunks, dimension), float32.
    distance
        As in the contract: `cosine`, `dot` or `euclid`.
    """

    ids: tuple[str, ...] = field(repr=False)
    starts: npt.NDArray[np.int64] = field(repr=False)
    vectors: npt.NDArray[np.float32] = field(repr=False)
    distance: str

    def rank(self, queries: npt.NDArray[np.float32], depth: int) -> list[Ranking]:
        """The nearest documents of each query, by their best chunk.

        Parameters
        ----------
        queries
            Shape (queries, dimension).
        """
        if not self.ids:
            return [Ranking((), ()) for _ in queries]
        rankings = []
        depth = min(depth, len(self.ids))
        documents = _unit(self.vectors) if self.distance == "cosine" else self.vectors
        for start in range(0, len(queries), _QUERIES_PER_BLOCK):
            block = queries[start : start + _QUERIES_PER_BLOCK]
            best = np.maximum.reduceat(self._similarity(block, documents), self.starts, axis=1)
            for row in best:
                chosen = np.argpartition(-row, depth - 1)[:depth]
                order = chosen[np.argsort(-row[chosen], kind="stable")]
                rankings.append(
                    Ranking(
                        tuple(self.ids[number] for number in order),
                        tuple(float(row[number]) for number in order),
                    )
                )
        return rankings

    def _similarity(
        self, queries: npt.NDArray[np.float32], documents: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        if self.distance == "cosine":
            queries = _unit(queries)
        products: npt.NDArray[np.float32] = queries @ documents.T
        if self.distance != "euclid":
            return products
        # The query's own length is the same for all documents.
        nearer: npt.NDArray[np.float32] = 2 * products - (documents**2).sum(axis=1)
        return nearer


def read_sample(
    qdrant: Qdrant, version: Version, judged: Sequence[str], limit: int, watch: Progress
) -> Sample:
    """All judged documents, and others up to `limit`.

    The others are the first by point id. Ids are hashes of the documents' ids: that choice is as
    good as a random one, and the same in every run.

    Raises
    ------
    StoreConflictError
        The version does not keep texts (`store_text` is off).
    """
    living = live_points(heads=True)
    total = count_points(qdrant, version.name, living)
    found: dict[str, StoredDocument] = {}
    for start in range(0, len(judged), _PAGE):
        ids = [point_id(version.index, d, 0) for d in judged[start : start + _PAGE]]
        _keep(
            qdrant.call(
                "retrieve", version.name, ids=ids, with_payload=_FIELDS, with_vectors=False
            ),
            version,
            found,
        )
    offset: Any = None
    while len(found) < limit:
        records, offset = qdrant.call(
            "scroll",
            version.name,
            scroll_filter=living,
            limit=_PAGE,
            offset=offset,
            with_payload=_FIELDS,
            with_vectors=False,
        )
        _keep(records, version, found, limit)
        watch(len(found), min(limit, total))
        if offset is None:
            break
    return Sample(tuple(found.values()), total)


def _keep(
    records: Sequence[Any],
    version: Version,
    found: dict[str, StoredDocument],
    limit: int | None = None,
) -> None:
    for record in records:
        ours = record.payload[OURS]
        if ours.get("deleted"):
            continue
        if limit is not None and len(found) >= limit:
            return
        if "text" not in ours:
            raise StoreConflictError(
                f"the version {version.name} does not keep the texts of its documents "
                "(`store_text` is off), so that no other model can be tried on them. Build a "
                "version with the other contract and compare with --version."
            )
        document = StoredDocument(ours["document_id"], str(ours["title"]), str(ours["text"]))
        found.setdefault(document.id, document)


def stored_vectors(
    qdrant: Qdrant, version: Version, documents: Sequence[StoredDocument], watch: Progress
) -> DocumentMatrix:
    """What the version holds for these documents; those it does not hold are left out."""
    rows: dict[str, list[Any]] = {}
    for start in range(0, len(documents), _PAGE):
        batch = documents[start : start + _PAGE]
        heads = qdrant.call(
            "retrieve",
            version.name,
            ids=[point_id(version.index, document.id, 0) for document in batch],
            with_payload=_FIELDS[:3],
            with_vectors=[DENSE],
        )
        others = []
        for record in heads:
            ours = record.payload[OURS]
            vector = (record.vector or {}).get(DENSE)
            if vector is None or ours.get("deleted"):
                continue
            rows[ours["document_id"]] = [vector]
            others += [
                point_id(version.index, ours["document_id"], number)
                for number in range(1, int(ours.get("chunks", 1)))
            ]
        for first in range(0, len(others), _PAGE):
            for record in qdrant.call(
                "retrieve",
                version.name,
                ids=others[first : first + _PAGE],
                with_payload=_FIELDS[:1],
                with_vectors=[DENSE],
            ):
                vector = (record.vector or {}).get(DENSE)
                if vector is not None:
                    rows[record.payload[OURS]["document_id"]].append(vector)
        watch(min(start + _PAGE, len(documents)), len(documents))
    return _matrix(rows, version.contract.distance, version.contract.dimension)


def encode_documents(
    encoder: Encoder, documents: Sequence[StoredDocument], watch: Progress
) -> DocumentMatrix:
    """Vectors of these documents under the encoder's contract, cut as the contract says."""
    from pipelines.core.chunker import chunker_for

    contract = encoder.contract
    chunker = chunker_for(contract, encoder)
    rows: dict[str, list[Any]] = {}
    for start in range(0, len(documents), _PAGE):
        batch = documents[start : start + _PAGE]
        owners, texts = [], []
        for document in batch:
            for piece in chunker.chunk(document.title, document.text):
                owners.append(document.id)
                texts.append(contract.render(document.title, piece.text))
        encoded = encoder.encode_documents(texts)
        for row, owner in enumerate(owners):
            if row not in encoded.refused:
                rows.setdefault(owner, []).append(encoded.vectors[row])
        watch(min(start + _PAGE, len(documents)), len(documents))
    return _matrix(rows, contract.distance, contract.dimension)


def _matrix(rows: dict[str, list[Any]], distance: str, dimension: int) -> DocumentMatrix:
    sizes = [len(vectors) for vectors in rows.values()]
    stacked = [vector for vectors in rows.values() for vector in vectors]
    return DocumentMatrix(
        ids=tuple(rows),
        starts=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        if sizes
        else np.zeros(0, np.int64),
        vectors=np.asarray(stacked, np.float32).reshape(len(stacked), dimension),
        distance=distance,
    )


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
