"""The demo's documents and events, before any broker sees them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pipelines.core.decode import decode
from pipelines.core.errors import BadRecordError, PlumblineError
from pipelines.core.plans import Outcome
from pipelines.core.records import Event, Record
from pipelines.core.settings import LimitSettings, Settings
from pipelines.demo.broker import Message
from pipelines.demo.corpus import Document, standard_library
from pipelines.demo.hostile import TEXT_LIMIT_BYTES, hostile_events
from pipelines.demo.questions import ABOUT_DELETED, ABOUT_REPLACEMENT, QUESTIONS
from pipelines.demo.waves import DELETED, REPLACED, all_documents, changes, comeback

SETTINGS = Settings(limits=LimitSettings(text_bytes=TEXT_LIMIT_BYTES))

SOURCE = '''"""A module that says what it is for, at some length."""

if True:
    def first():
        """The one that counts, since it comes first in the file."""
else:
    def first():
        """The one for another platform, which must not displace it."""

class Thing:
    """Things have a docstring that is long enough to be a document."""

    def method(self):
        """
        Indented docstrings are cleaned: no leading blank, no indentation.

            Code keeps its own.
        """
        def inner():
            """Nobody can call this from outside, so nobody looks for it."""

    def _private(self):
        """Private members are nobody's business, however well documented."""

    def short(self):
        """Too short."""

def hostile():
    """This docstring has a \\0 in it and could not be sent as an event."""
'''


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    wanted = {DELETED, REPLACED}.union(*(question.expected for question in QUESTIONS))
    return standard_library(400, keep=wanted)


def _decoded(message: Message) -> Event:
    event = decode(
        Record("documents", 0, 0, message.timestamp, message.key, message.value), SETTINGS
    )
    assert isinstance(event, Event)
    return event


def test_reads_public_docstrings_by_qualified_name(tmp_path: Path) -> None:
    """Documents are the public docstrings, cleaned, under the names by which people know them."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mod.py").write_text(SOURCE)
    (tmp_path / "_private.py").write_text(SOURCE)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "mod.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def f(:")

    found = {document.id: document for document in standard_library(folder=tmp_path)}

    assert list(found) == ["pack.mod", "pack.mod.Thing", "pack.mod.Thing.method", "pack.mod.first"]
    assert found["pack.mod.first"].text.startswith("The one that counts")
    assert found["pack.mod.Thing.method"].text == (
        "Indented docstrings are cleaned: no leading blank, no indentation.\n\n"
        "    Code keeps its own."
    )
    assert found["pack.mod.Thing.method"].metadata == {
        "module": "pack.mod",
        "kind": "method",
        "line": 13,
        "lines": 3,
    }


def test_says_what_is_wrong_without_sources(tmp_path: Path) -> None:
    """A Python without sources gets a sentence, not an empty index."""
    with pytest.raises(PlumblineError, match="no Python sources"):
        standard_library(folder=tmp_path)


def test_the_same_documents_every_time(documents: list[Document]) -> None:
    """The corpus is deterministic, bounded, sorted, and holds what the searches ask for."""
    ids = [document.id for document in documents]
    assert len(ids) == 400
    assert ids == sorted(set(ids))
    assert set(ids) >= ABOUT_DELETED.expected | ABOUT_REPLACEMENT.expected
    assert all(question.expected & set(ids) for question in QUESTIONS)
    assert documents == standard_library(400, keep=ids)


def test_every_document_is_a_valid_event(documents: list[Document]) -> None:
    """Whatever this Python's docstrings hold, none of them is a dead letter."""
    events = [_decoded(message) for message in all_documents(documents, 1).messages]
    assert [(e.document_id, e.title, e.text, e.metadata) for e in events] == [
        (d.id, d.title, d.text, d.metadata) for d in documents
    ]


@pytest.mark.parametrize(("reason", "key", "value"), hostile_events())
def test_hostile_events_are_refused_for_the_reason_shown(reason, key, value) -> None:
    """Each hostile event of the demo is refused for exactly the reason the demo names."""
    with pytest.raises(BadRecordError) as caught:
        decode(Record("documents", 0, 0, 1, key, value), SETTINGS)
    assert reason == caught.value.reason


def test_no_document_changes_twice_in_a_wave(documents: list[Document]) -> None:
    """The outcomes promised for a wave do not depend on how its events fall into batches."""
    found = changes(documents, 10_000_000)
    wave, deleted = found.wave, found.deleted
    hostile = {(key, value) for _, key, value in hostile_events()}
    good = [message for message in wave.messages if (message.key, message.value) not in hostile]
    touched = Counter(_decoded(message).document_id for message in good)
    assert set(touched.values()) == {1}
    assert {document.id for document in deleted} == {
        event.document_id for event in map(_decoded, good) if event.deleted
    }
    assert sum(wave.outcomes.values()) == len(wave.messages)
    assert wave.outcomes[Outcome.DEAD_LETTERED] == sum(wave.reasons.values()) == len(hostile)
    assert len(wave.messages) == sum(count for _, count, _ in wave.parts)


def test_what_comes_back_was_deleted(documents: list[Document]) -> None:
    """Only deleted documents come back, and of the others only old events arrive."""
    deleted_at = 10_000_000
    deleted = changes(documents, deleted_at).deleted
    wave = comeback(deleted, deleted_at + 1)
    by_age = Counter(message.timestamp > deleted_at for message in wave.messages)
    assert by_age == {True: wave.outcomes[Outcome.EMBEDDED], False: wave.outcomes[Outcome.STALE]}
    assert {_decoded(message).document_id for message in wave.messages} == {d.id for d in deleted}
    first = json.loads(wave.messages[0].value or b"")
    assert first["id"] == DELETED
