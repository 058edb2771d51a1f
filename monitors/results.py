"""What of a probe's answer is stored and exported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from monitors.probes.base import Evidence, Figure, Probe
from monitors.store import StoredFigure

__all__ = ["MAXIMUM_SERIES", "exportable", "known_reason", "stored_evidence"]

MAXIMUM_SERIES = 1000
"""Values of one family in one run. More is a label that is not bounded."""

_log = structlog.get_logger()


def stored_evidence(evidence: Evidence | None) -> Mapping[str, Any] | None:
    """The statistical side as JSON, without what is absent."""
    if evidence is None:
        return None
    kept: dict[str, Any] = {
        name: getattr(evidence, name)
        for name in ("statistic", "effect", "p_value", "e_value", "baseline")
        if getattr(evidence, name) is not None
    }
    kept["samples"] = dict(evidence.samples)
    return kept


def exportable(probe: Probe, figures: Sequence[Figure]) -> tuple[StoredFigure, ...]:
    """The figures that can be exported, the last of each series; the others are logged."""
    families = {family.name: family for family in probe.FAMILIES}
    kept: dict[tuple[str, tuple[str, ...]], StoredFigure] = {}
    series: dict[str, int] = {}
    dropped: dict[str, str] = {}
    for figure in figures:
        name, labels = figure.family.name, tuple(str(label) for label in figure.labels)
        known = families.get(name)
        value = float(figure.value)
        if known is None or len(labels) != len(known.labels):
            dropped[name] = "not one of the probe's families, or other labels"
        elif not math.isfinite(value):
            dropped[name] = "not finite"
        elif (name, labels) not in kept and series.get(name, 0) >= MAXIMUM_SERIES:
            dropped[name] = f"more than {MAXIMUM_SERIES} series"
        else:
            if (name, labels) not in kept:
                series[name] = series.get(name, 0) + 1
            kept[name, labels] = StoredFigure(name, value, labels)
    if dropped:
        _log.warning("figures_dropped", probe=probe.NAME, figures=dropped)
    return tuple(kept.values())


def known_reason(probe: Probe, reason: str) -> str:
    """The reason as a label: one of the probe's own, or `other`."""
    if reason in probe.REASONS:
        return reason
    _log.warning("unknown_reason", probe=probe.NAME, reason=reason)
    return "other"
