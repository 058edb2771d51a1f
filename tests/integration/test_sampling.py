"""Samples of stored vectors: random, bounded, repeatable under a seed, never the deleted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from monitors.probes.base import Deadline, ProbeTimeoutError
from monitors.sampling import (
    count_points,
    live_points,
    newest_timestamp,
    recent_since,
    sample_vectors,
)
from tests.support.corpora import Document
from tests.support.probing import FIRST_TIMESTAMP, Watched
from tests.support.qdrant_server import QdrantServer
from tests.support.tiny_model import make_tiny_model

DOCUMENTS = 300


def _documents(count: int, prefix: str = "d") -> list[Document]:
    return [
        Document(f"{prefix}/{n}", f"title {n}", f"text number {n} of {prefix}")
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    with QdrantServer() as running:
        yield running


@pytest.fixture(scope="module", params=["embedded", "server"])
def watched(request, model, tmp_path_factory) -> Iterator[Watched]:
    """300 documents, one second apart, the first 50 of them deleted again."""
    place = (
        {"directory": tmp_path_factory.mktemp("store")}
        if request.param == "embedded"
        else {"url": request.getfixturevalue("server").url}
    )
    with Watched(**place, model=model) as index:
        index.write(_documents(DOCUMENTS), at=FIRST_TIMESTAMP, step_ms=1000)
        index.delete([f"d/{n}" for n in range(50)])
        yield index


def _sample(watched: Watched, size: int, seed: int = 0, **window):
    return sample_vectors(
        watched.qdrant,
        watched.version.name,
        size,
        dimension=watched.version.contract.dimension,
        random=np.random.default_rng(seed),
        **window,
    )


def test_all_that_match_come_once_where_the_sample_is_larger(watched: Watched) -> None:
    """The scroll wraps around: wherever it starts, nothing is left out and nothing comes twice."""
    wanted = {f"d/{n}" for n in range(50, DOCUMENTS)}
    for seed in range(10):
        sample = _sample(watched, 1000, seed)
        assert len(sample) == len(wanted)
        assert set(sample.document_ids) == wanted
    assert sample.vectors.shape == (250, watched.version.contract.dimension)
    assert set(sample.fingerprints) == {watched.version.fingerprint}
    assert set(sample.chunks) == {0}
    assert sample.timestamps.min() == FIRST_TIMESTAMP + 50_000


def test_a_row_is_what_the_store_holds_of_its_document(watched: Watched) -> None:
    """Vectors, ids and hashes belong together."""
    sample = _sample(watched, 20)
    heads = watched.documents()
    for row, document_id in enumerate(sample.document_ids):
        point = heads[document_id]
        np.testing.assert_array_equal(sample.vectors[row], np.float32(point.vector["dense"]))
        assert point.payload["_plumbline"]["text_hash"] == sample.text_hashes[row]


def test_the_window_is_half_open(watched: Watched) -> None:
    """Event times from `since` on and below `until`."""
    since, until = FIRST_TIMESTAMP + 100_000, FIRST_TIMESTAMP + 110_000
    sample = _sample(watched, 1000, since=since, until=until)
    assert sorted(sample.document_ids) == [f"d/{n}" for n in range(100, 110)]
    where = live_points(since=since, until=until)
    assert count_points(watched.qdrant, watched.version.name, where) == 10
    assert newest_timestamp(watched.qdrant, watched.version.name, until) == until - 1000
    assert newest_timestamp(watched.qdrant, watched.version.name, FIRST_TIMESTAMP) is None


def test_what_came_lately_reaches_back_until_there_is_enough(watched: Watched) -> None:
    """Twenty seconds, twice, four times as many; all there is when that is not enough either."""
    until = FIRST_TIMESTAMP + DOCUMENTS * 1000

    def since(least: int) -> int | None:
        return recent_since(
            watched.qdrant, watched.version.name, least, until=until, span_seconds=20
        )

    assert [since(20), since(21), since(50)] == [until - 20_000, until - 40_000, until - 80_000]
    assert since(251) is None


def test_a_seed_gives_the_same_sample_and_another_seed_another(watched: Watched) -> None:
    """So that a run can be repeated, and runs do not look at the same documents for ever."""
    first = _sample(watched, 40, 1)
    assert first.document_ids == _sample(watched, 40, 1).document_ids
    assert set(first.document_ids) != set(_sample(watched, 40, 2).document_ids)


def test_every_document_is_drawn_about_as_often(watched: Watched) -> None:
    """Over 400 draws of 25 of 250, early and late documents have the same share within 5 %."""
    drawn: Counter[str] = Counter()
    for seed in range(400):
        drawn.update(_sample(watched, 25, seed).document_ids)
    early = sum(count for key, count in drawn.items() if int(key[2:]) < 175)
    assert sum(drawn.values()) == 400 * 25
    assert abs(early / (400 * 25) - 0.5) < 0.05
    assert len(drawn) == 250


def test_a_deadline_that_has_passed_ends_the_reading(watched: Watched) -> None:
    """Between two requests, not after the whole of it."""
    with pytest.raises(ProbeTimeoutError, match="timeout_seconds"):
        _sample(watched, 10, deadline=Deadline(time.monotonic() - 1))


def test_the_requests_are_bounded(server: QdrantServer, model) -> None:
    """A sample of 20 of 300 points reads 20 points in one or two requests."""
    with Watched(url=server.url, model=model, index="bounded") as index:
        index.write(_documents(DOCUMENTS))
        server.clear_faults()
        assert len(_sample(index, 20)) == 20
        scrolls = {k: v for k, v in server.requests().items() if "scroll" in k}
        assert sum(scrolls.values()) <= 2, scrolls


def test_an_empty_version_gives_an_empty_sample(tmp_path, model) -> None:
    """With the shape of the contract, so that nobody has to ask."""
    with Watched(tmp_path, model=model, index="empty") as index:
        assert _sample(index, 10).vectors.shape == (0, 32)
