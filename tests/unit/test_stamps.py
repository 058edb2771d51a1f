"""Events stamped in the future: counted, never taken for fresh, and seen when they win."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from pipelines.core import metrics as core_metrics
from pipelines.core.metrics import JobMetrics
from pipelines.core.position import OrderBy, Position
from pipelines.transforms import stamps
from pipelines.transforms.stamps import Stamps

NOW = 1_700_000_000.0


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """Of metrics that nothing else counts on."""
    made = CollectorRegistry()
    monkeypatch.setattr(core_metrics, "_metrics", JobMetrics(made))
    return made


def at(seconds: float, *, offset: int = 0, partition: int = 0) -> Position:
    """A position that is stamped so many seconds after now."""
    return Position("documents", partition, offset, int((NOW + seconds) * 1000))


def counted(registry: CollectorRegistry, name: str) -> float:
    return registry.get_sample_value(f"plumbline_{name}_total", {"topic": "documents"}) or 0.0


def observed(registry: CollectorRegistry) -> tuple[float, float]:
    name = "plumbline_event_to_searchable_seconds"
    return tuple(registry.get_sample_value(f"{name}_{part}") or 0.0 for part in ("count", "sum"))


def test_a_late_event_is_observed_and_one_from_the_future_is_counted(registry) -> None:
    """A zero for what cannot be known would make a late index look fresh."""
    watch = Stamps(OrderBy.TIMESTAMP)
    watch.written(at(-7), NOW)
    assert observed(registry) == (1, pytest.approx(7))
    watch.written(at(3600), NOW)
    watch.written(at(1.01), NOW)
    assert observed(registry) == (1, pytest.approx(7))
    assert counted(registry, "future_events") == 2


def test_clocks_in_step_are_no_fault(registry) -> None:
    """Milliseconds ahead count as no time at all, and alarm nobody."""
    Stamps(OrderBy.TIMESTAMP).written(at(0.9), NOW)
    assert observed(registry) == (1, 0)
    assert counted(registry, "future_events") == 0


def test_an_event_without_a_stamp_is_left_out(registry) -> None:
    """Kafka has none for it: minus one is no moment in 1969."""
    Stamps(OrderBy.TIMESTAMP).written(Position("documents", 0, 0, -1), NOW)
    assert observed(registry) == (0, 0)


@pytest.mark.parametrize(
    ("event", "by", "order_by", "shadowed"),
    [
        (at(0, offset=9), at(3600, offset=5), OrderBy.TIMESTAMP, 1),
        (at(0, offset=9), at(3600, offset=5, partition=1), OrderBy.TIMESTAMP, 1),
        # Sent before it: stale by any clock.
        (at(0, offset=4), at(3600, offset=5), OrderBy.TIMESTAMP, 0),
        # A late event, beaten by one whose time has come.
        (at(-60, offset=9), at(-1, offset=5), OrderBy.TIMESTAMP, 0),
        (at(0, offset=9), at(3600, offset=5), OrderBy.VERSION, 0),
    ],
    ids=["later", "other partition", "earlier", "honest", "by version"],
)
def test_what_loses_to_a_wrong_clock_is_counted(registry, event, by, order_by, shadowed) -> None:
    """And nothing else: late events are stale by design."""
    Stamps(order_by).beaten(event, by, NOW)
    assert counted(registry, "shadowed_events") == shadowed


def test_the_log_says_it_once_a_minute(registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer with a wrong clock sends many."""
    told = []
    clock = iter([0.0, 1.0, 59.0, 61.0])
    monkeypatch.setattr(stamps.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(stamps._log, "warning", lambda what, **said: told.append((what, said)))
    watch = Stamps(OrderBy.TIMESTAMP)
    for _ in range(4):
        watch.written(at(30), NOW)
    assert [what for what, _ in told] == ["event_from_the_future"] * 2
    assert told[0][1]["ahead_seconds"] == 30.0
    assert counted(registry, "future_events") == 4
