"""`format: debezium`: change envelopes of a table, a row being a document."""

from __future__ import annotations

from typing import Any

from pipelines.core.decode.checks import (
    VERSION_HEADER,
    check_document,
    check_id,
    check_metadata,
    delete_version,
    event_version,
)
from pipelines.core.decode.ignored import Ignored
from pipelines.core.decode.origin import Origin
from pipelines.core.decode.strict_json import parse_json
from pipelines.core.decode.words import json_type, nearest, shown
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.position import OrderBy
from pipelines.core.records import Event, Record
from pipelines.core.settings import DebeziumSettings, Settings

__all__ = ["decode_envelope"]

UNAVAILABLE = "__debezium_unavailable_value"
"""What Debezium sends for a large PostgreSQL column that the update did not touch."""

_WRITES = frozenset({"c", "u", "r"})


def decode_envelope(record: Record, origin: Origin, settings: Settings) -> Event | Ignored:
    """The event of a change envelope; see `pipelines.core.decode.decode`.

    Key and value may come with or without the converter's `schema` and `payload`. `op` c, u and r
    write the row in `after`, d deletes, t (truncate) and everything else is refused. The key
    decides which document it is, and the row must agree. What is not kept (`before`, other
    columns) may hold anything.

    A null value deletes the document of its key, at its own timestamp. Ordered by version it has
    none, unless in the header `plumbline-version`, and is `Ignored`: the delete before it counts.
    """
    mapping = settings.kafka.debezium
    limits = settings.limits
    from_key = None if record.key is None else _id_of_key(record.key, mapping)
    envelope = None if record.value is None else _payload(parse_json(record.value))
    if envelope is None:
        if from_key is None:
            raise BadRecordError(
                Reason.MISSING_ID, "neither key nor value: a delete names its document in the key"
            )
        document_id = check_id(from_key, limits, "the id in the key")
        if settings.kafka.order_by is OrderBy.VERSION and not any(
            name == VERSION_HEADER for name, _ in record.headers
        ):
            return Ignored(document_id, record)
        version = delete_version(None, record, settings)
        return Event(document_id, origin.position(version), deleted=True, record=record)

    if not isinstance(envelope, dict):
        raise BadRecordError(
            Reason.NOT_AN_OBJECT, f"the envelope must be a JSON object, not {json_type(envelope)}"
        )
    deleted = _operation(envelope) == "d"
    row = _row(envelope, "before" if deleted else "after", optional=deleted)
    document_id = check_id(_agreed_id(from_key, row, mapping, deleted=deleted), limits)
    path = mapping.version or ""
    stated = _at_path(envelope, path)
    where = f"`{path}`"
    if deleted:
        version = delete_version(stated, record, settings, where)
        return Event(document_id, origin.position(version), deleted=True, record=record)
    version = event_version(stated, settings, where)
    title, text = check_document(*_title_and_text(row, mapping), limits)
    raw_bytes = len(record.value or b"")
    metadata = check_metadata(_metadata(row, mapping), limits, raw_bytes)
    return Event(document_id, origin.position(version), title, text, metadata, record=record)


def _payload(value: Any) -> Any:
    """What the converter wrapped: with `schemas.enable` the payload stands beside its schema."""
    if isinstance(value, dict) and "payload" in value and value.keys() <= {"schema", "payload"}:
        return value["payload"]
    return value


def _operation(envelope: dict[str, Any]) -> str:
    operation = envelope.get("op")
    if isinstance(operation, str):
        if operation in _WRITES or operation == "d":
            return operation
        if operation == "t":
            raise BadRecordError(
                Reason.TRUNCATE,
                "the table was truncated: its documents stay in the index until each is deleted, "
                "or the version is built anew",
            )
    if "op" in envelope:
        came = shown(operation) if isinstance(operation, str) else json_type(operation)
        raise BadRecordError(
            Reason.UNKNOWN_ENVELOPE, f"`op` is {came}: valid are c, u, r and d (t is refused)"
        )
    advice = "send Debezium's own envelope (`op`, `before`, `after`)"
    if "after" not in envelope and "before" not in envelope:
        advice += (
            "; if the connector flattens it (ExtractNewRecordState), take that transform out, or "
            "send documents with `kafka.format: json`"
        )
    raise BadRecordError(Reason.UNKNOWN_ENVELOPE, f"a change envelope needs `op`: {advice}")


def _row(envelope: dict[str, Any], side: str, *, optional: bool) -> dict[str, Any]:
    row = envelope.get(side)
    if isinstance(row, dict):
        return row
    if row is None and optional:
        return {}
    hint = "; the MongoDB connector's JSON strings are not supported" if type(row) is str else ""
    raise BadRecordError(
        Reason.UNKNOWN_ENVELOPE,
        f"`{side}` must be an object of columns, not {json_type(row)}{hint}",
    )


def _agreed_id(
    from_key: str | None, row: dict[str, Any], mapping: DebeziumSettings, *, deleted: bool
) -> str:
    names = _id_columns(mapping)
    if from_key is not None and not all(name in row for name in names):
        # Not every connector repeats the key in the row, and `before` may be cut down to nothing.
        return from_key
    if from_key is None and deleted and not row:
        raise BadRecordError(
            Reason.MISSING_ID, "a delete with neither a key nor a row in `before` names no document"
        )
    from_row = _joined(row, mapping, "before" if deleted else "after")
    if from_key is not None and from_key != from_row:
        raise BadRecordError(
            Reason.KEY_MISMATCH,
            f"the key says {shown(from_key)} and the row {shown(from_row)}: `kafka.debezium.id` "
            "must name columns of the key",
        )
    return from_row


def _id_of_key(key: bytes, mapping: DebeziumSettings) -> str:
    try:
        struct = _payload(parse_json(key, "key"))
    except BadRecordError as error:
        raise BadRecordError(
            Reason.INVALID_ID,
            f"{error.message}; with `format: debezium` the key is a struct in JSON "
            "(`key.converter` JsonConverter)",
        ) from None
    if isinstance(struct, dict):
        return _joined(struct, mapping, "key")
    names = _id_columns(mapping)
    if len(names) == 1:  # A transform took the only column out of its struct.
        return _joined({names[0]: struct}, mapping, "key")
    raise BadRecordError(
        Reason.INVALID_ID,
        f"the key must be a struct with the columns {', '.join(names)}, not {json_type(struct)}",
    )


def _id_columns(mapping: DebeziumSettings) -> list[str]:
    return [mapping.id] if isinstance(mapping.id, str) else mapping.id


def _joined(row: dict[str, Any], mapping: DebeziumSettings, where: str) -> str:
    """The id: one column as it is, or several joined by `/`.

    Of several, `/` and `%` inside a column are written `%2F` and `%25`, so that two rows never
    share an id: ("a/b", "c") and ("a", "b/c") would.
    """
    names = _id_columns(mapping)
    parts = [_id_part(row, name, where) for name in names]
    if len(parts) == 1:
        return parts[0]
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def _id_part(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        hint = "is null" if name in row else f"is not there: {nearest(name, row)}"
        raise BadRecordError(Reason.MISSING_ID, f"the id's column {name!r} in the {where} {hint}")
    if value == "":
        raise BadRecordError(
            Reason.INVALID_ID, f"the id's column {name!r} in the {where} is an empty string"
        )
    raise BadRecordError(
        Reason.INVALID_ID,
        f"the id's column {name!r} in the {where} must be a string or an integer, not "
        f"{'a float' if isinstance(value, float) else json_type(value)}; for decimals set the "
        "connector's `decimal.handling.mode` to string",
    )


def _at_path(envelope: dict[str, Any], path: str) -> Any:
    value: Any = envelope
    for name in path.split(".") if path else ():
        value = value.get(name) if isinstance(value, dict) else None
    return value if path else None


def _title_and_text(row: dict[str, Any], mapping: DebeziumSettings) -> tuple[Any, Any]:
    if mapping.text not in row:
        raise BadRecordError(
            Reason.MISSING_TEXT,
            f"the row has no column {mapping.text!r} (`kafka.debezium.text`): "
            f"{nearest(mapping.text, row)}",
        )
    if mapping.title is not None and mapping.title not in row:
        raise BadRecordError(
            Reason.INVALID_TITLE,
            f"the row has no column {mapping.title!r} (`kafka.debezium.title`): "
            f"{nearest(mapping.title, row)}",
        )
    text = row[mapping.text]
    title = None if mapping.title is None else row[mapping.title]
    if text == UNAVAILABLE:
        raise BadRecordError(Reason.MISSING_TEXT, _unavailable(mapping.text))
    if title == UNAVAILABLE:
        raise BadRecordError(Reason.INVALID_TITLE, _unavailable(mapping.title or ""))
    return title, text


def _metadata(row: dict[str, Any], mapping: DebeziumSettings) -> dict[str, Any]:
    if mapping.metadata is None:
        used = {*_id_columns(mapping), mapping.text, mapping.title}
        kept = {name: value for name, value in row.items() if name not in used}
    else:
        for name in mapping.metadata:
            if name not in row:
                raise BadRecordError(
                    Reason.INVALID_METADATA,
                    f"the row has no column {name!r} (`kafka.debezium.metadata`): "
                    f"{nearest(name, row)}",
                )
        kept = {name: row[name] for name in mapping.metadata}
    for name, value in kept.items():
        if value == UNAVAILABLE:
            raise BadRecordError(Reason.INVALID_METADATA, _unavailable(name))
    return kept


def _unavailable(column: str) -> str:
    return (
        f"PostgreSQL did not send the column {shown(column)}, since the update left it alone, and "
        "an event must carry the whole document: ALTER TABLE … REPLICA IDENTITY FULL"
    )
