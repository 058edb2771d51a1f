"""Records that no decoder may accept, each with the reason it must be refused for."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.core.errors import Reason
from pipelines.core.position import MAX_EXACT, OrderBy

__all__ = ["Hostile", "hostile_envelopes", "hostile_records", "random_hostile"]


@dataclass(frozen=True)
class Hostile:
    """One record that must become a dead letter.

    Parameters
    ----------
    name
        What is wrong with it, for the test's id.
    reason
        What the dead letter must say.
    """

    name: str
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: tuple[tuple[str, bytes], ...]
    reason: Reason


def hostile_records(
    order_by: OrderBy = OrderBy.TIMESTAMP,
    *,
    document_id: str = "hostile/1",
    text_bytes: int = 1 << 20,
) -> list[Hostile]:
    """Every malformed shape of `format: json` under the default limits.

    Parameters
    ----------
    order_by
        With `VERSION` those that lack a usable version as well; the others then carry one, so
        that its absence does not hide the reason that is meant.
    document_id
        The document that they pretend to be.
    text_bytes
        The limit that one of them exceeds.
    """
    version = {"version": 7} if order_by is OrderBy.VERSION else {}
    good = {"id": document_id, "text": "A good text.", **version}
    whole = json.dumps(good).encode()
    key = document_id.encode()

    def altered(**fields: Any) -> bytes:
        return json.dumps(good | fields).encode()

    def spliced(members: str) -> bytes:
        return whole[:-1] + b", " + members.encode() + b"}"

    def without(*fields: str) -> bytes:
        return json.dumps({k: v for k, v in good.items() if k not in fields}).encode()

    shapes: list[tuple[str, Reason, bytes | None, bytes | None]] = [
        ("empty value", Reason.NOT_JSON, key, b""),
        ("white space", Reason.NOT_JSON, key, b" \r\n\t"),
        ("byte order mark alone", Reason.NOT_JSON, key, b"\xef\xbb\xbf"),
        ("prose", Reason.NOT_JSON, key, b"Dear index"),
        ("truncated in a string", Reason.NOT_JSON, key, whole[: whole.index(b"good")]),
        ("truncated before the brace", Reason.NOT_JSON, key, whole[:-1]),
        ("two values", Reason.NOT_JSON, key, whole + whole),
        ("single quotes", Reason.NOT_JSON, key, b"{'id': 'a'}"),
        ("trailing comma", Reason.NOT_JSON, key, whole[:-1] + b",}"),
        ("comment", Reason.NOT_JSON, key, b"/* */" + whole),
        ("raw control character", Reason.NOT_JSON, key, whole.replace(b"good", b"go\nod")),
        ("raw NUL", Reason.NOT_JSON, key, whole.replace(b"good", b"go\x00od")),
        ("bad escape", Reason.NOT_JSON, key, whole.replace(b"good", b"go\\xod")),
        ("NaN", Reason.NOT_JSON, key, spliced('"metadata": {"a": NaN}')),
        ("Infinity", Reason.NOT_JSON, key, spliced('"metadata": {"a": -Infinity}')),
        ("UTF-16 without a mark", Reason.NOT_JSON, key, whole.decode().encode("utf-16-le")),
        ("Confluent's wire format", Reason.NOT_JSON, key, b"\x00\x00\x00\x00\x05" + whole),
        ("lz4", Reason.NOT_UTF8, key, b"\x04\x22\x4d\x18\x64\x40\xa7" + whole),
        ("bzip2", Reason.NOT_UTF8, key, bz2.compress(whole)),
        ("gzip", Reason.NOT_UTF8, key, gzip.compress(whole, mtime=0)),
        ("zlib", Reason.NOT_UTF8, key, zlib.compress(whole)),
        ("zstd", Reason.NOT_UTF8, key, b"\x28\xb5\x2f\xfd\x04\x00" + whole),
        ("snappy", Reason.NOT_UTF8, key, b"\x82SNAPPY\x00\x00\x00\x00\x01" + whole),
        ("UTF-16", Reason.NOT_UTF8, key, whole.decode().encode("utf-16")),
        ("Latin-1", Reason.NOT_UTF8, key, whole.replace(b"good", b"caf\xe9")),
        ("overlong UTF-8", Reason.NOT_UTF8, key, whole.replace(b"good", b"\xc0\x80")),
        ("surrogate in UTF-8", Reason.NOT_UTF8, key, whole.replace(b"good", b"\xed\xa0\x80")),
        ("array", Reason.NOT_AN_OBJECT, key, b"[" + whole + b"]"),
        ("string", Reason.NOT_AN_OBJECT, key, b'"hostile/1"'),
        ("number", Reason.NOT_AN_OBJECT, key, b"42"),
        ("JSON null", Reason.NOT_AN_OBJECT, key, b"null"),
        ("id twice", Reason.DUPLICATE_KEYS, key, spliced('"id": "other"')),
        ("text twice, the same", Reason.DUPLICATE_KEYS, key, spliced('"text": "A good text."')),
        (
            "keys twice, deep down",
            Reason.DUPLICATE_KEYS,
            key,
            spliced('"metadata": {"a": [{"b": 1, "\\u0062": 2}]}'),
        ),
        ("surrogate in the id", Reason.LONE_SURROGATE, None, altered(id="\ud800")),
        ("surrogate in the text", Reason.LONE_SURROGATE, key, altered(text="half \ud83d")),
        ("surrogates the wrong way", Reason.LONE_SURROGATE, key, altered(text="\udc00\ud800")),
        ("surrogate in the title", Reason.LONE_SURROGATE, key, altered(title="\udfff")),
        (
            "surrogate in metadata",
            Reason.LONE_SURROGATE,
            key,
            altered(metadata={"a": [{"b": "\ud800"}]}),
        ),
        (
            "surrogate in a key",
            Reason.LONE_SURROGATE,
            key,
            altered(metadata={"a": {"\ud800": 1}}),
        ),
        ("NUL in the id", Reason.NUL_CHARACTER, None, altered(id="a\0b")),
        ("NUL in the text", Reason.NUL_CHARACTER, key, altered(text="a\0b")),
        ("NUL in the title", Reason.NUL_CHARACTER, key, altered(title="\0")),
        ("NUL in metadata", Reason.NUL_CHARACTER, key, altered(metadata={"a": ["\0"]})),
        ("NUL in a key", Reason.NUL_CHARACTER, key, altered(metadata={"a\0": 1})),
        ("integer over 64 bits", Reason.NUMBER_OUT_OF_RANGE, key, altered(metadata={"n": 2**63})),
        (
            "integer under 64 bits",
            Reason.NUMBER_OUT_OF_RANGE,
            key,
            altered(metadata={"n": [-(2**63) - 1]}),
        ),
        (
            "integer of 5,000 digits",
            Reason.NUMBER_OUT_OF_RANGE,
            key,
            spliced('"metadata": {"n": ' + "9" * 5000 + "}"),
        ),
        (
            "float that overflows",
            Reason.NUMBER_OUT_OF_RANGE,
            key,
            spliced('"metadata": {"n": 1e999}'),
        ),
        ("neither key nor value", Reason.MISSING_ID, None, None),
        ("no id", Reason.MISSING_ID, key, without("id")),
        ("id null", Reason.MISSING_ID, None, altered(id=None)),
        ("empty object", Reason.MISSING_ID, key, b"{}"),
        ("id a number", Reason.INVALID_ID, None, altered(id=42)),
        ("id a boolean", Reason.INVALID_ID, None, altered(id=True)),
        ("id an array", Reason.INVALID_ID, None, altered(id=[document_id])),
        ("id empty", Reason.INVALID_ID, None, altered(id="")),
        ("id too long", Reason.INVALID_ID, None, altered(id="é" * 513)),
        ("delete with an empty key", Reason.INVALID_ID, b"", None),
        ("delete with a key not UTF-8", Reason.INVALID_ID, b"\xff\xfe", None),
        ("delete with a key too long", Reason.INVALID_ID, b"k" * 1025, None),
        ("delete with NUL in the key", Reason.NUL_CHARACTER, b"a\x00b", None),
        ("another key", Reason.KEY_MISMATCH, b"hostile/2", whole),
        ("key empty", Reason.KEY_MISMATCH, b"", whole),
        ("key not UTF-8", Reason.KEY_MISMATCH, b"\xff", whole),
        ("key quoted", Reason.KEY_MISMATCH, json.dumps(document_id).encode(), whole),
        ("delete of another key", Reason.KEY_MISMATCH, b"hostile/2", altered(deleted=True)),
        ("no text", Reason.MISSING_TEXT, key, without("text")),
        ("text null", Reason.MISSING_TEXT, key, altered(text=None)),
        ("title alone", Reason.MISSING_TEXT, key, without("text")[:-1] + b', "title": "a"}'),
        ("not deleted, no text", Reason.MISSING_TEXT, key, altered(text=None, deleted=False)),
        ("text an array", Reason.INVALID_TEXT, key, altered(text=["a"])),
        ("text a number", Reason.INVALID_TEXT, key, altered(text=1)),
        ("text false", Reason.INVALID_TEXT, key, altered(text=False)),
        ("title a number", Reason.INVALID_TITLE, key, altered(title=3)),
        ("title an object", Reason.INVALID_TITLE, key, altered(title={})),
        ("text empty", Reason.EMPTY_DOCUMENT, key, altered(text="")),
        ("white space alone", Reason.EMPTY_DOCUMENT, key, altered(text=" \n\u2003", title="\t")),
        ("text over the limit", Reason.TEXT_TOO_LARGE, key, altered(text="a" * (text_bytes + 1))),
        (
            "text and title over the limit in bytes",
            Reason.TEXT_TOO_LARGE,
            key,
            altered(text="é" * (text_bytes // 2), title="a"),
        ),
        ("metadata an array", Reason.INVALID_METADATA, key, altered(metadata=[])),
        ("metadata a string", Reason.INVALID_METADATA, key, altered(metadata="{}")),
        ("metadata false", Reason.INVALID_METADATA, key, altered(metadata=False)),
        ("metadata nested", Reason.METADATA_TOO_DEEP, key, altered(metadata=_nested(9))),
        ("metadata of arrays", Reason.METADATA_TOO_DEEP, key, altered(metadata={"a": _arrays(8)})),
        (
            "a bomb of braces",
            Reason.METADATA_TOO_DEEP,
            key,
            spliced('"metadata": ' + '{"a": ' * 50_000 + "1" + "}" * 50_001)[:-1],
        ),
        ("a bomb of brackets", Reason.METADATA_TOO_DEEP, key, b"[" * 100_000),
        (
            "metadata over the limit",
            Reason.METADATA_TOO_LARGE,
            key,
            altered(metadata={"a": "b" * (64 * 1024)}),
        ),
        (
            "our key in metadata",
            Reason.RESERVED_METADATA_KEY,
            key,
            altered(metadata={"_plumbline": {"chunk": 3}}),
        ),
        (
            "a path into our key",
            Reason.RESERVED_METADATA_KEY,
            key,
            altered(metadata={"_plumbline.deleted": True}),
        ),
        ("deleted a string", Reason.INVALID_DELETED, key, altered(deleted="true")),
        ("deleted a number", Reason.INVALID_DELETED, key, altered(deleted=1)),
        ("a typo in a field", Reason.UNKNOWN_FIELD, key, altered(tittle="A")),
        ("a field in capitals", Reason.UNKNOWN_FIELD, key, altered(Metadata={})),
        ("a field of one's own", Reason.UNKNOWN_FIELD, key, altered(author="A")),
        ("a typo in deleted", Reason.UNKNOWN_FIELD, key, altered(delete=True)),
        (
            "an envelope of Debezium",
            Reason.UNKNOWN_ENVELOPE,
            key,
            json.dumps({"op": "c", "before": None, "after": good}).encode(),
        ),
        (
            "an envelope with its schema",
            Reason.UNKNOWN_ENVELOPE,
            key,
            json.dumps({"schema": {}, "payload": {"op": "c"}}).encode(),
        ),
    ]
    # With a version where it decides, a null value has none.
    header = (("plumbline-version", b"7"),) if version else ()
    records = [
        Hostile(name, key, value, header if value is None else (), reason)
        for name, reason, key, value in shapes
    ]
    return records + (_unversioned(document_id) if version else [])


def _unversioned(document_id: str) -> list[Hostile]:
    good = {"id": document_id, "text": "A good text."}
    key = document_id.encode()

    def event(name: str, reason: Reason, **fields: Any) -> Hostile:
        return Hostile(name, key, json.dumps(good | fields).encode(), (), reason)

    def raw(name: str, literal: str) -> Hostile:
        value = json.dumps(good)[:-1] + f', "version": {literal}}}'
        return Hostile(name, key, value.encode(), (), Reason.INVALID_VERSION)

    def delete(name: str, reason: Reason, *stated: bytes, **fields: Any) -> Hostile:
        value = json.dumps({"id": document_id, "deleted": True, **fields}).encode()
        headers = tuple(("plumbline-version", one) for one in stated)
        return Hostile(name, key, value if fields else None, headers, reason)

    return [
        event("no version", Reason.MISSING_VERSION),
        event("version null", Reason.MISSING_VERSION, version=None),
        event("version negative", Reason.INVALID_VERSION, version=-1),
        event("version over 2**53 - 1", Reason.INVALID_VERSION, version=MAX_EXACT + 1),
        event("version a string", Reason.INVALID_VERSION, version="17"),
        event("version a boolean", Reason.INVALID_VERSION, version=True),
        event("version an array", Reason.INVALID_VERSION, version=[1]),
        raw("version fractional", "17.5"),
        raw("version a float without fraction", "17.0"),
        raw("version with an exponent", "1e3"),
        raw("version infinite", "1e999"),
        delete("null value without a version", Reason.UNVERSIONED_DELETE),
        delete("delete without a version", Reason.UNVERSIONED_DELETE, text="ignored"),
        delete("delete with a version of null", Reason.UNVERSIONED_DELETE, version=None),
        delete("delete with a fraction", Reason.INVALID_VERSION, version=1.5),
        delete("header empty", Reason.INVALID_VERSION, b""),
        delete("header negative", Reason.INVALID_VERSION, b"-1"),
        delete("header with a sign", Reason.INVALID_VERSION, b"+1"),
        delete("header with a space", Reason.INVALID_VERSION, b" 1"),
        delete("header fractional", Reason.INVALID_VERSION, b"1.0"),
        delete("header not ASCII", Reason.INVALID_VERSION, "١".encode()),
        delete("header too large", Reason.INVALID_VERSION, str(MAX_EXACT + 1).encode()),
        delete("header of many digits", Reason.INVALID_VERSION, b"9" * 5000),
        delete("last header counts", Reason.INVALID_VERSION, b"1", b"x"),
        delete("body and header differ", Reason.INVALID_VERSION, b"2", version=1),
    ]


def hostile_envelopes() -> list[Hostile]:
    """Malformed shapes of `format: debezium` with the columns id, title, body and lang.

    For the mapping `{id: id, text: body, title: title}`, ordered by timestamp.
    """
    row = {"id": 42, "title": "A", "body": "A good text.", "lang": "en"}
    key = json.dumps({"schema": {}, "payload": {"id": 42}}).encode()
    unavailable = "__debezium_unavailable_value"

    def envelope(**parts: Any) -> bytes:
        whole = {"op": "u", "before": None, "after": row, "source": {"lsn": 7}, **parts}
        return json.dumps(whole).encode()

    def changed(**columns: Any) -> bytes:
        return envelope(after=row | columns)

    def lacking(column: str) -> bytes:
        return envelope(after={k: v for k, v in row.items() if k != column})

    flat = json.dumps(row).encode()
    shapes: list[tuple[str, Reason, bytes | None, bytes | None]] = [
        ("not JSON", Reason.NOT_JSON, key, b"op"),
        ("not UTF-8", Reason.NOT_UTF8, key, b"\xff"),
        ("not an object", Reason.NOT_AN_OBJECT, key, b"[]"),
        ("duplicate keys", Reason.DUPLICATE_KEYS, key, b'{"op": "c", "op": "d"}'),
        ("flattened", Reason.UNKNOWN_ENVELOPE, key, flat),
        ("no op", Reason.UNKNOWN_ENVELOPE, key, b'{"before": null, "after": {"id": 42}}'),
        ("op unknown", Reason.UNKNOWN_ENVELOPE, key, envelope(op="x")),
        ("op a message", Reason.UNKNOWN_ENVELOPE, key, envelope(op="m")),
        ("op null", Reason.UNKNOWN_ENVELOPE, key, envelope(op=None)),
        ("op an array", Reason.UNKNOWN_ENVELOPE, key, envelope(op=["c"])),
        ("a transaction's end", Reason.UNKNOWN_ENVELOPE, key, b'{"status": "END", "id": "1"}'),
        ("a heartbeat", Reason.UNKNOWN_ENVELOPE, key, b'{"ts_ms": 1}'),
        ("truncate", Reason.TRUNCATE, None, envelope(op="t", after=None)),
        ("no row", Reason.UNKNOWN_ENVELOPE, key, envelope(after=None)),
        ("a row of MongoDB", Reason.UNKNOWN_ENVELOPE, key, envelope(after="{}")),
        ("neither key nor value", Reason.MISSING_ID, None, None),
        ("delete of nothing", Reason.MISSING_ID, None, envelope(op="d", after=None)),
        ("key not JSON", Reason.INVALID_ID, b"Struct{id=42}", envelope()),
        ("key not UTF-8", Reason.INVALID_ID, b"\xff", None),
        ("key without the column", Reason.MISSING_ID, b'{"ident": 42}', None),
        ("key null inside", Reason.MISSING_ID, b'{"id": null}', envelope()),
        ("key a float", Reason.INVALID_ID, b'{"id": 4.5}', envelope()),
        ("key a boolean", Reason.INVALID_ID, b'{"id": true}', envelope()),
        ("key an array", Reason.INVALID_ID, b"[42]", envelope()),
        ("another row", Reason.KEY_MISMATCH, b'{"id": 43}', envelope()),
        ("no text column", Reason.MISSING_TEXT, key, lacking("body")),
        ("text null", Reason.MISSING_TEXT, key, changed(body=None)),
        ("text left out by PostgreSQL", Reason.MISSING_TEXT, key, changed(body=unavailable)),
        ("text a number", Reason.INVALID_TEXT, key, changed(body=1)),
        ("no title column", Reason.INVALID_TITLE, key, lacking("title")),
        ("title left out", Reason.INVALID_TITLE, key, changed(title=unavailable)),
        ("title an object", Reason.INVALID_TITLE, key, changed(title={})),
        ("empty", Reason.EMPTY_DOCUMENT, key, changed(body=" ", title=None)),
        ("surrogate", Reason.LONE_SURROGATE, key, changed(body="\ud800")),
        ("NUL", Reason.NUL_CHARACTER, key, changed(lang="\0")),
        ("number too large", Reason.NUMBER_OUT_OF_RANGE, key, changed(lang=2**64)),
        ("column of ours", Reason.RESERVED_METADATA_KEY, key, changed(_plumbline=1)),
        ("column left out", Reason.INVALID_METADATA, key, changed(lang=unavailable)),
        ("column nested", Reason.METADATA_TOO_DEEP, key, changed(lang=_nested(8))),
    ]
    return [Hostile(name, key, value, (), reason) for name, reason, key, value in shapes]


def random_hostile(
    seed: int, order_by: OrderBy = OrderBy.TIMESTAMP, *, text_bytes: int = 1 << 20
) -> Iterator[Hostile]:
    """An endless mix of `hostile_records`, the same for the same seed, small ones preferred."""
    source = random.Random(seed)
    records = hostile_records(order_by, text_bytes=text_bytes)
    small = [record for record in records if len(record.value or b"") < 10_000]
    while True:
        yield source.choice(small if source.random() < 0.98 else records)


def _nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth - 1):
        inner = {"a": inner}
    return inner


def _arrays(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth - 1):
        inner = [inner]
    return inner
