"""Hypothesis strategies: records, good, hostile and anything between."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from pipelines.core.position import MAX_EXACT
from pipelines.core.records import Record

__all__ = [
    "any_records",
    "envelopes",
    "events",
    "headers",
    "json_values",
    "metadata",
    "mutated",
    "plain_text",
]

plain_text = st.text(
    # What an event may hold: everything but halves of surrogate pairs and NUL.
    st.characters(codec="utf-8", exclude_characters="\0"),
    max_size=60,
)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)
"""Everything Python's `json` writes, NaN, huge integers, lone surrogates and NUL included."""

_unchecked_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=6,
)
"""JSON that must be readable and need not be storable: surrogates, NUL, huge integers."""

_good_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=6,
)

metadata = st.dictionaries(
    plain_text.filter(lambda name: not name.startswith("_plumbline")), _good_values, max_size=4
)
"""Metadata within the default limits."""

headers = st.lists(
    st.tuples(
        st.sampled_from(["plumbline-version", "trace", "plumbline.origin.topic"])
        | st.text(st.characters(codec="utf-8"), max_size=8),
        st.binary(max_size=12) | st.integers().map(lambda n: str(n).encode()),
    ),
    max_size=4,
).map(tuple)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """A valid body of `format: json`, good in both orders."""
    body: dict[str, Any] = {
        "id": draw(plain_text.filter(bool)),
        "version": draw(st.integers(0, MAX_EXACT)),
    }
    if draw(st.booleans()):
        return body | {"deleted": True}
    body["text"] = draw(plain_text.filter(lambda text: bool(text.strip())))
    for name, values in (("title", plain_text), ("metadata", metadata)):
        if draw(st.booleans()):
            body[name] = draw(values)
    return body


@st.composite
def envelopes(draw: st.DrawFn) -> tuple[bytes | None, dict[str, Any]]:
    """Key and envelope of Debezium, valid for the mapping id, text, title and `source.lsn`."""
    identity = draw(st.integers() | plain_text.filter(bool))
    row = {
        "id": identity,
        "text": draw(plain_text.filter(lambda text: bool(text.strip()))),
        "title": draw(st.none() | plain_text),
        "lang": draw(_good_values),
    }
    operation = draw(st.sampled_from("curd"))
    sides = (row, None) if operation == "d" else (draw(_unchecked_values), row)
    envelope: dict[str, Any] = {
        "op": operation,
        "before": sides[0],
        "after": sides[1],
        "source": {"lsn": draw(st.integers(0, MAX_EXACT))},
    }
    if draw(st.booleans()):
        envelope = {"schema": {"type": "struct"}, "payload": envelope}
    struct: dict[str, Any] = {"id": identity}
    if draw(st.booleans()):
        struct = {"schema": None, "payload": struct}
    key = draw(st.sampled_from([None, json.dumps(struct).encode()]))
    return key, envelope


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[Any]) -> bytes:
    """JSON of a valid body after a few changes: values replaced, fields lost, bytes cut."""
    body = draw(valid)
    target = body.get("payload", body) if isinstance(body, dict) else body
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from([*target, "deleted", "_plumbline"]) | st.text(max_size=5))
        if draw(st.booleans()):
            target.pop(name, None)
        else:
            target[name] = draw(json_values)
    value = json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(value)))
        value = value[:at] + draw(st.binary(max_size=3)) + value[at + draw(st.integers(0, 3)) :]
    return value


@st.composite
def any_records(draw: st.DrawFn, values: st.SearchStrategy[bytes | None], *topics: str) -> Record:
    """A record with one of these values and anything else."""
    return Record(
        topic=draw(st.sampled_from(topics or ("documents",))),
        partition=draw(st.integers(0, 2**31 - 1)),
        offset=draw(st.integers(0, 2**63 - 1)),
        timestamp=draw(st.integers(-1, MAX_EXACT) | st.integers(-(2**63), 2**63 - 1)),
        key=draw(st.none() | st.binary(max_size=12) | st.text(max_size=8).map(_lenient)),
        value=draw(values),
        headers=draw(headers),
    )


def _lenient(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
