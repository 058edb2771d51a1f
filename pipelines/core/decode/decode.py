"""The one entry: a record and the settings in, an event out."""

from __future__ import annotations

from pipelines.core.decode.debezium import decode_envelope
from pipelines.core.decode.document import decode_document
from pipelines.core.decode.ignored import Ignored
from pipelines.core.decode.origin import read_origin
from pipelines.core.records import Event, Record
from pipelines.core.settings import Settings

__all__ = ["decode"]


def decode(record: Record, settings: Settings) -> Event | Ignored:
    """The event that a record says.

    Parameters
    ----------
    record
        As it came from Kafka. One from `settings.replay_topic` is a replayed dead letter: its
        position is the one in its headers, which mean nothing on any other topic.
    settings
        `kafka.format`, `kafka.order_by`, `kafka.debezium`, `limits` and the replay topic count.

    Returns
    -------
    Event | Ignored
        `Ignored` is counted as `unchanged`.

    Raises
    ------
    BadRecordError
        The record cannot be applied. Nothing else is raised, whatever the bytes; the message
        names fields and figures and never quotes title, text or metadata values.

    Notes
    -----
    The first fault found is the reason, in this order: position, JSON, envelope, unknown fields,
    id and key, version, title and text, metadata. A delete is read leniently: all that counts is
    which document and, ordered by version, which version; the rest of its body is not looked at,
    since refusing it would leave a document searchable that somebody deleted.
    """
    origin = read_origin(record, settings)
    if settings.kafka.format == "debezium":
        return decode_envelope(record, origin, settings)
    return decode_document(record, origin, settings)
