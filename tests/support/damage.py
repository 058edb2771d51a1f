"""Encoders that say they are the version's own and are not: what monitors must notice.

Each claims the contract it is given: that is the damage. The models are the real one, changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.core.encoder import PACKAGED_MODEL, Encoded, Encoder
from pipelines.core.encoder.load import _contract, _load_model
from pipelines.core.encoder.sentence_transformer import LoadedModel, SentenceTransformerEncoder
from pipelines.core.settings import ContractSettings, RuntimeSettings

__all__ = ["DAMAGES", "Mixed", "damaged", "fine_tuned"]

_TOKENS = 1024


def _loaded(model: str, dtype: str = "float32") -> tuple[LoadedModel, ContractSettings]:
    """A copy of the model of its own, so that nobody else's is damaged."""
    contract = ContractSettings(model=model)
    runtime = RuntimeSettings(device="cpu", dtype=dtype, threads=1)
    return _load_model(contract, runtime, "cpu"), contract


def _encoder(loaded: LoadedModel, contract: ContractSettings, **changes: Any) -> Encoder:
    made = replace(_contract(contract, loaded), **changes)
    return SentenceTransformerEncoder(loaded, made, _TOKENS)


def _wrong_pooling(model: str) -> Encoder:
    from sentence_transformers.sentence_transformer.modules import Pooling

    loaded, contract = _loaded(model)
    modules = [loaded.modules[0], Pooling(loaded.dimension, "cls")]
    return _encoder(replace(loaded, modules=modules), contract)


def _wrong_query_prompt(model: str) -> Encoder:
    return _encoder(*_loaded(model), query_prompt="query: ")


def _missing_normalization(model: str) -> Encoder:
    return _encoder(*_loaded(model), normalize=False)


def _bfloat16(model: str) -> Encoder:
    return _encoder(*_loaded(model, "bfloat16"))


def _float16(model: str) -> Encoder:
    return _encoder(*_loaded(model, "float16"))


def _int8_weights(model: str) -> Encoder:
    """Every matrix and what it is multiplied with rounded to 255 steps, as 8-bit inference does."""
    import torch

    def rounded(values: Any) -> Any:
        scale = values.abs().max().clamp(min=1e-12) / 127
        return (values / scale).round() * scale

    loaded, contract = _loaded(model)
    with torch.no_grad():
        for module in loaded.model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(rounded(module.weight))
                module.register_forward_pre_hook(lambda _, given: (rounded(given[0]),))
    return _encoder(loaded, contract)


def _truncated_tokens(model: str) -> Encoder:
    return _encoder(*_loaded(model), max_tokens=32)


DAMAGES: dict[str, Callable[[str], Encoder]] = {
    "wrong_pooling": _wrong_pooling,
    "wrong_query_prompt": _wrong_query_prompt,
    "missing_normalization": _missing_normalization,
    "bfloat16": _bfloat16,
    "float16": _float16,
    "int8_weights": _int8_weights,
    "truncated_tokens": _truncated_tokens,
}


@cache
def damaged(kind: str, model: str = PACKAGED_MODEL) -> Encoder:
    """The encoder with one thing wrong (`float16` is harmless); loaded once a process."""
    return DAMAGES[kind](model)


@cache
def fine_tuned(
    pairs: Path,
    steps: int = 20,
    seed: int = 0,
    model: str = PACKAGED_MODEL,
    learning_rate: float = 2e-5,
) -> Encoder:
    """The model after some steps of training on sentence pairs: a second model, close to the first.

    Parameters
    ----------
    pairs
        CSV with `sentence1`, `sentence2` and `score`, 0 to 5.
    steps
        Of 16 pairs each.
    learning_rate
        AdamW's; ten times the default makes a model that has forgotten some of what it knew.
    """
    import csv
    import random

    import torch

    loaded, contract = _loaded(model)
    with pairs.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = random.Random(seed).sample(rows, 16 * steps)
    torch.manual_seed(seed)
    network = loaded.model.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    for start in range(0, len(chosen), 16):
        batch = chosen[start : start + 16]
        first, second = (
            torch.nn.functional.normalize(
                network(network.preprocess([row[column] for row in batch]))["sentence_embedding"],
                dim=1,
            )
            for column in ("sentence1", "sentence2")
        )
        wanted = torch.tensor([float(row["score"]) / 5 for row in batch])
        loss = torch.nn.functional.mse_loss((first * second).sum(dim=1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    return _encoder(loaded, contract)


class Mixed:
    """Every so-manieth call goes to another encoder: workers that are not all alike."""

    def __init__(self, encoder: Encoder, other: Encoder, share: float) -> None:
        self._encoder, self._other, self._share = encoder, other, share
        self._due = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        self._due += self._share
        if self._due >= 1:
            self._due -= 1
            return self._other.encode_documents(texts)
        return self._encoder.encode_documents(texts)
