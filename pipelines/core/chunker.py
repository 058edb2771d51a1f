"""Cuts long documents into chunks that the model reads to their end."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipelines.core.contract import ChunkContract, EmbeddingContract

if TYPE_CHECKING:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    from pipelines.core.encoder import Encoder

__all__ = ["Chunk", "Chunker", "chunker_for"]

_STRETCH = 2_000
"""Characters without a space or the end of a sentence, after which we cut ourselves. The splitter
takes time in the square of such a stretch: 40,000 Chinese characters without a full stop take it
6 s, in stretches of 2,000 they take 0.9 s. No sentence is as long."""

_UNBROKEN = re.compile(r"[^\s。！？｡]+")

_NESTED = re.compile(r"(?:>[ \t]?|[*+-][ \t]+|\d{1,9}[.)][ \t]+){100}")
"""Block quotes and lists nested in one line. Parsing them takes the square of their depth, 7 s of
processor time for 100,000 characters; nobody writes them, so such a text is cut as plain text."""

_STEP = 16
"""Capacities that a title has lowered are multiples of it, so that few splitters are kept."""

_SPLITTERS = 8
"""Splitters kept; each has a copy of the tokenizer, some megabytes."""

_ATTEMPTS = 6
"""Each lowers the capacity by more than the last."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a document's text.

    Parameters
    ----------
    number
        From 0, the head.
    start, end
        Code points of the text, half-open: `text` is `document[start:end]`.
    """

    number: int
    start: int
    end: int
    text: str = field(repr=False)


class Chunker(Protocol):
    """Cuts one document at a time; the same document always gives the same chunks."""

    def chunk(self, title: str, text: str) -> list[Chunk]:
        """Chunks in order, at least one; all of the text but white space is in some chunk."""
        ...


def chunker_for(contract: EmbeddingContract, encoder: Encoder) -> Chunker:
    """The chunker a contract asks for, with the tokenizer of its encoder. Safe between threads."""
    if contract.chunk is None:
        return WholeDocument()
    return TokenChunker(contract, contract.chunk, encoder)


class WholeDocument:
    """Chunking is off: one chunk, the text as it is."""

    def chunk(self, title: str, text: str) -> list[Chunk]:  # noqa: ARG002 - the protocol's
        """One chunk."""
        return _whole(text)


class TokenChunker:
    """Chunks of at most so many tokens, cut at sentences and paragraphs where there are any.

    A document that fits stays one chunk. What fits is the chunk's size or what `max_tokens`
    leaves beside prompt, template, title and special tokens, whichever is less. A title is
    granted half of `max_tokens`: a longer one leaves chunks that the model does not read to their
    end, which the encoder counts as truncated.
    """

    def __init__(self, contract: EmbeddingContract, chunk: ChunkContract, encoder: Encoder) -> None:
        self._contract = contract
        self._chunk = chunk
        self._encoder = encoder
        self._splitters: OrderedDict[tuple[int, bool], TextSplitter | MarkdownSplitter] = (
            OrderedDict()
        )
        self._lock = threading.Lock()

    def chunk(self, title: str, text: str) -> list[Chunk]:
        """Chunks of the text; deterministic."""
        room, title_fits = self._room(title)
        whole = _whole(text)
        if self._encoder.count_tokens([text])[0] <= room and not (
            title_fits and self._excess(title, whole) > 0
        ):
            return whole
        # What fits by its parts may have a token more as a whole: some form across the seams.
        capacity = room if room == self._chunk.size else max(room - room % _STEP, min(room, _STEP))
        chunks = self._cut(text, capacity)
        for attempt in range(_ATTEMPTS):
            excess = self._excess(title, chunks) if title_fits else 0
            if excess <= 0 or capacity == 1:
                break
            capacity = max(1, capacity - (excess << attempt))
            chunks = self._cut(text, capacity)
        return chunks

    def _room(self, title: str) -> tuple[int, bool]:
        """Tokens of text that a chunk may have, and whether the model then reads all of it."""
        contract = self._contract
        frame = contract.document_prompt + contract.render(title, "")
        special = self._encoder.special_tokens
        left = contract.max_tokens - special - self._encoder.count_tokens([frame])[0]
        least = max(1, contract.max_tokens // 2 - special)
        return min(self._chunk.size, max(left, least)), left >= min(least, self._chunk.size)

    def _excess(self, title: str, chunks: Sequence[Chunk]) -> int:
        contract = self._contract
        rendered = [
            contract.document_prompt + contract.render(title, chunk.text) for chunk in chunks
        ]
        longest = max(self._encoder.count_tokens(rendered))
        return longest + self._encoder.special_tokens - contract.max_tokens

    def _cut(self, text: str, capacity: int) -> list[Chunk]:
        plain = self._chunk.format == "text" or _NESTED.search(text) is not None
        splitter = self._splitter(capacity, plain)
        found = []
        for start, end in _stretches(text):
            for offset, piece in splitter.chunk_indices(text[start:end]):
                begin = start + offset
                found.append((begin, begin + len(piece)))
        if not found:
            return _whole(text)
        return [
            Chunk(number, start, end, text[start:end]) for number, (start, end) in enumerate(found)
        ]

    def _splitter(self, capacity: int, plain: bool) -> TextSplitter | MarkdownSplitter:
        key = (capacity, plain)
        with self._lock:
            splitter = self._splitters.pop(key, None) or self._make(capacity, plain)
            self._splitters[key] = splitter
            while len(self._splitters) > _SPLITTERS:
                self._splitters.popitem(last=False)
            return splitter

    def _make(self, capacity: int, plain: bool) -> TextSplitter | MarkdownSplitter:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter

        overlap = min(self._chunk.overlap, (capacity - 1) // 2)
        return (TextSplitter if plain else MarkdownSplitter).from_huggingface_tokenizer(
            self._encoder.tokenizer, capacity, overlap=overlap
        )


def _whole(text: str) -> list[Chunk]:
    return [Chunk(0, 0, len(text), text)]


def _stretches(text: str) -> Iterator[tuple[int, int]]:
    """The text in pieces that the splitter handles fast; nearly always the text itself."""
    start = 0
    for run in _UNBROKEN.finditer(text):
        for end in range(run.start() + _STRETCH, run.end() + 1, _STRETCH):
            yield start, end
            start = end
    if start < len(text):
        yield start, len(text)
