"""Vectors from a sentence-transformers model, in batches of like length."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.contract import EmbeddingContract
from pipelines.core.encoder.base import Encoded
from pipelines.core.encoder.batching import batches
from pipelines.core.encoder.memory import forward_rows
from pipelines.core.encoder.tokens import TokenRows, Tokens
from pipelines.core.encoder.vectors import finish
from pipelines.core.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from torch import Tensor

__all__ = ["LoadedModel", "SentenceTransformerEncoder", "is_plain"]

_PROBE = "a"
"""A text that every model can read: tells one bad text from a broken model."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, shared by the encoders of this process that differ in their contract.

    Parameters
    ----------
    model
        Without a Normalize module at its end: the output is checked before it is normalised.
    modules
        What a batch goes through, in order.
    model_hash
        Of the checkpoint, before the cast to the runtime's dtype.
    dimension
        Components of the model's output.
    normalizes
        A Normalize module was taken off its end.
    device
        Where the tensors are.
    revision
        Commit on the hub; `None` for a folder.
    lock
        Held during a forward pass.
    """

    model: SentenceTransformer
    modules: Sequence[Callable[[dict[str, Any]], dict[str, Any]]]
    model_hash: str
    dimension: int
    normalizes: bool
    device: str
    revision: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class SentenceTransformerEncoder:
    """An `Encoder` on a loaded model.

    All texts of a call are tokenised at once by the Rust tokenizer, sorted by length and put
    through the model's own modules in batches of like length. That beats
    `SentenceTransformer.encode` by what the latter loses to padding and to batches too large for
    the processor's caches. Models that need more than token ids go through that method instead.

    Parameters
    ----------
    loaded
        The model.
    contract
        What the vectors mean.
    tokens_per_batch
        Padded tokens of one forward pass, at most. Halved for good when memory runs out.
    """

    def __init__(
        self, loaded: LoadedModel, contract: EmbeddingContract, tokens_per_batch: int
    ) -> None:
        self._loaded = loaded
        self._contract = contract
        self._tokens_per_batch = tokens_per_batch
        tokenizer: Any = loaded.model.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        side = getattr(tokenizer, "truncation_side", "right")
        self._tokens = Tokens(backend, contract.max_tokens, side)
        self._plain = is_plain(loaded.model)
        self._left = getattr(tokenizer, "padding_side", "right") == "left"
        self._pad_id = getattr(tokenizer, "pad_token_id", None) or 0
        self._inputs = frozenset(getattr(tokenizer, "model_input_names", ()))

    @property
    def contract(self) -> EmbeddingContract:
        """What the vectors mean."""
        return self._contract

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer without truncation and padding."""
        return self._tokens.plain

    @property
    def special_tokens(self) -> int:
        """Tokens the model adds to every text."""
        return self._tokens.special

    @property
    def symmetric(self) -> bool:
        """Equal prompts, and a model that does not tell documents from queries."""
        return self._plain and self._contract.document_prompt == self._contract.query_prompt

    @property
    def device(self) -> str:
        """Where the model runs: `cpu`, `cuda:0`, ..."""
        return self._loaded.device

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        """Vectors of rendered documents; see `Encoder.encode_documents`."""
        return self._encode(texts, self._contract.document_prompt, query=False)

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        """Vectors of queries; see `Encoder.encode_queries`."""
        return self._encode(texts, self._contract.query_prompt, query=True)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of the texts alone: without prompt, special tokens or truncation."""
        return self._tokens.count(texts)

    def _encode(self, texts: Sequence[str], prompt: str, *, query: bool) -> Encoded:
        contract = self._contract
        if not texts:
            return Encoded(np.zeros((0, contract.dimension), np.float32))
        rows = self._tokens.rows([prompt + text for text in texts] if prompt else texts)
        if self._plain:
            forward = partial(self._forward, rows, self._prompt_length(prompt))
        else:
            forward = partial(self._encode_with_library, texts, prompt, query)
        raw, failed = self._run(forward, [len(ids) for ids in rows.ids])
        if failed:
            self._check_model(failed)
        vectors, refused = finish(
            raw, truncate_dim=contract.truncate_dim, normalize=contract.normalize
        )
        return Encoded(
            vectors,
            refused=refused | failed,
            tokens=rows.counts,
            truncated=[count > contract.max_tokens for count in rows.counts],
        )

    def _run(
        self, forward: Callable[[list[int]], Tensor], lengths: Sequence[int]
    ) -> tuple[npt.NDArray[np.float32], dict[int, str]]:
        """Output of the model for all rows in their order, zero for those it fails on."""
        import torch

        failed: dict[int, str] = {}
        order: list[int] = []
        parts: list[Tensor] = []
        with self._loaded.lock, torch.inference_mode():
            for batch in batches(lengths, self._tokens_per_batch):
                for done, vectors in forward_rows(batch, forward, failed, self._smaller_batches):
                    order.extend(done)
                    parts.append(vectors)
            raw = np.zeros((len(lengths), self._loaded.dimension), np.float32)
            if parts:
                # One copy from the device at the end: one per batch would wait for each.
                raw[order] = torch.cat(parts).float().cpu().numpy()
        return raw, failed

    def _forward(self, tokens: TokenRows, prompt_length: int | None, rows: list[int]) -> Tensor:
        import torch

        ids = [tokens.ids[row] for row in rows]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        columns = np.arange(max(1, int(lengths.max())))
        first = len(columns) - lengths if self._left else np.zeros_like(lengths)
        mask = (columns >= first[:, None]) & (columns < (first + lengths)[:, None])

        def padded(values: Iterable[list[int]], padding: int) -> Tensor:
            table = np.full(mask.shape, padding, np.int64)
            table[mask] = np.concatenate([np.asarray(row, np.int64) for row in values])
            return torch.from_numpy(table).to(self._loaded.device)

        features: dict[str, Any] = {
            "input_ids": padded(ids, self._pad_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(self._loaded.device),
            "modality": "text",
        }
        if "token_type_ids" in self._inputs:
            features["token_type_ids"] = (
                torch.zeros_like(features["input_ids"])
                if tokens.type_ids is None
                else padded((tokens.type_ids[row] for row in rows), 0)
            )
        if prompt_length is not None:
            features["prompt_length"] = prompt_length
        for module in self._loaded.modules:
            features = module(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors

    def _encode_with_library(
        self, texts: Sequence[str], prompt: str, query: bool, rows: list[int]
    ) -> Tensor:
        model = self._loaded.model
        if model.max_seq_length != self._contract.max_tokens and model.max_seq_length is not None:
            model.max_seq_length = self._contract.max_tokens
        encode = model.encode_query if query else model.encode_document
        vectors: Tensor = encode(
            [texts[row] for row in rows],
            prompt=prompt,
            batch_size=len(rows),
            convert_to_tensor=True,
            show_progress_bar=False,
            normalize_embeddings=False,
        )
        return vectors

    def _prompt_length(self, prompt: str) -> int | None:
        """Tokens of the prompt with those the model puts in front; some models do not pool them."""
        if not prompt:
            return None
        encoding = self._tokens.plain.encode(prompt)
        trailing = bool(encoding.special_tokens_mask) and encoding.special_tokens_mask[-1]
        return len(encoding) - trailing

    def _smaller_batches(self, rows: int) -> None:
        if rows > 1:
            self._tokens_per_batch = max(1, self._tokens_per_batch // 2)

    def _check_model(self, failed: dict[int, str]) -> None:
        probe = self._tokens.rows([_PROBE])
        forward = (
            partial(self._forward, probe, None)
            if self._plain
            else partial(self._encode_with_library, [_PROBE], "", False)
        )
        _, broken = self._run(forward, [len(probe.ids[0])])
        if broken:
            raise ModelError(
                f"the model fails on any text: {next(iter(failed.values()))}. Look at the model's "
                "files and at runtime.device"
            )


def is_plain(model: SentenceTransformer) -> bool:
    """Whether token ids are all the model's first module needs, so that we may make them.

    Not so for models that take chat messages, pictures or sound, that route by task, or that
    flatten their input for flash attention.
    """
    first: Any = next(iter(model.children()), None)
    return (
        type(first).__module__.startswith("sentence_transformers.")
        and type(first).__name__ == "Transformer"
        and first.transformer_task == "feature-extraction"
        and "text" in first.modality_config
        and "message" not in first.modality_config
        and not first.processing_kwargs
        and not first.can_flatten_inputs
    )
