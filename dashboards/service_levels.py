"""How much of the error budgets is left, and how fast is it spent?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.bounds import RECALL, WAITING, Bounds
from dashboards.common import Section, dashboard_of
from dashboards.panels import Panel, distribution, graph, number, states
from dashboards.queries import Query, live, newest, of_index, rate, select
from deploy.alerting.durations import format_duration
from deploy.alerting.objectives import Objectives
from deploy.alerting.recording import burn_name

__all__ = ["service_levels"]

_BUDGET = Bounds("red", ((1e-9, "orange"), (0.5, "green")))


def service_levels(objectives: Objectives) -> Dashboard:
    """The dashboard of the objectives."""
    return dashboard_of(
        "plumbline-service-levels",
        "How much of the error budgets is left, and how fast is it spent? Freshness: events are "
        "searchable in time. Recall: neither the golden nor the ann probe alarms at the live "
        "version. Objectives and budgets are those of the alert rules (deploy/alerting).",
        [
            Section("", [_budgets(objectives), _course()]),
            Section("How fast is the budget spent?", [_spent(objectives)]),
            Section("What the objectives stand on", _sources(), collapsed=True),
        ],
        objectives=objectives,
        hours=24 * 7,
    )


def _budgets(objectives: Objectives) -> list[Panel]:
    span = format_duration(objectives.burn_rates.budget_window)

    def left(what: str, words: str, alert: str) -> Panel:
        return number(
            f"{what} budget left, {span}",
            words + " At 100 % nothing is spent; below 0 the objective is missed. Orange below "
            "half: no risks now.",
            Query(
                select(
                    f"plumbline:{what.lower()}_error_budget_remaining:ratio_30d", index="$index"
                ),
                "{{index}}",
            ),
            unit="percentunit",
            bounds=_BUDGET,
            decimals=1,
            alert=alert,
        )

    def bad(what: str, words: str, alert: str) -> Panel:
        return number(
            f"{what} missed, last hour",
            words + " Orange: faster than the budget allows. Red: fast enough to wake somebody.",
            Query(select(burn_name(what.lower(), 3600.0), index="$index"), "{{index}}"),
            unit="percentunit",
            bounds=_speeds(objectives, what.lower()),
            decimals=2,
            alert=alert,
        )

    return [
        left(
            "Freshness",
            "Share of the 30 days' allowance of late events that is left.",
            "PlumblineFreshnessBudgetBurnSlow",
        ),
        bad(
            "Freshness",
            "Share of the last hour's events that became searchable later than the objective.",
            "PlumblineFreshnessBudgetBurnFast",
        ),
        left(
            "Recall",
            "Share of the 30 days' allowance of time below the recall objective that is left.",
            "PlumblineRecallBudgetBurnSlow",
        ),
        bad(
            "Recall",
            "Share of the last hour in which the golden or the ann probe alarmed.",
            "PlumblineRecallBudgetBurnFast",
        ),
    ]


def _course() -> list[Panel]:
    return [
        graph(
            "Budgets over time",
            "What is left of each 30 days' budget. A step down is an incident; it comes back as "
            "that leaves the 30 days.",
            [
                Query(
                    select(f"plumbline:{what}_error_budget_remaining:ratio_30d", index="$index"),
                    what,
                )
                for what in ("freshness", "recall")
            ],
            unit="percentunit",
            bounds=_BUDGET,
            least=None,
            most=1.0,
            width=12,
        ),
        graph(
            "Time until searchable",
            "What freshness is measured on: from an event's timestamp until a search can find it.",
            [
                Query(
                    select(f"plumbline:event_to_searchable_seconds:{name}_5m", index="$index"),
                    name,
                )
                for name in ("p50", "p99")
            ],
            unit="s",
            bounds=WAITING,
            width=12,
        ),
    ]


def _speeds(objectives: Objectives, of: str) -> Bounds:
    """From where on the budget burns faster than it may, and so fast that it pages."""
    ratios = {"freshness": objectives.freshness.ratio, "recall": objectives.recall.ratio}
    allowed = 1 - ratios[of]
    page = min(burn.rate for burn in objectives.burn_rates.fast)
    return Bounds("green", ((round(allowed, 9), "orange"), (round(page * allowed, 9), "red")))


def _spent(objectives: Objectives) -> list[Panel]:
    rates = objectives.burn_rates
    pairs = (*rates.fast, *rates.slow)
    windows = sorted({seconds for pair in pairs for seconds in (pair.short, pair.long)})
    asked = "; ".join(
        f"{pair.rate:g} times over {format_duration(pair.long)} and {format_duration(pair.short)}"
        for pair in pairs
    )

    def burning(title: str, words: str, of: str) -> Panel:
        return graph(
            title,
            f"{words} Alerts ask for two windows each, as multiples of what the budget allows: "
            f"{asked}.",
            [
                Query(select(burn_name(of, seconds), index="$index"), format_duration(seconds))
                for seconds in windows
            ],
            unit="percentunit",
            bounds=_speeds(objectives, of),
            width=12,
            height=10,
            alert=f"Plumbline{of.capitalize()}BudgetBurnFast",
        )

    return [
        burning(
            "Late events, by window",
            "Share of events that became searchable later than "
            f"{format_duration(objectives.freshness.within_seconds)}.",
            "freshness",
        ),
        burning(
            "Time below the recall objective, by window",
            "Share of the time in which a probe of recall alarmed at the live version.",
            "recall",
        ),
    ]


def _sources() -> list[list[Panel]]:
    return [
        [
            distribution(
                "Time until searchable, all events",
                "Where events fall: a band high up is a replay, one that rises is a job that "
                "falls behind.",
                Query(rate("plumbline_event_to_searchable_seconds_bucket", "le"), "{{le}}"),
                unit="s",
            ),
            graph(
                "Recall against its objective",
                "Of the approximate index: measured, at most with 99 % confidence, and asked for.",
                [
                    Query(newest("plumbline_ann_recall_ratio", "source"), "{{source}} {{version}}"),
                    Query(
                        newest("plumbline_ann_recall_upper_bound_ratio", "source"),
                        "at most, {{source}} {{version}}",
                    ),
                    Query(newest("plumbline_ann_recall_objective_ratio"), "objective {{version}}"),
                ],
                unit="percentunit",
                bounds=RECALL,
                most=1.0,
                width=12,
                alert="PlumblineAnnRecallLow",
            ),
        ],
        [
            states(
                "Which version was live",
                "A switch of versions changes what recall is measured on.",
                [Query(select("plumbline:live_version", index="$index"), "{{version}}")],
                mapping={1: ("live", "blue")},
                bounds=Bounds("blue"),
                height=7,
            ),
            graph(
                "Age of the recall's measurement",
                "Since the ann probe last completed at the live version, and how often it is to "
                "run. An old one still counts as it was.",
                [
                    Query(
                        "time() - ("
                        + live("plumbline_probe_last_success_timestamp_seconds", probe="ann")
                        + ")",
                        "age",
                    ),
                    Query(of_index("plumbline_probe_interval_seconds", probe="ann"), "interval"),
                ],
                unit="s",
                width=12,
                height=7,
                alert="PlumblineProbeSilent",
            ),
        ],
    ]
