"""The monitor as a process on SQLite: what it serves, and what it lives through."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitors.families import MONITOR_FAMILIES, PROBE_FAMILIES
from monitors.rollout import ROLLOUT_FAMILIES
from monitors.store import open_store
from pipelines.core.control import Control
from pipelines.core.rollout import RolloutState, RolloutStore, VersionRef
from pipelines.core.settings import Settings
from tests.conftest import require
from tests.support.monitor_probes import fill_version, make_settings, make_version
from tests.support.monitor_process import MonitorProcess
from tests.support.processes import wait_until
from tests.support.prometheus_tools import (
    INSTALL_HINT,
    check_metrics,
    check_queries,
    prometheus_available,
)
from tests.support.qdrant_server import QdrantServer

RUN = "plumbline_probe_last_run_timestamp_seconds"
METRICS_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantServer]:
    """One that keeps its data when it is stopped."""
    with QdrantServer(tmp_path / "qdrant") as made:
        yield made


@pytest.fixture
def values(server: QdrantServer, model: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of a filled index and a SQLite store."""
    every = {"interval_seconds": 1, "timeout_seconds": 120}
    names = ("canary", "integrity", "fidelity", "geometry", "freshness")
    values = {
        "index": f"monitor-{uuid.uuid4().hex[:8]}",
        "qdrant": {"url": server.url, "outage_timeout_seconds": 2.0},
        "contract": {"model": str(model)},
        "monitor": {
            "lease_seconds": 15,
            "database_url": f"sqlite:///{tmp_path / 'monitor.db'}",
            **dict.fromkeys(names, every),
        },
    }
    settings = make_settings(tmp_path, model, **{key: values[key] for key in ("index", "qdrant")})
    fill_version(settings, make_version(settings)[1], 150)
    return values


def test_promtool_finds_nothing_to_say(values: dict[str, Any], tmp_path: Path) -> None:
    """Every family with its samples, from all eight probes on a real index."""
    require(prometheus_available(), INSTALL_HINT)
    assert check_metrics("# TYPE bad_seconds_count gauge\nbad_seconds_count 1\n"), "it can object"
    candidate = begin_rollout(make_settings(tmp_path, values["contract"]["model"], **values))
    with MonitorProcess(tmp_path, "monitor", values) as monitor:
        monitor.wait_ready()
        wait_until(lambda: monitor.value(RUN, probe="geometry"), 60)
        wait_until(lambda: monitor.value(RUN, probe="fidelity", version=candidate), 60)
        assert monitor.value(RUN, probe="geometry", version=candidate) is None
        text = monitor.page("/metrics")[1]
        for family in ROLLOUT_FAMILIES:
            assert re.search(rf"^{family.name}{{", text, re.MULTILINE), family.name
        for family in (*MONITOR_FAMILIES, *PROBE_FAMILIES, *ROLLOUT_FAMILIES):
            assert f"# TYPE {family.name} {family.kind}" in text
        assert text.count("# TYPE plumbline_") > 60
        assert check_metrics(text) == []


def begin_rollout(settings: Settings) -> str:
    """A rollout that is being built and has said everything it can say; gives its candidate."""
    qdrant, live = make_version(settings)
    contract = settings.contract.model_copy(update={"document_prompt": "passage: "})
    changed = settings.model_copy(update={"contract": contract})
    candidate = make_version(changed)[1]
    fill_version(changed, candidate, 20)
    rollouts = RolloutStore(Control(qdrant))
    gate = {"outcome": "undecided", "queries": 90, "difference": -0.01, "margin": 0.02}
    rollout = rollouts.begin(
        settings.index,
        live=VersionRef.of(live),
        candidate=VersionRef.of(candidate),
        contract=candidate.contract,
        contract_settings={},
        notes={
            "progress": {"tokens_done": 100, "tokens_total": 400, "eta_seconds": 60.5},
            "gate": {**gate, "low": -0.03, "high": 0.01},
            "promotion": {"forced": True},
            "rollback": {"automatic": False},
        },
    )
    rollouts.move(rollout, RolloutState.BUILDING, "a test")
    return candidate.name


def test_the_rules_in_the_docs_tell_the_versions_apart(tmp_path: Path) -> None:
    """An alarm of live pages, one of the candidate does not; two replicas are no conflict."""
    require(prometheus_available(), INSTALL_HINT)
    (block,) = re.findall(r"```promql\n(.*?)```", METRICS_PAGE.read_text("utf-8"), re.DOTALL)
    paging, others = block.strip().split("\n\n")
    alarm, role = "plumbline_probe_alarm", "plumbline_monitor_version_role"

    def labels(instance: str, version: str, **more: str) -> str:
        named = {"instance": instance, "index": "docs", "version": version, **more}
        return "{" + ", ".join(f'{name}="{value}"' for name, value in named.items()) + "}"

    series = {
        # The leader knows both versions; the one that stands by knows live.
        f"{role}{labels('a', 'new', role='candidate')}": 1.0,
        **{f"{role}{labels(one, 'old', role='live')}": 1.0 for one in ("a", "b")},
        f"{alarm}{labels('a', 'new', probe='canary')}": 1.0,
        **{f"{alarm}{labels(one, 'old', probe='canary')}": 0.0 for one in ("a", "b")},
        **{f"{alarm}{labels(one, 'old', probe='drift')}": 1.0 for one in ("a", "b")},
    }
    expected = {
        paging: [(f"{alarm}{labels(one, 'old', probe='drift')}", 1.0) for one in ("a", "b")],
        others: [(labels("a", "new", probe="canary", role="candidate"), 1.0)],
    }
    assert check_queries(tmp_path, series, expected) == ""
    wrong = {paging: [*expected[paging], *expected[others]]}
    assert check_queries(tmp_path, series, wrong) != "", "it can object"


def test_it_lives_through_an_outage_of_qdrant(
    values: dict[str, Any], server: QdrantServer, tmp_path: Path
) -> None:
    """Probes fail with `unavailable`; values stay; once it is back the next runs complete."""
    with MonitorProcess(tmp_path, "monitor", values) as monitor:
        monitor.wait_ready()
        wait_until(lambda: monitor.value("plumbline_integrity_documents") == 150, 60)
        server.stop()
        failures = "plumbline_probe_failures_total"
        wait_until(
            lambda: (monitor.value(failures, probe="integrity", reason="unavailable") or 0) >= 2,
            60,
        )
        # Told by the next look at the alias, which a probe may be ahead of.
        wait_until(lambda: monitor.value("plumbline_monitor_qdrant_up") == 0, 60)
        assert monitor.value("plumbline_integrity_documents") == 150
        assert monitor.page("/healthz")[0] == 200
        assert monitor.page("/readyz")[0] == 200
        server.start()
        wait_until(lambda: monitor.value("plumbline_probe_failing", probe="integrity") == 0, 60)
        wait_until(lambda: monitor.value("plumbline_monitor_qdrant_up") == 1, 60)


def test_a_second_process_stands_by_and_takes_over(values: dict[str, Any], tmp_path: Path) -> None:
    """On SQLite it says whom it waits for; after SIGKILL it goes on from what was kept."""
    with (
        MonitorProcess(tmp_path, "first", values) as first,
        MonitorProcess(tmp_path, "second", values) as second,
    ):
        for one in (first, second):
            one.wait_ready()
        holder = wait_until(
            lambda: next(
                (one for one in (first, second) if one.value("plumbline_monitor_leader") == 1),
                None,
            ),
            60,
        )
        other = second if holder is first else first
        assert "held by process" in other.checks()["probes"]
        assert "not opened" in other.checks()["store"]
        runs = {"probe": "integrity", "outcome": "completed"}
        wait_until(lambda: holder.value("plumbline_probe_runs_total", **runs) >= 2, 60)
        holder.process.kill()
        wait_until(lambda: other.value("plumbline_monitor_leader") == 1, 30)
        assert other.value("plumbline_probe_runs_total", **runs) >= 2
        begun = time.monotonic()
        other.process.stop(30)
        assert time.monotonic() - begun < 20
        assert other.process.returncode == 0
    settings = make_settings(tmp_path, values["contract"]["model"])
    store = open_store(settings.monitor)
    live = store.live(values["index"])
    assert live is not None
    kept = [one for one in store.history(values["index"], limit=100_000) if one.probe == "canary"]
    assert len(kept) == store.memory(live.key, "canary").runs
    store.close()
