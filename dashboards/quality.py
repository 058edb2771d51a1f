"""Does search find what it should, and do vectors mean what they meant?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.bounds import (
    CANARY,
    DRIFT_EVIDENCE,
    DUPLICATES,
    FIDELITY,
    RECALL_LOSS,
    ZERO,
)
from dashboards.common import Section, dashboard_of
from dashboards.panels import Panel, graph, number, states, table
from dashboards.queries import Query, counted, latest, live, newest
from deploy.alerting.objectives import Objectives

__all__ = ["quality"]


def quality(objectives: Objectives) -> Dashboard:
    """The dashboard of what the probes measure."""
    return dashboard_of(
        "plumbline-quality",
        "Does search find what it should, and do vectors mean what they meant? The figures of "
        "every probe, for the versions chosen above. Canary and fidelity first: where they fail, "
        "the others follow.",
        [
            Section("", [_answers(), _probes()]),
            Section("Golden queries", _golden()),
            Section("Canaries", [_canaries()]),
            Section("Fidelity", [_fidelity()], collapsed=True),
            Section("Drift", _drift(), collapsed=True),
            Section("Approximate index", _ann(), collapsed=True),
            Section("Integrity", _integrity(), collapsed=True),
            Section("Geometry", _geometry(), collapsed=True),
            Section("Evidence and runs of every probe", _evidence(), collapsed=True),
        ],
        objectives=objectives,
        hours=24,
    )


def _answers() -> list[Panel]:
    return [
        number(
            "Recall lost since baseline",
            "At the live version, over the documents that existed at the baseline: growth and "
            "deletions are no damage. Below 0 is a gain.",
            Query(live("plumbline_golden_recall_loss_ratio"), "{{version}}"),
            unit="percentunit",
            bounds=RECALL_LOSS,
            decimals=1,
            alert="PlumblineGoldenRecallLost",
        ),
        number(
            "Worst canary",
            "Greatest cosine distance of a canary to its stored vector, by the monitor's encoder "
            "at the live version. Above 1e-3 vectors are not those of the contract.",
            Query(
                f"max by (index, version) ({live('plumbline_canary_encoder_distance', 'role')})",
                "{{version}}",
            ),
            unit="sci",
            bounds=CANARY,
            alert="PlumblineCanaryMismatch",
        ),
        number(
            "Foreign vectors found",
            "Share of sampled documents of the live version whose stored vectors are not the ones "
            "of their stored text.",
            Query(live("plumbline_fidelity_mismatch_ratio"), "{{version}}"),
            unit="percentunit",
            bounds=FIDELITY,
            decimals=1,
            alert="PlumblineFidelityBroken",
        ),
        number(
            "Evidence of drift",
            "Gathered over windows at the live version, of documents or queries, whichever is "
            "more. It alarms at monitor.drift.average_run_length (red: the default), where the "
            "effect is large enough as well.",
            Query(
                f"max by (index, version) ({live('plumbline_drift_e_value', 'kind')})",
                "{{version}}",
            ),
            unit="short",
            bounds=DRIFT_EVIDENCE,
            alert="PlumblineDrift",
        ),
    ]


def _probes() -> list[Panel]:
    return [
        states(
            "What each probe says",
            "Of each version. Green: fine, or too little to decide on. Orange: a warning. Red: an "
            "alarm. Only those of live pages.",
            [
                Query(
                    f"2 * {newest('plumbline_probe_alarm', 'probe')}\n"
                    f"+ {newest('plumbline_probe_warning', 'probe')}",
                    "{{probe}} {{version}}",
                )
            ],
            height=9,
        ),
        table(
            "Why they say so",
            "The reason that each probe's last completed run gives; docs/metrics.md says what "
            "each means and what to do. Failing: the run after it did not complete, and the "
            "answer is older. Undecided: there was too little to decide on.",
            [
                Query(newest("plumbline_probe_reason", "probe", "reason")),
                Query(newest("plumbline_probe_failing", "probe")),
                Query(newest("plumbline_probe_undecided", "probe")),
            ],
            columns={
                "probe": "Probe",
                "version": "Version",
                "reason": "Reason",
                "Value #B": "Failing",
                "Value #C": "Undecided",
            },
            mappings={
                "Failing": {0: ("no", "green"), 1: ("yes", "red")},
                "Undecided": {0: ("no", "green"), 1: ("yes", "orange")},
            },
            alert="PlumblineProbeFailing",
            height=9,
        ),
    ]


def _golden() -> list[list[Panel]]:
    by = ("k", "documents")
    legend = "first {{k}}, {{documents}} {{version}}"
    return [
        [
            graph(
                "Recall of the golden queries",
                "Share of the judged documents that are among the first k hits. All: as users "
                "have it. Baseline: over the documents that existed at the baseline, for "
                "comparison over time.",
                [Query(newest("plumbline_golden_recall_ratio", *by), legend)],
                unit="percentunit",
                most=1.0,
                width=12,
                alert="PlumblineGoldenRecallLost",
            ),
            graph(
                "Order of the hits",
                "nDCG at k: whether the better documents stand higher. Mean reciprocal rank: how "
                "high the first right one stands.",
                [
                    Query(newest("plumbline_golden_ndcg_ratio", *by), f"nDCG {legend}"),
                    Query(newest("plumbline_golden_mrr_ratio", *by), f"MRR {legend}"),
                ],
                unit="percentunit",
                most=1.0,
                width=12,
            ),
        ],
        [
            graph(
                "Loss and change since the baseline",
                "Recall lost over the same documents, and how much of the rankings stayed the "
                "same (rank-biased overlap). Low overlap without loss: other right answers are "
                "found.",
                [
                    Query(newest("plumbline_golden_recall_loss_ratio"), "recall lost {{version}}"),
                    Query(
                        newest("plumbline_golden_rank_biased_overlap_ratio"),
                        "overlap {{version}}",
                    ),
                ],
                unit="percentunit",
                least=None,
                width=12,
            ),
            graph(
                "Queries and judged documents",
                "What the figures stand on. Gone without a tombstone: lost, see Integrity. Deleted "
                "ones count no longer: judge documents that are there.",
                [
                    Query(newest("plumbline_golden_queries"), "queries {{version}}"),
                    Query(
                        newest("plumbline_golden_judged_documents", "state"),
                        "{{state}} {{version}}",
                    ),
                ],
                unit="short",
                width=12,
            ),
        ],
    ]


def _canaries() -> list[Panel]:
    return [
        graph(
            "Canaries by encoder",
            "Greatest cosine distance to the stored vectors, as document and as query: of the "
            "monitor's encoder and, by their own report, of the workers'. Queries are encoded "
            "elsewhere again: `plumbline search` checks them when it loads its encoder.",
            [
                Query(
                    newest("plumbline_canary_encoder_distance", "role"),
                    "monitor, {{role}} {{version}}",
                ),
                Query(
                    newest("plumbline_canary_worker_distance", "role"),
                    "workers, {{role}} {{version}}",
                ),
            ],
            unit="sci",
            bounds=CANARY,
            alert="PlumblineCanaryMismatch",
        ),
        graph(
            "Length of the canaries' vectors",
            "Greatest relative difference from the stored length. Not 0: a normalisation is "
            "missing, or there is one too many.",
            [
                Query(
                    newest("plumbline_canary_encoder_norm_deviation_ratio", "role"),
                    "{{role}} {{version}}",
                )
            ],
            unit="percentunit",
            alert="PlumblineCanaryMismatch",
        ),
        graph(
            "Workers by their last report",
            "Processes that write the version. Refusal: it has stopped writing by itself. "
            "Gone: its report is too old to count.",
            [Query(newest("plumbline_canary_workers", "state"), "{{state}} {{version}}")],
            unit="short",
        ),
    ]


def _fidelity() -> list[Panel]:
    return [
        graph(
            "Documents with foreign vectors",
            "Share of the sample whose stored vectors are not the ones of their stored text: "
            "two models in one index, or a worker that computes otherwise.",
            [Query(newest("plumbline_fidelity_mismatch_ratio"), "{{version}}")],
            unit="percentunit",
            bounds=FIDELITY,
            alert="PlumblineFidelityBroken",
        ),
        graph(
            "Distance of stored vectors",
            "Cosine distance of sampled documents' stored vectors to those encoded anew, by "
            "percentile.",
            [
                Query(
                    newest("plumbline_fidelity_distance", "percentile"),
                    "{{percentile}} % {{version}}",
                )
            ],
            unit="sci",
            bounds=CANARY,
        ),
        graph(
            "Documents sampled",
            "Documents encoded anew in the last run: what the share beside it stands on.",
            [Query(newest("plumbline_fidelity_sampled_documents"), "{{version}}")],
            unit="short",
        ),
    ]


def _drift() -> list[list[Panel]]:
    kind = "{{kind}} {{version}}"
    return [
        [
            graph(
                "Evidence of drift over time",
                "It gathers while windows differ more than known-good ones do, and falls again "
                "when they do not. Dashed: where it warns and alarms by default.",
                [Query(newest("plumbline_drift_e_value", "kind"), kind)],
                unit="short",
                bounds=DRIFT_EVIDENCE,
                logarithmic=True,
                alert="PlumblineDrift",
            ),
            graph(
                "Effect",
                "How far the window's MMD^2 lies above that of known-good windows, in their "
                "standard deviations. docs/drift.md says what the sizes mean.",
                [Query(newest("plumbline_drift_effect_spreads", "kind"), kind)],
                unit="short",
                least=None,
            ),
            graph(
                "Share unlike anything known",
                "Share of the window that is unlike anything in the reference; there when the "
                "probe warns or alarms. Large: new topics or a flood. Small with a large effect: "
                "everything moved, look at the encoder.",
                [Query(newest("plumbline_drift_unexplained_ratio", "kind"), kind)],
                unit="percentunit",
                most=1.0,
            ),
        ],
        [
            graph(
                "MMD^2",
                "Unbiased estimate of the squared distance between window and reference; 0 "
                "without drift, and below 0 by chance.",
                [Query(newest("plumbline_drift_mmd_squared", "kind"), kind)],
                unit="short",
                least=None,
            ),
            graph(
                "P-value of the last window",
                "Of its test alone, against the reference. Small ones are usual where topics "
                "wander: the control over time decides.",
                [Query(newest("plumbline_drift_p_value", "kind"), kind)],
                unit="short",
                most=1.0,
            ),
            graph(
                "Detectors",
                "Each detector's statistic in standard deviations of its permutations: which kind "
                "of change it is.",
                [
                    Query(
                        newest("plumbline_drift_detector_statistic", "kind", "detector"),
                        "{{detector}}, " + kind,
                    )
                ],
                unit="short",
                least=None,
            ),
        ],
        [
            graph(
                "Vectors compared",
                "Different vectors of the last window and of the reference that it is tested with.",
                [
                    Query(newest("plumbline_drift_window_vectors", "kind"), f"window, {kind}"),
                    Query(
                        newest("plumbline_drift_reference_vectors", "kind"), f"reference, {kind}"
                    ),
                    Query(
                        newest("plumbline_monitor_reference_vectors", "kind"),
                        f"reference in force, {kind}",
                    ),
                ],
                unit="short",
            ),
            graph(
                "What the windows hold",
                "Exact duplicates taken out of the window, as a share. Many: one text sent again "
                "and again.",
                [Query(newest("plumbline_drift_window_duplicate_ratio", "kind"), kind)],
                unit="percentunit",
                bounds=DUPLICATES,
            ),
            graph(
                "Components that vary",
                "In the reference. Fewer than the dimension: the model leaves some unused, and "
                "they are watched for coming alive.",
                [Query(newest("plumbline_drift_live_components", "kind"), kind)],
                unit="short",
            ),
        ],
        [
            table(
                "References in force",
                "What the drift test compares with, and what it last decided in the time shown. An "
                "old one where the content has changed for good, and one at a usual distance of "
                "ten standard deviations or more, hide changes: `plumbline monitor reference set "
                "--reason …` takes a new one.",
                [
                    Query(
                        "1000 * "
                        + newest("plumbline_monitor_reference_created_timestamp_seconds", "kind"),
                    ),
                    Query(latest("plumbline_drift_baseline_windows", "kind")),
                    Query(latest("plumbline_drift_baseline_trusted", "kind")),
                    Query(latest("plumbline_drift_alarm", "kind")),
                    Query(latest("plumbline_drift_baseline_statistic", "kind")),
                ],
                columns={
                    "version": "Version",
                    "kind": "Vectors of",
                    "Value #A": "Taken",
                    "Value #B": "Known-good windows",
                    "Value #C": "Enough to alarm",
                    "Value #D": "Alarm",
                    "Value #E": "Usual distance",
                },
                units={"Taken": "dateTimeFromNow"},
                mappings={
                    "Enough to alarm": {0: ("not yet", "orange"), 1: ("yes", "green")},
                    "Alarm": {0: ("no", "green"), 1: ("yes", "red")},
                },
                alert="PlumblineQueryDrift",
                width=24,
                height=6,
            )
        ],
    ]


def _ann() -> list[list[Panel]]:
    return [
        [
            graph(
                "Recall of the approximate index",
                "Share of the k best by exact search that it finds, with the upper confidence "
                "bound: below the objective, that is missed for sure.",
                [
                    Query(
                        newest("plumbline_ann_recall_ratio", "source"),
                        "{{source}} {{version}}",
                    ),
                    Query(
                        newest("plumbline_ann_recall_upper_bound_ratio", "source"),
                        "at most, {{source}} {{version}}",
                    ),
                    Query(newest("plumbline_ann_recall_objective_ratio"), "objective {{version}}"),
                ],
                unit="percentunit",
                most=1.0,
                alert="PlumblineAnnRecallLow",
            ),
            graph(
                "Time of a search",
                "By the probe, one after another: approximate as users have it, exact for "
                "comparison.",
                [
                    Query(
                        newest("plumbline_ann_search_median_seconds", "mode"),
                        "median, {{mode}} {{version}}",
                    ),
                    Query(
                        newest("plumbline_ann_search_p95_seconds", "mode"),
                        "p95, {{mode}} {{version}}",
                    ),
                ],
                unit="s",
            ),
            graph(
                "Graph",
                "Vectors that the graph holds, by the engine, and queries that the recall stands "
                "on. Indexing is 1 while the engine optimises: searches are exact and slow in "
                "what is not indexed yet.",
                [
                    Query(newest("plumbline_ann_indexed_vectors"), "in the graph {{version}}"),
                    Query(
                        newest("plumbline_ann_queries", "source"), "queries, {{source}} {{version}}"
                    ),
                    Query(newest("plumbline_ann_indexing_state"), "indexing {{version}}"),
                ],
                unit="short",
            ),
        ]
    ]


def _integrity() -> list[list[Panel]]:
    def counts(*names: tuple[str, str]) -> list[Query]:
        return [
            Query(newest(f"plumbline_integrity_{name}"), f"{words} {{{{version}}}}")
            for name, words in names
        ]

    return [
        [
            graph(
                "What the version holds",
                "Documents, tombstones of deleted ones, and points: chunks and tombstones.",
                counts(
                    ("documents", "documents"),
                    ("tombstones", "tombstones"),
                    ("points", "points"),
                ),
                unit="short",
            ),
            graph(
                "Damage that is counted",
                "All of them should stay at 0. Lost: gone without a deletion. Foreign: written "
                "under another fingerprint. Unknown: not written by Plumbline. Without vector: "
                "cannot be found.",
                counts(
                    ("lost_documents", "lost documents"),
                    ("foreign_points", "foreign points"),
                    ("unknown_points", "unknown points"),
                    ("vectorless_points", "without vector"),
                    ("tombstone_vectors", "deleted, still found"),
                    ("orphan_chunks", "orphan chunks"),
                ),
                unit="short",
                bounds=ZERO,
                alert="PlumblineIntegrityBroken",
            ),
            graph(
                "Damage in the sample",
                "Shares of the sampled points. Orphan chunks are swept by `plumbline index "
                "sweep`; missing ones need their documents again.",
                counts(
                    ("missing_chunk_ratio", "missing chunks"),
                    ("orphan_chunk_ratio", "orphan chunks"),
                    ("zero_vector_ratio", "zero vectors"),
                    ("duplicate_vector_ratio", "equal vectors"),
                ),
                unit="percentunit",
                alert="PlumblineIntegrityBroken",
            ),
        ],
        [
            graph(
                "Dimensions",
                "Used and unused by the sampled vectors. Revived ones the model never uses: they "
                "come from another encoder.",
                counts(
                    ("live_dimensions", "used"),
                    ("dead_dimensions", "unused"),
                    ("revived_dimensions", "revived"),
                ),
                unit="short",
                width=12,
            ),
            graph(
                "Points sampled",
                "Read with their vectors in the last run: what n points do not show is, with 95 % "
                "confidence, in less than 3 / n of all.",
                counts(("sampled_points", "sampled")),
                unit="short",
                width=12,
            ),
        ],
    ]


def _geometry() -> list[list[Panel]]:
    def of(name: str) -> list[Query]:
        return [Query(newest(f"plumbline_geometry_{name}"), "{{version}}")]

    return [
        [
            graph(
                "Mean cosine of pairs",
                "0: spread in all directions. Near 1: the space has collapsed to a point.",
                of("mean_pairwise_cosine"),
                unit="short",
                least=None,
                most=1.0,
            ),
            graph(
                "Effective rank",
                "Directions that the vectors really use. A fall without a new version: what is "
                "written has become uniform, or pooling has changed.",
                of("effective_rank"),
                unit="short",
            ),
            graph(
                "Uniformity",
                "In nats; lower is wider, 0 is all the same.",
                of("uniformity"),
                unit="short",
                least=None,
            ),
        ],
        [
            graph(
                "Alignment",
                "Mean squared distance of golden queries to their relevant documents; lower is "
                "closer. There when a golden set is.",
                of("alignment"),
                unit="short",
            ),
            graph(
                "Hubs",
                "Skewness of how often a vector is among the ten nearest of others. High: a few "
                "documents appear in many answers.",
                of("hubness_skewness"),
                unit="short",
                least=None,
            ),
            graph(
                "Never found",
                "Share of sampled vectors that are among the ten nearest of no other, and how "
                "many were sampled.",
                of("antihub_ratio"),
                unit="percentunit",
                most=1.0,
            ),
        ],
        [
            graph(
                "Vectors sampled",
                "Different vectors that the figures above stand on.",
                of("sampled_vectors"),
                unit="short",
                width=24,
                height=7,
            )
        ],
    ]


def _evidence() -> list[list[Panel]]:
    legend = "{{probe}} {{version}}"
    return [
        [
            graph(
                "Statistic",
                "What each probe's test measured, on the scale of the test.",
                [Query(newest("plumbline_probe_statistic", "probe"), legend)],
                unit="short",
                least=None,
            ),
            graph(
                "Effect, by probe",
                "Size of the change that each probe sees, in its own units.",
                [Query(newest("plumbline_probe_effect", "probe"), legend)],
                unit="short",
                least=None,
            ),
            graph(
                "Evidence",
                "E-value of each probe, gathered over runs, and p-value of the last run alone.",
                [
                    Query(newest("plumbline_probe_e_value", "probe"), f"e, {legend}"),
                    Query(newest("plumbline_probe_p_value", "probe"), f"p, {legend}"),
                ],
                unit="short",
                logarithmic=True,
            ),
        ],
        [
            graph(
                "Samples",
                "Sizes of the samples that decisions stand on. Small ones see only large changes.",
                [
                    Query(
                        newest("plumbline_probe_samples", "probe", "sample"),
                        "{{sample}}, " + legend,
                    )
                ],
                unit="short",
            ),
            graph(
                "Known-good runs",
                "What the control over time stands on. Few, after a new version, baseline or "
                "reference: it is slow to alarm then.",
                [Query(newest("plumbline_probe_baseline_runs", "probe"), legend)],
                unit="short",
            ),
            graph(
                "Time of a run",
                "Seconds of each probe's last run. Near its timeout_seconds: give it more, or a "
                "smaller sample.",
                [Query(newest("plumbline_probe_duration_seconds", "probe"), legend)],
                unit="s",
            ),
        ],
        [
            table(
                "Runs in the time shown, by how they went",
                "On live versions. Failed ones count by reason beside this. Switched: the alias "
                "moved meanwhile, and the result was dropped, as it must be.",
                [
                    Query(
                        counted(
                            "plumbline_probe_runs_total", "probe", "outcome", window="$__range"
                        ),
                    )
                ],
                columns={"probe": "Probe", "outcome": "Outcome", "Value": "Runs"},
            ),
            table(
                "Failures in the time shown, by reason",
                "docs/metrics.md says what each reason means and what to do.",
                [
                    Query(
                        counted(
                            "plumbline_probe_failures_total", "probe", "reason", window="$__range"
                        )
                        + " > 0",
                    )
                ],
                columns={"probe": "Probe", "reason": "Reason", "Value": "Runs"},
                missing="none",
                alert="PlumblineProbeFailing",
            ),
        ],
    ]
