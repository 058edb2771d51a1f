"""Vectors of the real sets and of their damaged twins, encoded once and kept under `.cache/`."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.core.encoder import PACKAGED_MODEL
from pipelines.core.encoder.source import find_model
from tests.support.corpora import DATA, Corpus
from tests.support.processes import REPOSITORY

__all__ = ["BOILERPLATE", "Sample", "Variant", "sample"]

Floats = npt.NDArray[np.float32]
Variant = Literal["mean", "cls", "int8", "boilerplate"]

BOILERPLATE = (
    "We use cookies to improve this page. By going on you accept our terms of use and our "
    "privacy notice. Subscribe to the newsletter. "
)
"""Put before the text: what a scraper that stopped stripping page headers leaves there. After a
long text it would be cut off with the tokens that the encoder does not see."""

_FOLDER = REPOSITORY / ".cache" / "drift"
_TOKENS = 128
"""Half of what the contract allows by default: most of an abstract, in half the time."""
_BATCH = 64
_MOST = {"scifact": 3500, "stsb": 6000}
"""Texts that are encoded, where a set has more than the scenarios need."""

_DAMAGED = 800
"""Texts of each set that are encoded with damage: enough for a tenth of 1,000, or 250."""


@dataclass(frozen=True)
class Sample:
    """Vectors of a set, with what a scenario needs to know of each row.

    Parameters
    ----------
    vectors
        Shape (n, 384), float32; as the model's pooling gives them, not normalised.
    labels
        The topic of each row; empty strings where the set has none.
    """

    vectors: Floats
    labels: npt.NDArray[np.str_]

    @property
    def unit(self) -> Floats:
        """The vectors as the contract stores them: of length one."""
        norms = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return (self.vectors / norms).astype(np.float32)


def sample(name: str, variant: Variant = "mean") -> Sample:
    """Vectors of a set under a variant of the encoder; encodes them at the first call.

    Parameters
    ----------
    name
        `banking77`, `arxiv-2025`, `scifact`, `cranfield` or `stsb`.
    variant
        `mean`: the model as it is. `cls`: the first token's vector in place of the mean. `int8`:
        linear layers quantised dynamically. `boilerplate`: the same sentences before each text.
        Damaged ones exist for the first 800 texts of a shuffled set.
    """
    path = _FOLDER / f"{name}-{variant}.npz"
    if not path.exists():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        _encode(name, variant)
    with np.load(path) as kept:
        return Sample(kept["vectors"], kept["labels"])


def _encode(name: str, variant: Variant) -> None:
    texts, labels = _texts(name)
    if variant == "mean":
        mean, first = _forward(_model(), texts)
        damaged = min(_DAMAGED, len(texts))
        _keep(name, "mean", mean, labels)
        _keep(name, "cls", first[:damaged], labels[:damaged])
        return
    if variant == "cls":
        _encode(name, "mean")
        return
    texts, labels = texts[:_DAMAGED], labels[:_DAMAGED]
    if variant == "int8":
        mean, _ = _forward(_quantised(_model()), texts)
    else:
        mean, _ = _forward(_model(), [BOILERPLATE + text for text in texts])
    _keep(name, variant, mean, labels)


def _keep(name: str, variant: Variant, vectors: Floats, labels: Sequence[str]) -> None:
    partial = _FOLDER / f"{name}-{variant}.partial.npz"
    np.savez(partial, vectors=vectors, labels=np.array(labels, dtype=np.str_))
    partial.replace(_FOLDER / f"{name}-{variant}.npz")


def _texts(name: str) -> tuple[list[str], list[str]]:
    """Texts and topics in a fixed random order, without exact repetitions of a text."""
    if name == "stsb":
        found: dict[str, str] = {}
        for part in ("train", "dev", "test"):
            with (DATA / name / f"en-{part}.csv").open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    found.setdefault(row["sentence1"], "")
                    found.setdefault(row["sentence2"], "")
    else:
        corpus = Corpus(name)
        found = {}
        topics = _topics(name)
        for document in corpus.documents():
            if document.rendered:
                found.setdefault(document.rendered, topics[document.id])
    texts = list(found)
    order = np.random.default_rng(7).permutation(len(texts))[: _MOST.get(name)]
    return [texts[row] for row in order], [found[texts[row]] for row in order]


def _topics(name: str) -> dict[str, str]:
    """Label of each document by its id; empty where the set has none."""
    with (DATA / name / "corpus.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["_id"]: row.get("label", "") for row in rows}


def _model() -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(find_model(PACKAGED_MODEL).place, device="cpu")
    model.max_seq_length = _TOKENS
    return model


def _quantised(model: Any) -> Any:
    import torch

    torch.ao.quantization.quantize_dynamic(
        model[0], {torch.nn.Linear}, dtype=torch.qint8, inplace=True
    )
    return model


def _forward(model: Any, texts: Sequence[str]) -> tuple[Floats, Floats]:
    """Mean over the tokens, and the first token's vector, of every text; neither normalised."""
    import torch

    order = np.argsort([len(text) for text in texts])
    mean = np.empty((len(texts), 384), dtype=np.float32)
    first = np.empty_like(mean)
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        batch = model.preprocess([texts[row] for row in rows])
        with torch.inference_mode():
            tokens = model[0](batch)["token_embeddings"]
        mask = batch["attention_mask"].unsqueeze(-1).to(tokens.dtype)
        mean[rows] = ((tokens * mask).sum(1) / mask.sum(1)).numpy()
        first[rows] = tokens[:, 0].numpy()
    return mean, first
