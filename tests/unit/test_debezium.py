"""From records to events, in `format: debezium`."""

import json

import pytest
from hypothesis import given

from pipelines.core.decode import Ignored, decode
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.position import Position
from pipelines.core.records import Event, Record
from pipelines.core.settings import Settings
from tests.support.hostile import hostile_envelopes
from tests.support.strategies import envelopes

ROW = {"id": 42, "title": "T", "body": "B", "lang": "en", "rev": 5}


def configured(order_by="timestamp", **debezium):
    mapping = {"text": "body", "title": "title", **debezium}
    if order_by == "version":
        mapping.setdefault("version", "after.rev")
    return Settings(
        kafka={
            "topics": ["documents"],
            "format": "debezium",
            "order_by": order_by,
            "debezium": mapping,
        }
    )


BY_TIME = configured()
BY_VERSION = configured("version")


def record(value, key=None, headers=()):
    def wire(part):
        return json.dumps(part).encode() if isinstance(part, dict | int | str) else part

    return Record("documents", 2, 5, 1000, wire(key), wire(value), tuple(headers))


def envelope(op="u", **parts):
    return {"op": op, "before": None, "after": dict(ROW), "source": {"lsn": 9}, **parts}


def refusal(settings, *args, **kwargs):
    with pytest.raises(BadRecordError) as caught:
        decode(record(*args, **kwargs), settings)
    return caught.value


@pytest.mark.parametrize("op", ["c", "u", "r"])
@pytest.mark.parametrize("wrapped_value", [False, True])
@pytest.mark.parametrize(
    "key", [None, {"id": 42}, {"schema": {"type": "struct"}, "payload": {"id": 42}}, 42, "42"]
)
def test_a_row_becomes_a_document(op, wrapped_value, key):
    """With and without the converter's schema, by the columns of the mapping."""
    value = envelope(op)
    if wrapped_value:
        value = {"schema": {"type": "struct"}, "payload": value}
    event = decode(record(value, key), BY_TIME)
    expected = Event(
        "42",
        Position("documents", 2, 5, 1000),
        title="T",
        text="B",
        metadata={"lang": "en", "rev": 5},
    )
    assert expected == event


def test_metadata_columns_can_be_chosen():
    """The settings name them; a name that is no column is refused, not forgotten."""
    assert decode(record(envelope()), configured(metadata=["lang"])).metadata == {"lang": "en"}
    assert decode(record(envelope()), configured(metadata=[])).metadata == {}
    error = refusal(configured(metadata=["langg"]), envelope())
    assert (error.reason, "'lang'" in error.message) == (Reason.INVALID_METADATA, True)


def test_two_rows_never_share_an_id():
    """Several columns are joined so that the border between them cannot be mistaken."""
    settings = configured(id=["a", "b"])

    def id_of(a, b):
        return decode(record(envelope(after=ROW | {"a": a, "b": b})), settings).document_id

    assert id_of("x", 7) == "x/7"
    ids = [id_of("x/y", "z"), id_of("x", "y/z"), id_of("x%2Fy", "z")]
    assert len(set(ids)) == 3


@pytest.mark.parametrize("key", [{"id": 42}, None])
def test_d_deletes(key):
    """The key names the document, or else the row that was there."""
    event = decode(record(envelope("d", before=ROW, after=None), key), BY_TIME)
    assert Event("42", Position("documents", 2, 5, 1000), deleted=True) == event


@pytest.mark.parametrize("before", [None, {}, {"title": None}])
def test_a_delete_needs_no_row_when_it_has_a_key(before):
    """PostgreSQL sends next to nothing of a deleted row by default."""
    event = decode(record(envelope("d", before=before, after=None), {"id": 42}), BY_TIME)
    assert (event.document_id, event.deleted) == ("42", True)


def test_the_null_behind_a_delete_deletes_again_by_timestamp():
    """At its own, later position: what is deleted stays deleted, and counts as unchanged."""
    event = decode(record(None, {"id": 42}), BY_TIME)
    assert Event("42", Position("documents", 2, 5, 1000), deleted=True) == event
    wrapped = decode(record({"schema": None, "payload": None}, {"id": 42}), BY_TIME)
    assert event == wrapped


def test_the_null_behind_a_delete_is_ignored_by_version():
    """It has no version, and the delete before it did the work; a header makes it count."""
    came = record(None, {"id": 42})
    assert Ignored("42", came) == decode(came, BY_VERSION)
    stated = decode(record(None, {"id": 42}, [("plumbline-version", b"8")]), BY_VERSION)
    assert (stated.deleted, stated.position.version) == (True, 8)


def test_the_version_comes_from_anywhere_in_the_envelope():
    """A column of the row, or the source's own log position."""
    assert decode(record(envelope()), BY_VERSION).position.version == 5
    by_log = configured("version", version="source.lsn")
    assert decode(record(envelope()), by_log).position.version == 9
    deleted = decode(record(envelope("d", before=ROW, after=None)), by_log)
    assert (deleted.deleted, deleted.position.version) == (True, 9)


def test_a_delete_without_its_version_is_refused():
    """A column of `after` is not there when the row is gone: the log position would be."""
    error = refusal(BY_VERSION, envelope("d", before=ROW, after=None), {"id": 42})
    assert (error.reason, "after.rev" in error.message) == (Reason.UNVERSIONED_DELETE, True)
    assert (
        refusal(configured("version", version="after.no.such"), envelope()).reason
        is Reason.MISSING_VERSION
    )


def test_what_was_before_is_not_held_against_an_update():
    """The update that mends a broken row must get through."""
    broken = {"id": 42, "body": "\ud800\0", "n": 2**80, "_plumbline": 1, "title": []}
    assert decode(record(envelope(before=broken)), BY_TIME).text == "B"


def test_columns_that_are_not_kept_may_hold_anything():
    """Only what would be stored is checked."""
    value = envelope(after=ROW | {"blob": "\0", "n": 2**80})
    assert decode(record(value), configured(metadata=["lang"])).text == "B"


@pytest.mark.parametrize("shape", hostile_envelopes(), ids=lambda shape: shape.name)
def test_every_hostile_envelope_is_refused_for_its_reason(shape):
    """Each malformed shape has the reason that tells the operator what to mend."""
    with pytest.raises(BadRecordError) as caught:
        decode(Record("documents", 0, 1, 1000, shape.key, shape.value), BY_TIME)
    assert shape.reason is caught.value.reason
    assert "good text" not in caught.value.message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"id": 42, "body": "B"}, ["ExtractNewRecordState"]),
        (envelope(after=ROW | {"body": "__debezium_unavailable_value"}), ["REPLICA IDENTITY FULL"]),
        (envelope("t", after=None), ["truncated"]),
    ],
)
def test_messages_say_what_to_do(value, words):
    """A message names what came and what to change in the connector."""
    message = refusal(BY_TIME, value).message
    for word in words:
        assert word in message


@given(envelopes())
def test_valid_envelopes_are_accepted_in_both_orders(pair):
    """What the documentation allows is never refused."""
    key, value = pair
    mapping = {"title": "title", "version": "source.lsn"}
    for order_by in ("timestamp", "version"):
        settings = Settings(kafka={"format": "debezium", "order_by": order_by, "debezium": mapping})
        event = decode(record(value, key), settings)
        assert isinstance(event, Event)
        inner = value.get("payload", value)
        assert (inner["op"] == "d") is event.deleted
        row = inner["after"] or inner["before"]
        assert str(row["id"]) == event.document_id
