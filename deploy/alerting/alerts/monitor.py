"""Nobody looks: the monitor, its store, or one of its probes."""

from __future__ import annotations

from deploy.alerting.objectives import Objectives
from deploy.alerting.promql import current
from deploy.alerting.rule import Alert
from deploy.alerting.words import figure

__all__ = ["monitor_alerts"]

_BLIND = "Until it is back, no canary, no recall and no drift is looked at"


def monitor_alerts(objectives: Objectives) -> list[Alert]:
    """All of them."""
    return [
        _down(objectives),
        _no_leader(),
        _store(),
        _probe_silent(objectives),
        _probe_failing(objectives),
    ]


def _down(objectives: Objectives) -> Alert:
    job = objectives.scraping.jobs.monitor
    return Alert(
        "PlumblineMonitorDown",
        # Which indexes it watched is known for a day; after that, and where it never ran, a target
        # that is down has no index.
        f"(\n"
        f"  max by (index) (last_over_time(plumbline_monitor_info[1d]))\n"
        f"  unless on (index) plumbline_monitor_info\n"
        f")\n"
        f"or\n"
        f"(\n"
        f'  max by (job) (up{{job="{job}"}}) == 0\n'
        f"  unless on () last_over_time(plumbline_monitor_info[1d])\n"
        f")\n"
        f"or\n"
        f'absent(up{{job="{job}"}})\n'
        f"  unless on () last_over_time(plumbline_monitor_info[1d])",
        "{{ if $labels.index }}{{ $labels.index }}: {{ end }}no monitor can be scraped",
        "No replica of the monitor{{ if $labels.index }} of {{ $labels.index }}{{ end }} answers "
        f"on /metrics. {_BLIND}; the last alarms are held for some minutes and then end.",
        "monitor",
        "plumbline-overview",
    )


def _no_leader() -> Alert:
    return Alert(
        "PlumblineMonitorNoLeader",
        "max by (index) (plumbline_monitor_leader) == 0",
        "{{ $labels.index }}: no monitor leads",
        "Every replica of the monitor stands by or waits: until one leads, no canary, no recall "
        "and no drift is looked at. `/readyz` of each says what it waits for: the lease of "
        "one that was killed (`monitor.lease_seconds`), the store, or Qdrant.",
        "monitor",
        "plumbline-overview",
    )


def _store() -> Alert:
    return Alert(
        "PlumblineMonitorStoreDown",
        "max by (index) (plumbline_monitor_store_up) == 0",
        "{{ $labels.index }}: the monitor's store does not answer",
        "No replica can read or write its history (`monitor.database_url`). Runs of probes are "
        "lost, and what the metrics show grows old.",
        "monitor",
        "plumbline-overview",
    )


def _age(timestamp: str) -> str:
    """Seconds since a probe's run on the live version, or since that is live where none has been.

    By index, version and probe.
    """
    since = 'plumbline_monitor_version_since_timestamp_seconds{version!=""}'
    return (
        f"time() - (\n"
        f"  (\n"
        f"    max by (index, version, probe) ({timestamp})\n"
        f"    and on (index, version) plumbline:live_version\n"
        f"  )\n"
        f"  or\n"
        f"  (\n"
        f"    max by (index, probe) (plumbline_probe_interval_seconds) * 0\n"
        f"    + on (index) group_left (version)\n"
        f"    topk by (index) (1, max by (index, version) ({since}))\n"
        f"  )\n"
        f")"
    )


def _older(age: str, intervals: float) -> str:
    return (
        f"(\n{age}\n)\n"
        f"> on (index, probe) group_left ()\n"
        f"{intervals:g} * max by (index, probe) (plumbline_probe_interval_seconds)"
    )


def _probe_silent(objectives: Objectives) -> Alert:
    objective = objectives.alerts.PlumblineProbeSilent
    return Alert(
        "PlumblineProbeSilent",
        _older(_age("plumbline_probe_last_run_timestamp_seconds"), objective.intervals),
        "{{ $labels.index }}: the probe {{ $labels.probe }} does not run",
        "The last run of {{ $labels.probe }} on {{ $labels.version }} was "
        "{{ $value | humanizeDuration }} ago, and its interval is "
        + figure("plumbline_probe_interval_seconds", "time", of="index,probe")
        + ". Its figures are as old. The scheduler hangs, or the process is starved.",
        "monitor",
        "plumbline-overview",
    )


def _probe_failing(objectives: Objectives) -> Alert:
    objective = objectives.alerts.PlumblineProbeFailing
    age = _age("plumbline_probe_last_success_timestamp_seconds")
    return Alert(
        "PlumblineProbeFailing",
        f"(\n{_older(age, objective.intervals)}\n)\n"
        f"and on (index, version, probe)\n"
        f"{current('plumbline_probe_failing', 'version', 'probe', objectives=objectives)} == 1",
        "{{ $labels.index }}: the probe {{ $labels.probe }} fails",
        "{{ $labels.probe }} has not completed on {{ $labels.version }} for "
        "{{ $value | humanizeDuration }}. Its figures are as old. "
        "`plumbline_probe_failures_total` says why, the monitor's log in words.",
        "monitor",
        "plumbline-overview",
    )
