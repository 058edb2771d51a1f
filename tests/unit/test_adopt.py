"""What a foreign point says of its document, by the fields that somebody named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.adopt import (
    POINT_ID,
    SHAPES,
    Fields,
    Unmapped,
    adoption_position,
    join_chunks,
    map_point,
)
from pipelines.core.position import OrderBy, Position
from pipelines.core.settings import LimitSettings

LIMITS = LimitSettings()
PLAIN = Fields("id", "text")


def node(**more: Any) -> dict[str, Any]:
    """A payload as LlamaIndex writes it."""
    metadata = {"file": "a.txt"}
    inner = {"text": "some words", "metadata": metadata, "start_char_idx": 20}
    return {
        **metadata,
        "_node_content": json.dumps({**inner, **more}),
        "_node_type": "TextNode",
        "document_id": "doc-1",
        "doc_id": "doc-1",
        "ref_doc_id": "doc-1",
    }


@pytest.mark.parametrize(
    ("tool", "payload", "expected"),
    [
        (
            "langchain",
            {"page_content": "words", "metadata": {"source": "s"}},
            ("point-7", "words", {"source": "s"}, None),
        ),
        ("llama-index", node(), ("doc-1", "some words", {"file": "a.txt"}, 20.0)),
        (
            "llama-index",
            node(start_char_idx=None),
            ("doc-1", "some words", {"file": "a.txt"}, None),
        ),
        (
            "haystack",
            {"id": "h1", "content": "words", "meta": {"lang": "en"}, "score": None},
            ("h1", "words", {"lang": "en"}, None),
        ),
        (
            "airbyte",
            {"_ab_record_id": "users_1", "_ab_stream": "users", "text": "words", "age": 3},
            ("users_1", "words", {"_ab_stream": "users", "age": 3}, None),
        ),
    ],
)
def test_what_well_known_tools_write(
    tool: str, payload: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    """Their defaults need no path typed."""
    piece = map_point("point-7", payload, SHAPES[tool], LIMITS)
    assert (piece.document_id, piece.text, dict(piece.metadata), piece.number) == expected


def test_a_node_without_a_document_has_no_id() -> None:
    """LlamaIndex writes the word None for it; a thousand such nodes are not one document."""
    payload = {**node(), "ref_doc_id": "None"}
    with pytest.raises(Unmapped) as raised:
        map_point("p", payload, SHAPES["llama-index"], LIMITS)
    assert raised.value.reason == "missing_id"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"text": "words"}, "missing_id"),
        ({"id": "", "text": "words"}, "invalid_id"),
        ({"id": 1.5, "text": "words"}, "invalid_id"),
        ({"id": True, "text": "words"}, "invalid_id"),
        ({"id": ["a"], "text": "words"}, "invalid_id"),
        ({"id": "x" * 2000, "text": "words"}, "invalid_id"),
        ({"id": "a\0", "text": "words"}, "nul_character"),
        ({"id": "a"}, "missing_text"),
        ({"id": "a", "text": 3}, "invalid_text"),
        ({"id": "a", "text": "w", "_plumbline": 1}, "reserved_metadata_key"),
        ({"id": "a", "text": "w", "n": {"n": {"n": {"n": {"n": {"n": {"n": {"n": {}}}}}}}}},
         "metadata_too_deep"),
        ({"id": "a", "text": "w", "n": 2**70}, "number_out_of_range"),
        ({"id": "a", "text": "w", "n": "x" * 70_000}, "metadata_too_large"),
        (None, "missing_id"),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped_has_a_reason(payload: Any, reason: str) -> None:
    """Each in the words that dead letters have, too."""
    with pytest.raises(Unmapped) as raised:
        map_point(1, payload, PLAIN, LIMITS)
    assert raised.value.reason == reason
    assert raised.value.message


def test_a_number_as_id_is_written_as_text_and_counted() -> None:
    """Ids are strings; what was changed is said."""
    piece = map_point(1, {"id": 7, "text": "w"}, PLAIN, LIMITS)
    assert (piece.document_id, piece.converted) == ("7", True)
    piece = map_point(12, {"text": "w"}, Fields(POINT_ID, "text"), LIMITS)
    assert (piece.document_id, piece.converted) == ("12", True)


def test_metadata_is_the_rest_unless_it_is_named() -> None:
    """Nothing of a payload goes without being asked for."""
    payload = {"m": {"id": "a", "lang": "en", "deep": {"x": 1}}, "text": "w", "n": 2, "t": "T"}
    rest = map_point(1, payload, Fields("m.id", "text", "t"), LIMITS)
    assert rest.title == "T"
    assert rest.metadata == {"m": {"lang": "en", "deep": {"x": 1}}, "n": 2}
    named = Fields("m.id", "text", metadata=("m.deep", "n", "absent"))
    assert map_point(1, payload, named, LIMITS).metadata == {"x": 1, "n": 2}
    twice = Fields("m.id", "text", metadata=("m.deep", "deep2"))
    with pytest.raises(Unmapped, match="two of the metadata fields"):
        map_point(1, {**payload, "deep2": {"x": 2}}, twice, LIMITS)


def test_a_name_with_dots_counts_before_the_path_it_looks_like() -> None:
    """Payloads that were flattened have such names."""
    payload = {"a.b": "flat", "a": {"b": "deep"}, "text": "w"}
    assert map_point(1, payload, Fields("a.b", "text"), LIMITS).document_id == "flat"


def test_chunks_are_joined_where_they_overlap() -> None:
    """The stretch of each chunk is its text, whether it overlaps or not."""
    text, places = join_chunks(["the quick brown fox", "quick brown fox ran", "far away", "y"])
    assert text == "the quick brown fox ran\nfar away\ny"
    assert [text[start:end] for start, end in places] == [
        "the quick brown fox",
        "quick brown fox ran",
        "far away",
        "y",
    ]


@given(st.text("ab ", min_size=60, max_size=300), st.integers(15, 40), st.integers(12, 14))
def test_a_text_cut_with_an_overlap_keeps_every_chunk(text: str, size: int, overlap: int) -> None:
    """Chunks are found again at their places, whatever the text repeats."""
    chunks = [text[start : start + size] for start in range(0, len(text), size - overlap)]
    joined, places = join_chunks(chunks)
    assert [joined[start:end] for start, end in places] == chunks
    assert len(joined) <= sum(map(len, chunks)) + len(chunks)


def test_a_text_without_repetition_comes_out_as_it_was() -> None:
    """Where chunks overlap by enough, nothing is guessed."""
    text = " ".join(f"word{number}" for number in range(200))
    chunks = [text[start : start + 100] for start in range(0, len(text), 80)]
    assert join_chunks(chunks)[0] == text


@pytest.mark.parametrize("order_by", list(OrderBy))
def test_any_event_is_newer_than_an_adopted_document(order_by: OrderBy) -> None:
    """The first version, the first offset, the earliest time: each wins."""
    version = 0 if order_by is OrderBy.VERSION else None
    adopted = adoption_position("a", order_by)
    assert adopted < Position("documents", 0, 0, 1, version)
    assert adopted == adoption_position("a", order_by)
    assert adopted.event_key != adoption_position("b", order_by).event_key
