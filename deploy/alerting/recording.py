"""Recording rules: what alerts and dashboards read in common.

All keep `index`, and `version` where it says so. What is recorded of the ingest job is that of
live's: a candidate's job reads the same events once more.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.utils import floatToGoString

from deploy.alerting.durations import format_duration
from deploy.alerting.objectives import Objectives
from deploy.alerting.promql import current, live, of_live_jobs, window
from deploy.alerting.rule import Recording

__all__ = ["burn_name", "recordings"]

_RATE_SECONDS = 300.0
_SHOWN_SECONDS = (300.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0, 259_200.0)
_QUANTILES = {"p50_5m": 0.5, "p99_5m": 0.99}


def recordings(objectives: Objectives) -> list[Recording]:
    """All of them, each after those it reads."""
    return [
        *_versions(objectives),
        *_probes(objectives),
        *_ingest(objectives),
        *_freshness(objectives),
        *_recall(objectives),
    ]


def burn_name(objective: str, seconds: float) -> str:
    """Name of the share of bad events or bad time over a window, not shortened by a fire drill."""
    kind = {"freshness": "ratio_rate", "recall": "ratio_over"}[objective]
    return f"plumbline:{objective}_bad:{kind}{format_duration(seconds)}"


def _versions(objectives: Objectives) -> Iterator[Recording]:
    role = 'plumbline_monitor_version_role{role="live"}'
    since = 'plumbline_monitor_version_since_timestamp_seconds{version!=""}'
    hold = window(objectives.monitor_hold, objectives)
    # Replicas see a switch some seconds apart: the version that is live since later is the one.
    yield Recording(
        "plumbline:live_version",
        f"{current(role, 'version', objectives=objectives)}\n"
        f"and on (index, version)\n"
        f"topk by (index) (1, {_flat(current(since, 'version', objectives=objectives))})",
    )
    others = 'plumbline_monitor_version_role{role!="live"}'
    yield Recording(
        "plumbline:other_version",
        f"max by (index, version, role) (last_over_time({others}{hold}))\n"
        "unless on (index, version) plumbline:live_version",
    )
    job = objectives.scraping.jobs.ingest
    encoder = f'plumbline_encoder_info{{job="{job}"}}'
    yield Recording(
        "plumbline:other_job",
        f"max by (job, instance, index) (\n"
        f"  {encoder} and on (index, version) plumbline:other_version\n"
        f")\n"
        # One endpoint may serve the processes of several jobs.
        f"unless on (job, instance) (\n"
        f"  {encoder} and on (index, version) plumbline:live_version\n"
        f")",
    )


def _flat(expression: str) -> str:
    return " ".join(expression.split())


def _probes(objectives: Objectives) -> Iterator[Recording]:
    for level in ("alarm", "warning"):
        levels = current(f"plumbline_probe_{level}", "version", "probe", objectives=objectives)
        yield Recording(f"plumbline:probe_{level}:live", live(levels))


def _ingest(objectives: Objectives) -> Iterator[Recording]:
    job = objectives.scraping.jobs.ingest
    rate = window(_RATE_SECONDS, objectives)

    def summed(by: str, counter: str) -> str:
        one = f'rate({counter}{{job="{job}"}}{rate})'
        return f"sum by ({by}) (\n  {of_live_jobs(one)}\n)"

    yield Recording("plumbline:events:rate5m", summed("index", "plumbline_consumed_events_total"))
    yield Recording(
        "plumbline:events_outcome:rate5m", summed("index, outcome", "plumbline_events_total")
    )
    yield Recording(
        "plumbline:dead_letters:rate5m", summed("index, reason", "plumbline_dead_letters_total")
    )
    buckets = summed("index, le", "plumbline_event_to_searchable_seconds_bucket")
    for name, quantile in _QUANTILES.items():
        yield Recording(
            f"plumbline:event_to_searchable_seconds:{name}",
            f"histogram_quantile({quantile:g}, {buckets})",
        )
    lag = of_live_jobs(f'plumbline_consumer_lag_records{{job="{job}"}}')
    yield Recording("plumbline:consumer_lag_records:max", f"max by (index, topic) (\n  {lag}\n)")


def _freshness(objectives: Objectives) -> Iterator[Recording]:
    job = objectives.scraping.jobs.ingest
    rate = window(_RATE_SECONDS, objectives)
    searchable = "plumbline_event_to_searchable_seconds"
    bound = floatToGoString(objectives.freshness.within_seconds)  # type: ignore[no-untyped-call]
    every = of_live_jobs(f'rate({searchable}_count{{job="{job}"}}{rate})')
    soon = of_live_jobs(f'rate({searchable}_bucket{{job="{job}", le="{bound}"}}{rate})')
    yield Recording("plumbline:searchable_events:rate5m", f"sum by (index) (\n  {every}\n)")
    yield Recording(
        "plumbline:late_events:rate5m",
        f"clamp_min(plumbline:searchable_events:rate5m - sum by (index) (\n  {soon}\n), 0)",
    )
    oldest = current(
        "plumbline_freshness_oldest_unprocessed_seconds", "version", objectives=objectives
    )
    yield Recording(
        "plumbline:oldest_unprocessed_seconds:live", f"max by (index) (\n{live(oldest)}\n)"
    )
    for name, seconds in _windows(objectives, "freshness"):
        # Sums of rates: an hour with many events counts for more than one with few.
        span = window(seconds, objectives)
        yield Recording(
            name,
            f"sum_over_time(plumbline:late_events:rate5m{span})\n"
            f"/ (sum_over_time(plumbline:searchable_events:rate5m{span}) > 0)",
        )
    yield _remaining(objectives, "freshness", objectives.freshness.ratio)


def _recall(objectives: Objectives) -> Iterator[Recording]:
    alarms = 'max by (index) (plumbline:probe_alarm:live{probe=~"golden|ann"})'
    least = objectives.recall.golden_minimum
    if least is not None:
        recall = current(
            f'plumbline_golden_recall_ratio{{documents="all", k="{objectives.recall.golden_k}"}}',
            "version",
            objectives=objectives,
        )
        low = f"max by (index) (\n{live(recall)}\n) < bool {least:g}"
        alarms = f"clamp_max({alarms} + (({low}) or {alarms} * 0), 1)"
    yield Recording("plumbline:recall_bad:now", alarms)
    for name, seconds in _windows(objectives, "recall"):
        # Of the whole window: what is not known of it, on a young Prometheus, was good.
        span = window(seconds, objectives)
        evaluations = objectives.window(seconds) / objectives.scraping.evaluation_interval
        yield Recording(
            name, f"clamp_max(sum_over_time(plumbline:recall_bad:now{span}) / {evaluations:g}, 1)"
        )
    yield _remaining(objectives, "recall", objectives.recall.ratio)


def _windows(objectives: Objectives, of: str) -> list[tuple[str, float]]:
    """Names and lengths: those that dashboards show, and those that the burn rates ask for."""
    rates = objectives.burn_rates
    asked = {part for burn in (*rates.fast, *rates.slow) for part in (burn.long, burn.short)}
    every = sorted({*_SHOWN_SECONDS, *asked, rates.budget_window})
    return [(burn_name(of, seconds), seconds) for seconds in every]


def _remaining(objectives: Objectives, of: str, ratio: float) -> Recording:
    bad = burn_name(of, objectives.burn_rates.budget_window)
    return Recording(
        f"plumbline:{of}_error_budget_remaining:ratio_30d", f"1 - {bad} / {1 - ratio:.6g}"
    )
