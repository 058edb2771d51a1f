"""What every encoder offers, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipelines.core.contract import EmbeddingContract

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

__all__ = ["Encoded", "Encoder"]


@dataclass(frozen=True)
class Encoded:
    """Vectors of some texts, in the order of the texts.

    Parameters
    ----------
    vectors
        Shape (n, dimension), float32; unit norm where the contract normalises. Rows of refused
        texts are zero.
    refused
        Row to what is wrong with it: a vector with NaN, infinity or zero length, or a text the
        model fails on while others pass. No message quotes a text.
    tokens
        Tokens of each text with prompt and special tokens, before the model's limit.
    truncated
        Whether the text has more tokens than the contract's `max_tokens`.
    """

    vectors: npt.NDArray[np.float32]
    refused: dict[int, str] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)


class Encoder(Protocol):
    """Makes vectors under one contract. Safe to share between threads."""

    @property
    def contract(self) -> EmbeddingContract:
        """What the vectors mean."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer without truncation and padding; `None` where it has no fast one."""
        ...

    @property
    def special_tokens(self) -> int:
        """Tokens the model adds to every text, such as [CLS] and [SEP]."""
        ...

    @property
    def symmetric(self) -> bool:
        """Whether documents and queries go the same way under the same prompt.

        One encoding then serves as both.
        """
        ...

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        """Vectors of rendered documents; the document prompt is put in front here.

        Raises
        ------
        ModelError
            The model fails on every text, or one text alone does not fit into memory.
        """
        ...

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        """Vectors of queries; the query prompt is put in front here. Raises as above."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of the texts alone: without prompt, special tokens or truncation."""
        ...
