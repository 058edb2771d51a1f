"""The collection that is adopted: what it must be before anything of it is read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import IndexMissingError, StoreConflictError, UnknownNameError
from pipelines.core.versions import METADATA_KEY

if TYPE_CHECKING:
    from pipelines.core.contract import EmbeddingContract
    from pipelines.core.qdrant import Qdrant

__all__ = ["Source", "check_disk", "open_source"]

_DISTANCES = {"Cosine": "cosine", "Dot": "dot", "Euclid": "euclid"}

_BYTES_PER_COMPONENT = 10
"""The embedded engine stores a component as a pickled float of Python: nine bytes and a bit."""

_BYTES_PER_POINT = 2048
"""Ours beside text and metadata, with SQLite's own share."""


@dataclass(frozen=True, slots=True)
class Source:
    """A collection that Plumbline did not write.

    Parameters
    ----------
    name
        Of the collection itself, where an alias was given.
    vector
        Name of the vector that is copied; empty for the one without a name.
    distance
        As a contract says it.
    """

    name: str
    points: int
    vector: str
    dimension: int
    distance: str

    def check(self, contract: EmbeddingContract) -> None:
        """Passes when vectors of this collection can be vectors of the contract.

        Raises
        ------
        StoreConflictError
            Another dimension or another distance.
        """
        if self.dimension != contract.dimension:
            raise StoreConflictError(
                f"the vectors of {self.name} have {self.dimension} dimensions, those of the "
                f"contract {contract.dimension} ({contract.model_name}): name the model they were "
                "made with, and `truncate_dim` where they were cut"
            )
        if self.distance != contract.distance:
            raise StoreConflictError(
                f"{self.name} compares by {self.distance}, the contract says {contract.distance}: "
                f"put `distance: {self.distance}` into the contract's file"
            )

    def vector_of(self, vectors: Any) -> Any:
        """The vector of a point as the client gives it; `None` where it has none."""
        if isinstance(vectors, dict):
            return vectors.get(self.vector)
        return None if self.vector else vectors


def open_source(qdrant: Qdrant, name: str, vector: str | None = None) -> Source:
    """Looks at a collection that is to be adopted.

    Parameters
    ----------
    name
        Of the collection, or of an alias of it.
    vector
        Name of the vector; `None` where there is only one.

    Raises
    ------
    IndexMissingError
        There is no such collection.
    StoreConflictError
        Plumbline wrote it, or it has no vectors that could be adopted.
    UnknownNameError
        There is no vector of that name, or several and none was named.
    """
    for alias in qdrant.call("get_aliases").aliases:
        if alias.alias_name == name:
            name = str(alias.collection_name)
    if not qdrant.call("collection_exists", name):
        known = sorted(found.name for found in qdrant.call("get_collections").collections)
        raise IndexMissingError(
            f"there is no collection {name!r} in Qdrant at {qdrant.where}; there are "
            f"{', '.join(known[:20]) or 'none'}"
        )
    info = qdrant.call("get_collection", name)
    if METADATA_KEY in (info.config.metadata or {}):
        raise StoreConflictError(
            f"{name} is a version that Plumbline wrote: there is nothing to adopt. "
            "`plumbline index list` shows its index."
        )
    key, parameters = _vector(name, info.config.params.vectors, vector)
    distance = _DISTANCES.get(getattr(parameters.distance, "value", str(parameters.distance)))
    if distance is None:
        raise StoreConflictError(
            f"{name} compares by {parameters.distance}; valid are {', '.join(_DISTANCES.values())}"
        )
    if parameters.multivector_config is not None:
        raise StoreConflictError(
            f"the vector {key!r} of {name} is a list of vectors a point (late interaction); a "
            "version has one vector a chunk"
        )
    points = int(qdrant.call("count", name, exact=True).count)
    return Source(name, points, key, int(parameters.size), distance)


def _vector(name: str, vectors: Any, wanted: str | None) -> tuple[str, Any]:
    named = vectors if isinstance(vectors, dict) else {"": vectors} if vectors is not None else {}
    if not named:
        raise StoreConflictError(f"{name} holds no dense vectors: there is nothing to adopt")
    valid = ", ".join(repr(key) for key in sorted(named))
    if wanted is None:
        if len(named) > 1:
            raise UnknownNameError(f"{name} has the vectors {valid}: say which with --vector")
        ((key, parameters),) = named.items()
        return key, parameters
    if wanted not in named:
        raise UnknownNameError(f"--vector {wanted!r}: {name} has {valid}")
    return wanted, named[wanted]


def check_disk(qdrant: Qdrant, source: Source) -> None:
    """Passes when an embedded store has room for the copy; a server knows its own disk.

    Raises
    ------
    StoreConflictError
        It has not.
    """
    path = qdrant.settings.path
    if not qdrant.local or path is None or not path.exists():
        return
    folder = path / "collection" / source.name
    texts = sum(file.stat().st_size for file in folder.glob("**/*") if file.is_file())
    needed = texts + source.points * (source.dimension * _BYTES_PER_COMPONENT + _BYTES_PER_POINT)
    free = shutil.disk_usage(path).free
    if needed > free:
        raise StoreConflictError(
            f"too little disk at {path}: a copy of {source.name} needs about "
            f"{needed / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free"
        )
