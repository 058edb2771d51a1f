"""A Qdrant with a real HNSW graph: the stand-in's API, and Qdrant's own engine in process below it.

    with EdgeServer() as server:
        client = QdrantClient(url=server.url)

Payloads, filters and exact search are the local engine's; a search without a filter that does not
ask for `exact` is answered by a shard of `qdrant-edge-py`, which holds the same vectors under the
collection's `hnsw_config` (`m`, `ef_construct`, which is also the default `ef` of a search) and
`hnsw_ef` of the request. Changing `hnsw_config` builds the graph anew, as a server does. For
collections in memory with one dense vector; a filtered search is exact.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.local import qdrant_local
from qdrant_client.local.qdrant_local import QdrantLocal

from deploy.local.trial_qdrant.engine import IndexedCollection
from deploy.local.trial_qdrant.rest import Api, Request
from deploy.local.trial_qdrant.server import TrialServer

__all__ = ["EdgeServer"]

_DISTANCES = {
    models.Distance.COSINE: edge.Distance.Cosine,
    models.Distance.DOT: edge.Distance.Dot,
    models.Distance.EUCLID: edge.Distance.Euclid,
}

_BATCH = 2000


class EdgeCollection(IndexedCollection):
    """A collection whose unfiltered searches go through a graph.

    Parameters
    ----------
    config
        As the local engine's.
    directory
        Where the shards may live.
    """

    def __init__(self, config: models.CreateCollection, directory: Path) -> None:
        self._shard: edge.EdgeShard | None = None
        self._stale = True
        self._exact = False
        self._ef: int | None = None
        super().__init__(config)
        self._directory = directory
        self._shards = 0
        self._hnsw: dict[str, Any] = {}
        self.configure(config.hnsw_config)

    @property
    def _name(self) -> str:
        (name,) = self.vectors
        return name

    def configure(self, hnsw: Any) -> None:
        """Takes a change of `hnsw_config`, and builds the graph anew."""
        if hnsw is not None:
            self._hnsw |= hnsw.model_dump(exclude_none=True)
        if self._shard is not None:
            self._shard.close()
        self._shards += 1
        params = self.get_vector_params(self._name)
        config = edge.EdgeConfig(
            vectors={
                self._name: edge.EdgeVectorParams(
                    size=params.size, distance=_DISTANCES[params.distance]
                )
            },
            hnsw_config=edge.HnswIndexConfig(
                m=self._hnsw.get("m", 16),
                ef_construct=self._hnsw.get("ef_construct", 100),
                full_scan_threshold=self._hnsw.get("full_scan_threshold", 10_000),
                max_indexing_threads=1,
            ),
            optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=100),
        )
        path = self._directory / f"shard-{id(self)}-{self._shards}"
        path.mkdir()
        self._shard = edge.EdgeShard.create(str(path), config)
        size = params.size
        self._mirrored = np.zeros((0, size), np.float32)
        self._mirrored_alive = np.zeros(0, bool)
        self._stale = True

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None
        super().close()

    def upsert(self, *args: Any, **kwargs: Any) -> Any:
        self._stale = True
        return super().upsert(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        self._stale = True
        return super().delete(*args, **kwargs)

    def update_vectors(self, *args: Any, **kwargs: Any) -> Any:
        self._stale = True
        return super().update_vectors(*args, **kwargs)

    def delete_vectors(self, *args: Any, **kwargs: Any) -> Any:
        self._stale = True
        return super().delete_vectors(*args, **kwargs)

    def query_points(self, *args: Any, **kwargs: Any) -> Any:
        params = kwargs.get("search_params")
        self._exact = bool(params and params.exact)
        self._ef = params.hnsw_ef if params else None
        try:
            return super().query_points(*args, **kwargs)
        finally:
            self._exact, self._ef = False, None

    def search(self, query_vector: Any, *args: Any, **kwargs: Any) -> Any:
        name, vector = self._resolve_query_vector_name(query_vector)
        unfiltered = not args and kwargs.get("query_filter") is None
        plain = isinstance(vector, np.ndarray) and vector.ndim == 1
        if self._exact or not (unfiltered and plain and name in self.vectors):
            return super().search(query_vector, *args, **kwargs)
        self._mirror()
        assert self._shard is not None
        offset = kwargs.get("offset") or 0
        found = self._shard.query(
            edge.QueryRequest(
                query=edge.Query.Nearest([float(x) for x in vector], using=name),
                limit=kwargs.get("limit", 10) + offset,
                params=edge.SearchParams(hnsw_ef=self._ef),
                score_threshold=kwargs.get("score_threshold"),
            )
        )
        points = []
        for point in found[offset:]:
            index = self.ids[str(point.id) if not isinstance(point.id, int) else point.id]
            points.append(
                models.ScoredPoint(
                    id=self.ids_inv[index],
                    version=0,
                    score=point.score,
                    payload=self._get_payload(index, kwargs.get("with_payload", True)),
                    vector=self._get_vectors(index, kwargs.get("with_vectors", False)),
                )
            )
        return points

    def info(self) -> models.CollectionInfo:
        self._mirror()
        info = super().info()
        assert self._shard is not None
        info.indexed_vectors_count = self._shard.info().indexed_vectors_count
        for key, value in self._hnsw.items():
            setattr(info.config.hnsw_config, key, value)
        return info

    def _mirror(self) -> None:
        """Brings the shard up to what the collection holds, and builds its graph."""
        if not self._stale:
            return
        assert self._shard is not None
        name = self._name
        size = len(self.payload)
        now = self.vectors[name][:size].astype(np.float32)
        alive = ~self.deleted[:size] & ~self.deleted_per_vector[name][:size].astype(bool)
        before = np.zeros_like(now)
        before[: len(self._mirrored)] = self._mirrored
        alive_before = np.zeros(size, bool)
        alive_before[: len(self._mirrored_alive)] = self._mirrored_alive
        changed = np.flatnonzero(alive & (~alive_before | (now != before).any(axis=1)))
        for start in range(0, len(changed), _BATCH):
            points = [
                edge.Point(self.ids_inv[index], {name: now[index].tolist()}, {})
                for index in changed[start : start + _BATCH]
            ]
            self._shard.update(edge.UpdateOperation.upsert_points(points))
        gone = [self.ids_inv[index] for index in np.flatnonzero(alive_before & ~alive)]
        if gone:
            self._shard.update(edge.UpdateOperation.delete_points(gone))
        self._mirrored, self._mirrored_alive = now.copy(), alive
        self._shard.optimize()
        self._stale = False


class EdgeLocal(QdrantLocal):
    """The local engine in memory, with `EdgeCollection` for its collections."""

    def __init__(self, directory: Path) -> None:
        super().__init__(":memory:")
        self._directory = directory

    def create_collection(self, collection_name: str, *args: Any, **kwargs: Any) -> bool:
        super().create_collection(collection_name, *args, **kwargs)
        plain = self.collections[collection_name]
        plain.config.hnsw_config = kwargs.get("hnsw_config")
        self.collections[collection_name] = EdgeCollection(plain.config, self._directory)
        return True


class EdgeApi(Api):
    """The stand-in's API, which also hands on `hnsw_config`."""

    _engine: EdgeLocal

    def _create_collection(self, request: Request) -> Any:
        done = super()._create_collection(request)
        self._configure(request, request.body(models.CreateCollection).hnsw_config)
        return done

    def _update_collection(self, request: Request) -> Any:
        done = super()._update_collection(request)
        self._configure(request, request.body(models.UpdateCollection).hnsw_config)
        return done

    def _configure(self, request: Request, hnsw: Any) -> None:
        if hnsw is not None:
            collection = self._collection(request.collection)
            assert isinstance(collection, EdgeCollection)
            collection.configure(hnsw)


class EdgeServer:
    """The API on loopback, in a thread of this process; use it as a context manager."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="plumbline-edge-"))
        # The stand-in's engine replaces the local one for its whole process, and this is a test's.
        original = qdrant_local.LocalCollection
        self._server = TrialServer(("127.0.0.1", 0), ":memory:", None)
        qdrant_local.LocalCollection = original
        self._server.api.close()
        self._server.api = EdgeApi(EdgeLocal(self._directory))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def url(self) -> str:
        """For `QdrantClient(url=...)`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.api.close()
        shutil.rmtree(self._directory, ignore_errors=True)
