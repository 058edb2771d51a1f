"""Texts to token ids, cut where the model stops reading, and counted before the cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["TokenRows", "Tokens", "plain"]


@dataclass(frozen=True)
class TokenRows:
    """Tokens of some texts as the model sees them.

    Parameters
    ----------
    ids
        Token ids of each text with special tokens, at most `max_tokens`.
    type_ids
        Segment ids of each text; `None` where all are zero.
    counts
        Tokens of each text with special tokens, before the cut.
    """

    ids: list[list[int]]
    type_ids: list[list[int]] | None
    counts: list[int]


class Tokens:
    """A fast tokenizer with a limit. One pass in Rust over all texts of a call.

    Parameters
    ----------
    tokenizer
        Any `tokenizers.Tokenizer`; it is copied.
    max_tokens
        Special tokens included.
    side
        The side of a long text that is cut off.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, side: str = "right") -> None:
        self.plain = plain(tokenizer)
        self.special = self.plain.num_special_tokens_to_add(is_pair=False)
        self._cutting = plain(tokenizer)
        self._cutting.enable_truncation(max_tokens, direction=side)
        # Segment ids of a single text are the same number everywhere; only if it is not zero
        # are they worth reading.
        self._typed = any(self.plain.encode("a b").type_ids)

    def rows(self, texts: Sequence[str]) -> TokenRows:
        """Ids as the model sees them, and how many there were before the cut."""
        encodings = self._cutting.encode_batch_fast(list(texts))
        return TokenRows(
            ids=[encoding.ids for encoding in encodings],
            type_ids=[encoding.type_ids for encoding in encodings] if self._typed else None,
            counts=[self._count(encoding) for encoding in encodings],
        )

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of the texts alone, without special tokens."""
        encodings = self.plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    def _count(self, encoding: Encoding) -> int:
        # What was cut off comes in pieces that carry special tokens of their own. Counting them
        # spares a second pass over the text.
        return len(encoding) + sum(len(piece) - self.special for piece in encoding.overflowing)


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy without truncation and padding, which the library keeps as state."""
    from tokenizers import Tokenizer

    copy: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
