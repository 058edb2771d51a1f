"""From records to events, in `format: json`."""

import json

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.core.decode import Ignored, decode, origin_headers, parse_json
from pipelines.core.decode.checks import RESERVED_KEY
from pipelines.core.decode.origin import Origin
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.points import OURS
from pipelines.core.position import MAX_EXACT, OrderBy, Position
from pipelines.core.records import Event, Record
from pipelines.core.settings import Settings
from tests.support.hostile import hostile_envelopes, hostile_records, random_hostile
from tests.support.strategies import any_records, envelopes, events, mutated

BY_TIME = Settings(kafka={"topics": ["documents"]})
BY_VERSION = Settings(kafka={"topics": ["documents"], "order_by": "version"})
DEBEZIUM = {"format": "debezium", "topics": ["documents"]}
EVERY = [
    BY_TIME,
    BY_VERSION,
    Settings(kafka=DEBEZIUM),
    Settings(kafka=DEBEZIUM | {"order_by": "version", "debezium": {"version": "source.lsn"}}),
    Settings(
        kafka=DEBEZIUM
        | {"debezium": {"id": ["id", "lang"], "title": "title", "metadata": ["lang", "text"]}}
    ),
]


def record(value, key=None, headers=(), topic="documents", timestamp=1000, partition=2, offset=5):
    if isinstance(value, dict):
        value = json.dumps(value).encode()
    return Record(topic, partition, offset, timestamp, key, value, tuple(headers))


def refusal(settings, *args, **kwargs):
    with pytest.raises(BadRecordError) as caught:
        decode(record(*args, **kwargs), settings)
    return caught.value


def test_a_whole_document_is_read():
    """Every field arrives as it was sent, at the record's position."""
    came = record(
        {"id": "kb/42", "text": " Text é\n", "title": "T", "metadata": {"a": [1, None, 2.5]}},
        key=b"kb/42",
    )
    event = decode(came, BY_TIME)
    expected = Event(
        "kb/42",
        Position("documents", 2, 5, 1000),
        title="T",
        text=" Text é\n",
        metadata={"a": [1, None, 2.5]},
    )
    assert expected == event
    assert event.record is came


@pytest.mark.parametrize("optional", [{}, {"title": None, "metadata": None, "deleted": None}])
def test_optional_fields_may_be_null_or_left_out(optional):
    """Null means what leaving out means, so that typed producers need no special case."""
    event = decode(record({"id": "a", "text": "b", **optional}), BY_TIME)
    assert (event.title, event.metadata, event.deleted) == ("", {}, False)


def test_title_alone_is_a_document():
    """Only both empty is nothing to search for; the text itself must still be there."""
    assert decode(record({"id": "a", "text": "", "title": "b"}), BY_TIME).text == ""


def test_a_byte_order_mark_is_skipped():
    """RFC 8259 lets readers skip it, and it changes no meaning."""
    value = b"\xef\xbb\xbf" + json.dumps({"id": "a", "text": "b"}).encode()
    assert decode(record(value), BY_TIME).document_id == "a"


def test_the_id_is_kept_as_it_came():
    """White space and any script are part of an id: two ids are never made one."""
    for document_id in (" a ", "a\n", "é", "e\u0301", "🦜", "a" * 1024):
        event = decode(record({"id": document_id, "text": "b"}, document_id.encode()), BY_TIME)
        assert event.document_id == document_id


def test_a_null_value_deletes_the_document_of_its_key():
    """Kafka's own tombstone is a delete."""
    event = decode(record(None, b"kb/42"), BY_TIME)
    assert Event("kb/42", Position("documents", 2, 5, 1000), deleted=True) == event


@pytest.mark.parametrize(
    "rest", [{}, {"text": "b"}, {"text": 1}, {"metadata": []}, {"reason": "asked for"}]
)
def test_deleted_true_deletes_whatever_else_is_there(rest):
    """A delete is never refused for what it does not need."""
    event = decode(record({"id": "a", "deleted": True, **rest}, b"a"), BY_TIME)
    assert (event.deleted, event.text, event.title) == (True, "", "")


def test_versions_order_only_where_the_settings_say_so():
    """Ordered by timestamp, `version` is not looked at, however it looks."""
    for version in (17, "x", -1, 2**60, None):
        event = decode(record({"id": "a", "text": "b", "version": version}), BY_TIME)
        assert event.position.version is None
    for version in (0, 17, MAX_EXACT):
        event = decode(record({"id": "a", "text": "b", "version": version}), BY_VERSION)
        assert event.position.version == version


@pytest.mark.parametrize(
    ("value", "stated"),
    [
        (None, [b"17"]),
        (None, [b"x", b"0017"]),
        ({"id": "a", "deleted": True, "version": 17}, []),
        ({"id": "a", "deleted": True}, [b"17"]),
        ({"id": "a", "deleted": True, "version": 17}, [b"17"]),
    ],
)
def test_a_delete_finds_its_version_in_body_or_header(value, stated):
    """Null values have no body, so the header says it; the last of several counts."""
    headers = [("plumbline-version", one) for one in stated]
    assert decode(record(value, b"a", headers), BY_VERSION).position.version == 17


@pytest.mark.parametrize("order_by", list(OrderBy))
@pytest.mark.parametrize("broken", ["timestamp too large", "timestamp negative"])
def test_timestamps_that_cannot_be_compared_are_refused(order_by, broken):
    """Qdrant compares floats: beyond 2**53 - 1 two positions would be one."""
    settings = Settings(kafka={"order_by": order_by})
    timestamp = MAX_EXACT + 1 if broken == "timestamp too large" else -2
    error = refusal(settings, {"id": "a", "text": "b", "version": 1}, timestamp=timestamp)
    assert error.reason is Reason.INVALID_TIMESTAMP


def test_a_record_without_timestamp_needs_versions():
    """-1 would lose to every other event in silence; as a mere tie-break it does no harm."""
    value = {"id": "a", "text": "b", "version": 1}
    assert refusal(BY_TIME, value, timestamp=-1).reason is Reason.INVALID_TIMESTAMP
    assert decode(record(value, timestamp=-1), BY_VERSION).position.timestamp == -1


def test_a_replayed_event_has_its_first_position():
    """Headers of the replay topic place the event where it stood first."""
    headers = [("trace", b"x"), *origin_headers(Origin("documents", 3, 9, 77, 2))]
    value = {"id": "a", "text": "b"}
    event = decode(record(value, headers=headers, topic=BY_TIME.replay_topic), BY_TIME)
    assert Position("documents", 3, 9, 77) == event.position
    elsewhere = decode(record(value, headers=headers), BY_TIME)
    assert Position("documents", 2, 5, 1000) == elsewhere.position


@pytest.mark.parametrize(
    "change",
    [
        lambda block: [],
        lambda block: block[1:],
        lambda block: [*block, ("more", b"")],
        lambda block: [block[0], block[2], block[1], *block[3:]],
        lambda block: [(block[0][0], b"no such/topic"), *block[1:]],
        lambda block: [(block[0][0], None), *block[1:]],
        lambda block: [block[0], (block[1][0], b"-1"), *block[2:]],
        lambda block: [*block[:2], (block[2][0], b"1.5"), *block[3:]],
        lambda block: [*block[:3], (block[3][0], b"-2"), *block[4:]],
        lambda block: [*block[:3], (block[3][0], str(MAX_EXACT + 1).encode()), *block[4:]],
        lambda block: [*block[:4], (block[4][0], b"\xff")],
        lambda block: [*block[:4], (block[4][0], None)],
    ],
)
def test_a_record_of_the_replay_topic_without_origin_is_refused(change):
    """Write access to the replay topic is no way to invent positions by accident."""
    headers = change(list(origin_headers(Origin("documents", 3, 9, 77, 2))))
    error = refusal(BY_TIME, {"id": "a", "text": "b"}, headers=headers, topic=BY_TIME.replay_topic)
    assert error.reason is Reason.INVALID_ORIGIN


@pytest.mark.parametrize("order_by", list(OrderBy))
def test_every_hostile_record_is_refused_for_its_reason(order_by):
    """Each malformed shape has the reason that tells the operator what to mend."""
    settings = Settings(kafka={"topics": ["documents"], "order_by": order_by})
    shapes = hostile_records(order_by)
    found = {one.name: refusal(settings, one.value, one.key, one.headers).reason for one in shapes}
    assert {one.name: one.reason for one in shapes} == found
    assert len(found) == len(shapes)


def test_hostile_records_cover_every_reason_of_decode():
    """A reason that no shape leads to would be untested, or dead."""
    by_job = {
        Reason.INVALID_VECTOR,
        Reason.REFUSED_BY_MODEL,
        Reason.REFUSED_BY_STORE,
        Reason.BEHIND_PURGE,
    }
    elsewhere = {Reason.INVALID_TIMESTAMP, Reason.INVALID_ORIGIN}
    shapes = hostile_records(OrderBy.VERSION) + hostile_records() + hostile_envelopes()
    assert set(Reason) - by_job - elsewhere == {one.reason for one in shapes}


def test_the_hostile_mix_is_the_same_for_a_seed():
    """System tests compare dead letters with what they produced."""
    first, second = random_hostile(7), random_hostile(7)
    assert [next(first) for _ in range(50)] == [next(second) for _ in range(50)]


def test_messages_help_and_never_quote_the_document():
    """What a dead letter says goes to logs: it names fields and figures, not texts."""
    secret = "the patient's diagnosis"
    for one in hostile_records(OrderBy.VERSION):
        value = (one.value or b"").replace(b"A good text.", secret.encode())
        error = refusal(BY_VERSION, value if one.value is not None else None, one.key, one.headers)
        assert error.message
        assert "diagnosis" not in error.message, one.name
        assert len(error.message) < 500, one.name
        error.message.encode()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"id": "a", "text": "b", "tittle": "c"}, ["'tittle'", "'title'", "metadata"]),
        ({"id": "a", "text": "b", "author": "c"}, ["'author'", "metadata"]),
        (b"\x1f\x8b\x08\x00", ["gzip"]),
        (b"\xff\xfe{\x00", ["UTF-16"]),
        (b"\x00\x00\x00\x00\x01{}", ["schema registry"]),
        (b"", ["null value"]),
        (b'{"id": "a", "text": "b', ["truncated"]),
        ({"op": "c", "after": {}}, ["kafka.format: debezium"]),
    ],
)
def test_messages_say_what_to_do(value, words):
    """A message names what came and what is valid."""
    message = refusal(BY_TIME, value).message
    for word in words:
        assert word in message


def test_limits_hold_to_the_byte():
    """Sizes count UTF-8, and exactly the limit is still accepted."""
    settings = Settings(
        limits={"text_bytes": 10, "id_bytes": 4, "metadata_bytes": 12, "metadata_depth": 2}
    )
    good = {"id": "éé", "text": "ééé", "title": "éé", "metadata": {"a": ["é"]}}
    assert decode(record(good), settings).text == "ééé"
    for change, reason in (
        ({"id": "ééa"}, Reason.INVALID_ID),
        ({"title": "ééa"}, Reason.TEXT_TOO_LARGE),
        ({"metadata": {"a": ["éb"]}}, Reason.METADATA_TOO_LARGE),
        ({"metadata": {"a": [[]]}}, Reason.METADATA_TOO_DEEP),
    ):
        assert refusal(settings, good | change).reason is reason


@pytest.mark.parametrize(
    "number", ["1e5", "1e15", "-1E+15", "1e-05", "0.1e16", "9007199254740993.0"]
)
def test_numbers_that_grow_in_the_canonical_form_count_in_full(number):
    """The shortcut for small records must not let metadata over its limit."""
    value = f'{{"id":"a","text":"b","metadata":{{"a":[{",".join([number] * 40)}]}}}}'.encode()
    size = len(json.dumps({"a": [float(number)] * 40}, separators=(",", ":")).encode())
    at = Settings(limits={"metadata_bytes": size})
    below = Settings(limits={"metadata_bytes": size - 1})
    assert decode(record(value), at).document_id == "a"
    assert refusal(below, value).reason is Reason.METADATA_TOO_LARGE


def test_the_reserved_key_is_the_one_that_points_use():
    """Metadata must not collide with what the index keeps of its own."""
    assert OURS == RESERVED_KEY


def test_json_is_read_as_python_reads_it_where_it_is_valid():
    """Strictness changes what is refused, not what is understood."""
    text = '{"a": [1, -2.5e3, "\\ud83e\\udd9c", true, null, {"": "\\/"}]}'
    assert json.loads(text) == parse_json(text.encode())


@given(events())
def test_valid_events_are_accepted_in_both_orders(body):
    """What the documentation allows is never refused."""
    for settings in (BY_TIME, BY_VERSION):
        event = decode(record(body, body["id"].encode()), settings)
        assert isinstance(event, Event)
        assert (body["id"], body.get("deleted", False)) == (event.document_id, event.deleted)
        if not event.deleted:
            assert body["text"] == event.text
            assert (body.get("metadata") or {}) == event.metadata
        # What comes out can be stored and sent: UTF-8, and numbers that survive.
        json.dumps([event.document_id, event.text, event.title, event.metadata]).encode()


@hypothesis_settings(max_examples=400)
@given(
    any_records(
        st.none()
        | st.binary(max_size=80)
        | mutated(events())
        | mutated(envelopes().map(lambda pair: pair[1])),
        "documents",
        BY_TIME.replay_topic,
    ),
    st.sampled_from(EVERY),
)
def test_decode_raises_nothing_but_bad_record_error(came, settings):
    """Whatever the bytes, a record becomes an event, is ignored, or has a reason."""
    error = None
    try:
        event = decode(came, settings)
    except BadRecordError as caught:
        error = caught
    if error is not None:
        assert isinstance(error.reason, Reason)
        assert len(error.message.encode()) < 2000
        return
    assert isinstance(event, Event | Ignored)
    assert event.document_id.encode()
    if isinstance(event, Event):
        kept = [event.title, event.text, event.metadata]
        json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()
