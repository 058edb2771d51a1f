"""Is search healthy, fresh and honest? At a glance, and which dashboard says more."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.bounds import (
    GOOD,
    LEVELS,
    NEUTRAL,
    RECALL,
    RECALL_LOSS,
    WAITING,
    ZERO,
    Bounds,
)
from dashboards.common import Section, dashboard_of
from dashboards.panels import LEVEL_WORDS, YES_NO, Panel, graph, number, states, table
from dashboards.queries import INGEST, MONITOR, Query, live, newest, of_index, select
from deploy.alerting.objectives import Objectives

__all__ = ["overview"]

_HEALTHY = "golden|ann|geometry"
_FRESH = "freshness"
_HONEST = "canary|fidelity|integrity|drift"


def _level(probes: str) -> str:
    """The worst of these probes at the live version: 0 fine, 1 warning, 2 alarm."""
    alarm, warning = (
        select(f"plumbline:probe_{level}:live", index="$index", probe=f"~{probes}")
        for level in ("alarm", "warning")
    )
    return f"max by (index) (2 * {alarm} + on (index, version, probe) {warning})"


def _silent() -> str:
    """How many probes have not completed a run on the live version for three of their intervals."""
    interval = of_index("plumbline_probe_interval_seconds", "probe")
    completed = live("plumbline_probe_last_success_timestamp_seconds", "probe")
    recent = f"(time() - ({completed}))\n< on (index, probe) group_left () 3 * {interval}"
    return (
        f"sum by (index) (1 - (count by (index, probe) ({recent})\n"
        f"or on (index, probe) 0 * {interval}))"
    )


def overview(objectives: Objectives) -> Dashboard:
    """The dashboard to begin with."""
    return dashboard_of(
        "plumbline-overview",
        "Is search healthy, fresh and honest? Begin here: green answers in the first row mean "
        "that users find what they should; anything else names the dashboard that says why.",
        [
            Section("", [_answers(), _figures(), _probes(), _trends()]),
            Section("Every index", [_indexes()]),
            Section("What is live", [_live()], collapsed=True),
            Section("Can this dashboard be believed?", _watchers(), collapsed=True),
        ],
        objectives=objectives,
    )


def _answers() -> list[Panel]:
    def answer(title: str, probes: str, words: str) -> Panel:
        return number(
            title,
            words,
            Query(_level(probes), "{{index}}"),
            unit="short",
            bounds=LEVELS,
            mapping={0: ("yes", "green"), 1: ("look at it", "orange"), 2: ("no", "red")},
            trend=False,
            solid=True,
        )

    return [
        answer(
            "Is search healthy?",
            _HEALTHY,
            "Do searches find what they should? The worst of the probes golden (judged documents "
            "are found), ann (the approximate index finds what exact search finds) and geometry. "
            "On anything but yes: Embedding quality and drift.",
        ),
        answer(
            "Is it fresh?",
            _FRESH,
            "Do events become searchable in time? The freshness probe: it alarms when the "
            "consumer group stands still while events wait, or the topic dropped some. On "
            "anything but yes: Ingest.",
        ),
        answer(
            "Is it honest?",
            _HONEST,
            "Do vectors mean what the contract says? The worst of the probes canary (encoders "
            "still give the same vectors), fidelity (stored vectors are those of the stored "
            "texts), integrity (nothing is lost or foreign) and drift (new vectors are like the "
            "reference). On anything but yes: Embedding quality and drift.",
        ),
        number(
            "Probes that are silent",
            "Probes without a completed run for three of their intervals. Above 0, the answers "
            "beside this are older than they look: see the monitor's log, and the row at the "
            "bottom.",
            Query(_silent(), "{{index}}"),
            unit="short",
            bounds=ZERO,
            alert="PlumblineProbeSilent",
            trend=False,
            solid=True,
        ),
    ]


def _figures() -> list[Panel]:
    return [
        number(
            "Recall lost since baseline",
            "Recall of the golden queries at the live version, less than at the baseline, over "
            "the documents that existed then. Below 0 is a gain. The golden probe alarms on a "
            "loss that is proven, not on this number alone.",
            Query(live("plumbline_golden_recall_loss_ratio"), "{{version}}"),
            unit="percentunit",
            bounds=RECALL_LOSS,
            decimals=1,
            alert="PlumblineGoldenRecallLost",
        ),
        number(
            "Approximate recall",
            "Share of the best hits by exact search that the approximate index finds at the live "
            "version, over stored and golden queries, whichever is worse.",
            Query(
                f"min by (index, version) ({live('plumbline_ann_recall_ratio', 'source')})",
                "{{version}}",
            ),
            unit="percentunit",
            bounds=RECALL,
            decimals=1,
            alert="PlumblineAnnRecallLow",
        ),
        number(
            "Oldest event that waits",
            "How long the oldest event that the live version has not yet applied has waited; 0 "
            "when the job has caught up. Red from the default of "
            "monitor.freshness.objective_seconds on.",
            Query(select("plumbline:oldest_unprocessed_seconds:live", index="$index"), "{{index}}"),
            unit="s",
            bounds=WAITING,
            alert="PlumblineIngestStalled",
        ),
        number(
            "Alerts that fire",
            "Alerts of this index that fire now, of any severity. The table below names them; "
            "each has a section in the runbook.",
            Query(
                'count(ALERTS{alertname=~"Plumbline.+", alertstate="firing", '
                'index=~"$index|"}) or vector(0)',
                "alerts",
            ),
            unit="short",
            bounds=ZERO,
        ),
    ]


def _probes() -> list[Panel]:
    alarm = select("plumbline:probe_alarm:live", index="$index")
    warning = select("plumbline:probe_warning:live", index="$index")
    return [
        states(
            "What each probe says of the live version",
            "Green: fine, or too little to decide on. Orange: a warning. Red: an alarm. Which "
            "reason a probe gives stands in Embedding quality and drift.",
            [
                Query(
                    f"max by (index, probe) (2 * {alarm} + on (index, version, probe) {warning})",
                    "{{probe}}",
                )
            ],
        ),
        table(
            "Alerts, firing and pending",
            "Alerts of this index. Pending ones fire when their condition holds for as long as "
            "the rule asks. The runbook has a section for each.",
            [
                Query(
                    'ALERTS{alertname=~"Plumbline.+", index=~"$index|"}',
                    "{{alertname}}",
                )
            ],
            columns={
                "alertname": "Alert",
                "severity": "Severity",
                "alertstate": "State",
                "index": "Index",
            },
            links={"Alert": ("Runbook", "${runbook}")},
            missing="none",
        ),
    ]


def _trends() -> list[Panel]:
    golden = live("plumbline_golden_recall_ratio", "k", documents="all")
    approximate = live("plumbline_ann_recall_ratio", "source")
    return [
        graph(
            "Time until searchable",
            "From an event's timestamp until a search can find it, in the ingest job. A late "
            "replay counts as old events do.",
            [
                Query(
                    select(f"plumbline:event_to_searchable_seconds:{name}_5m", index="$index"), name
                )
                for name in ("p50", "p99")
            ],
            unit="s",
            bounds=WAITING,
        ),
        graph(
            "Does search find what it should?",
            "At the live version: recall of the golden queries over all documents, and of the "
            "approximate index against exact search.",
            [
                Query(f"max by (index, k) ({golden})", "golden, first {{k}}"),
                Query(f"min by (index) ({approximate})", "approximate index"),
            ],
            unit="percentunit",
            most=1.0,
        ),
        graph(
            "Events by what became of them",
            "Events a second by outcome: the sum is what was consumed. A flood shows here first.",
            [Query(select("plumbline:events_outcome:rate5m", index="$index"), "{{outcome}}")],
            unit="eps",
            stacked=True,
        ),
    ]


def _indexes() -> list[Panel]:
    alarm, warning = "plumbline:probe_alarm:live", "plumbline:probe_warning:live"
    waits = "plumbline_freshness_oldest_unprocessed_seconds"
    here = "/d/plumbline-overview?${__url_time_range}&${datasource:queryparam}"
    return [
        table(
            "Which index is unwell?",
            "Every index of this data source: the worst that a probe says of its live version, "
            "how many probes alarm, and how long its oldest event waits. A click on the name "
            "opens this dashboard for it.",
            [
                Query(
                    f"max by (index, version) (2 * {alarm} + on (index, version, probe) {warning})",
                ),
                Query(f"sum by (index, version) ({alarm})"),
                Query(
                    f"max by (index, version) ({waits}) and on (index, version) "
                    "plumbline:live_version",
                ),
            ],
            columns={
                "index": "Index",
                "version": "Live version",
                "Value #A": "State",
                "Value #B": "Alarms",
                "Value #C": "Oldest event that waits",
            },
            units={"Oldest event that waits": "s"},
            mappings={"State": LEVEL_WORDS},
            links={
                "Index": ("Overview of this index", here + "&var-index=${__value.raw}"),
            },
            width=24,
            height=6,
        )
    ]


def _live() -> list[Panel]:
    role = newest("plumbline_monitor_version_role", "role")
    return [
        table(
            "Versions and their roles",
            "Live is what users search; candidate is being built or proved; previous is kept for "
            "a rollback. Documents are counted by the integrity probe.",
            [
                Query(role),
                Query(
                    f"{newest('plumbline_integrity_documents')}\n"
                    f"* on (index, version) group_left (role) {role}",
                ),
            ],
            columns={
                "version": "Version",
                "role": "Role",
                "Value #B": "Documents",
            },
            height=6,
        ),
        number(
            "Live since",
            "When the monitor first saw what is live now: the last switch of the alias, or the "
            "first start of the monitor.",
            Query(
                f"1000 * {live('plumbline_monitor_version_since_timestamp_seconds')}", "{{version}}"
            ),
            unit="dateTimeFromNow",
            bounds=NEUTRAL,
            trend=False,
            height=6,
        ),
        number(
            "Newest event in the index",
            "Timestamp of the newest event that the live version holds. Old where nothing has "
            "been sent for a while: that is no fault.",
            Query(
                f"1000 * {live('plumbline_freshness_newest_event_timestamp_seconds')}",
                "{{version}}",
            ),
            unit="dateTimeFromNow",
            bounds=NEUTRAL,
            trend=False,
            height=6,
        ),
    ]


def _watchers() -> list[list[Panel]]:
    return [
        [
            number(
                "Monitors that lead",
                "Of several replicas exactly one runs the probes. 0: nobody looks; 2: the lease "
                "is broken.",
                Query(
                    f"sum by (index) ({select('plumbline_monitor_leader', index='$index')})",
                    "{{index}}",
                ),
                unit="short",
                bounds=Bounds("red", ((1.0, "green"), (2.0, "red"))),
                alert="PlumblineMonitorNoLeader",
            ),
            number(
                "Monitor's store answers",
                "Whether the store of history and references answered when it was last read.",
                Query(
                    f"min by (index) ({select('plumbline_monitor_store_up', index='$index')})",
                    "{{index}}",
                ),
                unit="bool_yes_no",
                bounds=GOOD,
                alert="PlumblineMonitorStoreDown",
                trend=False,
            ),
            number(
                "Qdrant answers",
                "Whether Qdrant answered when the monitor last asked where the alias points, and "
                "took the last renewal of its lease. No: it is away, read-only or out of disk.",
                Query(
                    f"min by (index) ({select('plumbline_monitor_qdrant_up', index='$index')})\n"
                    "* on (index) min by (index) ("
                    + select("plumbline_monitor_qdrant_writable", index="$index")
                    + ")",
                    "{{index}}",
                ),
                unit="bool_yes_no",
                bounds=GOOD,
                alert="PlumblineQdrantUnreachable",
                trend=False,
            ),
            number(
                "Age of the monitor's figures",
                "Since the monitor last read its store, from which every figure comes.",
                Query(
                    "time() - " + of_index("plumbline_monitor_store_read_timestamp_seconds"),
                    "{{index}}",
                ),
                unit="s",
                bounds=Bounds("green", ((60.0, "orange"), (300.0, "red"))),
            ),
        ],
        [
            states(
                "Processes that answer to Prometheus",
                "Every process that serves metrics. One that does not answer is missing from "
                "every panel above.",
                [
                    Query(
                        f'max by (job, instance) (up{{job=~"{INGEST}|{MONITOR}"}})',
                        "{{job}} {{instance}}",
                    )
                ],
                mapping={0: ("down", "red"), 1: ("up", "green")},
                bounds=GOOD,
                alert="PlumblineMonitorDown",
            ),
            states(
                "Can each version be read?",
                "Whether this release can read the version's contract, and whether its encoder is "
                "loaded and reproduces the canaries. A version without both is not monitored.",
                [
                    Query(
                        of_index("plumbline_monitor_version_readable", "version"),
                        "contract {{version}}",
                    ),
                    Query(
                        of_index("plumbline_monitor_encoder_usable", "version"),
                        "encoder {{version}}",
                    ),
                ],
                mapping=YES_NO,
                bounds=GOOD,
                alert="PlumblineVersionUnreadable",
            ),
        ],
        [
            table(
                "Releases",
                "Release of each monitor: they differ while one is deployed.",
                [
                    Query(
                        "max by (index, release, instance) ("
                        + select("plumbline_monitor_info", index="$index")
                        + ")",
                    )
                ],
                columns={"instance": "Process", "release": "Release", "index": "Index"},
                height=6,
            ),
            table(
                "Runs of the probes",
                "When each probe last ran and last completed at the live version, and how often "
                "it is to run.",
                [
                    Query(
                        f"1000 * {live('plumbline_probe_last_run_timestamp_seconds', 'probe')}", ""
                    ),
                    Query(
                        f"1000 * {live('plumbline_probe_last_success_timestamp_seconds', 'probe')}",
                    ),
                    Query(live("plumbline_probe_duration_seconds", "probe")),
                ],
                columns={
                    "probe": "Probe",
                    "Value #A": "Last run",
                    "Value #B": "Last completed",
                    "Value #C": "Took",
                },
                units={
                    "Last run": "dateTimeFromNow",
                    "Last completed": "dateTimeFromNow",
                    "Took": "s",
                },
                height=6,
            ),
        ],
    ]
