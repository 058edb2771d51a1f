"""The one place of error budgets, thresholds, waiting times and severities.

A YAML file of the same shape sets what is different at your place; what it leaves out keeps its
default. Every value has a range, and a key that does not exist is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from prometheus_client import CollectorRegistry
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from deploy.alerting.durations import format_duration, parse_duration
from pipelines.core.metrics import JobMetrics
from pipelines.core.section import Section

__all__ = [
    "SEVERITIES",
    "AlertObjective",
    "Alerts",
    "Burn",
    "Objectives",
    "Severity",
    "searchable_buckets",
]

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
"""Wake somebody; look at it in working hours; for the record."""


_Seconds = Annotated[float, BeforeValidator(parse_duration)]
Wait = Annotated[_Seconds, Field(ge=0, le=7 * 86_400)]
Window = Annotated[_Seconds, Field(ge=60, le=90 * 86_400)]
Interval = Annotated[_Seconds, Field(ge=0.1, le=300)]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Factor = Annotated[float, Field(gt=0, le=1000)]


def searchable_buckets() -> tuple[float, ...]:
    """Bounds of the histogram of the time from event to searchable, seconds."""
    metrics = JobMetrics(CollectorRegistry())
    return tuple(bound for bound in metrics.searchable_seconds._upper_bounds if bound < 1e12)


class _Part(Section):
    """A section whose fields may be given by the names that Prometheus uses."""

    model_config = ConfigDict(populate_by_name=True)


class AlertObjective(_Part):
    """What every alert has."""

    enabled: bool = True
    severity: Severity = "warning"
    wait: Annotated[Wait, Field(alias="for")] = 60.0
    """How long the condition must hold; `for` in the file."""


class DeadLetters(AlertObjective):
    """Too many events cannot be applied."""

    wait: Annotated[Wait, Field(alias="for")] = 900.0
    ratio: Ratio = 0.01
    """Of the events that are read."""
    events: Annotated[int, Field(ge=1)] = 10
    """Fewer in `window` are no alert, whatever share they are."""
    window: Window = 900.0


class BrokerSilent(AlertObjective):
    """Kafka does not answer the job."""

    severity: Severity = "critical"
    silence_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Of all that the job asks a broker."""
    retries: Annotated[int, Field(ge=1)] = 4
    """Requests repeated within `window`: a commit that waits for a broker asks again."""
    window: Window = 120.0


class Recent(AlertObjective):
    """Something that should not happen, and is told for a while after it did."""

    wait: Annotated[Wait, Field(alias="for")] = 0.0
    window: Window = 900.0


class ProbeAge(AlertObjective):
    """A probe that does not run, or does not complete."""

    wait: Annotated[Wait, Field(alias="for")] = 300.0
    intervals: Annotated[float, Field(ge=1.5, le=100)] = 3.0
    """Of the probe's own interval: how many may pass. Two runs in a row must be missing, so that
    one slow run is none; below 1.5 jitter alone would alarm."""


class RolloutStuck(AlertObjective):
    """A rollout does not move."""

    wait: Annotated[Wait, Field(alias="for")] = 900.0
    without_progress: Window = 3600.0
    """A build that encodes nothing for so long."""
    open_for: Window = 7 * 86_400.0
    """A rollout that is planned, verified or ready for so long: until it ends, no tombstone is
    purged and every event is written twice."""


class Alerts(_Part):
    """Every alert by its name. Severity, `for` and thresholds are what the comments say why."""

    # Search: what users meet.
    PlumblineCanaryMismatch: AlertObjective = AlertObjective(severity="critical")
    PlumblineFidelityBroken: AlertObjective = AlertObjective(severity="critical")
    PlumblineIntegrityBroken: AlertObjective = AlertObjective(severity="critical")
    # The burn of the budget pages; this one says what it is about.
    PlumblineGoldenRecallLost: AlertObjective = AlertObjective(severity="warning")
    PlumblineAnnRecallLow: AlertObjective = AlertObjective(severity="warning")
    PlumblineRecallBudgetBurnFast: AlertObjective = AlertObjective(severity="critical", wait=120.0)
    PlumblineRecallBudgetBurnSlow: AlertObjective = AlertObjective(severity="warning", wait=900.0)
    PlumblineFreshnessBudgetBurnFast: AlertObjective = AlertObjective(
        severity="critical", wait=120.0
    )
    PlumblineFreshnessBudgetBurnSlow: AlertObjective = AlertObjective(
        severity="warning", wait=900.0
    )
    PlumblineVersionUnreadable: AlertObjective = AlertObjective(severity="critical", wait=300.0)
    PlumblineQdrantUnreachable: AlertObjective = AlertObjective(severity="critical", wait=120.0)
    PlumblineDrift: AlertObjective = AlertObjective(severity="warning")
    PlumblineQueryDrift: AlertObjective = AlertObjective(severity="info")

    # Ingest.
    PlumblineBrokerSilent: BrokerSilent = BrokerSilent()
    # Longer than the canary probe's interval with its jitter and that alert's `for`: a worker that
    # refuses to write ends its job, and the canary alert, which says why, must be there first.
    PlumblineIngestDown: AlertObjective = AlertObjective(severity="critical", wait=600.0)
    PlumblineIngestStalled: AlertObjective = AlertObjective(severity="critical", wait=300.0)
    PlumblineDeadLettersGrowing: DeadLetters = DeadLetters()
    PlumblineDataLoss: Recent = Recent(severity="critical")
    PlumblineTopicRecreated: Recent = Recent(severity="warning")
    PlumblineLogTruncated: Recent = Recent(severity="critical")
    PlumblineClockAhead: Recent = Recent(severity="warning")
    PlumblineCommitFailing: Recent = Recent(severity="warning")

    # Monitor: nobody looks.
    PlumblineMonitorDown: AlertObjective = AlertObjective(severity="critical", wait=300.0)
    PlumblineMonitorNoLeader: AlertObjective = AlertObjective(severity="warning", wait=300.0)
    PlumblineMonitorStoreDown: AlertObjective = AlertObjective(severity="warning", wait=300.0)
    PlumblineProbeSilent: ProbeAge = ProbeAge()
    PlumblineProbeFailing: ProbeAge = ProbeAge()

    # Rollout.
    PlumblineRolloutStuck: RolloutStuck = RolloutStuck()
    PlumblineRolloutStepUnfinished: AlertObjective = AlertObjective(wait=900.0)
    PlumblineAliasMoved: AlertObjective = AlertObjective(severity="warning", wait=300.0)
    PlumblineRolledBackAutomatically: Recent = Recent(severity="warning", window=86_400.0)
    PlumblinePromotionForced: AlertObjective = AlertObjective(severity="info", wait=0.0)
    PlumblineCandidateAlarm: AlertObjective = AlertObjective(severity="info")

    def of(self, name: str) -> AlertObjective:
        """The objective of an alert by its name."""
        found: AlertObjective = getattr(self, name)
        return found

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, given: Any) -> Any:
        """What a file says of one alert is laid over that alert's own defaults."""
        if not isinstance(given, dict):
            return given
        merged = {}
        for name, value in given.items():
            field = cls.model_fields.get(name)
            if field is not None and isinstance(value, dict):
                default: AlertObjective = field.default
                kept = {"for" if key == "wait" else key: item for key, item in value.items()}
                merged[name] = {**default.model_dump(by_alias=True), **kept}
            else:
                merged[name] = value
        return merged


class Burn(_Part):
    """One pair of windows of the multi-window, multi-burn-rate method.

    The budget burns `rate` times as fast as it may, over `long` and still over `short`.
    """

    rate: Annotated[float, Field(gt=0, le=1000)]
    long: Window
    short: Window

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.short >= self.long:
            raise ValueError(
                f"`short` ({format_duration(self.short)}) must be shorter than `long` "
                f"({format_duration(self.long)})"
            )
        return self


class BurnRates(_Part):
    """When a burning budget is told.

    As the Site Reliability Workbook has it for 30 days (chapter 5, "Alerting on SLOs"): two per
    cent of the budget in an hour and five in six hours wake somebody, ten per cent in a day or in
    three make a ticket.
    """

    fast: tuple[Burn, ...] = (
        Burn(rate=14.4, long=3600.0, short=300.0),
        Burn(rate=6.0, long=21_600.0, short=1800.0),
    )
    slow: tuple[Burn, ...] = (
        Burn(rate=3.0, long=86_400.0, short=7200.0),
        Burn(rate=1.0, long=259_200.0, short=21_600.0),
    )
    budget_window: Window = 30 * 86_400.0
    """What `…_error_budget_remaining` looks back over. Prometheus must keep as much
    (`--storage.tsdb.retention.time`; its default is 15 days)."""


class Freshness(_Part):
    """How many events must be searchable how soon."""

    within_seconds: float = 300.0
    """A bound of the histogram `plumbline_event_to_searchable_seconds`; keep it at
    `monitor.freshness.objective_seconds`, so that alert and probe mean the same."""
    ratio: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    """Share of the events."""
    minimum_events: Annotated[int, Field(ge=1)] = 10
    """Fewer late events in the long window are no alert: of three events one is a third."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        valid = searchable_buckets()
        if self.within_seconds not in valid:
            listed = ", ".join(f"{bound:g}" for bound in valid)
            raise ValueError(
                f"`within_seconds` is {self.within_seconds:g}, and no bucket of "
                f"plumbline_event_to_searchable_seconds ends there; valid are {listed}"
            )
        return self


class Recall(_Part):
    """How much of the time search must find what it should."""

    ratio: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    """Share of the time in which neither the golden probe nor the ANN probe alarms, and golden
    recall is not below `golden_minimum`."""
    golden_minimum: Annotated[float, Field(gt=0, le=1)] | None = None
    """Least recall of the golden set as users have it; none by default, since what is good depends
    on the set."""
    golden_k: Annotated[int, Field(ge=1, le=1000)] = 10
    """Depth of that recall; one of `monitor.golden.k`."""


class Jobs(_Part):
    """Values of the label `job`, as the scrape configuration sets them."""

    ingest: Annotated[str, Field(pattern=r"^[\w.:/-]+$")] = "plumbline-ingest"
    monitor: Annotated[str, Field(pattern=r"^[\w.:/-]+$")] = "plumbline-monitor"
    backfill: Annotated[str, Field(pattern=r"^[\w.:/-]+$")] = "plumbline-backfill"


class Target(_Part):
    """Where the jobs of one index serve their metrics: `host:port`."""

    index: str = "docs"
    ingest: tuple[str, ...] = ("localhost:9108",)
    backfill: tuple[str, ...] = ("localhost:9110",)


class Scraping(_Part):
    """What `prometheus.yml` says."""

    scrape_interval: Interval = 15.0
    evaluation_interval: Interval = 15.0
    jobs: Jobs = Jobs()
    indexes: Annotated[tuple[Target, ...], Field(min_length=1)] = (Target(),)
    monitors: tuple[str, ...] = ("localhost:9109",)
    """Of all indexes; every replica."""
    alertmanagers: tuple[str, ...] = ("localhost:9093",)


class Links(_Part):
    """Beginnings of the links in alerts."""

    dashboards: Annotated[str, Field(pattern=r"^https?://[^#\s]+$")] = "http://localhost:3000"
    """Grafana."""
    runbook: Annotated[str, Field(pattern=r"^https?://[^#\s]+$")] = (
        "https://plumbline.example/runbook"
    )
    """Of the page, without an anchor: where your people read `deploy/runbook.md`. The default is a
    name that is reserved for examples."""


def _repeat() -> dict[Severity, float]:
    return {"critical": 14_400.0, "warning": 86_400.0, "info": 604_800.0}


class Notifications(_Part):
    """What Alertmanager does. `receivers` holds its own sections, as its manual has them."""

    group_wait: Wait = 10.0
    """Before the first message of a group: what inhibits must have come by then."""
    group_interval: Annotated[Wait, Field(gt=0)] = 60.0
    """Before a change in a group, also an end, is told."""
    repeat: Mapping[Severity, Annotated[_Seconds, Field(ge=60, le=90 * 86_400)]] = Field(
        default_factory=_repeat
    )
    """How often an alert that goes on is told again."""
    webhook_url: Annotated[str, Field(pattern=r"^https?://\S+$")] = "http://localhost:9095/alerts"
    """Where messages go that have no receiver of their own."""
    receivers: Mapping[Severity, dict[str, Any]] = Field(default_factory=dict)
    """By severity, such as `critical: {pagerduty_configs: [{routing_key_file: /run/key}]}`."""


class Objectives(_Part):
    """All of it.

    Parameters
    ----------
    time_scale
        Shortens every `for`, every window and every wait of Alertmanager, for a fire drill: with
        `0.01` an alert of five minutes comes after three seconds. Not below one evaluation (`for`)
        and four scrapes (windows). Intervals that are set elsewhere, such as the probes', keep
        their length.
    monitor_hold
        How long the last word of a monitor that cannot be scraped is taken for true, so that a
        restart of it neither ends an alert nor begins it anew.
    """

    time_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    monitor_hold: Window = 300.0
    freshness: Freshness = Freshness()
    recall: Recall = Recall()
    burn_rates: BurnRates = BurnRates()
    alerts: Alerts = Alerts()
    scraping: Scraping = Scraping()
    links: Links = Links()
    notifications: Notifications = Notifications()

    def window(self, seconds: float) -> float:
        """A window as long as it is to be: by `time_scale`, and at least four scrapes."""
        if self.time_scale == 1:
            return seconds
        return max(4 * self.scraping.scrape_interval, seconds * self.time_scale)

    def wait(self, seconds: float) -> float:
        """A wait as long as it is to be: by `time_scale`, and at least one evaluation; 0 stays."""
        if self.time_scale == 1 or not seconds:
            return seconds
        return max(self.scraping.evaluation_interval, seconds * self.time_scale)
