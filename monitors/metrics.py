"""The monitor's metrics: made from the last reading of the store at each scrape.

Nothing is kept between scrapes, so figures of a version that is no longer monitored are gone with
it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitors.failures import FAILURES
from monitors.families import MONITOR_FAMILIES, PROBE_FAMILIES, Family
from monitors.probes.base import FigureFamily, Level
from monitors.rollout import ROLLOUT_FAMILIES, RolloutReading, rollout_series
from monitors.snapshot import Snapshot, VersionRuns
from monitors.store import Outcome

if TYPE_CHECKING:
    from monitors.probes.base import Probe
    from monitors.store import StoredRun, VersionKey

__all__ = ["MonitorCollector", "MonitorState"]

Series = tuple[Sequence[str], float]

_FAMILIES = (*MONITOR_FAMILIES, *PROBE_FAMILIES, *ROLLOUT_FAMILIES)


@dataclass(frozen=True)
class MonitorState:
    """What a scrape shows.

    Parameters
    ----------
    store_opened
        False while this process has not opened its store: another one uses it, or it is away.
    qdrant_up, qdrant_writable, rollout
        `None` where this process has not asked, or Qdrant did not answer.
    encoders
        Whether a version's encoder can be used, of those that were asked for.
    """

    index: str
    release: str
    leader: bool
    snapshot: Snapshot = field(default_factory=Snapshot)
    store_opened: bool = False
    qdrant_up: bool | None = None
    qdrant_writable: bool | None = None
    rollout: RolloutReading | None = None
    encoders: Mapping[VersionKey, bool] = field(default_factory=dict)


class MonitorCollector(Collector):
    """Gives the families of the service and of its probes.

    Parameters
    ----------
    probes
        Those that are turned on.
    intervals
        Of each, seconds.
    state
        Asked at each scrape; must not wait for anything.
    """

    def __init__(
        self,
        probes: Mapping[str, Probe],
        intervals: Mapping[str, float],
        state: Callable[[], MonitorState],
    ) -> None:
        self._probes = dict(probes)
        self._intervals = dict(intervals)
        self._state = state
        self._figures: dict[str, FigureFamily] = {}
        for probe in self._probes.values():
            for family in probe.FAMILIES:
                self._figures[family.name] = family

    def describe(self) -> Iterable[Metric]:
        """Every family, so that a name that is taken shows when this is registered."""
        for family in _FAMILIES:
            yield _metric(family, [])
        for figure in self._figures.values():
            yield _figure_metric(figure, [])

    def collect(self) -> Iterator[Metric]:
        """The families with their values of now."""
        state = self._state()
        values: dict[str, list[Series]] = {}
        for name, labels, value in _service(state):
            values.setdefault(f"plumbline_monitor_{name}", []).append((labels, value))
        for name, labels, value in self._of_probes(state):
            values.setdefault(f"plumbline_probe_{name}", []).append((labels, value))
        if state.rollout is not None:
            for name, labels, value in rollout_series(state.index, state.rollout):
                values.setdefault(name, []).append((labels, value))
        for family in _FAMILIES:
            yield _metric(family, values.get(family.name, []))
        figures = self._figure_values(state)
        for figure in self._figures.values():
            yield _figure_metric(figure, figures.get(figure.name, []))

    def _of_probes(self, state: MonitorState) -> Iterator[tuple[str, tuple[str, ...], float]]:
        index, snapshot = state.index, state.snapshot
        for name in self._probes:
            yield "interval_seconds", (index, name), self._intervals[name]
        if state.store_opened and snapshot.read_at is not None:
            yield from self._counters(index, snapshot.counts)
        for version in snapshot.versions:
            for name in self._probes:
                labels = (index, version.key.version, name)
                last, completed = version.last.get(name), version.completed.get(name)
                if last is not None:
                    yield "failing", labels, float(last.outcome is Outcome.FAILED)
                    yield "duration_seconds", labels, last.seconds
                    yield "last_run_timestamp_seconds", labels, last.started_at.timestamp()
                if completed is not None:
                    yield from _decision(labels, completed)

    def _counters(
        self, index: str, counts: Mapping[tuple[str, str, str], int]
    ) -> Iterator[tuple[str, tuple[str, ...], float]]:
        # Zeros too: a rate needs a value before the first failure.
        for name in self._probes:
            for outcome in Outcome:
                total = sum(
                    count
                    for (probe, given, _), count in counts.items()
                    if (probe, given) == (name, outcome.value)
                )
                yield "runs_total", (index, name, outcome.value), float(total)
            for reason in FAILURES:
                count = counts.get((name, Outcome.FAILED.value, reason), 0)
                yield "failures_total", (index, name, reason), float(count)

    def _figure_values(self, state: MonitorState) -> dict[str, list[Series]]:
        found: dict[str, list[Series]] = {}
        own = {name: {family.name for family in p.FAMILIES} for name, p in self._probes.items()}
        for version in state.snapshot.versions:
            for name, run in version.completed.items():
                for figure in run.figures:
                    # An earlier release may have kept what this one does not know.
                    family = self._figures.get(figure.name)
                    if (
                        family is None
                        or figure.name not in own.get(name, set())
                        or len(figure.labels) != len(family.labels)
                    ):
                        continue
                    labels = (state.index, version.key.version, *figure.labels)
                    found.setdefault(figure.name, []).append((labels, figure.value))
        return found


def _decision(
    labels: tuple[str, str, str], run: StoredRun
) -> Iterator[tuple[str, tuple[str, ...], float]]:
    for level in (Level.ALARM, Level.WARNING, Level.UNDECIDED):
        yield level.value, labels, float(run.level is level)
    yield "reason", (*labels, run.reason), 1.0
    yield "last_success_timestamp_seconds", labels, run.started_at.timestamp()
    for name in ("statistic", "effect", "p_value", "e_value"):
        value = run.evidence.get(name)
        if value is not None:
            yield name, labels, float(value)
    if run.evidence.get("baseline") is not None:
        yield "baseline_runs", labels, float(run.evidence["baseline"])
    for sample, size in (run.evidence.get("samples") or {}).items():
        yield "samples", (*labels, sample), float(size)


def _service(state: MonitorState) -> Iterator[tuple[str, tuple[str, ...], float]]:
    index, snapshot = state.index, state.snapshot
    yield "info", (index, state.release), 1.0
    yield "leader", (index,), float(state.leader)
    if state.store_opened:
        yield "store_up", (index,), float(not snapshot.error)
    if snapshot.read_at is not None:
        age = time.monotonic() - snapshot.read_at
        yield "store_read_timestamp_seconds", (index,), time.time() - age
    if state.qdrant_up is not None:
        yield "qdrant_up", (index,), float(state.qdrant_up)
    if state.qdrant_writable is not None:
        yield "qdrant_writable", (index,), float(state.qdrant_writable)
    if snapshot.live is not None:
        labels = (index, snapshot.live.key.version)
        yield "version_since_timestamp_seconds", labels, snapshot.live.since.timestamp()
    for version in snapshot.versions:
        yield from _version(index, version, state.encoders.get(version.key))


def _version(
    index: str, version: VersionRuns, encoder: bool | None
) -> Iterator[tuple[str, tuple[str, ...], float]]:
    labels = (index, version.key.version)
    if version.key.version:
        yield "version_role", (*labels, version.role), 1.0
    yield "version_readable", labels, float(not version.problem)
    if encoder is not None:
        yield "encoder_usable", labels, float(encoder)
    for reference in version.references:
        kind = (*labels, reference.kind)
        yield "reference_vectors", kind, float(reference.rows)
        yield "reference_created_timestamp_seconds", kind, reference.created_at.timestamp()


def _metric(family: Family, series: Iterable[Series]) -> Metric:
    made: CounterMetricFamily | GaugeMetricFamily
    if family.kind == "counter":
        made = CounterMetricFamily(family.name, family.help, labels=family.labels)
    else:
        made = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in series:
        made.add_metric(list(labels), value)
    return made


def _figure_metric(family: FigureFamily, series: Iterable[Series]) -> Metric:
    made = GaugeMetricFamily(family.name, family.help, labels=("index", "version", *family.labels))
    for labels, value in series:
        made.add_metric(list(labels), value)
    return made
