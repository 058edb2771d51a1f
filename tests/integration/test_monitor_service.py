"""The monitor's service in one process: schedule, pages, lease, alias, stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics

from monitors.probes.base import Level, ProbeContext, ProbeResult
from monitors.service import MonitorService
from monitors.store import VersionKey, open_store
from pipelines.core.errors import ModelError, ServiceUnavailableError, SettingsError
from pipelines.core.qdrant import Qdrant, disconnect
from pipelines.core.settings import Settings
from pipelines.core.versions import set_alias
from tests.support.monitor_probes import FakeProbe, make_settings, make_version, result
from tests.support.monitor_replica import Replica
from tests.support.processes import wait_until
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def settings(tmp_path: Path, model: Path) -> Settings:
    every = {"interval_seconds": 1, "timeout_seconds": 1}
    names = ("canary", "drift", "integrity", "golden")
    return make_settings(tmp_path, model, monitor=dict.fromkeys(names, every))


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    made: list[Replica] = []
    yield made
    for replica in made:
        replica.stop.set()
    for replica in made:
        replica.thread.join(30)
    disconnect()


def start(replicas: list[Replica], settings: Settings, **probes: FakeProbe) -> Replica:
    replicas.append(Replica(settings, probes))
    return replicas[-1]


def test_probes_run_and_are_served(settings: Settings, replicas: list[Replica]) -> None:
    """Levels, evidence, figures, times and counts, in both formats; health in words."""
    version = make_version(settings)[1].name
    replica = start(
        replicas,
        settings,
        canary=FakeProbe("canary"),
        drift=FakeProbe("drift", lambda _context: result(Level.ALARM)),
    )
    wait_until(lambda: replica.health("/readyz")[0] == 200, 20)
    values = wait_until(
        lambda: (
            replica.values()
            if ("plumbline_probe_alarm", version, "drift") in replica.values()
            else None
        )
    )
    assert values["plumbline_monitor_leader",] == 1
    assert values["plumbline_monitor_version_readable", version] == 1
    assert values["plumbline_probe_alarm", version, "drift"] == 1
    assert values["plumbline_probe_alarm", version, "canary"] == 0
    assert values["plumbline_probe_reason", version, "drift", "as_told"] == 1
    assert values["plumbline_probe_statistic", version, "drift"] == 1.5
    assert values["plumbline_probe_p_value", version, "drift"] == 0.5
    assert values["plumbline_probe_samples", version, "drift", "current"] == 7
    assert values["plumbline_probe_baseline_runs", version, "drift"] == 4
    assert values["plumbline_fake_size_items", version, "10"] == 3
    assert values["plumbline_probe_runs_total", "drift", "completed"] >= 1
    assert values["plumbline_probe_failures_total", "drift", "timeout"] == 0
    now = time.time()
    for name in ("last_run", "last_success"):
        moment = values[f"plumbline_probe_{name}_timestamp_seconds", version, "drift"]
        assert now - 30 < moment <= now
    status, body, kind = replica.get("/metrics", "application/openmetrics-text; version=1.0.0")
    assert (status, kind.split(";")[0]) == (200, "application/openmetrics-text")
    assert body.endswith("# EOF\n")
    assert {family.name for family in open_metrics(body)} >= {"plumbline_probe_runs"}
    status, checks = replica.health("/readyz")
    assert checks == {"store": "answers", "version": version, "probes": "each has run"}
    assert replica.health("/healthz")[1]["scheduler"] == "running"
    assert replica.get("/else")[0] == 404
    assert replica.end() < 10


def test_a_probe_that_fails_or_hangs_leaves_the_others_alone(
    settings: Settings, replicas: list[Replica]
) -> None:
    """They go on at their pace; it keeps its last good values, and its age grows."""
    version = make_version(settings)[1].name
    release, broken = threading.Event(), threading.Event()

    def fail(_context: ProbeContext) -> ProbeResult:
        if broken.is_set():
            raise ModelError("no such model")
        return result()

    def hang(_context: ProbeContext) -> ProbeResult:
        if broken.is_set():
            release.wait(60)
        return result()

    probes = {
        "canary": FakeProbe("canary"),
        "drift": FakeProbe("drift", fail),
        "golden": FakeProbe("golden", hang),
    }
    replica = start(replicas, settings, **probes)
    wait_until(lambda: all(probe.runs for probe in probes.values()), 20)
    wait_until(lambda: replica.values().get(("plumbline_probe_alarm", version, "golden")) == 0)
    broken.set()
    count = probes["canary"].runs
    wait_until(lambda: probes["canary"].runs >= count + 4, 30)

    def both_failed() -> dict[tuple[Any, ...], float] | None:
        values = replica.values()
        good = (
            values["plumbline_probe_failures_total", "drift", "model"] >= 2
            and values["plumbline_probe_failures_total", "golden", "timeout"] >= 1
            and values["plumbline_probe_failures_total", "golden", "still_running"] >= 1
        )
        return values if good else None

    values = wait_until(both_failed, 20)
    for name in ("drift", "golden"):
        assert values["plumbline_probe_failing", version, name] == 1
        assert values["plumbline_probe_alarm", version, name] == 0
        assert (
            values["plumbline_probe_last_success_timestamp_seconds", version, name]
            < values["plumbline_probe_last_run_timestamp_seconds", version, name]
        )
    assert values["plumbline_probe_failing", version, "canary"] == 0
    assert ("plumbline_fake_size_items", version, "10") in values
    assert replica.health("/readyz")[0] == replica.health("/healthz")[0] == 200
    assert probes["golden"].most_at_once == 1
    assert replica.end() < 10, "a run that hangs does not hold up the stop"
    release.set()


def test_metrics_follow_the_alias(settings: Settings, replicas: list[Replica]) -> None:
    """After a switch every probe runs soon, and nothing of the version before is served."""
    slow = {"interval_seconds": 3600, "timeout_seconds": 5}
    settings = settings.model_copy(
        update={
            "monitor": settings.monitor.model_copy(
                update={"drift": settings.monitor.drift.model_copy(update=slow)}
            )
        }
    )
    qdrant, first = make_version(settings)
    second = make_version(settings, document_prompt="passage: ")[1]
    drift = FakeProbe("drift", lambda context: result(state={"of": context.version.name}))
    replica = start(replicas, settings, drift=drift)
    alarm = "plumbline_probe_alarm"
    wait_until(lambda: (alarm, first.name, "drift") in replica.values(), 20)
    set_alias(qdrant, "docs", second.name)
    wait_until(lambda: (alarm, second.name, "drift") in replica.values(), 20)
    versions = {
        part
        for labels in replica.values()
        for part in labels
        if isinstance(part, str) and part.startswith("docs--")
    }
    assert versions == {second.name}
    assert drift.runs == 2
    set_alias(qdrant, "docs", first.name)
    wait_until(lambda: drift.runs == 3, 20)
    store = open_store(settings.monitor)
    assert store.memory(VersionKey.of(first), "drift").state == {"of": first.name}
    wait_until(lambda: store.memory(VersionKey.of(first), "drift").runs == 2)
    store.close()


def test_a_switch_does_not_wait_for_a_long_run(settings: Settings, replicas: list[Replica]) -> None:
    """A run that takes most of its interval ends at once, and the new version has its turn."""
    long = {"interval_seconds": 3600, "timeout_seconds": 3000}
    golden = settings.monitor.golden.model_copy(update=long)
    monitor = settings.monitor.model_copy(update={"golden": golden})
    settings = settings.model_copy(update={"monitor": monitor})
    qdrant, first = make_version(settings)
    second = make_version(settings, document_prompt="passage: ")[1]

    def ask(context: ProbeContext) -> ProbeResult:
        while context.version.name == first.name:
            context.deadline.check()
            time.sleep(0.01)
        return result()

    probe = FakeProbe("golden", ask)
    replica = start(replicas, settings, golden=probe)
    wait_until(lambda: probe.running == 1, 20)
    set_alias(qdrant, "docs", second.name)
    alarm = ("plumbline_probe_alarm", second.name, "golden")
    values = wait_until(lambda: alarm in (found := replica.values()) and found, 20)
    assert (probe.runs, probe.most_at_once) == (2, 1)
    assert values["plumbline_probe_runs_total", "golden", "version_switched"] == 1
    assert not values.get(("plumbline_probe_failures_total", "golden", "timeout"))


def test_after_a_restart_the_schedule_goes_on(settings: Settings, replicas: list[Replica]) -> None:
    """What ran a moment ago is not run again; its values are served at once."""
    hourly = {"interval_seconds": 3600}
    monitor = settings.monitor.model_copy(
        update={"drift": settings.monitor.drift.model_copy(update=hourly)}
    )
    settings = settings.model_copy(update={"monitor": monitor})
    version = make_version(settings)[1].name
    first = start(replicas, settings, drift=FakeProbe("drift"))
    wait_until(lambda: ("plumbline_probe_alarm", version, "drift") in first.values(), 20)
    first.end()
    canary = FakeProbe("canary")
    second = start(replicas, settings, drift=FakeProbe("drift"), canary=canary)
    wait_until(lambda: canary.runs >= 2, 20)
    assert second.probes["drift"].runs == 0
    assert second.values()["plumbline_fake_size_items", version, "10"] == 3
    assert second.values()["plumbline_probe_runs_total", "drift", "completed"] == 1
    assert second.health("/readyz")[0] == 200


def test_a_second_one_stands_by(settings: Settings, replicas: list[Replica]) -> None:
    """On SQLite it says so, runs nothing, and takes over when the first one stops."""
    make_version(settings)
    first = start(replicas, settings, drift=FakeProbe("drift"))
    wait_until(lambda: first.probes["drift"].runs, 20)
    second = start(replicas, settings, drift=FakeProbe("drift"))
    wait_until(lambda: "held by" in second.health("/readyz")[1]["probes"], 20)
    assert second.health("/readyz")[0] == second.health("/healthz")[0] == 200
    assert second.values()["plumbline_monitor_leader",] == 0
    assert second.probes["drift"].runs == 0
    first.end()
    wait_until(lambda: second.probes["drift"].runs, 20)
    assert second.values()["plumbline_monitor_leader",] == 1


def test_a_lost_lease_ends_the_probes(settings: Settings, replicas: list[Replica]) -> None:
    """It stops running them, stands by, and goes on once it holds the lease again."""
    from monitors.service import lease_name
    from pipelines.core.control import Control
    from pipelines.core.lease import LEASE

    qdrant, _ = make_version(settings)
    replica = start(replicas, settings, drift=FakeProbe("drift"))
    wait_until(lambda: replica.probes["drift"].runs, 20)
    control = Control(qdrant)

    def take() -> bool:
        seen = control.read(LEASE, lease_name("docs"))
        fields = {**seen.fields, "holder": "somebody else", "ttl_seconds": 3}
        return control.swap(LEASE, lease_name("docs"), seen=seen, fields=fields) is not None

    wait_until(take, 10)
    wait_until(lambda: replica.values()["plumbline_monitor_leader",] == 0, 10)
    count = replica.probes["drift"].runs
    wait_until(lambda: replica.values()["plumbline_monitor_leader",] == 1, 20)
    assert replica.probes["drift"].runs <= count + 1
    wait_until(lambda: replica.probes["drift"].runs > count + 1, 20)


def test_an_outage_of_qdrant_is_lived_through(
    settings: Settings, replicas: list[Replica], monkeypatch
) -> None:
    """Probes fail with `unavailable`, the last good values stay, and it goes on afterwards."""
    version = make_version(settings)[1].name
    replica = start(replicas, settings, drift=FakeProbe("drift"))
    wait_until(lambda: ("plumbline_probe_alarm", version, "drift") in replica.values(), 20)
    away = threading.Event()
    away.set()
    for name in ("call", "try_call"):
        real = getattr(Qdrant, name)

        def perhaps(self: Qdrant, *given: Any, real: Any = real, **named: Any) -> Any:
            if away.is_set():
                raise ServiceUnavailableError("Qdrant did not answer")
            return real(self, *given, **named)

        monkeypatch.setattr(Qdrant, name, perhaps)
    key = ("plumbline_probe_failures_total", "drift", "unavailable")
    wait_until(lambda: replica.values()[key] >= 2, 20)
    values = replica.values()
    assert values["plumbline_monitor_qdrant_up",] == 0
    assert values["plumbline_probe_alarm", version, "drift"] == 0
    assert values["plumbline_monitor_leader",] == 1, "nobody else could do better"
    assert replica.health("/readyz")[0] == 200
    away.clear()
    wait_until(lambda: replica.values()["plumbline_probe_failing", version, "drift"] == 0, 20)


def test_an_index_that_comes_later(settings: Settings, replicas: list[Replica]) -> None:
    """Before there is one, the service says so and waits."""
    replica = start(replicas, settings, drift=FakeProbe("drift"))
    key = ("plumbline_probe_failures_total", "drift", "index_missing")
    wait_until(lambda: replica.values().get(key, 0) >= 1, 20)
    status, checks = replica.health("/readyz")
    assert status == 200
    assert "no index 'docs'" in checks["version"]
    assert replica.values()["plumbline_monitor_version_readable", ""] == 0
    version = make_version(settings)[1].name
    wait_until(lambda: ("plumbline_probe_alarm", version, "drift") in replica.values(), 20)


def test_a_version_that_cannot_be_read_is_said(settings: Settings, replicas: list[Replica]) -> None:
    """In metrics and in words; the service goes on once the alias points elsewhere."""
    qdrant, first = make_version(settings)
    second = make_version(settings, document_prompt="passage: ")[1]
    metadata = qdrant.call("get_collection", first.name).config.metadata
    metadata["plumbline"]["schema"] = 99
    qdrant.call("update_collection", first.name, metadata=metadata)
    replica = start(replicas, settings, drift=FakeProbe("drift"))
    key = ("plumbline_monitor_version_readable", first.name)
    wait_until(lambda: replica.values().get(key) == 0, 20)
    wait_until(
        lambda: replica.values()["plumbline_probe_failures_total", "drift", "version_unreadable"]
    )
    assert "Upgrade Plumbline" in replica.health("/readyz")[1]["version"]
    set_alias(qdrant, "docs", second.name)
    wait_until(lambda: ("plumbline_probe_alarm", second.name, "drift") in replica.values(), 20)


def test_a_port_that_is_taken(settings: Settings, replicas: list[Replica]) -> None:
    """Says which setting to change."""
    make_version(settings)
    replica = start(replicas, settings, drift=FakeProbe("drift"))
    monitor = settings.monitor.model_copy(update={"port": replica.service.port})
    with pytest.raises(SettingsError, match=r"monitor\.port"):
        MonitorService(settings.model_copy(update={"monitor": monitor}), probes={})
