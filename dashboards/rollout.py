"""How far is the rollout, may it go on, and is live unharmed?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.bounds import CANARY, NEUTRAL, WAITING, ZERO, Bounds
from dashboards.common import Section, dashboard_of
from dashboards.panels import Panel, graph, number, states, table, words
from dashboards.queries import BACKFILL, Query, newest, of_index, rate, select
from deploy.alerting.objectives import Objectives

__all__ = ["rollout"]


def rollout(objectives: Objectives) -> Dashboard:
    """The dashboard of a change of versions."""
    return dashboard_of(
        "plumbline-rollout",
        "How far is the rollout, may it go on, and is live unharmed? State and gate come from the "
        "rollout's record, and stay when it is over; the backfill's own figures are there while "
        "`plumbline rollout build` runs.",
        [
            Section("", [_answers(), _course()]),
            Section("May the candidate go live?", _gate()),
            Section("Live beside the other version", _versions()),
            Section("Speed of both versions", [_speed()], collapsed=True),
            Section("The backfill", _backfill(), collapsed=True),
            Section("Rollouts before", _history(), collapsed=True),
        ],
        objectives=objectives,
        hours=24,
    )


def _answers() -> list[Panel]:
    return [
        words(
            "State",
            "Of the present rollout, or the one that was last. docs/rollout.md says what holds in "
            "each state and which command comes next.",
            Query(f"{of_index('plumbline_rollout_state', 'state')} == 1", "{{state}}"),
            missing="no rollout yet",
            alert="PlumblineRolloutStuck",
        ),
        number(
            "In this state for",
            "Since the rollout came to its state, by the clock of whoever moved it.",
            Query(
                "time() - " + of_index("plumbline_rollout_state_since_timestamp_seconds"),
                "{{index}}",
            ),
            unit="dtdurations",
            bounds=NEUTRAL,
            trend=False,
            missing="no rollout yet",
            alert="PlumblineRolloutStuck",
        ),
        number(
            "Backfill done",
            "Share of the tokens, as the build recorded it last. There while a rollout is open.",
            Query(of_index("plumbline_rollout_progress_ratio"), "{{index}}"),
            unit="percentunit",
            bounds=NEUTRAL,
            decimals=1,
            missing="nothing is built",
        ),
        number(
            "Backfill ends in",
            "At the rate of late. There while the backfill runs and can tell.",
            Query(of_index("plumbline_rollout_eta_seconds"), "{{index}}"),
            unit="dtdurations",
            bounds=NEUTRAL,
            trend=False,
            missing="nothing is built",
        ),
    ]


def _course() -> list[Panel]:
    info = of_index("plumbline_rollout_info", "rollout", "live", "candidate")
    return [
        states(
            "States over time",
            "The state that the rollout was in. A rollback or an abort ends it and leaves live as "
            "it was.",
            [Query(of_index("plumbline_rollout_state", "state"), "{{state}}")],
            mapping={0: ("no", "transparent"), 1: ("in this state", "blue")},
            bounds=NEUTRAL,
            alert="PlumblineRolledBackAutomatically",
            height=9,
        ),
        table(
            "Which versions",
            "The rollout with the version that was live when it was planned, and the candidate; "
            "and whether the alias is where its record has it. Moved: somebody did it by hand.",
            [
                Query(info),
                Query(
                    f"{of_index('plumbline_rollout_alias_moved')}\n"
                    f"* on (index) group_left (rollout, live, candidate) {info}"
                ),
            ],
            columns={
                "rollout": "Rollout",
                "live": "Live when planned",
                "candidate": "Candidate",
                "Value #B": "Alias",
            },
            mappings={"Alias": {0: ("in its place", "green"), 1: ("moved", "red")}},
            missing="no rollout yet",
            alert="PlumblineAliasMoved",
            height=9,
        ),
    ]


def _gate() -> list[list[Panel]]:
    return [
        [
            words(
                "Golden gate",
                "Its last answer. Pass: the candidate loses less recall than the margin, as good "
                "as proven. Refuse: it may lose more. Undecided: more judged queries are needed.",
                Query(f"{of_index('plumbline_rollout_gate', 'outcome')} == 1", "{{outcome}}"),
                missing="not asked yet",
            ),
            number(
                "Queries compared",
                "Judged queries that the gate's answer stands on.",
                Query(of_index("plumbline_rollout_gate_queries"), "{{index}}"),
                unit="short",
                bounds=NEUTRAL,
                trend=False,
                missing="not asked yet",
            ),
            number(
                "Forced past the gate",
                "Whether somebody promoted against the gate's answer; the rollout's record says "
                "who and why.",
                Query(of_index("plumbline_rollout_promotion_forced"), "{{index}}"),
                unit="bool_yes_no",
                bounds=ZERO,
                trend=False,
                missing="not promoted",
                alert="PlumblinePromotionForced",
            ),
            words(
                "Steps begun and not ended",
                "A command that was killed in the middle: run it again, and it finishes. A minute "
                "here while one runs is right.",
                Query(f"{of_index('plumbline_rollout_intent', 'action')} == 1", "{{action}}"),
                missing="none",
                bounds=Bounds("orange"),
                alert="PlumblineRolloutStepUnfinished",
            ),
        ],
        [
            graph(
                "Change of recall by the gate",
                "Recall of the candidate less that of live, with its confidence bounds and the "
                "loss that is not accepted. It passes when the lower bound is above that line.",
                [
                    Query(of_index("plumbline_rollout_gate_change_ratio"), "change"),
                    Query(of_index("plumbline_rollout_gate_change_lower_ratio"), "at least"),
                    Query(of_index("plumbline_rollout_gate_change_upper_ratio"), "at most"),
                    Query(
                        f"-1 * {of_index('plumbline_rollout_gate_margin_ratio')}",
                        "not accepted below",
                    ),
                ],
                unit="percentunit",
                least=None,
                width=12,
            ),
            graph(
                "Recall of the golden queries, side by side",
                "Over all documents, of each version. The probe looks at a candidate only once "
                "it is full.",
                [
                    Query(
                        newest("plumbline_golden_recall_ratio", "k", documents="all"),
                        "first {{k}} {{version}}",
                    )
                ],
                unit="percentunit",
                most=1.0,
                width=12,
            ),
        ],
    ]


def _versions() -> list[list[Panel]]:
    role = newest("plumbline_monitor_version_role", "role")
    return [
        [
            states(
                "What the probes say of each version",
                "An alarm of the candidate or of the previous version touches nobody who "
                "searches; one of live does.",
                [
                    Query(
                        f"(2 * {newest('plumbline_probe_alarm', 'probe')}\n"
                        f"+ {newest('plumbline_probe_warning', 'probe')})\n"
                        f"* on (index, version) group_left (role) {role}",
                        "{{role}}: {{probe}}",
                    )
                ],
                alert="PlumblineCandidateAlarm",
                height=9,
            ),
            table(
                "Roles",
                "What each version is to the index now, and what it holds.",
                [
                    Query(role),
                    Query(
                        f"{newest('plumbline_integrity_documents')}\n"
                        f"* on (index, version) group_left (role) {role}",
                    ),
                ],
                columns={"version": "Version", "role": "Role", "Value #B": "Documents"},
                height=9,
            ),
        ],
        [
            graph(
                "Records not committed",
                "By each version's consumer group. A version that lags beyond "
                "rollout.lag_bound_records is not switched to.",
                [Query(newest("plumbline_freshness_lag_records"), "{{version}}")],
                unit="short",
            ),
            graph(
                "Oldest event that waits",
                "Of each version. Live's must not rise while the backfill runs: it is what the "
                "backfill makes room for.",
                [Query(newest("plumbline_freshness_oldest_unprocessed_seconds"), "{{version}}")],
                unit="s",
                bounds=WAITING,
            ),
            graph(
                "Canaries of each version",
                "Greatest cosine distance, by the monitor's encoder of that version.",
                [
                    Query(
                        f"max by (index, version) "
                        f"({newest('plumbline_canary_encoder_distance', 'role')})",
                        "{{version}}",
                    )
                ],
                unit="sci",
                bounds=CANARY,
            ),
        ],
    ]


def _speed() -> list[Panel]:
    return [
        graph(
            "Time until searchable, from the index",
            "From an event's timestamp to when it was indexed, over recently indexed ones of "
            "each version, as the monitor finds them.",
            [
                Query(
                    newest("plumbline_freshness_searchable_median_seconds"),
                    "median {{version}}",
                ),
                Query(newest("plumbline_freshness_searchable_p95_seconds"), "p95 {{version}}"),
            ],
            unit="s",
            bounds=WAITING,
            width=12,
        ),
        graph(
            "Time of a search, side by side",
            "p95 of the approximate search by the probe. Promotion asks for at most "
            "rollout.latency_ratio of live's.",
            [
                Query(
                    newest("plumbline_ann_search_p95_seconds", mode="approximate"),
                    "{{version}}",
                )
            ],
            unit="s",
            width=12,
        ),
    ]


def _backfill() -> list[list[Panel]]:
    memory = select("process_resident_memory_bytes", job=BACKFILL, index="$index")

    def own(metric: str) -> str:
        chosen = select(metric, job=BACKFILL, index="$index", version="~$version")
        return f"max by (index, version) ({chosen})"

    def per_second(metric: str, *by: str) -> str:
        return rate(metric, "version", *by, job=BACKFILL, version="~$version")

    return [
        [
            graph(
                "Documents by what became of them",
                "Documents a second. Unchanged and stale ones were there already: a build that "
                "was resumed, or live events that came first. Refused ones stop the build.",
                [
                    Query(
                        per_second("plumbline_backfill_documents_total", "outcome"),
                        "{{outcome}}",
                    )
                ],
                unit="cps",
                stacked=True,
            ),
            graph(
                "Tokens encoded",
                "Tokens a second: the speed that the time left is told from.",
                [Query(per_second("plumbline_backfill_tokens_total"), "{{version}}")],
                unit="cps",
            ),
            graph(
                "What is left",
                "Documents still to be read, and tokens still to be encoded, estimated.",
                [
                    Query(own("plumbline_backfill_remaining_documents"), "documents"),
                    Query(own("plumbline_backfill_remaining_tokens"), "tokens"),
                ],
                unit="short",
            ),
        ],
        [
            graph(
                "Time left",
                "By the running build, and as it recorded it last. Rising: live events take the "
                "room, or Qdrant has slowed down.",
                [
                    Query(own("plumbline_backfill_eta_seconds"), "by the build"),
                    Query(of_index("plumbline_rollout_eta_seconds"), "on record"),
                ],
                unit="dtdurations",
            ),
            graph(
                "Room made for live events",
                "Share of the time that the throttle lets the backfill work, and share that it "
                "paused. Low: live's freshness is near its bound.",
                [
                    Query(own("plumbline_backfill_speed_ratio"), "may work"),
                    Query(per_second("plumbline_backfill_throttle_seconds_total"), "paused"),
                ],
                unit="percentunit",
            ),
            graph(
                "Tokens done and in all",
                "As the build recorded them last; the total is an estimate.",
                [Query(of_index("plumbline_rollout_tokens", "kind"), "{{kind}}")],
                unit="short",
            ),
        ],
        [
            graph(
                "Time to encode a batch, mean",
                "Of the backfill, by the candidate's model. Much longer than live's: the candidate "
                "is a larger model, and ingest will be as much slower after the switch.",
                [
                    Query(
                        " / ".join(
                            rate(f"plumbline_encode_seconds_{part}", job=BACKFILL)
                            for part in ("sum", "count")
                        ),
                        "encode",
                    )
                ],
                unit="s",
                width=12,
            ),
            graph(
                "Memory of the build",
                "Resident memory of `plumbline rollout build`, with the candidate's encoder in it.",
                [Query(f"max by (index, instance) ({memory})", "{{instance}}")],
                unit="bytes",
                width=12,
            ),
        ],
    ]


def _history() -> list[list[Panel]]:
    return [
        [
            number(
                "Rolled back by itself",
                "Whether `plumbline rollout soak --auto-rollback` decided on the last rollback: "
                "it found the new version worse.",
                Query(of_index("plumbline_rollout_automatic_rollback"), "{{index}}"),
                unit="bool_yes_no",
                bounds=ZERO,
                trend=False,
                missing="no rollback",
                alert="PlumblineRolledBackAutomatically",
                height=6,
            ),
            table(
                "Rollouts that are over",
                "Since the index was made, by how they ended; `plumbline rollout status` shows "
                "the record of each.",
                [Query(of_index("plumbline_rollouts_ended_total", "state"))],
                columns={"state": "Ended as", "Value": "Rollouts"},
                width=18,
                height=6,
            ),
        ],
    ]
