"""`format: json`: one JSON object says the whole document, or that it is deleted."""

from __future__ import annotations

from typing import Any

from pipelines.core.decode.checks import (
    check_document,
    check_id,
    check_metadata,
    delete_version,
    event_version,
)
from pipelines.core.decode.origin import Origin
from pipelines.core.decode.strict_json import parse_json
from pipelines.core.decode.words import json_type, nearest, shown
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.records import Event, Record
from pipelines.core.settings import Settings

__all__ = ["FIELDS", "decode_document"]

FIELDS = ("id", "text", "title", "metadata", "version", "deleted")
"""Every field an event may have."""

_KNOWN = frozenset(FIELDS)


def decode_document(record: Record, origin: Origin, settings: Settings) -> Event:
    """The event of a JSON record; see `pipelines.core.decode.decode`.

    An unknown field is refused, not dropped: `tittle` would lose the title of every document
    without a sound, and what a producer adds for itself belongs into `metadata`. `title`,
    `metadata`, `version` and `deleted` may be null, which is the same as leaving them out. Ordered
    by timestamp, `version` is not looked at. `deleted: true` deletes, whatever else is there.
    """
    if record.value is None:
        if record.key is None:
            raise BadRecordError(
                Reason.MISSING_ID, "neither key nor value: a delete names its document in the key"
            )
        document_id = check_id(_key_text(record.key), settings.limits, "the key")
        version = delete_version(None, record, settings)
        return Event(document_id, origin.position(version), deleted=True, record=record)

    body = parse_json(record.value)
    if not isinstance(body, dict):
        raise BadRecordError(
            Reason.NOT_AN_OBJECT, f"the value must be a JSON object, not {json_type(body)}"
        )
    deleted = _deleted(body)
    if not deleted and not _KNOWN.issuperset(body):
        _refuse_unknown(body)
    document_id = check_id(body.get("id"), settings.limits)
    _check_key(record.key, document_id)
    if deleted:
        version = delete_version(body.get("version"), record, settings)
        return Event(document_id, origin.position(version), deleted=True, record=record)
    version = event_version(body.get("version"), settings)
    title, text = check_document(body.get("title"), body.get("text"), settings.limits)
    metadata = check_metadata(body.get("metadata"), settings.limits, len(record.value))
    return Event(document_id, origin.position(version), title, text, metadata, record=record)


def _deleted(body: dict[str, Any]) -> bool:
    deleted = body.get("deleted")
    if deleted is None or isinstance(deleted, bool):
        return bool(deleted)
    raise BadRecordError(
        Reason.INVALID_DELETED, f"`deleted` must be true or false, not {json_type(deleted)}"
    )


def _refuse_unknown(body: dict[str, Any]) -> None:
    if ("op" in body and ("after" in body or "before" in body)) or body.keys() == {
        "schema",
        "payload",
    }:
        raise BadRecordError(
            Reason.UNKNOWN_ENVELOPE,
            "this looks like a change envelope of Debezium: set `kafka.format: debezium`",
        )
    unknown = [name for name in body if name not in _KNOWN]
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    raise BadRecordError(
        Reason.UNKNOWN_FIELD,
        f"unknown field {shown(unknown[0])}{more}: {nearest(unknown[0], FIELDS)} Fields of your "
        "own belong into `metadata`",
    )


def _key_text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise BadRecordError(
            Reason.INVALID_ID, f"the key is not UTF-8 ({len(key)} bytes): it is the document's id"
        ) from None


def _check_key(key: bytes | None, document_id: str) -> None:
    # Compared as bytes: a key that is not UTF-8 differs as well.
    if key is not None and key != document_id.encode():
        raise BadRecordError(
            Reason.KEY_MISMATCH,
            f"the key ({len(key)} bytes) is not the id {shown(document_id)}: compaction and the "
            "order of partitions go by the key, so both must say the same; or send no key",
        )
