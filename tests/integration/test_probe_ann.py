"""The ann probe: on an engine with a real HNSW graph, and on the embedded one, which has none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from monitors.probes.ann import AnnProbe
from monitors.probes.base import Level, ProbeTimeoutError
from pipelines.core.errors import ModelError, ServiceUnavailableError
from pipelines.core.points import DENSE, OURS, point_id
from tests.support.corpora import Document
from tests.support.edge_engine import EdgeServer
from tests.support.probing import Watched
from tests.support.tiny_model import make_tiny_model

POINTS = 3000
GOOD = models.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10)
POOR = models.HnswConfigDiff(m=4, ef_construct=10, full_scan_threshold=10)
FAST = {"monitor": {"ann": {"queries": 60, "queries_per_second": 10_000}}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tiny_model(tmp_path_factory.mktemp("model"), dimension=64)


@pytest.fixture(scope="module")
def server() -> Iterator[EdgeServer]:
    with EdgeServer() as server:
        yield server


def fill(watched: Watched, count: int, seed: int = 0) -> None:
    """Unit vectors without structure, which are the hardest for a graph."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, watched.version.contract.dimension))
    name = watched.version.name
    for start in range(0, count, 500):
        rows = range(start, min(count, start + 500))
        watched.qdrant.call(
            "upsert",
            name,
            points=[
                models.PointStruct(
                    id=point_id(watched.version.index, f"{seed}-{row}", 0),
                    vector={DENSE: vectors[row].tolist()},
                    payload={OURS: {"document_id": f"{seed}-{row}", "chunk": 0}},
                )
                for row in rows
            ],
            wait=True,
        )


@pytest.fixture(scope="module")
def graph(server: EdgeServer, model: Any) -> Iterator[Watched]:
    settings = {**FAST, "qdrant": {"url": server.url}}
    with Watched(url=server.url, index="graph", model=model, settings=settings) as watched:
        watched.qdrant.call("update_collection", watched.version.name, hnsw_config=GOOD)
        fill(watched, POINTS)
        yield watched


def figure(result: Any, name: str, *labels: str) -> float:
    (value,) = [
        f.value
        for f in result.figures
        if f.family.name == f"plumbline_ann_{name}" and f.labels == labels
    ]
    return float(value)


def build(watched: Watched, hnsw: models.HnswConfigDiff) -> None:
    watched.qdrant.call("update_collection", watched.version.name, hnsw_config=hnsw)


def test_a_good_graph_meets_the_objective(graph):
    build(graph, GOOD)
    result = graph.run(AnnProbe())
    assert (result.level, result.reason) == (Level.OK, "met"), result.words
    assert figure(result, "recall_ratio", "stored") >= 0.98
    assert figure(result, "indexed_vectors") == POINTS
    for mode in ("approximate", "exact"):
        assert figure(result, "search_median_seconds", mode) > 0
        assert figure(result, "search_median_seconds", mode) <= figure(
            result, "search_p95_seconds", mode
        )


@pytest.mark.acceptance
def test_a_poor_graph_alarms_in_the_first_run_and_a_good_one_never(graph, acceptance):
    for seed in range(20 if acceptance else 2):
        fill(graph, 100, seed=seed + 1)
        build(graph, GOOD)
        assert graph.run(AnnProbe(), seed=seed).level is Level.OK
        build(graph, POOR)
        result = graph.run(AnnProbe(), seed=seed + 1000)
        assert (result.level, result.reason) == (Level.ALARM, "recall_low"), (seed, result.words)
        assert result.evidence.statistic < 0.5
        assert result.evidence.effect == pytest.approx(0.95 - result.evidence.statistic)


def test_the_objective_is_the_users(graph):
    build(graph, POOR)
    assert graph.run(AnnProbe(), seed=1).level is Level.ALARM
    graph.set_settings(ann={"objective": 0.05})
    try:
        assert graph.run(AnnProbe(), seed=1).level is Level.OK
    finally:
        graph.set_settings(ann={"objective": 0.95})


def test_between_bound_and_mean_it_warns(graph):
    build(graph, POOR)
    recall = graph.run(AnnProbe(), seed=1).evidence.statistic
    graph.set_settings(ann={"objective": recall + 0.01})
    try:
        result = graph.run(AnnProbe(), seed=1)
    finally:
        graph.set_settings(ann={"objective": 0.95})
    assert (result.level, result.reason) == (Level.WARNING, "recall_uncertain")


def test_golden_queries_are_asked_too(graph):
    build(graph, GOOD)
    probe = AnnProbe(golden_texts=lambda settings: [f"query {number}" for number in range(40)])
    result = graph.run(probe)
    assert figure(result, "queries", "golden") == 40
    assert figure(result, "recall_ratio", "golden") > 0.9
    assert result.evidence.samples == {"stored_queries": 60, "golden_queries": 40}


def test_without_its_encoder_the_stored_vectors_still_decide(graph, tmp_path):
    """And a golden file that cannot be read is the golden probe's to page on."""
    build(graph, POOR)

    def broken(settings: Any) -> Any:
        raise ModelError("the model cannot be loaded")

    result = graph.run(AnnProbe(golden_texts=broken))
    assert result.reason == "recall_low"
    assert "left out: ModelError" in result.words
    graph.set_settings(golden={"file": tmp_path / "absent.yaml"})
    try:
        assert "left out: SettingsError" in graph.run(AnnProbe()).words
    finally:
        graph.set_settings(golden={"file": None})


def test_searches_keep_to_the_pace_and_to_the_time(graph):
    build(graph, GOOD)
    graph.qdrant.call("get_collection", graph.version.name)  # waits for the graph
    graph.set_settings(ann={"queries_per_second": 20.0})
    try:
        started = time.monotonic()
        result = graph.run(AnnProbe(), seconds=5.0)
        seconds = time.monotonic() - started
    finally:
        graph.set_settings(ann={"queries_per_second": 10_000.0})
    queries = figure(result, "queries", "stored")
    assert 10 <= queries < 60  # what the time has room for
    assert seconds >= (2 * queries - 1) / 20
    assert seconds < 5.0


def test_searches_slower_than_the_pace_are_fewer(graph, monkeypatch):
    build(graph, GOOD)
    graph.qdrant.call("get_collection", graph.version.name)
    original = graph.qdrant.call

    def call(method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "query_points":
            time.sleep(0.1)
        return original(method, *args, **kwargs)

    monkeypatch.setattr(graph.qdrant, "call", call)
    result = graph.run(AnnProbe(), seconds=4.0)
    assert 1 <= figure(result, "queries", "stored") <= 20
    assert (result.level, result.reason) == (Level.UNDECIDED, "too_few_queries")


def test_a_run_out_of_time_says_so(graph):
    with pytest.raises(ProbeTimeoutError):
        graph.run(AnnProbe(), seconds=0.0)


def test_an_engine_that_is_building_its_graph_says_so(graph):
    build(graph, GOOD)
    original = graph.qdrant.call

    def call(method: str, *args: Any, **kwargs: Any) -> Any:
        answer = original(method, *args, **kwargs)
        if method == "get_collection":
            answer.status = models.CollectionStatus.YELLOW
        return answer

    graph.qdrant.call = call
    try:
        result = graph.run(AnnProbe())
    finally:
        graph.qdrant.call = original
    assert (result.level, result.reason) == (Level.OK, "indexing")
    assert figure(result, "indexing_state") == 1


def test_qdrant_out_of_reach_is_raised(graph, monkeypatch):
    def call(*args: Any, **kwargs: Any) -> Any:
        raise ServiceUnavailableError("Qdrant stayed out of reach")

    monkeypatch.setattr(graph.qdrant, "call", call)
    with pytest.raises(ServiceUnavailableError):
        graph.run(AnnProbe())


@pytest.fixture
def embedded(tmp_path, model) -> Iterator[Watched]:
    with Watched(tmp_path / "store", model=model, settings=FAST) as watched:
        yield watched


def test_the_embedded_engine_searches_exactly_and_that_is_measured(embedded):
    fill(embedded, 300)
    result = embedded.run(AnnProbe())
    assert (result.level, result.reason) == (Level.OK, "exact_search")
    assert figure(result, "recall_ratio", "stored") == 1.0
    assert figure(result, "indexed_vectors") == 0


def test_duplicates_do_not_lower_the_recall(embedded):
    embedded.write(Document(f"d{number}", "", f"text {number % 3}") for number in range(90))
    assert figure(embedded.run(AnnProbe()), "recall_ratio", "stored") == 1.0


@pytest.mark.parametrize(("count", "reason"), [(0, "empty"), (1, "empty"), (5, "too_few_queries")])
def test_small_versions_are_undecided(embedded, count, reason):
    fill(embedded, count)
    result = embedded.run(AnnProbe())
    assert (result.level, result.reason) == (Level.UNDECIDED, reason)


def test_tombstones_are_no_queries(embedded):
    embedded.write(Document(f"d{number}", "", f"text {number}") for number in range(40))
    embedded.delete(f"d{number}" for number in range(8))
    assert figure(embedded.run(AnnProbe()), "queries", "stored") == 32


def test_what_is_asked_is_what_users_ask(embedded, monkeypatch):
    """The approximate search sends no parameters of its own; the exact one asks for exactness."""
    fill(embedded, 40)
    sent = []
    original = embedded.qdrant.call

    def call(method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "query_points":
            sent.append(SimpleNamespace(**kwargs))
        return original(method, *args, **kwargs)

    monkeypatch.setattr(embedded.qdrant, "call", call)
    embedded.run(AnnProbe())
    assert [s.search_params is None for s in sent] == [True, False] * 40
    assert all(s.search_params.exact for s in sent[1::2])
