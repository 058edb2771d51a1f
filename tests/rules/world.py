"""What Prometheus stores of an ingest job and a monitor that are well, and of what befalls them.

Series are made target by target, one value a scrape, so that a scrape that fails, a process that
restarts and a pod that is replaced leave what they leave in Prometheus: a stale marker, a counter
that begins again, another `instance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from monitors.probes import PROBES
from monitors.rollout import GATE_OUTCOMES, INTENTS
from pipelines.core.metrics import JobMetrics
from pipelines.core.monitor_settings import MonitorSettings
from pipelines.core.rollout import RolloutState

__all__ = [
    "FOREVER",
    "INDEX",
    "LIVE",
    "OTHER",
    "STEP",
    "Target",
    "World",
    "after",
    "healthy",
    "ingest",
    "monitor",
    "version",
]

STEP = 15
"""Seconds between two scrapes, and between two evaluations: as the committed files have it."""

INDEX = "docs"
LIVE = "docs--model--aaaaaaaaaaaa"
OTHER = "docs--model--bbbbbbbbbbbb"

_LONG_AGO = -30 * 86_400.0
"""Time begins at 0 in promtool's tests."""

_SETTINGS = MonitorSettings()

FOREVER = 1e9

Value = float | None
Of = float | Callable[[float], Value]
"""A value, or a function of the time in seconds; `None` where there is no sample."""


def after(moment: float, value: Value, before: Value = 0.0) -> Callable[[float], Value]:
    """One value up to a moment, another from it on."""
    return lambda at: value if at >= moment else before


@dataclass
class Target:
    """One process that is scraped.

    Parameters
    ----------
    labels
        Set by the scrape configuration, beside `job` and `instance`.
    down
        Spans of seconds in which it cannot be scraped: begin and end, where its process begins
        anew.
    gone
        Spans in which it is no target at all.
    resets
        Further moments at which its process began anew, between two scrapes.
    missed
        Moments of scrapes that failed; the process lived on.
    """

    job: str
    instance: str
    labels: Mapping[str, str] = field(default_factory=dict)
    down: list[tuple[float, float]] = field(default_factory=list)
    gone: list[tuple[float, float]] = field(default_factory=list)
    resets: list[float] = field(default_factory=list)
    missed: list[float] = field(default_factory=list)
    series: dict[str, Of] = field(default_factory=dict)

    def gauge(self, name: str, value: Of, **labels: str) -> None:
        """A gauge, in place of what it was."""
        self.series[_selector(name, labels)] = value

    def counter(self, name: str, rate: float, base: float = 0.0, **labels: str) -> None:
        """A counter that grows by `rate` a second and had counted `base` when all began."""

        def value(at: float) -> float:
            began = max((end for end in self._begins() if end <= at), default=None)
            if began is None:
                return base + rate * at
            return rate * (at - began)

        self.series[_selector(name, labels)] = value

    def drop(self, name: str, **labels: str) -> None:
        """Takes series of this name away that have these labels."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for selector in [
            one for one in self.series if one.split("{")[0] == name and wanted <= set(_parts(one))
        ]:
            del self.series[selector]

    def _begins(self) -> Iterator[float]:
        yield from (end for _, end in self.down)
        yield from self.resets

    def rows(self, count: int) -> Iterator[tuple[str, list[str]]]:
        """Selector and values of everything that Prometheus stores of it."""
        fixed = {"job": self.job, "instance": self.instance, **self.labels}
        times = [STEP * number for number in range(count)]
        absent = [any(a <= at < b for a, b in self.gone) for at in times]
        failed = [at in self.missed or any(a <= at < b for a, b in self.down) for at in times]
        up = ["_" if a else "0" if f else "1" for a, f in zip(absent, failed, strict=True)]
        yield _selector("up", fixed), _with_marks(up)
        for selector, value in self.series.items():
            name, _, rest = selector.partition("{")
            parts = _parts(rest.rstrip("}"))
            taken = {part.split("=")[0] for part in parts}
            parts += [f'{key}="{text}"' for key, text in fixed.items() if key not in taken]
            values = []
            for at, a, f in zip(times, absent, failed, strict=True):
                found = value(at) if callable(value) else value
                values.append("_" if a or f or found is None else f"{found:.10g}")
            yield f"{name}{{{','.join(parts)}}}", _with_marks(values)


def _with_marks(values: list[str]) -> list[str]:
    """A stale marker where a series ends, as Prometheus writes it."""
    return [
        "stale" if one == "_" and number and values[number - 1] != "_" else one
        for number, one in enumerate(values)
    ]


def _selector(name: str, labels: Mapping[str, str]) -> str:
    matchers = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{matchers}}}"


def _parts(text: str) -> list[str]:
    inner = text.partition("{")[2].rstrip("}") if "{" in text else text
    return [part for part in inner.split(",") if part]


@dataclass
class World:
    """Targets over some time."""

    minutes: float
    targets: dict[str, Target] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Target:
        return self.targets[name]

    def add(self, name: str, target: Target) -> Target:
        """One more."""
        self.targets[name] = target
        return target

    @property
    def monitors(self) -> list[Target]:
        """Every replica."""
        return [target for target in self.targets.values() if target.job == "plumbline-monitor"]

    def everywhere(self, name: str, value: Of, **labels: str) -> None:
        """A gauge that each replica of the monitor gives, read from the shared store."""
        for target in self.monitors:
            target.gauge(name, value, **labels)

    def probe(self, name: str, value: Of, probe: str, version: str = LIVE, **labels: str) -> None:
        """One of the gauges that every probe has, on every replica."""
        found = {"index": INDEX, "version": version, "probe": probe, **labels}
        self.everywhere(f"plumbline_probe_{name}", value, **found)

    def figure(self, name: str, value: Of, version: str = LIVE, **labels: str) -> None:
        """A probe's own figure, on every replica."""
        found = {"index": INDEX, "version": version, **labels}
        self.everywhere(f"plumbline_{name}", value, **found)

    def rollout(self, name: str, value: Of, **labels: str) -> None:
        """What the leader says of the rollout."""
        self["monitor"].gauge(f"plumbline_rollout_{name}", value, index=INDEX, **labels)

    def state(self, state: str, since: float) -> None:
        """The rollout has been in this state from then on, seconds."""
        for one in RolloutState:
            self.rollout("state", float(one.value == state), state=one.value)
        self.rollout("state_since_timestamp_seconds", since)

    def input_series(self) -> list[dict[str, str]]:
        """As a file of promtool has them."""
        count = round(self.minutes * 60 / STEP) + 1
        return [
            {"series": selector, "values": " ".join(values)}
            for target in self.targets.values()
            for selector, values in target.rows(count)
        ]

    def names(self) -> set[str]:
        """Names of all series."""
        found = {selector.split("{")[0] for t in self.targets.values() for selector in t.series}
        return found | {"up"}


def healthy(minutes: float = 40, replicas: int = 1) -> World:
    """An index that lives: events come, probes run, and some things went wrong long ago."""
    world = World(minutes)
    world.add("ingest", ingest("ingest-0:9108", LIVE))
    for number in range(replicas):
        name = "monitor" if number == 0 else f"monitor-{number}"
        world.add(name, monitor(f"monitor-{number}:9109", leader=number == 0))
    return world


@cache
def _buckets() -> tuple[str, ...]:
    from prometheus_client import CollectorRegistry
    from prometheus_client.utils import floatToGoString

    metrics = JobMetrics(CollectorRegistry())
    return tuple(floatToGoString(one) for one in metrics.searchable_seconds._upper_bounds)


def ingest(instance: str, version: str, *, events: float = 2.0, late: float = 0.0) -> Target:
    """An ingest job.

    Parameters
    ----------
    events
        A second.
    late
        Share of them that take longer than a day.
    """
    made = Target("plumbline-ingest", instance, {"index": INDEX})
    made.counter("plumbline_consumed_events_total", events, 1e6, topic="documents")
    made.counter("plumbline_events_total", 0.999 * events, 999_000, outcome="embedded")
    made.counter("plumbline_events_total", 0.001 * events, 1000, outcome="dead_lettered")
    made.counter("plumbline_dead_letters_total", 0.001 * events, 1000, reason="not_json")
    # Of long ago: they must not alarm anew with every hole in the scrapes.
    made.counter("plumbline_data_loss_records_total", 0, 100, topic="documents")
    made.counter("plumbline_recreated_topics_total", 0, 1, topic="documents")
    made.counter("plumbline_truncated_records_total", 0, 5, topic="documents")
    made.counter("plumbline_future_events_total", 0, 9, topic="documents")
    made.counter("plumbline_shadowed_events_total", 0, 2, topic="documents")
    made.counter("plumbline_commit_failures_total", 0, 3)
    made.counter("plumbline_retries_total", 0, 7, service="kafka")
    made.counter("plumbline_retries_total", 0, 2, service="qdrant")
    searchable = "plumbline_event_to_searchable_seconds"
    made.counter(f"{searchable}_count", events, 1e6)
    for bound in _buckets():
        share = 1.0 if bound == "+Inf" else (1 - late) * (float(bound) >= 1)
        made.counter(f"{searchable}_bucket", share * events, share * 1e6, le=bound)
    made.gauge("plumbline_kafka_silence_seconds", 0.2)
    made.gauge("plumbline_consumer_lag_records", 0, topic="documents", partition="0")
    made.gauge("plumbline_encoder_info", 1, version=version, fingerprint=version[-12:])
    return made


def _intervals() -> dict[str, float]:
    return {name: getattr(_SETTINGS, name).interval_seconds for name in PROBES}


def monitor(instance: str, *, leader: bool) -> Target:
    """A replica of the monitor that watches the live version."""
    made = Target("plumbline-monitor", instance)

    def service(name: str, value: Of, **labels: str) -> None:
        made.gauge(f"plumbline_monitor_{name}", value, index=INDEX, **labels)

    service("info", 1, release="0")
    service("leader", float(leader))
    service("store_up", 1)
    service("store_read_timestamp_seconds", lambda at: at)
    if leader:
        service("qdrant_up", 1)
    version(made, LIVE, "live")
    service("version_since_timestamp_seconds", _LONG_AGO, version=LIVE)
    # Counters of runs are left out: no rule reads them, and they are most of what there is.
    for probe, interval in _intervals().items():
        made.gauge("plumbline_probe_interval_seconds", interval, index=INDEX, probe=probe)
    if leader:
        _last_rollout(made)
    return made


def version(target: Target, name: str, role: str, probes: Iterable[str] = PROBES) -> None:
    """What a monitor says of one version whose probes find nothing."""
    found: dict[str, Any] = {"index": INDEX, "version": name}
    target.gauge("plumbline_monitor_version_role", 1, role=role, **found)
    target.gauge("plumbline_monitor_version_readable", 1, **found)
    for probe in probes:
        interval = _intervals()[probe]
        ran = lambda at, every=interval: every * (at // every)  # noqa: E731
        for level in ("alarm", "warning", "undecided", "failing"):
            target.gauge(f"plumbline_probe_{level}", 0, probe=probe, **found)
        for what in ("run", "success"):
            name_of = f"plumbline_probe_last_{what}_timestamp_seconds"
            target.gauge(name_of, ran, probe=probe, **found)
        target.gauge("plumbline_probe_reason", 1, probe=probe, reason="all_well", **found)
    for name_of, value, labels in _FIGURES:
        target.gauge(f"plumbline_{name_of}", value, **found, **labels)


_FIGURES: tuple[tuple[str, float, dict[str, str]], ...] = (
    ("canary_encoder_distance", 1e-7, {"role": "document"}),
    ("canary_worker_distance", 1e-7, {"role": "document"}),
    ("canary_workers", 1, {"state": "ok"}),
    *(("canary_workers", 0.0, {"state": state}) for state in ("warning", "refusal", "gone")),
    ("fidelity_mismatch_ratio", 0, {}),
    ("fidelity_distance", 1e-7, {"percentile": "100"}),
    ("integrity_lost_documents", 0, {}),
    ("integrity_foreign_points", 0, {}),
    ("integrity_vectorless_points", 0, {}),
    ("golden_recall_ratio", 0.8, {"k": "10", "documents": "all"}),
    ("golden_recall_ratio", 0.8, {"k": "10", "documents": "baseline"}),
    ("golden_recall_loss_ratio", 0, {}),
    ("ann_recall_upper_bound_ratio", 0.99, {"source": "stored"}),
    ("ann_recall_objective_ratio", 0.95, {}),
    *(("drift_alarm", 0.0, {"kind": kind}) for kind in ("documents", "queries")),
    *(("drift_effect_spreads", 0.4, {"kind": kind}) for kind in ("documents", "queries")),
    *(("drift_e_value", 1.5, {"kind": kind}) for kind in ("documents", "queries")),
    ("freshness_oldest_unprocessed_seconds", 2, {}),
    ("freshness_lag_records", 5, {}),
    ("freshness_stalled_partitions", 0, {}),
    ("freshness_expired_records", 0, {}),
)


def _last_rollout(target: Target) -> None:
    """One that ended well, long ago."""

    def said(name: str, value: Of, **labels: str) -> None:
        target.gauge(f"plumbline_rollout_{name}", value, index=INDEX, **labels)

    for state in RolloutState:
        said("state", float(state is RolloutState.COMPLETED), state=state.value)
    said("state_since_timestamp_seconds", _LONG_AGO)
    said("info", 1, rollout="0a1b2c3d", live="docs--model--000000000000", candidate=LIVE)
    for action in INTENTS:
        said("intent", 0, action=action)
    said("alias_moved", 0)
    for outcome in GATE_OUTCOMES:
        said("gate", float(outcome == "pass"), outcome=outcome)
    said("promotion_forced", 0)
    said("automatic_rollback", 0)
    said("tokens", 1000, kind="done")
