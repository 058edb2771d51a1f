"""Every metric family of the service itself, as data: for the collector and for the docs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MONITOR_FAMILIES", "PROBE_FAMILIES", "Family"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family.

    Parameters
    ----------
    name
        As it is exported; a counter's ends in `_total`.
    labels
        All of them.
    unit
        For the table of metrics.
    """

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...]
    unit: str = ""


_PROBE = ("index", "version", "probe")


def _gauge(name: str, text: str, unit: str, *more: str) -> Family:
    return Family(f"plumbline_probe_{name}", "gauge", text, (*_PROBE, *more), unit)


PROBE_FAMILIES = (
    _gauge("alarm", "Whether the last run that completed gives an alarm.", "0 or 1"),
    _gauge("warning", "Whether the last run that completed gives a warning.", "0 or 1"),
    _gauge(
        "undecided",
        "Whether the last run that completed had too little to decide on.",
        "0 or 1",
    ),
    _gauge("failing", "Whether the last run failed; levels and figures are then older.", "0 or 1"),
    _gauge("statistic", "What the probe's test measured.", "scale of the test"),
    _gauge("effect", "Size of the change that the probe sees.", "see the probe"),
    _gauge("p_value", "Of the last run that completed, alone.", "probability"),
    _gauge("e_value", "Evidence of a change, gathered over runs.", "e-value"),
    _gauge("samples", "Sizes of the samples that the decision stands on.", "items", "sample"),
    _gauge("baseline_runs", "Known-good runs that the control over time stands on.", "runs"),
    _gauge("duration_seconds", "How long the last run took.", "seconds"),
    _gauge("last_run_timestamp_seconds", "Start of the last run, however it went.", "Unix time"),
    _gauge(
        "last_success_timestamp_seconds",
        "Start of the last run that completed: the age of levels and figures.",
        "Unix time",
    ),
    _gauge("reason", "Why the last completed run decided as it did; always 1.", "1", "reason"),
    Family(
        "plumbline_probe_interval_seconds",
        "gauge",
        "Time from one run of the probe to the next, as set.",
        ("index", "probe"),
        "seconds",
    ),
    Family(
        "plumbline_probe_runs_total",
        "counter",
        "Runs on live versions since the store was made, by how they went.",
        ("index", "probe", "outcome"),
        "runs",
    ),
    Family(
        "plumbline_probe_failures_total",
        "counter",
        "Runs on live versions that failed since the store was made, by reason.",
        ("index", "probe", "reason"),
        "runs",
    ),
)
"""What is said of each probe, whichever it is."""

MONITOR_FAMILIES = (
    Family(
        "plumbline_monitor_info",
        "gauge",
        "Release of this monitor; always 1.",
        ("index", "release"),
        "1",
    ),
    Family(
        "plumbline_monitor_leader",
        "gauge",
        "Whether this process runs the probes; of several replicas one does.",
        ("index",),
        "0 or 1",
    ),
    Family(
        "plumbline_monitor_store_up",
        "gauge",
        "Whether the store answered when it was last read; no value before it is opened.",
        ("index",),
        "0 or 1",
    ),
    Family(
        "plumbline_monitor_store_read_timestamp_seconds",
        "gauge",
        "When the store was last read: the age of everything that comes from it.",
        ("index",),
        "Unix time",
    ),
    Family(
        "plumbline_monitor_qdrant_up",
        "gauge",
        "Whether Qdrant answered when the alias was last resolved; the leader alone asks.",
        ("index",),
        "0 or 1",
    ),
    Family(
        "plumbline_monitor_qdrant_writable",
        "gauge",
        "Whether Qdrant took the last renewal of the leader's lease: 0 while it is read-only, out "
        "of disk, away, or refuses the key.",
        ("index",),
        "0 or 1",
    ),
    Family(
        "plumbline_monitor_version_role",
        "gauge",
        "What the version is to its index: live, candidate or previous; always 1. Alert rules join "
        "on it.",
        ("index", "version", "role"),
        "1",
    ),
    Family(
        "plumbline_monitor_version_readable",
        "gauge",
        "Whether the version's contract can be read; the version is empty without an alias.",
        ("index", "version"),
        "0 or 1",
    ),
    Family(
        "plumbline_monitor_version_since_timestamp_seconds",
        "gauge",
        "When the monitor first saw what is live now.",
        ("index", "version"),
        "Unix time",
    ),
    Family(
        "plumbline_monitor_encoder_usable",
        "gauge",
        "Whether the version's encoder is loaded and its canaries held; no value before a probe "
        "has asked for it.",
        ("index", "version"),
        "0 or 1",
    ),
    Family(
        "plumbline_monitor_reference_vectors",
        "gauge",
        "Vectors of the reference in force.",
        ("index", "version", "kind"),
        "vectors",
    ),
    Family(
        "plumbline_monitor_reference_created_timestamp_seconds",
        "gauge",
        "When the reference in force was taken.",
        ("index", "version", "kind"),
        "Unix time",
    ),
)
"""What is said of the service."""
