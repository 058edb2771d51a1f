"""Per-query recall of real candidates and of live, on real judged queries; encoded once and kept.

The folder is `.cache/gate`, or what `GATE_CACHE` names.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitors.golden.measures import score
from pipelines.core.encoder import PACKAGED_MODEL, load_encoder
from pipelines.core.settings import ContractSettings, RuntimeSettings
from tests.support.corpora import DATA, Corpus
from tests.support.damage import fine_tuned
from tests.support.processes import REPOSITORY

__all__ = ["CANDIDATES", "SMALLER", "Pool", "judged", "pool", "vectors"]

Floats = npt.NDArray[np.float32]

DEPTH = 10

_FOLDER = Path(os.environ.get("GATE_CACHE", str(REPOSITORY / ".cache" / "gate")))
_BATCH = 64
_STEPS = 150
_DIMENSIONS = {"truncate_dim": 64, "truncate_little": 256}
_TOKENS = 24
_LEARNING_RATES = {"fine_tuned": 2e-5, "tuned_too_fast": 2e-4}

CANDIDATES = {
    "max_tokens": f"max_tokens {_TOKENS} in place of 256",
    "truncate_dim": "truncate_dim 64 of 384",
    "truncate_little": "truncate_dim 256 of 384",
    "fine_tuned": f"fine-tuned on stsb/en-train.csv, {_STEPS} steps of 16 pairs, seed 0",
    "tuned_too_fast": "the same at ten times the learning rate, 2e-4",
}
"""Candidate to what is different about it."""

SMALLER = {("scifact", "fine_tuned"): 1000, ("scifact", "tuned_too_fast"): 1000}
"""Documents that are searched where a whole corpus would take too long to encode a second time: all
relevant ones, and others in the order of the corpus. Live is searched among the same."""


@dataclass(frozen=True)
class Pool:
    """Recall@10 of each judged query of a set, by exact search.

    Parameters
    ----------
    live, candidate
        Shape (queries,), 0 to 1.
    """

    live: npt.NDArray[np.float64] = field(repr=False)
    candidate: npt.NDArray[np.float64] = field(repr=False)

    @property
    def differences(self) -> npt.NDArray[np.float64]:
        """Candidate minus live."""
        return self.candidate - self.live


def pool(name: str, candidate: str) -> Pool:
    """Live and a candidate on every judged query of a set; encodes what is not there yet."""
    queries, qrels = _judged(name)
    every = [document.id for document in Corpus(name).documents()]
    chosen = _chosen(name, candidate)
    documents = [every[row] for row in chosen]

    def recall(system: str) -> npt.NDArray[np.float64]:
        stored, asked = _vectors(name, system)
        if len(stored) == len(every):
            stored = stored[chosen]
        best = np.argsort(-(asked @ stored.T), axis=1, kind="stable")[:, :DEPTH]
        ranked = {
            query: [documents[row] for row in rows]
            for query, rows in zip(queries, best, strict=True)
        }
        return score(qrels, ranked, (DEPTH,)).recall[DEPTH]

    return Pool(recall("live"), recall(candidate))


def vectors(name: str, system: str) -> tuple[Floats, Floats]:
    """Documents, in the order of the corpus, and judged queries under a system; unit length."""
    return _vectors(name, system)


def judged(name: str) -> dict[str, dict[str, int]]:
    """Judgements of the queries of `vectors`, in their order."""
    return _judged(name)[1]


def _judged(name: str) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Texts and judgements of the queries with a relevant document, the train set's too."""
    corpus = Corpus(name)
    texts, qrels = corpus.queries(), corpus.qrels()
    if (DATA / name / "qrels_train.tsv").exists():
        with (DATA / name / "queries_train.jsonl").open(encoding="utf-8") as file:
            texts |= {row["_id"]: row["text"] for row in map(json.loads, file)}
        with (DATA / name / "qrels_train.tsv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    judged = {query: of for query, of in qrels.items() if any(grade >= 1 for grade in of.values())}
    return {query: texts[query] for query in judged}, judged


def _chosen(name: str, candidate: str) -> npt.NDArray[np.int64]:
    """Rows of the documents that are searched, in the order of the corpus."""
    documents = [document.id for document in Corpus(name).documents()]
    size = SMALLER.get((name, candidate), len(documents))
    _, qrels = _judged(name)
    relevant = {d for grades in qrels.values() for d, grade in grades.items() if grade >= 1}
    others = [row for row, document in enumerate(documents) if document not in relevant]
    rows = [row for row, document in enumerate(documents) if document in relevant]
    return np.sort(np.array(rows + others[: max(0, size - len(rows))]))


def _vectors(name: str, system: str) -> tuple[Floats, Floats]:
    """Documents and queries, of unit length."""
    if system in _DIMENSIONS:
        # What `truncate_dim` does: the first components, brought to unit length again.
        size = _DIMENSIONS[system]
        stored, asked = _vectors(name, "live")
        return _unit(stored[:, :size]), _unit(asked[:, :size])
    path = _FOLDER / f"{name}-{system}.npz"
    if not path.exists():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        encoder = _encoder(system)
        texts = [document.rendered for document in Corpus(name).documents()]
        documents = [texts[row] for row in _chosen(name, system)]
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial,
            documents=_encode(encoder.encode_documents, documents),
            queries=_encode(encoder.encode_queries, list(_judged(name)[0].values())),
        )
        partial.replace(path)
    with np.load(path) as kept:
        return kept["documents"], kept["queries"]


def _encoder(system: str) -> Any:
    if system in _LEARNING_RATES:
        rate = _LEARNING_RATES[system]
        pairs = DATA / "stsb" / "en-train.csv"
        return fine_tuned(pairs, steps=_STEPS, seed=0, learning_rate=rate)
    contract = ContractSettings(
        model=PACKAGED_MODEL, max_tokens=_TOKENS if system == "max_tokens" else 256
    )
    return load_encoder(contract, RuntimeSettings(device="cpu", threads=1))


def _encode(encode: Callable[[Sequence[str]], Any], texts: list[str]) -> Floats:
    """Texts of a like length together; a text that is refused (an empty one) gets zeros."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    found: Floats | None = None
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        vectors = encode([texts[row] for row in rows]).vectors
        if found is None:
            found = np.zeros((len(texts), vectors.shape[1]), np.float32)
        found[rows] = vectors
    assert found is not None, "a set has texts"
    return _unit(found)


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
