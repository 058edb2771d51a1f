"""Windows of the golden probe over real vectors in memory: an index that changes as time passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from monitors.golden.baseline import DocumentState, Found
from monitors.golden.golden_set import GoldenQuery, GoldenSet
from monitors.probes import golden as probe_module
from monitors.probes.base import Deadline, ProbeResult
from monitors.probes.golden import GoldenProbe
from pipelines.core.settings import Settings

__all__ = ["Material", "Stream", "blurred", "synthetic"]

DAY = timedelta(days=1)
START = datetime(2025, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Material:
    """Vectors of documents and queries, and the judgements.

    Parameters
    ----------
    documents
        Shape (n, dimension), unit norm; `ids` are of its rows.
    queries
        Shape (queries, dimension), unit norm, of `golden.scored`, in that order.
    """

    ids: Sequence[str]
    documents: np.ndarray = field(repr=False)
    queries: np.ndarray = field(repr=False)
    golden: GoldenSet = field(repr=False)

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        documents: np.ndarray,
        queries: np.ndarray,
        query_ids: Sequence[str],
        qrels: Mapping[str, Mapping[str, int]],
        source: Path = Path("golden.yaml"),
    ) -> Material:
        """From arrays and judgements; queries that are not judged are left out."""
        row = {query: number for number, query in enumerate(query_ids)}
        made = tuple(
            GoldenQuery(query, f"text of {query}", judged, number)
            for number, (query, judged) in enumerate(qrels.items(), start=1)
        )
        golden = GoldenSet(made, source)
        return cls(ids, documents, queries[[row[q.id] for q in golden.scored]], golden)


class Stream:
    """An index in memory, the true probe on it, and a clock of one window a day.

    Starts with every judged document and `share` of the others; the rest are there to be added.

    Parameters
    ----------
    miss_rate
        Chance that approximate search overlooks a document, each query and window anew.
    """

    def __init__(
        self,
        material: Material,
        seed: int,
        *,
        share: float = 0.6,
        miss_rate: float = 0.0,
        file: Path | None = None,
    ) -> None:
        self.material = material
        self.random = np.random.default_rng(seed)
        self._miss_rate = miss_rate
        self._row = {document: number for number, document in enumerate(material.ids)}
        size = len(material.ids)
        judged = set(material.golden.judged)
        held = np.array([document in judged for document in material.ids])
        self.alive = held | (self.random.random(size) < share)
        self.tombstones: set[str] = set()
        self._created = np.zeros(size, np.int64)
        self._written = np.zeros(size, np.int64)
        self.documents = material.documents.copy()
        self.queries = material.queries.copy()
        self._scores = self.queries @ self.documents.T
        self.now = START
        self._state: Mapping[str, Any] | None = None
        self.baseline: Mapping[str, Any] | None = None
        self._settings = Settings(
            monitor={"golden": {"file": file or Path("golden.yaml")}}, kafka={"topics": ["t"]}
        )
        self._probe = GoldenProbe(lambda _: self)

    # What the probe asks of a store.

    def search(
        self, vector: np.ndarray, limit: int, among: Sequence[str] | None = None
    ) -> list[Found]:
        """`vector` is the number of the query: its scores are known."""
        scores = np.where(self.alive, self._scores[int(vector[0])], -np.inf)
        if self._miss_rate:
            scores[self.random.random(len(scores)) < self._miss_rate] = -np.inf
        if among is not None:
            kept = np.full(len(scores), -np.inf)
            rows = [self._row[document] for document in among]
            kept[rows] = scores[rows]
            scores = kept
        limit = min(limit, len(scores))
        best = np.argpartition(-scores, limit - 1)[:limit]
        best = best[np.argsort(-scores[best], kind="stable")]
        return [
            Found(
                self.material.ids[row],
                float(scores[row]),
                int(self._created[row]),
                int(self._written[row]),
            )
            for row in best
            if np.isfinite(scores[row])
        ]

    def states(self, document_ids: Sequence[str]) -> dict[str, DocumentState]:
        """What there is of each id."""
        found = {}
        for document in document_ids:
            if self.alive[self._row[document]]:
                found[document] = DocumentState.PRESENT
            elif document in self.tombstones:
                found[document] = DocumentState.DELETED
            else:
                found[document] = DocumentState.GONE
        return found

    # What happens to the index.

    def add(self, count: int, *, late: bool = False) -> None:
        """New documents; late ones carry timestamps from long before."""
        rows = self._some(~self.alive & ~self._buried(), count)
        self.alive[rows] = True
        self._created[rows] = 0 if late else self._stamp()
        self._written[rows] = self._stamp()

    def delete(self, count: int) -> None:
        """Documents, judged or not, as their owners delete them."""
        rows = self._some(self.alive, count)
        self.alive[rows] = False
        self.tombstones.update(self.material.ids[row] for row in rows)

    def lose(self, share: float) -> None:
        """Documents vanish, and nobody has deleted them."""
        self.alive[self._some(self.alive, int(share * self.alive.sum()))] = False

    def edit(self, count: int, cosine: float = 0.95) -> None:
        """Documents are written anew, with a slightly other text."""
        rows = self._some(self.alive, count)
        self.documents[rows] = blurred(self.documents[rows], cosine, self.random)
        self._written[rows] = self._stamp()
        self._scores[:, rows] = self.queries @ self.documents[rows].T

    def store_as_float16(self) -> None:
        """Vectors lose digits."""
        self.documents = self.documents.astype(np.float16).astype(np.float32)
        self._scores = self.queries @ self.documents.T

    def blur_queries(self, cosine: float) -> None:
        """Queries are encoded wrongly: so far from what they were."""
        self.queries = blurred(self.material.queries, cosine, self.random)
        self._scores = self.queries @ self.documents.T

    def blur_documents(self, share: float, cosine: float) -> None:
        """Some documents are encoded wrongly; nothing but their vectors changes."""
        rows = self._some(self.alive, int(share * self.alive.sum()))
        self.documents[rows] = blurred(self.documents[rows], cosine, self.random)
        self._scores[:, rows] = self.queries @ self.documents[rows].T

    def window(self) -> ProbeResult:
        """One run of the probe; a day passes."""
        self.now += DAY
        encoder = SimpleNamespace(encode_queries=self._encode)
        context: Any = SimpleNamespace(
            settings=self._settings,
            state=self._state,
            baseline=self.baseline,
            now=self.now,
            encoder=lambda: encoder,
            deadline=Deadline.after(3600),
        )
        # Read once, not sixty times; the machine's clock is the stream's.
        kept = probe_module.read_golden, probe_module.time
        self._asked = 0
        probe_module.read_golden = lambda _: self.material.golden
        probe_module.time = SimpleNamespace(time=self.now.timestamp)
        try:
            result = self._probe.run(context)
        finally:
            probe_module.read_golden, probe_module.time = kept
        self._state = result.state if result.state is not None else self._state
        self.baseline = result.baseline if result.baseline is not None else self.baseline
        return result

    def _encode(self, texts: Sequence[str]) -> Any:
        numbers = np.arange(self._asked, self._asked + len(texts)).reshape(-1, 1)
        self._asked += len(texts)
        return SimpleNamespace(vectors=numbers, refused={})

    def _stamp(self) -> int:
        return int((self.now + DAY / 2).timestamp() * 1000)

    def _buried(self) -> np.ndarray:
        return np.array([document in self.tombstones for document in self.material.ids])

    def _some(self, mask: np.ndarray, count: int) -> np.ndarray:
        rows = np.flatnonzero(mask)
        return self.random.choice(rows, min(count, len(rows)), replace=False)


def blurred(
    vectors: np.ndarray, cosine: float | np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Unit vectors at this cosine, or these, shape (n, 1), to the given ones; otherwise random."""
    noise = random.standard_normal(vectors.shape).astype(np.float32)
    noise -= (noise * vectors).sum(axis=1, keepdims=True) * vectors
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    mixed = cosine * vectors + np.sqrt(1 - cosine**2) * noise
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


def synthetic(seed: int = 0, queries: int = 300, documents: int = 1500) -> Material:
    """Queries with one relevant document each, found among the first ten in some four of five."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((documents, 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"d{number}" for number in range(documents)]
    query_ids = [f"q{number}" for number in range(queries)]
    # A hard query is barely nearer to its document than chance would have it.
    cosines = random.uniform(0.25, 0.8, (queries, 1)).astype(np.float32)
    asked = blurred(vectors[:queries], cosines, random)
    qrels = {query: {ids[number]: 1} for number, query in enumerate(query_ids)}
    return Material.of(ids, vectors, asked, query_ids, qrels)
