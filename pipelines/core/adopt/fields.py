"""Where another tool's payload holds what makes a document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.core.decode.checks import check_id, check_metadata, check_string
from pipelines.core.decode.words import json_type
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.settings import LimitSettings

__all__ = ["POINT_ID", "SHAPES", "Fields", "Piece", "Unmapped", "map_point", "value_at"]

POINT_ID = "@point"
"""In place of a path: the id of the point itself."""


@dataclass(frozen=True)
class Fields:
    """Paths into the payload: names joined by dots, also through text that holds a JSON object.

    Parameters
    ----------
    document_id
        Path of the document's id, or `POINT_ID`.
    text
        Path of the text that was encoded.
    title
        Path of the title; `None`: documents have none.
    metadata
        Paths to keep: of an object its members, of anything else the value under its last name.
        `None`: everything that no other path names.
    chunked
        Points that share an id are the chunks of one document.
    chunk
        Path of a number that orders the chunks of a document; without one their order is that of
        the points' ids, which says nothing where these are random.
    no_id
        What stands for an id where there is none.
    """

    document_id: str
    text: str
    title: str | None = None
    metadata: tuple[str, ...] | None = None
    chunked: bool = False
    chunk: str | None = None
    no_id: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return {
            "document_id": self.document_id,
            "text": self.text,
            "title": self.title,
            "metadata": None if self.metadata is None else list(self.metadata),
            "chunked": self.chunked,
            "chunk": self.chunk,
            "no_id": list(self.no_id),
        }


SHAPES: Mapping[str, Fields] = {
    "langchain": Fields(POINT_ID, "page_content", metadata=("metadata",)),
    "llama-index": Fields(
        "ref_doc_id",
        "_node_content.text",
        metadata=("_node_content.metadata",),
        chunked=True,
        chunk="_node_content.start_char_idx",
        no_id=("None",),
    ),
    "haystack": Fields("id", "content", metadata=("meta",)),
    "airbyte": Fields("_ab_record_id", "text", chunked=True),
}
"""What well-known tools write when they are left at their defaults."""


class Unmapped(Exception):  # noqa: N818 - a finding about one point, not a failure
    """Why a point, or a document, cannot be adopted. Never quotes a text.

    Parameters
    ----------
    reason
        Value of a `Reason`, or one of this package's own words.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Piece:
    """What one point says of its document."""

    point_id: int | str
    document_id: str
    text: str = field(repr=False)
    title: str = field(repr=False)
    metadata: Mapping[str, Any] = field(repr=False)
    number: float | None = None
    converted: bool = False
    """Whether the id was a number, written here as text."""


def map_point(
    point_id: int | str, payload: Mapping[str, Any] | None, fields: Fields, limits: LimitSettings
) -> Piece:
    """The piece that a point is.

    Raises
    ------
    Unmapped
        It has no usable id, no text, or metadata that cannot be kept.
    """
    values = payload or {}
    try:
        document_id, converted = _document_id(point_id, values, fields, limits)
        text = _string(values, fields.text, Reason.MISSING_TEXT, Reason.INVALID_TEXT, "the text")
        title = ""
        if fields.title is not None and value_at(values, fields.title)[1] is not None:
            title = _string(
                values, fields.title, Reason.INVALID_TITLE, Reason.INVALID_TITLE, "the title"
            )
        metadata = check_metadata(_metadata(values, fields), limits, limits.metadata_bytes)
    except BadRecordError as error:
        raise Unmapped(error.reason.value, error.message) from None
    number = None
    if fields.chunk is not None:
        found, value = value_at(values, fields.chunk)
        if found and value is not None:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Unmapped(
                    "invalid_chunk", f"`{fields.chunk}` is no number but {json_type(value)}"
                )
            number = float(value)
    return Piece(point_id, document_id, text, title, metadata, number, converted)


def _document_id(
    point_id: int | str, values: Mapping[str, Any], fields: Fields, limits: LimitSettings
) -> tuple[str, bool]:
    value: Any = point_id
    if fields.document_id != POINT_ID:
        _, value = value_at(values, fields.document_id)
        if value in fields.no_id:
            value = None
    # JSON keeps no sign of whether 7 was meant as a number: it is written as text, and counted.
    if isinstance(value, int) and not isinstance(value, bool):
        return check_id(str(value), limits), True
    return check_id(value, limits, f"`{fields.document_id}`"), False


def _string(
    values: Mapping[str, Any], path: str, missing: Reason, invalid: Reason, what: str
) -> str:
    _, value = value_at(values, path)
    if value is None:
        raise BadRecordError(missing, f"`{path}` is missing or null")
    if not isinstance(value, str):
        raise BadRecordError(invalid, f"`{path}` must be a string, not {json_type(value)}")
    check_string(value, what)
    return value


def value_at(values: Any, path: str) -> tuple[bool, Any]:
    """Whether there is anything at a path, and what.

    A name with dots in it counts before the path that it looks like; text that holds a JSON object
    is looked into.
    """
    if isinstance(values, str):
        values = _as_object(values)
    if not isinstance(values, Mapping):
        return False, None
    if path in values:
        return True, values[path]
    for position, character in enumerate(path):
        if character == "." and path[:position] in values:
            found, value = value_at(values[path[:position]], path[position + 1 :])
            if found:
                return True, value
    return False, None


def _as_object(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _metadata(values: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    if fields.metadata is None:
        named = (fields.document_id, fields.text, fields.title, fields.chunk)
        return _without(values, [path for path in named if path is not None])
    kept: dict[str, Any] = {}
    for path in fields.metadata:
        found, value = value_at(values, path)
        if not found:
            continue
        members = value.items() if isinstance(value, Mapping) else [(_last(path), value)]
        for name, item in members:
            if name in kept:
                raise Unmapped(
                    "metadata_collision", f"two of the metadata fields give {name!r}: name one"
                )
            kept[name] = item
    return kept


def _last(path: str) -> str:
    return path.rpartition(".")[2] or path


def _without(values: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The payload without what is named; an object that is empty then goes too."""
    left = dict(values)
    for path in paths:
        if path in left:
            del left[path]
            continue
        name, _, rest = path.partition(".")
        inner = left.get(name)
        if not rest or not value_at(values, path)[0]:
            continue
        if isinstance(inner, Mapping):
            reduced = _without(inner, [rest])
            if reduced:
                left[name] = reduced
            else:
                del left[name]
        else:
            left.pop(name, None)  # text that holds JSON: the document's text stands in it
    return left
