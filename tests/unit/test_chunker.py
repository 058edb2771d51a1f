from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.core.chunker import chunker_for
from pipelines.core.contract import ChunkContract, EmbeddingContract
from pipelines.core.encoder.source import PACKAGED_MODEL, find_model
from pipelines.core.encoder.tokens import Tokens


class Counter:
    """The tokenizer's part of an encoder: no model is needed to cut."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokenizer = tokens.plain
        self.special_tokens = tokens.special
        self.count_tokens = tokens.count


@pytest.fixture(scope="module")
def encoder() -> Counter:
    from pathlib import Path

    from tokenizers import Tokenizer

    file = Path(find_model(PACKAGED_MODEL).place) / "tokenizer.json"
    return Counter(Tokens(Tokenizer.from_file(str(file)), 256))


def contract(size=24, overlap=4, fmt="text", max_tokens=64, **changes) -> EmbeddingContract:
    return EmbeddingContract(
        model_hash="x",
        dimension=2,
        max_tokens=max_tokens,
        chunk=ChunkContract(size, overlap, fmt),
        **changes,
    )


def uncovered(text: str, chunks) -> list[str]:
    covered = bytearray(len(text))
    for chunk in chunks:
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
    return [c for c, seen in zip(text, covered, strict=True) if not seen and not c.isspace()]


PROSE = "The ferry left at noon. It was late, as always.\n\nNobody minded. The sea was calm! "

characters = st.characters(codec="utf-8", exclude_characters="\0")
MARKUP = ["\n\n", "\r\n", "# ", "- a\n", "```\n", "|a|b|\n|-|-|\n", "> ", "![x](y) ", "---\n"]
SCRIPTS = [
    "漢字。",
    "e\u0301",
    "👩🏽\u200d🔬",
    "\u2028",
    "\x1c",
    "\ufeff",
    "word ",
    "Sentence one. ",
]
pieces = st.text(characters, max_size=12) | st.sampled_from(MARKUP + SCRIPTS)
documents = st.lists(pieces, max_size=60).map("".join)


@pytest.mark.parametrize("fmt", ["text", "markdown"])
@given(text=documents, title=st.text(characters, max_size=30))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_chunks_are_exact_complete_and_fit(encoder, fmt, text, title) -> None:
    """On any text: offsets are exact, nothing but white space is lost, the model reads all."""
    made = contract(fmt=fmt)
    chunker = chunker_for(made, encoder)
    chunks = chunker.chunk(title, text)
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert uncovered(text, chunks) == []
    assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)
    assert chunks == chunker.chunk(title, text)
    assert max(encoder.count_tokens([chunk.text for chunk in chunks])) <= 24
    if encoder.count_tokens([made.render(title, "")])[0] <= 30:
        rendered = [made.render(title, chunk.text) for chunk in chunks]
        assert max(encoder.count_tokens(rendered)) + 2 <= made.max_tokens


def test_chunking_off_keeps_the_text_whole(encoder) -> None:
    """Without `chunk` in the contract there is one chunk, however long."""
    chunks = chunker_for(replace(contract(), chunk=None), encoder).chunk("t", PROSE * 50)
    assert [(c.number, c.start, c.end, c.text) for c in chunks] == [
        (0, 0, len(PROSE) * 50, PROSE * 50)
    ]


@pytest.mark.parametrize("text", ["", " \n\t ", "short", "  padded  "])
def test_a_document_that_fits_stays_one_chunk(encoder, text) -> None:
    """The head is always there, and its text is the text, blanks included."""
    chunks = chunker_for(contract(), encoder).chunk("title", text)
    assert [(c.number, c.start, c.end, c.text) for c in chunks] == [(0, 0, len(text), text)]


def test_the_border_is_exact(encoder) -> None:
    """As many tokens as a chunk may have are one chunk; one more are two."""
    chunker = chunker_for(contract(size=24, max_tokens=64), encoder)
    assert len(chunker.chunk("", "word " * 24)) == 1
    assert len(chunker.chunk("", "word " * 25)) == 2
    tight = chunker_for(contract(size=100, max_tokens=64), encoder)
    assert len(tight.chunk("two words", "word " * 60)) == 1
    assert len(tight.chunk("two words", "word " * 61)) > 1


def test_title_and_prompt_take_their_room(encoder) -> None:
    """What they take is missing for the text, so that every rendered chunk fits."""
    made = contract(
        size=60, max_tokens=64, document_prompt="passage: ", template="Title: {title}\n{text}"
    )
    title = "a title of some words that takes room from the text"
    chunks = chunker_for(made, encoder).chunk(title, "word " * 300)
    rendered = [made.document_prompt + made.render(title, chunk.text) for chunk in chunks]
    longest = max(encoder.count_tokens(rendered)) + encoder.special_tokens
    assert 48 <= longest <= 64


def test_a_huge_title_takes_half(encoder) -> None:
    """The text is still cut to a sane size; such chunks are truncated, and counted so."""
    chunks = chunker_for(contract(size=60, max_tokens=64), encoder).chunk("long " * 500, PROSE * 20)
    sizes = encoder.count_tokens([chunk.text for chunk in chunks])
    assert 10 <= max(sizes) <= 30


def test_neighbours_overlap(encoder) -> None:
    """By at most so many tokens; without overlap, not at all."""
    with_overlap = chunker_for(contract(overlap=10), encoder).chunk("", "one two three four " * 40)
    assert any(a.end > b.start for a, b in pairwise(with_overlap))
    shared = [a.text[b.start - a.start :] for a, b in pairwise(with_overlap) if b.start < a.end]
    assert max(encoder.count_tokens(shared)) <= 10
    without = chunker_for(contract(overlap=0), encoder).chunk("", "one two three four " * 40)
    assert all(a.end <= b.start for a, b in pairwise(without))


def test_borders_respect_paragraphs_and_headings(encoder) -> None:
    """Cut between paragraphs where they fit, and before a Markdown heading."""
    text = "\n\n".join(f"Paragraph {n} has a few words in it. And a bit more." for n in range(8))
    for chunk in chunker_for(contract(overlap=0), encoder).chunk("", text):
        assert chunk.text.startswith("Paragraph")
        assert chunk.text.endswith("more.")
    markdown = "".join(f"# Part {n}\n\nSome words about it, and more.\n\n" for n in range(6))
    for chunk in chunker_for(contract(overlap=0, fmt="markdown"), encoder).chunk("", markdown):
        assert chunk.text.startswith("# Part")


@pytest.mark.parametrize("fmt", ["text", "markdown"])
@pytest.mark.parametrize("unit", ["漢", "a.b,", "> ", "> - ", "[", "*a ", "`", "1. ", "e\u0301"])
def test_no_text_takes_quadratic_time(encoder, fmt, unit) -> None:
    """Four times the text takes about four times as long, whatever is in it."""
    chunker = chunker_for(contract(size=200, overlap=20, fmt=fmt, max_tokens=256), encoder)

    def seconds(count: int) -> float:
        start = time.process_time()
        chunks = chunker.chunk("title", unit * (count // len(unit)))
        assert uncovered(unit * (count // len(unit)), chunks) == []
        return time.process_time() - start

    seconds(1_000)
    assert seconds(32_000) < 9 * seconds(8_000) + 0.2
