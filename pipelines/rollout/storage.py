"""What a version will take in storage, from its shape and a sample of its documents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.core.settings import QdrantSettings

__all__ = ["StorageEstimate", "estimate_storage", "free_bytes"]

_FLOAT_BYTES = 4
_LINK_BYTES = 4
_DEFAULT_M = 16
"""Links of a point in the graph that Qdrant makes unless told otherwise; twice as many on the
lowest level, which holds every point."""
_OWN_PAYLOAD_BYTES = 900
"""Of a point besides title, text and metadata: see `pipelines.core.writing`."""
_BITS = {"scalar": 8.0, "binary": 1.0, "x4": 8.0, "x8": 4.0, "x16": 2.0, "x32": 1.0, "x64": 0.5}


@dataclass(frozen=True, slots=True)
class StorageEstimate:
    """Bytes, by what they are for. Without replicas, write-ahead log and copies while optimising.

    Parameters
    ----------
    vectors
        Points times dimension times 4.
    quantized
        The compressed copy of them; 0 without quantization.
    graph
        Links of the HNSW graph's lowest level, 2m of 4 bytes a point; the others add little.
    payload
        Texts, metadata and positions, as JSON.
    """

    points: int
    vectors: int
    quantized: int
    graph: int
    payload: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.vectors + self.quantized + self.graph + self.payload

    def to_json(self) -> dict[str, int]:
        """For programs."""
        return {**asdict(self), "total": self.total}


def estimate_storage(
    qdrant: QdrantSettings,
    *,
    points: int,
    dimension: int,
    documents: int,
    payload_samples: Sequence[Any],
    store_text: bool,
) -> StorageEstimate:
    """What so many points will take.

    Parameters
    ----------
    points, documents
        Chunks, and documents: the text is kept once a document, the metadata with each chunk.
    payload_samples
        Pairs of (title and text, metadata), JSON values, of sampled documents.
    store_text
        Whether heads keep title and text.
    """
    quantization = qdrant.quantization
    bits = 0.0
    if quantization is not None:
        kind = quantization.kind
        bits = _BITS[quantization.compression if kind == "product" else kind]
    m = _DEFAULT_M
    if qdrant.hnsw is not None and qdrant.hnsw.m is not None:
        m = qdrant.hnsw.m
    texts = [len(json.dumps(text, ensure_ascii=False).encode()) for text, _ in payload_samples]
    metadata = [len(json.dumps(data, ensure_ascii=False).encode()) for _, data in payload_samples]
    text_mean = sum(texts) / len(texts) if texts and store_text else 0.0
    metadata_mean = sum(metadata) / len(metadata) if metadata else 0.0
    return StorageEstimate(
        points=points,
        vectors=points * dimension * _FLOAT_BYTES,
        quantized=int(points * dimension * bits / 8),
        graph=0 if qdrant.path is not None else points * 2 * m * _LINK_BYTES,
        payload=int(documents * text_mean + points * (metadata_mean + _OWN_PAYLOAD_BYTES)),
    )


def free_bytes(path: Path | None) -> int | None:
    """Free space where an embedded store lies; `None` for a server, which alone could say."""
    if path is None:
        return None
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
