"""What every format's id, title, text, metadata and version must satisfy."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from pipelines.core.decode.words import json_type, shown
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.position import MAX_EXACT, OrderBy
from pipelines.core.records import Record
from pipelines.core.settings import LimitSettings, Settings

__all__ = [
    "RESERVED_KEY",
    "VERSION_HEADER",
    "check_document",
    "check_id",
    "check_metadata",
    "check_string",
    "delete_version",
    "event_version",
]

RESERVED_KEY = "_plumbline"
"""Payload key that holds what Plumbline keeps of its own."""

VERSION_HEADER = "plumbline-version"
"""Header that gives a delete its version: decimal digits in ASCII."""

_RESERVED = re.compile(rf"{RESERVED_KEY}(?:$|[.\[])", re.DOTALL)
_DIGITS = re.compile(rb"[0-9]{1,16}")
_INT64 = 2**63


def check_string(value: str, what: str) -> None:
    """Refuse what cannot be stored or sent on: lone surrogates and NUL.

    Raises
    ------
    BadRecordError
        `lone_surrogate`, `nul_character`.
    """
    if "\0" in value:
        raise BadRecordError(
            Reason.NUL_CHARACTER,
            f"{what} contains the character U+0000, at character {value.index(chr(0))}",
        )
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadRecordError(
                Reason.LONE_SURROGATE,
                f"{what} contains half of a surrogate pair, at character {error.start}: it was cut "
                "in the middle of a character, and no UTF-8 can say it",
            ) from None


def check_id(value: object, limits: LimitSettings, what: str = "the id") -> str:
    """A document's id.

    Raises
    ------
    BadRecordError
        `missing_id`, `invalid_id` (no string, empty, over `limits.id_bytes`), or as
        `check_string`.
    """
    if value is None:
        raise BadRecordError(Reason.MISSING_ID, f"{what} is missing or null")
    if not isinstance(value, str):
        raise BadRecordError(
            Reason.INVALID_ID, f"{what} must be a string, not {json_type(value)}: put it in quotes"
        )
    if not value:
        raise BadRecordError(Reason.INVALID_ID, f"{what} is an empty string")
    check_string(value, what)
    if len(value) * 4 > limits.id_bytes and len(value.encode()) > limits.id_bytes:
        raise BadRecordError(
            Reason.INVALID_ID,
            f"{what} has {len(value.encode())} bytes of UTF-8; `limits.id_bytes` is "
            f"{limits.id_bytes}",
        )
    return value


def check_document(title: object, text: object, limits: LimitSettings) -> tuple[str, str]:
    """Title (null counts as empty) and text of a document.

    Raises
    ------
    BadRecordError
        `missing_text`, `invalid_text`, `invalid_title`, `empty_document` (nothing but white space
        in both), `text_too_large` (title and text together), or as `check_string`.
    """
    if text is None:
        raise BadRecordError(
            Reason.MISSING_TEXT,
            "the text is missing or null: an event carries the whole document, since a partial "
            "one would erase the rest of it on a compacted topic; send the whole, or delete with a "
            "null value or `deleted: true`",
        )
    if not isinstance(text, str):
        raise BadRecordError(
            Reason.INVALID_TEXT, f"the text must be a string, not {json_type(text)}"
        )
    if title is None:
        title = ""
    if not isinstance(title, str):
        raise BadRecordError(
            Reason.INVALID_TITLE, f"the title must be a string or null, not {json_type(title)}"
        )
    check_string(title, "the title")
    check_string(text, "the text")
    if not text.strip() and not title.strip():
        raise BadRecordError(
            Reason.EMPTY_DOCUMENT,
            "title and text hold nothing but white space: there is nothing to search for; delete "
            "the document with a null value or `deleted: true`",
        )
    if (len(text) + len(title)) * 4 > limits.text_bytes:
        size = len(text.encode()) + len(title.encode())
        if size > limits.text_bytes:
            raise BadRecordError(
                Reason.TEXT_TOO_LARGE,
                f"title and text have {size} bytes of UTF-8 together; `limits.text_bytes` is "
                f"{limits.text_bytes}",
            )
    return title, text


def check_metadata(metadata: object, limits: LimitSettings, raw_bytes: int) -> dict[str, Any]:
    """Metadata of a document, null counting as none.

    Parameters
    ----------
    raw_bytes
        Size of the whole record's value: most are too small to hold metadata over the limit, and
        then its size need not be taken.

    Raises
    ------
    BadRecordError
        `invalid_metadata`, `reserved_metadata_key`, `metadata_too_deep`, `metadata_too_large`
        (as compact JSON), `number_out_of_range`, or as `check_string`.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise BadRecordError(
            Reason.INVALID_METADATA,
            f"the metadata must be an object or null, not {json_type(metadata)}",
        )
    for name in metadata:
        # With a dot or a bracket it would read as a path into ours in a filter.
        if name.startswith(RESERVED_KEY) and _RESERVED.match(name):
            raise BadRecordError(
                Reason.RESERVED_METADATA_KEY,
                f"the metadata key {shown(name)} collides with {RESERVED_KEY!r}, where Plumbline "
                "keeps its own; rename it",
            )
    _walk(metadata, 1, limits.metadata_depth)
    # Numbers alone may grow in the canonical form (1e15), to less than eight times their size.
    if raw_bytes * 8 > limits.metadata_bytes:
        canonical = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
        size = len(canonical.encode())
        if size > limits.metadata_bytes:
            raise BadRecordError(
                Reason.METADATA_TOO_LARGE,
                f"the metadata has {size} bytes as JSON; `limits.metadata_bytes` is "
                f"{limits.metadata_bytes}",
            )
    return metadata


def _walk(value: Any, depth: int, limit: int) -> None:
    # Bounded by the limit (64 at most), so recursion is safe.
    if depth > limit:
        raise BadRecordError(
            Reason.METADATA_TOO_DEEP,
            f"the metadata is nested deeper than `limits.metadata_depth` ({limit})",
        )
    if isinstance(value, dict):
        for name in value:
            check_string(name, "a key of the metadata")
        value = value.values()
    for item in value:
        kind = type(item)
        if kind is str:
            check_string(item, "a string of the metadata")
        elif kind is int:
            if not -_INT64 <= item < _INT64:
                raise BadRecordError(
                    Reason.NUMBER_OUT_OF_RANGE,
                    "an integer of the metadata needs more than 64 bits: send it as a string",
                )
        elif kind is float:
            if not math.isfinite(item):
                raise BadRecordError(
                    Reason.NUMBER_OUT_OF_RANGE,
                    "a number of the metadata is beyond the range of 64-bit floats: send it as a "
                    "string",
                )
        elif kind is dict or kind is list:
            _walk(item, depth + 1, limit)


def event_version(value: object, settings: Settings, where: str = "`version`") -> int | None:
    """The integer that orders an event; `None` where timestamps do, whatever the event says.

    Raises
    ------
    BadRecordError
        `missing_version`, `invalid_version` (a boolean, a string, a fraction, `17.0`, negative,
        above 2**53 - 1).
    """
    if settings.kafka.order_by is not OrderBy.VERSION:
        return None
    if value is None:
        raise BadRecordError(
            Reason.MISSING_VERSION,
            f"{where} is missing or null, and `order_by: version` orders by it",
        )
    return _version(value, where)


def delete_version(
    value: object, record: Record, settings: Settings, where: str = "`version`"
) -> int | None:
    """As `event_version`, for a delete: in the body or in the header `plumbline-version`.

    Where a header stands several times, the last counts, as in Kafka's own clients.

    Raises
    ------
    BadRecordError
        `unversioned_delete`; `invalid_version`, also where body and header differ.
    """
    if settings.kafka.order_by is not OrderBy.VERSION:
        return None
    version = None if value is None else _version(value, where)
    headers = [held for name, held in record.headers if name == VERSION_HEADER]
    if not headers:
        if version is None:
            raise BadRecordError(
                Reason.UNVERSIONED_DELETE,
                f"a delete needs a version with `order_by: version`: {where} in the body, or the "
                f"header {VERSION_HEADER} (decimal digits)",
            )
        return version
    # A header's value may be null in Kafka, whatever the type says.
    if headers[-1] is None or not _DIGITS.fullmatch(headers[-1]):
        raise BadRecordError(
            Reason.INVALID_VERSION, f"the header {VERSION_HEADER} must hold decimal digits, 1 to 16"
        )
    in_header = _version(int(headers[-1]), f"the header {VERSION_HEADER}")
    if version is not None and version != in_header:
        raise BadRecordError(
            Reason.INVALID_VERSION,
            f"{where} is {version} and the header {VERSION_HEADER} says {in_header}: make "
            "them agree",
        )
    return in_header


def _version(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        came = "a fraction or float" if isinstance(value, float) else json_type(value)
        raise BadRecordError(
            Reason.INVALID_VERSION, f"{where} must be an integer, 0 to {MAX_EXACT}, not {came}"
        )
    if not 0 <= value <= MAX_EXACT:
        problem = "negative" if value < 0 else "larger: Qdrant compares 64-bit floats"
        raise BadRecordError(
            Reason.INVALID_VERSION, f"{where} must be an integer, 0 to {MAX_EXACT}; it is {problem}"
        )
    return value
