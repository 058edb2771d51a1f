"""Every metric that a rule may name, from the code that exports them, with its labels."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache

from prometheus_client import CollectorRegistry

from monitors.families import MONITOR_FAMILIES, PROBE_FAMILIES
from monitors.probes import PROBES
from monitors.rollout import ROLLOUT_FAMILIES
from pipelines.core.backfill_metrics import BackfillMetrics
from pipelines.core.errors import SettingsError
from pipelines.core.metrics import JobMetrics

__all__ = ["check_expression", "exported_metrics", "names_in"]

_TARGET_LABELS = frozenset({"job", "instance", "index"})
"""Set by the scrape configuration, beside a metric's own."""

_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}

_NAME = re.compile(r"(?<![\w:.$-])(plumbline[_:][\w:]*|up)\b(?!\s*\()(?:\s*\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


@cache
def exported_metrics() -> Mapping[str, frozenset[str]]:
    """Names of the samples that jobs and monitor export, with the labels that theirs may have."""
    found: dict[str, frozenset[str]] = {"up": _TARGET_LABELS}
    for made in (JobMetrics(CollectorRegistry()), BackfillMetrics(CollectorRegistry())):
        for metric in vars(made).values():
            (described,) = metric.describe()
            labels = frozenset(metric._labelnames) | _TARGET_LABELS
            for suffix in _SUFFIXES[described.type]:
                more = {"le"} if suffix == "_bucket" else set()
                found[described.name + suffix] = labels | more
    for family in (*MONITOR_FAMILIES, *PROBE_FAMILIES, *ROLLOUT_FAMILIES):
        found[family.name] = frozenset(family.labels) | _TARGET_LABELS
    for probe in PROBES.values():
        for figure in probe.FAMILIES:
            found[figure.name] = frozenset({"version", *figure.labels}) | _TARGET_LABELS
    return found


def names_in(expression: str) -> set[str]:
    """Names of the metrics and recording rules that an expression, or a template, reads."""
    return {name for name, _ in _NAME.findall(expression)}


def check_expression(
    rule: str, expression: str, recorded: Iterable[str], known: Mapping[str, frozenset[str]]
) -> None:
    """Passes when everything that an expression names exists.

    Parameters
    ----------
    rule
        Whose expression it is, for the message.
    recorded
        Names of recording rules that may be read.
    known
        As `exported_metrics` gives them.

    Raises
    ------
    SettingsError
        It names a metric or a label of one that no process exports; says which is nearest.
    """
    allowed = {*recorded, *known}
    for name, matchers in _NAME.findall(expression):
        if name not in allowed:
            raise SettingsError(
                f"{rule} reads {name}, which no process exports and no rule records"
                f"{_nearest(name, allowed)}"
            )
        if name in known:
            for label in _MATCHER.findall(re.sub(r'"[^"]*"', '""', matchers)):
                if label not in known[name]:
                    valid = ", ".join(sorted(known[name]))
                    raise SettingsError(
                        f"{rule} selects {name} by the label {label}, which it has not; its "
                        f"labels are {valid}"
                    )


def _nearest(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(allowed), n=3, cutoff=0.6)
    if close:
        return f"; near it are {', '.join(close)}"
    return "; docs/metrics.md lists what there is"
