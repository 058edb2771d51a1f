"""The monitor's parts that need nothing: registry, schedule, reasons, health, metrics, docs."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from monitors import failures
from monitors.document import metrics_page
from monitors.failures import FAILURES, describe, reason_of
from monitors.families import MONITOR_FAMILIES, PROBE_FAMILIES
from monitors.health import Pulse, health_of, readiness_of
from monitors.metrics import MonitorCollector, MonitorState
from monitors.probes import PROBES
from monitors.probes.base import FigureFamily, Level, ProbeTimeoutError
from monitors.rollout import ROLLOUT_FAMILIES
from monitors.schedule import first_times
from monitors.snapshot import Snapshot
from monitors.store import LiveVersion, Outcome, StoredFigure, StoredRun, VersionKey
from pipelines.core import errors
from pipelines.core.errors import PlumblineError, UnknownNameError
from pipelines.core.metrics import JobMetrics
from pipelines.core.monitor_settings import MonitorSettings
from tests.support.monitor_probes import SIZE, FakeProbe

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = VersionKey("docs", "docs--m--1", "a")
REPOSITORY = Path(__file__).resolve().parents[2]

BOUNDED = {
    # Ours, listed in the docs.
    *("index", "version", "probe", "outcome", "reason", "release"),
    # Each bounded by code or settings, and by Kafka's topics.
    *("sample", "kind", "k", "role", "state", "topic", "partition", "percentile"),
    *("documents", "source", "mode", "detector"),
    # Of the rollout's record: a closed list, and what the present or last rollout is.
    *("action", "rollout", "live", "candidate"),
}
"""Labels that a family may have. A new one is put here once somebody knows what bounds it."""


def stored(**changes) -> StoredRun:
    values = {
        "id": 1,
        "key": KEY,
        "probe": "drift",
        "started_at": NOW,
        "seconds": 2.0,
        "outcome": Outcome.COMPLETED,
        "failure": "",
        "message": "",
        "level": Level.WARNING,
        "reason": "as_told",
        "words": "",
        "evidence": {"effect": 0.5, "samples": {"current": 9}},
        "figures": (
            StoredFigure(SIZE.name, 3.0, ("10",)),
            StoredFigure(SIZE.name, 3.0, ("10", "too many")),
            StoredFigure("plumbline_of_an_older_release", 1.0),
        ),
        "details": {},
    }
    return StoredRun(**{**values, **changes})


def exposition(snapshot: Snapshot) -> str:
    registry = CollectorRegistry()
    state = MonitorState("docs", "1.0", leader=True, snapshot=snapshot, store_opened=True)
    registry.register(
        MonitorCollector({"drift": FakeProbe("drift")}, {"drift": 60.0}, lambda: state)
    )
    return generate_latest(registry).decode()


def test_importing_the_registry_imports_no_probe() -> None:
    """Nor any of their libraries: `plumbline --help` stays instant."""
    code = (
        "import sys, monitors.probes, pipelines.cli.app; "
        "print([m for m in sys.modules if m in ('numpy', 'sqlalchemy', 'apscheduler') "
        "or m.startswith('monitors.probes.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_probe_names_the_valid_ones() -> None:
    """With the nearest one first."""
    with pytest.raises(UnknownNameError, match=r"Did you mean canary\?.*Valid are .*integrity"):
        PROBES["canari"]
    assert "canari" not in PROBES
    assert len(PROBES) == len(list(PROBES)) == 8


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_describes_itself(name: str) -> None:
    """Name, question, families and reasons, as metrics and docs use them."""
    probe = PROBES[name]
    assert name == probe.NAME
    assert probe.QUESTION.endswith("?")
    assert hasattr(MonitorSettings(), name)
    assert probe.FAMILIES
    for family in probe.FAMILIES:
        assert re.fullmatch(r"plumbline_[a-z0-9_]+", family.name)
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_created"))
        assert family.help.endswith(".")
        assert family.unit
    for reason, words in probe.REASONS.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", reason)
        assert words


def test_names_and_labels() -> None:
    """No name twice, the job's included; every label is one that somebody has bounded."""
    registry = CollectorRegistry(auto_describe=True)
    JobMetrics(registry)
    probes = dict(PROBES)
    state = MonitorState("docs", "1.0", leader=True)
    # Registering fails on a name that is taken.
    registry.register(MonitorCollector(probes, dict.fromkeys(probes, 60.0), lambda: state))
    own = (*MONITOR_FAMILIES, *PROBE_FAMILIES, *ROLLOUT_FAMILIES)
    names = [family.name for family in own]
    names += [family.name for probe in probes.values() for family in probe.FAMILIES]
    assert len(set(names)) == len(names)
    labels = {label for family in own for label in family.labels}
    labels |= {
        label for probe in probes.values() for family in probe.FAMILIES for label in family.labels
    }
    assert labels - BOUNDED == set()


def test_a_name_that_is_taken_cannot_be_registered() -> None:
    """The test above would notice."""
    registry = CollectorRegistry(auto_describe=True)
    JobMetrics(registry)
    probe = FakeProbe("drift")
    probe.FAMILIES = (FigureFamily("plumbline_canary_distance", "Twice."),)
    state = MonitorState("docs", "1.0", leader=True)
    with pytest.raises(ValueError, match="plumbline_canary_distance"):
        registry.register(MonitorCollector({"drift": probe}, {"drift": 1.0}, lambda: state))


def test_whether_qdrant_takes_writes_is_said_by_the_leader() -> None:
    """0 and 1, and nothing where this process does not hold the lease."""
    for state, wanted in ((None, None), (False, 0.0), (True, 1.0)):
        shown = MonitorState("docs", "1.0", leader=True, qdrant_writable=state)
        registry = CollectorRegistry()
        registry.register(MonitorCollector({}, {}, lambda shown=shown: shown))
        name = "plumbline_monitor_qdrant_writable"
        assert registry.get_sample_value(name, {"index": "docs"}) == wanted


def test_what_a_scrape_shows() -> None:
    """Levels as 0 or 1, what is absent as nothing, counters from zero."""
    live = LiveVersion(KEY, "", NOW)
    failed = stored(
        id=2, outcome=Outcome.FAILED, failure="timeout", started_at=NOW + timedelta(hours=1)
    )
    text = exposition(
        Snapshot(
            live,
            {"drift": failed},
            {"drift": stored()},
            {("drift", "failed", "timeout"): 2, ("drift", "completed", ""): 5},
            read_at=0.0,
        )
    )
    own = '{index="docs",probe="drift",version="docs--m--1"}'
    assert f"plumbline_probe_warning{own} 1.0" in text
    assert f"plumbline_probe_alarm{own} 0.0" in text
    assert f"plumbline_probe_failing{own} 1.0" in text
    assert f"plumbline_probe_effect{own} 0.5" in text
    assert f"plumbline_probe_p_value{own}" not in text
    assert 'plumbline_fake_size_items{index="docs",k="10",version="docs--m--1"} 3.0' in text
    assert "too many" not in text
    assert "older_release" not in text
    assert 'failures_total{index="docs",probe="drift",reason="timeout"} 2.0' in text
    assert 'failures_total{index="docs",probe="drift",reason="model"} 0.0' in text
    assert 'runs_total{index="docs",outcome="completed",probe="drift"} 5.0' in text
    found = re.search(r"last_success_timestamp_seconds\{[^}]*\} (\S+)", text)
    assert found is not None
    assert float(found[1]) == NOW.timestamp()


def test_a_scrape_before_anything_is_known() -> None:
    """The process says that it is there."""
    text = exposition(Snapshot())
    assert 'plumbline_monitor_leader{index="docs"} 1.0' in text
    assert "plumbline_probe_alarm{" not in text


def test_first_times_follow_the_store() -> None:
    """New probes soon and one after another; others when their interval is over; none is lost."""
    intervals = {"new": 60.0, "recent": 60.0, "overdue": 60.0, "future": 60.0}
    last = {
        "recent": NOW - timedelta(seconds=20),
        "overdue": NOW - timedelta(days=2),
        "future": NOW + timedelta(days=2),
    }
    times = first_times(intervals, last, NOW, stagger_seconds=1.0)
    assert {name: (moment - NOW).total_seconds() for name, moment in times.items()} == {
        "new": 0.0,
        "recent": 40.0,
        "overdue": 2.0,
        "future": 60.0,
    }


def test_every_error_of_ours_has_a_reason() -> None:
    """And every reason is one that the docs list."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, PlumblineError)
    ]
    assert len(kinds) > 15
    for _, reason in failures._REASONS:
        assert reason in FAILURES
    made = {kind: kind.__new__(kind) for kind in [*kinds, ProbeTimeoutError]}
    assert {reason_of(error) for error in made.values()} <= set(FAILURES)
    assert reason_of(made[errors.ServiceRefusedError]) == "service_refused"
    assert reason_of(made[errors.ServiceUnavailableError]) == "unavailable"
    assert reason_of(made[ProbeTimeoutError]) == "timeout"
    assert reason_of(KeyError("x")) == "fault"


def test_descriptions_keep_secrets_and_documents() -> None:
    """Our messages lose logins; a foreign one is not quoted at all."""
    url = "postgresql://ann:hunter22@host/db"
    assert "hunter22" not in describe(errors.SettingsError(f"no such {url}"))
    with pytest.raises(ValueError, match="text of") as caught:
        int("text of a document")
    assert "text of a document" not in describe(caught.value)
    assert "test_monitor_parts.py" in describe(caught.value)


def test_health_is_about_this_process() -> None:
    """The loop that stands still, not a service that is away."""
    assert health_of(Pulse(), None).ok
    stale = Pulse()
    stale.at -= 1000
    assert not health_of(stale, None).ok


@pytest.mark.parametrize(
    ("snapshot", "changes", "ok"),
    [
        (Snapshot(), {"leader": True}, False),
        (Snapshot(LiveVersion(KEY, "", NOW), read_at=1.0), {"leader": True}, False),
        (
            Snapshot(LiveVersion(KEY, "", NOW), read_at=1.0),
            {"leader": True, "attempted": {"drift"}},
            True,
        ),
        (
            Snapshot(LiveVersion(KEY, "", NOW), {"drift": stored()}, read_at=1.0),
            {"leader": True},
            True,
        ),
        (
            Snapshot(LiveVersion(KEY, "cannot be read", NOW), read_at=1.0),
            {"leader": True, "attempted": {"drift"}},
            True,
        ),
        (
            Snapshot(LiveVersion(KEY, "", NOW), read_at=1.0, error="the store is away"),
            {"leader": True, "attempted": {"drift"}},
            False,
        ),
        (Snapshot(), {"waiting": "standing by: held by process 7", "store_needed": False}, True),
        (Snapshot(), {"waiting": "no lease: Qdrant is away", "store_needed": False}, False),
        (Snapshot(), {"waiting": "waiting for the lease x", "store_needed": False}, False),
    ],
)
def test_readiness(snapshot: Snapshot, changes: dict, ok: bool) -> None:
    """Ready once there is something to scrape, or while standing by; says why if not."""
    values = {
        "probes": ["drift"],
        "attempted": set(),
        "leader": False,
        "waiting": "",
        "store_needed": True,
        **changes,
    }
    health = readiness_of(snapshot, **values)
    assert health.ok is ok
    assert all(health.checks.values())


def test_the_page_of_metrics_is_up_to_date() -> None:
    """`docs/metrics.md` is what the code exports; `python -m monitors.document` writes it."""
    page = REPOSITORY / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8") == metrics_page()
