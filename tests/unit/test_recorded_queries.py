"""Recorded queries: bounded, without texts, and never a search's trouble."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from pipelines.core.errors import SettingsError
from pipelines.core.index import Index
from pipelines.core.live import Opened
from pipelines.core.recorded_queries import QueryRecorder, queries_collection, read_queries
from pipelines.core.versions import list_versions
from tests.support.corpora import Document
from tests.support.probing import Seeded, Watched

SLOTS = 64


@pytest.fixture
def watched(tmp_path) -> Iterator[Watched]:
    with Watched(tmp_path, encoder=Seeded(8)) as index:
        yield index


def _recorder(watched: Watched, **arguments) -> QueryRecorder:
    recorder = QueryRecorder(watched.qdrant, "watched", **{"ratio": 1.0, **arguments})
    recorder._start = lambda: None  # flushed by the test
    return recorder


def _read(watched: Watched, fingerprint: str = "f", since: int = 0, until: int = 10**14):
    return read_queries(watched.qdrant, "watched", fingerprint, 8, since=since, until=until)


def _vectors(count: int, start: int = 0) -> np.ndarray:
    generator = np.random.default_rng(start)
    return generator.normal(size=(count, 8)).astype(np.float32)


def test_vectors_come_back_as_they_were(watched: Watched) -> None:
    """Bit by bit, unscaled, in the order of time."""
    recorder = _recorder(watched, clock=iter(range(100, 200)).__next__)
    vectors = _vectors(10)
    for vector in vectors:
        recorder.record("f", vector)
    recorder.flush()
    found = _read(watched)
    np.testing.assert_array_equal(found.vectors, vectors)
    assert found.timestamps.tolist() == [1000 * second for second in range(100, 110)]
    assert len(_read(watched, since=103_000, until=105_000)) == 2
    assert len(_read(watched, fingerprint="another")) == 0


def test_slots_are_written_over_in_turn(watched: Watched) -> None:
    """The collection never grows, and what is left is the newest."""
    clock = iter(range(1, 1000)).__next__
    recorder = _recorder(watched, slots=SLOTS, clock=clock)
    for _ in range(5):
        for vector in _vectors(60):
            recorder.record("f", vector)
        recorder.flush()
    count = watched.qdrant.call("count", queries_collection("watched")).count
    assert count == SLOTS
    assert _read(watched).timestamps.tolist() == [1000 * second for second in range(237, 301)]


def test_no_text_is_kept(watched: Watched) -> None:
    watched.write([Document("d/1", "", "a document")])
    index = Index(watched.settings, record_queries=1.0)
    index._recorder._start = lambda: None
    index._following.put(Opened(watched.version, watched.encoder))
    index.search("a very private question")
    index._recorder.flush()
    points, _ = watched.qdrant.call("scroll", queries_collection("watched"), with_payload=True)
    (point,) = points
    assert set(point.payload) == {"fingerprint", "timestamp", "vector"}
    assert "private" not in str(point)
    found = _read(watched, watched.version.fingerprint)
    wanted = watched.encoder.encode_queries(["a very private question"]).vectors
    np.testing.assert_array_equal(found.vectors, wanted)


def test_nothing_is_recorded_unless_asked_for(watched: Watched) -> None:
    """Off by default: there is not even a collection."""
    watched.write([Document("d/1", "", "a document")])
    index = Index(watched.settings)
    index._following.put(Opened(watched.version, watched.encoder))
    index.search("a question")
    index._recorder.flush()
    assert not watched.qdrant.call("collection_exists", queries_collection("watched"))
    assert len(_read(watched)) == 0


def test_a_ratio_keeps_its_share(watched: Watched) -> None:
    recorder = _recorder(watched, ratio=0.25, slots=4096)
    for _ in range(10):
        for vector in _vectors(200):
            recorder.record("f", vector)
        recorder.flush()
    assert 400 < len(_read(watched)) < 600
    assert recorder.dropped == 0


def test_a_ratio_that_is_none_is_refused(watched: Watched) -> None:
    with pytest.raises(SettingsError, match="valid is 0 to 1"):
        QueryRecorder(watched.qdrant, "watched", 1.5)


def test_a_store_that_hangs_delays_no_search_and_memory_stays_bounded(watched: Watched) -> None:
    """What does not fit is dropped and counted."""
    release = threading.Event()

    class Hanging:
        def try_call(self, *_, **__):
            release.wait(30)
            raise OSError("gone")

    recorder = QueryRecorder(Hanging(), "watched", 1.0)
    vector = _vectors(1)[0]
    recorder.record("f", vector)
    time.sleep(1.3)  # the thread has taken it, and hangs in its first request
    started = time.perf_counter()
    for _ in range(5000):
        recorder.record("f", vector)
    assert time.perf_counter() - started < 1.0
    assert recorder.dropped >= 4000
    assert recorder._queue.qsize() <= 512
    release.set()


def test_the_thread_writes_within_seconds(watched: Watched) -> None:
    """Without anybody asking it to."""
    recorder = QueryRecorder(watched.qdrant, "watched", 1.0)
    for vector in _vectors(5):
        recorder.record("f", vector)
    deadline = time.monotonic() + 15
    while len(_read(watched)) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_points_that_are_not_ours_are_passed_over(watched: Watched) -> None:
    recorder = _recorder(watched)
    recorder.record("f", _vectors(1)[0])
    recorder.flush()
    from qdrant_client import models

    for number, vector in enumerate([None, "no base64!", "AAAA"]):
        payload = {"fingerprint": "f", "timestamp": 5, "vector": vector}
        watched.qdrant.call(
            "upsert",
            queries_collection("watched"),
            points=[models.PointStruct(id=number, vector={}, payload=payload)],
        )
    assert len(_read(watched)) == 1


def test_the_collection_is_no_version(watched: Watched) -> None:
    """Although its name has two hyphens."""
    recorder = _recorder(watched)
    recorder.record("f", _vectors(1)[0])
    recorder.flush()
    assert [version.name for version in list_versions(watched.qdrant)] == [watched.version.name]
