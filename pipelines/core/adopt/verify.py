"""Are the stored vectors the ones that the declared contract gives for the stored texts?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.adopt.report import EXAMPLES, Verification
from pipelines.core.canaries import REFUSE_DISTANCE, distances

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipelines.core.adopt.documents import Adoptable
    from pipelines.core.encoder import Encoder

__all__ = ["Verifier"]

_BATCH = 64


class Verifier:
    """Encodes documents anew, a batch at a time, and remembers how far off each is.

    Parameters
    ----------
    encoder
        Of the declared contract.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._waiting: list[Adoptable] = []
        self._texts = 0
        self._found: dict[str, float] = {}

    def add(self, document: Adoptable) -> None:
        """One more document to look at."""
        self._waiting.append(document)
        self._texts += len(document.chunks)
        if self._texts >= _BATCH:
            self._flush()

    def off(self) -> set[str]:
        """Documents that are further away than is allowed."""
        self._flush()
        return {key for key, distance in self._found.items() if distance > REFUSE_DISTANCE}

    def report(self, of: int, seed: int) -> Verification:
        """The distribution of the distances."""
        off = self.off()
        if not self._found:
            return Verification(0, of, seed, REFUSE_DISTANCE)
        values = np.sort(np.asarray(list(self._found.values()), np.float64))

        def quantile(share: float) -> float:
            return float(values[min(len(values) - 1, int(share * len(values)))])

        furthest = sorted(off, key=lambda key: (-self._found[key], key))[:EXAMPLES]
        return Verification(
            sampled=len(values),
            of=of,
            seed=seed,
            bound=REFUSE_DISTANCE,
            off=len(off),
            median=quantile(0.5),
            p90=quantile(0.9),
            p99=quantile(0.99),
            largest=float(values[-1]),
            examples=tuple((key, self._found[key]) for key in furthest),
        )

    def _flush(self) -> None:
        documents, self._waiting, self._texts = self._waiting, [], 0
        if not documents:
            return
        contract = self._encoder.contract
        encoded = self._encoder.encode_documents(
            [
                contract.render(document.title, document.text[chunk.start : chunk.end])
                for document in documents
                for chunk in document.chunks
            ]
        )
        stored = np.concatenate([document.vectors for document in documents])
        fresh = encoded.vectors
        if contract.distance == "cosine":
            # The store has scaled what was written to it; the encoder may not scale.
            stored, fresh = _unit(stored), _unit(fresh)
        found = distances(stored, fresh)
        for row in encoded.refused:
            found[row] = np.inf
        row = 0
        for document in documents:
            rows = found[row : row + len(document.chunks)]
            row += len(document.chunks)
            self._found[document.document_id] = float(rows.max())


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return np.asarray(unit, np.float32)
