"""Dead letters: what is kept of an event, and which can be sent again."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.dead_letters import (
    HEADER_NAMES,
    DeadLetter,
    NotADeadLetterError,
    parse_dead_letter,
)
from pipelines.core.decode import Origin, decode, origin_headers
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.position import Position
from pipelines.core.records import Record
from pipelines.core.replay import MAX_REPLAYS, Verdict, plan_replay, to_replay_record
from pipelines.core.settings import Settings
from tests.support.strategies import any_records

SETTINGS = Settings(kafka={"topics": ["documents"]})
NOW = 1_700_000_000.123456
ERROR = BadRecordError(Reason.TEXT_TOO_LARGE, "title and text have 9 bytes")
GOOD = json.dumps({"id": "a", "text": "b"}).encode()


def stored(wire, partition=1, offset=8):
    """The record as the dead-letter topic holds it."""
    return Record(
        SETTINGS.dead_letter_topic, partition, offset, 1, wire.key, wire.value, wire.headers
    )


def letter(
    value=GOOD, key=b"a", headers=(), error=ERROR, replays=0, offset=5, settings=SETTINGS, at=None
):
    """A letter as the reader gives it; `at` is its offset in the dead-letter topic."""
    topic, own = "documents", tuple(headers)
    if replays:
        topic = settings.replay_topic
        own += origin_headers(Origin("documents", 2, offset, 1000, replays))
    record = Record(topic, 2, offset, 1000, key, value, own)
    made = DeadLetter.of(record, error, settings, now=NOW)
    return parse_dead_letter(stored(made.to_wire(), offset=offset if at is None else at))


@pytest.mark.parametrize("key", [b"a", b"\xff", b"", None])
@pytest.mark.parametrize("value", [b"\x00\xff", b"", None])
def test_a_letter_keeps_everything_of_the_original(key, value):
    """Bytes, key, headers, position, reason, message and time come back as they were."""
    headers = (("trace", b"\x00\xff"), ("trace", b""), ("none", None), ("plumbline.reason", b"x"))
    record = Record("documents", 2, 5, 1000, key, value, headers)
    made = DeadLetter.of(record, ERROR, SETTINGS, now=NOW)
    read = parse_dead_letter(stored(made.to_wire()))
    assert made == read
    assert (key, value, headers) == (read.key, read.value, read.headers)
    assert Origin("documents", 2, 5, 1000) == read.origin
    assert ("text_too_large", ERROR.message, NOW, "docs") == (
        read.reason,
        read.message,
        read.time,
        read.index,
    )
    assert hashlib.sha256(value or b"").hexdigest() == read.value_sha256
    assert read.stored_at == (1, 8)


def test_the_original_can_be_read_without_plumbline():
    """Key, value and the original's headers stand untouched; ours are appended."""
    headers = (("trace", b"x"),)
    wire = DeadLetter.of(
        Record("documents", 2, 5, 1000, b"a", GOOD, headers), ERROR, SETTINGS, now=NOW
    ).to_wire()
    assert (wire.key, wire.value) == (b"a", GOOD)
    assert headers == wire.headers[:1]
    assert tuple(name for name, _ in wire.headers[1:]) == HEADER_NAMES
    shown = dict(wire.headers)
    assert shown["plumbline.reason"] == b"text_too_large"
    assert shown["plumbline.time"] == b"2023-11-14T22:13:20.123456+00:00"


def test_a_client_never_has_to_send_two_nulls():
    """kafka-python refuses a record with neither key nor value; the letter says what was null."""
    wire = DeadLetter.of(
        Record("documents", 0, 0, 1, None, None), ERROR, SETTINGS, now=NOW
    ).to_wire()
    assert wire.value == b""
    assert parse_dead_letter(stored(wire)).value is None
    assert all(isinstance(value, bytes) for _, value in wire.headers)


@given(any_records(st.none() | st.binary(max_size=40), "documents", SETTINGS.replay_topic))
def test_any_record_survives_the_dead_letter_topic(record):
    """Whatever came, its letter can be written, and says again what came."""
    made = DeadLetter.of(record, ERROR, SETTINGS, now=NOW)
    assert made == parse_dead_letter(stored(made.to_wire()))
    assert (record.key, record.value) == (made.key, made.value)


def test_hostile_messages_do_not_stop_a_letter():
    """Names of fields reach messages from outside: long ones are cut, odd ones escaped."""
    error = BadRecordError(Reason.UNKNOWN_FIELD, "half \ud800 " + "x" * 5000)
    read = letter(error=error)
    assert read.message.startswith("half \\ud800 xxx")
    assert len(read.message) < 1100


def test_a_letter_too_large_gives_up_part_after_part():
    """Value, headers and key go, in this order; hash, size and position stay."""
    full = letter(value=b"x" * 100, headers=[("trace", b"y")])
    steps = []
    step = full
    while (step := step.shortened()) is not None:
        steps.append(parse_dead_letter(stored(step.to_wire())))
    assert [one.omitted for one in steps] == [
        ("value",),
        ("value", "headers"),
        ("value", "headers", "key"),
    ]
    last = steps[-1]
    assert (last.value, last.headers, last.key) == (None, (), None)
    assert (100, full.value_sha256, full.origin) == (
        last.value_bytes,
        last.value_sha256,
        last.origin,
    )


def test_a_replayed_event_says_where_it_stood_first():
    """Its letter has the first position, the number of replays, and the original headers only."""
    read = letter(headers=[("trace", b"x")], replays=2)
    assert Origin("documents", 2, 5, 1000, 2) == read.origin
    assert read.headers == (("trace", b"x"),)
    assert letter(replays=2).event == letter().event


def test_a_foreign_record_of_the_replay_topic_keeps_its_own_place():
    """Without an origin there is nothing to trace it to."""
    record = Record(SETTINGS.replay_topic, 0, 3, 1000, b"a", GOOD, (("x", b"y"),))
    with pytest.raises(BadRecordError) as caught:
        decode(record, SETTINGS)
    made = DeadLetter.of(record, caught.value, SETTINGS, now=NOW)
    assert Origin(SETTINGS.replay_topic, 0, 3, 1000) == made.origin
    assert plan_replay([made], SETTINGS).count(Verdict.STILL_REFUSED) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda headers: (),
        lambda headers: headers[1:],
        lambda headers: (*headers, ("more", b"")),
        lambda headers: (("plumbline.format", b"2"), *headers[1:]),
        lambda headers: tuple((n, b"\xff" if n == "plumbline.index" else v) for n, v in headers),
        lambda headers: tuple((n, b"x" if n == "plumbline.offset" else v) for n, v in headers),
        lambda headers: tuple((n, b"x" if n == "plumbline.time" else v) for n, v in headers),
        lambda headers: tuple((n, b"x" if n == "plumbline.nulls" else v) for n, v in headers),
        lambda headers: tuple((n, None) for n, v in headers),
    ],
)
def test_what_is_no_dead_letter_is_said_to_be_none(change):
    """A foreign record in the topic stops no command."""
    wire = DeadLetter.of(Record("t", 0, 0, 1, b"a", GOOD), ERROR, SETTINGS, now=NOW).to_wire()
    record = Record(SETTINGS.dead_letter_topic, 0, 0, 1, wire.key, wire.value, change(wire.headers))
    with pytest.raises(NotADeadLetterError):
        parse_dead_letter(record)


def test_a_letter_shows_nothing_of_the_document():
    """Its repr goes to logs and tracebacks."""
    shown = repr(letter(value=b"the diagnosis", key=b"the patient"))
    assert "diagnosis" not in shown
    assert "patient" not in shown


def test_what_is_sent_again_has_its_first_position():
    """The job reads it as the event it was, one replay later."""
    wire = to_replay_record(letter(headers=[("plumbline-version", b"7"), ("none", None)]))
    event = decode(Record("x", 0, 0, 9, wire.key, wire.value, wire.headers), SETTINGS)
    assert event.position.topic == "x"
    replayed = Record(SETTINGS.replay_topic, 0, 0, 9, wire.key, wire.value, wire.headers)
    assert Position("documents", 2, 5, 1000) == decode(replayed, SETTINGS).position
    again = DeadLetter.of(replayed, ERROR, SETTINGS, now=NOW)
    assert (again.origin.replays, again.headers[0]) == (1, ("plumbline-version", b"7"))


def test_only_what_is_accepted_today_is_planned():
    """Settings and code of today judge, not the reason of then."""
    letters = [letter(offset=1), letter(b"{", offset=2), letter(b"[]", offset=3)]
    plan = plan_replay(letters, SETTINGS)
    assert [one.origin.offset for one in plan.planned] == [1]
    assert plan.planned[0].origin.replays == 1
    assert (plan.still_refused_for) == {
        ("text_too_large", "not_json"): 1,
        ("text_too_large", "not_an_object"): 1,
    }
    smaller = Settings(kafka={"topics": ["documents"]}, limits={"text_bytes": 0 + 1})
    too_long = letter(json.dumps({"id": "a", "text": "bc"}).encode())
    assert plan_replay([too_long], smaller).count(Verdict.STILL_REFUSED) == 1
    assert plan_replay([too_long], SETTINGS).count(Verdict.SEND) == 1


@pytest.mark.parametrize(
    "reason", [Reason.INVALID_VECTOR, Reason.REFUSED_BY_MODEL, Reason.REFUSED_BY_STORE]
)
def test_what_only_the_job_can_judge_may_be_tried_again(reason):
    """Encoder and store refuse after decoding; whether they still would, only a try can say."""
    plan = plan_replay([letter(error=BadRecordError(reason, "no"))], SETTINGS)
    assert plan.count(Verdict.SEND) == 1


def test_an_event_is_planned_once():
    """Dead letters are delivered at least once; each event is sent once."""
    letters = [letter(at=1), letter(at=2), letter(offset=6, at=3), letter(at=4)]
    plan = plan_replay(letters, SETTINGS)
    assert sorted((one.stored_at for one in plan.planned), reverse=True) == [(1, 4), (1, 3)]
    assert plan.duplicates == 2
    assert plan.count(Verdict.SEND) == 2


def test_a_replay_is_not_repeated_until_the_event_comes_back():
    """Running the command twice sends nothing twice."""
    event = letter().event
    sent = plan_replay([letter()], SETTINGS, replayed={event: 1})
    assert (sent.planned, sent.count(Verdict.ALREADY_REPLAYED)) == ((), 1)
    back = plan_replay([letter(at=1), letter(replays=1, at=2)], SETTINGS, replayed={event: 1})
    assert [one.origin.replays for one in back.planned] == [2]


def test_an_event_does_not_go_round_for_ever():
    """After the last permitted replay it stays where it is."""
    letters = [letter(replays=n, at=n) for n in range(MAX_REPLAYS + 1)]
    plan = plan_replay(letters, SETTINGS, replayed={letter().event: MAX_REPLAYS})
    assert (plan.planned, plan.count(Verdict.EXHAUSTED)) == ((), 1)


def test_a_letter_without_body_cannot_be_replayed():
    """It keeps hash, size and position, and nothing to send."""
    plan = plan_replay([letter().shortened()], SETTINGS)
    assert (plan.planned, plan.count(Verdict.OMITTED)) == ((), 1)


def test_reasons_limit_horizon_and_index_select():
    """What is left out is counted under why."""
    other = Settings(index="other", kafka={"topics": ["documents"]})
    letters = [letter(offset=1), letter(offset=2), letter(offset=3, settings=other)]
    assert plan_replay(letters, SETTINGS, limit=1).counts == {
        (Verdict.SEND, "text_too_large"): 1,
        (Verdict.OVER_LIMIT, "text_too_large"): 1,
        (Verdict.OTHER_INDEX, "text_too_large"): 1,
    }
    assert plan_replay(letters, SETTINGS, reasons=["not_json"]).count(Verdict.NOT_SELECTED) == 2
    assert plan_replay(letters, SETTINGS, not_before=1001).count(Verdict.TOO_OLD) == 2
    assert plan_replay(letters, SETTINGS, not_before=1000).count(Verdict.SEND) == 2


def test_a_plan_holds_no_bodies():
    """A dead-letter topic may be larger than the memory."""
    plan = plan_replay((letter(b"x" * 10_000, offset=n) for n in range(20)), SETTINGS)
    assert "xxx" not in repr(plan)
    assert plan.count(Verdict.STILL_REFUSED) == 20
