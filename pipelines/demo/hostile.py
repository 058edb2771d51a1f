"""Events that no index should ever see, each with the reason it must be refused for."""

from __future__ import annotations

import gzip
import json

from pipelines.core.errors import Reason

__all__ = ["TEXT_LIMIT_BYTES", "hostile_events"]

TEXT_LIMIT_BYTES = 64 * 1024
"""The demo's `limits.text_bytes`: less than the default, so that one event over it is small."""


def hostile_events() -> list[tuple[Reason, bytes | None, bytes | None]]:
    """Reason expected, key and value, one event for each way to go wrong that is shown."""
    good = {"id": "demo/hostile", "text": "A perfectly good text."}
    whole = json.dumps(good).encode()

    def altered(**fields: object) -> bytes:
        return json.dumps(good | fields).encode()

    return [
        (Reason.NOT_JSON, None, b"Dear index, please add me."),
        (Reason.NOT_JSON, None, whole[:-9]),
        (Reason.NOT_JSON, None, b""),
        (Reason.NOT_JSON, None, b'{"id": "demo/hostile", "text": NaN}'),
        (Reason.NOT_UTF8, None, b'{"id": "demo/caf\xe9", "text": "Latin-1"}'),
        (Reason.NOT_UTF8, None, gzip.compress(whole, mtime=0)),
        (Reason.NOT_AN_OBJECT, None, b"[" + whole + b"]"),
        (Reason.DUPLICATE_KEYS, None, b'{"id": "demo/a", "id": "demo/b", "text": "Which one?"}'),
        (Reason.MISSING_ID, None, json.dumps({"text": "Nobody's."}).encode()),
        (Reason.MISSING_ID, None, None),
        (Reason.INVALID_ID, None, altered(id=42)),
        (Reason.INVALID_ID, None, altered(id="")),
        (Reason.KEY_MISMATCH, b"demo/other", whole),
        (Reason.MISSING_TEXT, None, b'{"id": "json.dumps", "title": "A partial update"}'),
        (Reason.INVALID_TEXT, None, altered(text=["a", "list"])),
        (Reason.EMPTY_DOCUMENT, None, altered(text=" \n")),
        (Reason.TEXT_TOO_LARGE, None, altered(text="long " * (TEXT_LIMIT_BYTES // 5 + 1))),
        (Reason.NUL_CHARACTER, None, altered(text="before\0after")),
        (Reason.LONE_SURROGATE, None, altered(text="half an emoji: \ud83d")),
        (Reason.RESERVED_METADATA_KEY, None, altered(metadata={"_plumbline": {"chunk": 7}})),
        (Reason.METADATA_TOO_DEEP, None, altered(metadata=_nested(100))),
        (Reason.NUMBER_OUT_OF_RANGE, None, altered(metadata={"views": 10**30})),
        (Reason.UNKNOWN_FIELD, None, altered(tittle="A typo would lose every title.")),
        (
            Reason.UNKNOWN_ENVELOPE,
            None,
            json.dumps({"op": "u", "before": None, "after": good}).encode(),
        ),
    ]


def _nested(depth: int) -> dict[str, object]:
    inner: dict[str, object] = {}
    for _ in range(depth):
        inner = {"deeper": inner}
    return inner
