"""The same probes over a server: every request that they make is one that it answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from monitors.probes.base import Level
from monitors.probes.canary import CanaryProbe
from monitors.probes.drift import DriftProbe
from monitors.probes.fidelity import FidelityProbe
from monitors.probes.geometry import GeometryProbe
from pipelines.core.canaries import CanaryReport
from pipelines.core.control import Control
from pipelines.core.process import ProcessIdentity
from pipelines.core.recorded_queries import QueryRecorder
from pipelines.core.worker_reports import WorkerReporter, read_reports
from tests.support.corpora import Document
from tests.support.probing import Seeded, Watched
from tests.support.qdrant_server import qdrant_url

SETTINGS = {
    "monitor": {
        "drift": {
            "minimum_reference": 120,
            "reference": 200,
            "minimum_window": 60,
            "window": 100,
            "permutations": 99,
        },
        "fidelity": {"sample": 50},
    }
}


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with (
        qdrant_url() as url,
        Watched(url=url, index="probed", encoder=Seeded(32), settings=SETTINGS) as index,
    ):
        try:
            yield index
        finally:
            for collection in index.qdrant.call("get_collections").collections:
                if "probed" in collection.name:
                    index.qdrant.call("delete_collection", collection.name)


def _documents(count: int, prefix: str) -> list[Document]:
    return [Document(f"{prefix}/{n}", "", f"{prefix} number {n}") for n in range(count)]


def test_documents_are_sampled_encoded_anew_and_tested(watched: Watched) -> None:
    assert watched.run(FidelityProbe()).reason == "empty_index"
    assert watched.run(GeometryProbe()).reason == "empty_index"
    assert watched.run(DriftProbe()).reason == "empty_index"
    watched.write(_documents(150, "first"))
    assert watched.run(FidelityProbe()).reason == "faithful"
    assert watched.run(GeometryProbe()).reason == "measured"
    assert watched.run(DriftProbe()).reason == "reference_taken"
    recorder = QueryRecorder(watched.qdrant, "probed", 1.0, clock=watched.now.timestamp)
    recorder._start = lambda: None
    for number in range(130):
        recorder.record(watched.version.fingerprint, watched.encoder._vector(f"query {number}"))
    recorder.flush()
    assert recorder.dropped == 0
    watched.now += timedelta(minutes=1)
    watched.write(_documents(80, "second"), encoder=Seeded(32, noise=2.0))
    result = watched.run(DriftProbe())
    assert result.details["documents"]["reason"] in ("young_baseline", "differs_young_baseline")
    assert result.details["queries"]["reason"] == "reference_taken"
    assert watched.run(FidelityProbe()).reason == "mismatch"


def test_workers_report_and_their_reports_are_removed(watched: Watched) -> None:
    identity = ProcessIdentity("host", "boot", "namespace", 4, 5)
    worker = WorkerReporter(watched.qdrant, watched.version.name, 300.0, identity)
    watched.run(CanaryProbe())
    worker.report(CanaryReport(0.5, 0.5, 0, "document"))
    assert watched.run(CanaryProbe()).level is Level.ALARM
    for _ in range(35):
        watched.now += timedelta(seconds=300)
        watched.run(CanaryProbe())
    assert read_reports(Control(watched.qdrant), watched.version.name) == []
