"""Canaries: fixed texts whose vectors are kept with a version, and must come out again."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipelines.core.canary_texts import CANARIES, CANARY_TEXTS
from pipelines.core.errors import CanaryMismatchError, ModelError, StoreConflictError

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipelines.core.encoder import Encoded, Encoder

    Vectors = npt.NDArray[np.float32]

__all__ = [
    "CANARY_TEXTS",
    "REFUSE_DISTANCE",
    "WARN_DISTANCE",
    "Canaries",
    "CanaryReport",
    "check",
    "compare",
    "compute",
    "distances",
]

WARN_DISTANCE = 1e-4
"""Between the noise of float16 compute (1.5e-6 measured) and a real change (0.019 and more)."""

REFUSE_DISTANCE = 1e-3

Role = Literal["document", "query"]


@dataclass(frozen=True)
class Canaries:
    """Reference vectors of the first texts of `CANARY_TEXTS`.

    Parameters
    ----------
    document, query
        Shape (n, dimension), float32: the texts encoded as documents and as queries. A row is
        zero where the encoder has no vector for a text.
    texts
        Hash of the n texts.
    """

    document: Vectors
    query: Vectors
    texts: str

    def to_json(self) -> dict[str, Any]:
        """Vectors as base64 of little-endian float32; `query` left out where it is `document`."""
        kept = {
            "shape": list(self.document.shape),
            "texts": self.texts,
            "document": _to_base64(self.document),
        }
        if not np.array_equal(self.document, self.query):
            kept["query"] = _to_base64(self.query)
        return kept

    @classmethod
    def from_json(cls, value: object) -> Canaries:
        """What `to_json` wrote.

        Raises
        ------
        StoreConflictError
            Missing, damaged, or of texts that this release does not have.
        """
        if not isinstance(value, Mapping) or not value:
            raise StoreConflictError(
                "the version keeps no canaries, so nothing proves that this process makes the "
                "same vectors. Its metadata was changed by hand: build a new version."
            )
        shape, texts, document = (value.get(key) for key in ("shape", "texts", "document"))
        if (
            not isinstance(shape, Sequence)
            or isinstance(shape, str)
            or len(shape) != 2
            or not all(type(size) is int and size > 0 for size in shape)
            or not isinstance(texts, str)
        ):
            raise _damaged("shape or texts are missing")
        size = (shape[0], shape[1])
        if size[0] > len(CANARY_TEXTS) or texts != _hash_of_texts(size[0]):
            raise StoreConflictError(
                f"the version's canaries are vectors of {size[0]} texts that this release does "
                "not have. Use the release that created the version, or a newer one."
            )
        vectors = _from_base64(document, size)
        query = value.get("query")
        return cls(vectors, vectors if query is None else _from_base64(query, size), texts)


@dataclass(frozen=True)
class CanaryReport:
    """How far this process is from the stored vectors.

    Parameters
    ----------
    document_distance, query_distance
        The largest of any text, 0 to 2; infinite where only one side has a vector.
    worst
        Number of the text with the largest distance, from 0.
    worst_role
        As what it was encoded.
    """

    document_distance: float
    query_distance: float
    worst: int
    worst_role: Role

    @property
    def distance(self) -> float:
        """The larger of the two."""
        return max(self.document_distance, self.query_distance)

    @property
    def level(self) -> Literal["ok", "warning", "refusal"]:
        """What the bounds say: a warning above 1e-4, a refusal above 1e-3."""
        if self.distance > REFUSE_DISTANCE:
            return "refusal"
        return "warning" if self.distance > WARN_DISTANCE else "ok"

    @property
    def worst_text(self) -> str:
        """Kind and number of the worst text, for people."""
        return f"text {self.worst} ({CANARIES[self.worst].kind}) as {self.worst_role}"


def compute(encoder: Encoder) -> Canaries:
    """Reference vectors from this process, for a version that is being created.

    Raises
    ------
    ModelError
        The encoder has no vector for half of the texts or more.
    """
    document, query = _encode(encoder, len(CANARY_TEXTS))
    for encoded in (document, query):
        if len(encoded.refused) * 2 >= len(CANARY_TEXTS):
            raise ModelError(
                f"the model has no vector for {len(encoded.refused)} of {len(CANARY_TEXTS)} "
                f"ordinary texts: {next(iter(encoded.refused.values()))}"
            )
    return Canaries(document.vectors, query.vectors, _hash_of_texts(len(CANARY_TEXTS)))


def compare(stored: Canaries, encoder: Encoder) -> CanaryReport:
    """Encodes the texts in this process and measures the distance; judges nothing."""
    document, query = _encode(encoder, len(stored.document))
    found: dict[Role, npt.NDArray[np.float64]] = {
        "document": distances(stored.document, document.vectors),
        "query": distances(stored.query, query.vectors),
    }
    largest = {role: float(values.max()) for role, values in found.items()}
    role: Role = "document" if largest["document"] >= largest["query"] else "query"
    return CanaryReport(
        document_distance=largest["document"],
        query_distance=largest["query"],
        worst=int(found[role].argmax()),
        worst_role=role,
    )


def check(stored: Canaries, encoder: Encoder) -> CanaryReport:
    """As `compare`, and refuses what is too far.

    Returns
    -------
    Report of level `ok` or `warning`.

    Raises
    ------
    CanaryMismatchError
        A distance is above 1e-3.
    """
    report = compare(stored, encoder)
    if report.level == "refusal":
        raise CanaryMismatchError(
            f"this process does not reproduce the version's canaries: {report.worst_text} is "
            f"{report.distance:.3g} from its stored vector, at most {REFUSE_DISTANCE:g} is "
            f"allowed (documents {report.document_distance:.3g}, queries "
            f"{report.query_distance:.3g}). The contract is the same, so look at runtime.device, "
            "runtime.dtype and runtime.backend, and at the versions of torch and transformers."
        )
    return report


def distances(reference: Vectors, current: Vectors) -> npt.NDArray[np.float64]:
    """Distance of each row, in float64: |a - b|² / (2 |a| |b|), at most 2 on unit vectors.

    On unit vectors that is the cosine distance, without the digits lost by 1 - cos; on others it
    sees a change of length too. 0 where both rows are zero, infinity where one is, or where a
    row is not finite.

    Parameters
    ----------
    reference, current
        Shape (n, dimension); of different shapes, every distance is infinite.
    """
    if reference.shape != current.shape:
        return np.full(max(1, len(reference)), np.inf)
    a, b = reference.astype(np.float64), current.astype(np.float64)
    product = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    squared = np.sum((a - b) ** 2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = squared / (2 * product)
    found[(product == 0) & (squared == 0)] = 0.0
    found[np.isnan(found)] = np.inf
    return np.asarray(found)


def _encode(encoder: Encoder, count: int) -> tuple[Encoded, Encoded]:
    texts = CANARY_TEXTS[:count]
    document = encoder.encode_documents(texts)
    return document, document if encoder.symmetric else encoder.encode_queries(texts)


def _hash_of_texts(count: int) -> str:
    text = json.dumps(CANARY_TEXTS[:count])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _to_base64(vectors: Vectors) -> str:
    return base64.b64encode(vectors.astype("<f4").tobytes()).decode("ascii")


def _from_base64(text: object, shape: tuple[int, int]) -> Vectors:
    if not isinstance(text, str):
        raise _damaged("vectors are missing")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _damaged("not base64") from None
    if len(data) != 4 * shape[0] * shape[1]:
        raise _damaged(f"{len(data)} bytes, expected {4 * shape[0] * shape[1]}")
    vectors = np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise _damaged("NaN or infinity in a vector")
    return vectors


def _damaged(why: str) -> StoreConflictError:
    return StoreConflictError(
        f"the version's canaries are damaged ({why}): its metadata was changed by hand. Build a "
        "new version."
    )
