"""JSON read strictly: what two readers could understand differently is refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pipelines.core.decode.words import shown
from pipelines.core.errors import BadRecordError, Reason

__all__ = ["parse_json"]

_COMPRESSED = "data: send it uncompressed, and leave compression to `compression.type`"
_MAGIC = (
    (b"\x1f\x8b", f"gzip {_COMPRESSED}"),
    (b"\x28\xb5\x2f\xfd", f"zstd {_COMPRESSED}"),
    (b"\x82SNAPPY\x00", f"snappy {_COMPRESSED}"),
    (b"\xff\x06\x00\x00sNaPpY", f"snappy {_COMPRESSED}"),
    (b"\x04\x22\x4d\x18", f"lz4 {_COMPRESSED}"),
    (b"BZh", f"bzip2 {_COMPRESSED}"),
    (b"\xfd7zXZ\x00", f"xz {_COMPRESSED}"),
    (b"\x78\x01", f"zlib {_COMPRESSED}"),
    (b"\x78\x9c", f"zlib {_COMPRESSED}"),
    (b"\x78\xda", f"zlib {_COMPRESSED}"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xff\xfe", "UTF-16 or UTF-32: send UTF-8"),
    (b"\xfe\xff", "UTF-16: send UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32: send UTF-8"),
    (b"{\x00", "UTF-16: send UTF-8"),
    (b"\x00{", "UTF-16: send UTF-8"),
    (b"\xac\xed\x00\x05", "a serialised Java object: send JSON"),
    # Confluent's wire format: a zero byte and the schema's id, four bytes.
    (b"\x00", "a schema registry's format (Avro, Protobuf or JSON Schema): send plain JSON"),
)


def parse_json(data: bytes, what: str = "value") -> Any:
    """What the bytes say as JSON (RFC 8259).

    A byte order mark in front is skipped, as the RFC allows: it changes no meaning, and a refused
    event could never be replayed.

    Parameters
    ----------
    data
        UTF-8.
    what
        What the messages call it: `value` or `key`.

    Returns
    -------
    Any
        Objects as `dict`, arrays as `list`. Strings may still hold lone surrogates and NUL, and
        numbers be infinite or beyond 64 bits: `checks` refuses those where they would be kept.

    Raises
    ------
    BadRecordError
        `not_utf8`, `not_json` (NaN and Infinity are not JSON), `duplicate_keys` at any depth,
        `metadata_too_deep` past the depth that the parser reaches, `number_out_of_range` for an
        integer of thousands of digits.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadRecordError(
            Reason.NOT_UTF8,
            f"the {what} is not UTF-8 (byte {error.start} of {len(data)}){_looks_like(data)}",
        ) from None
    if text.startswith("\ufeff"):
        text = text[1:]
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRecordError(Reason.NOT_JSON, _not_json(error, data, text, what)) from None
    except RecursionError:
        raise BadRecordError(
            Reason.METADATA_TOO_DEEP, f"the {what} is nested too deeply to be read"
        ) from None
    except ValueError:
        # Python refuses to convert thousands of digits, which would take quadratic time.
        raise BadRecordError(
            Reason.NUMBER_OUT_OF_RANGE, f"the {what} holds an integer of thousands of digits"
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise BadRecordError(
                    Reason.DUPLICATE_KEYS,
                    f"the name {shown(name)} stands twice in one object: readers differ in which "
                    "of the two they keep",
                )
            seen.add(name)
    return members


def _constant(name: str) -> NoReturn:
    raise BadRecordError(Reason.NOT_JSON, f"{name} is not JSON: send null, or leave it out")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _not_json(error: json.JSONDecodeError, data: bytes, text: str, what: str) -> str:
    if not text.strip(" \t\r\n"):
        return (
            f"the {what} is empty ({len(data)} bytes), which is not JSON; a delete is a null "
            "value, not an empty one"
        )
    hint = _looks_like(data)
    if not hint and (error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")):
        hint = "; it looks truncated"
    # Some messages of the parser quote the character they stumbled over, after a colon.
    problem = error.msg.partition(":")[0]
    return f"the {what} is not JSON: {problem} at character {error.pos} of {len(text)}{hint}"


def _looks_like(data: bytes) -> str:
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return f"; it looks like {name}"
    return ""
