"""What those who search meet: wrong vectors, lost documents, lost recall, another kind of text."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.alerting.objectives import Burn, Objectives
from deploy.alerting.promql import current, live, window
from deploy.alerting.recording import burn_name
from deploy.alerting.rule import Alert
from deploy.alerting.words import figure, reason

__all__ = ["search_alerts"]


def search_alerts(objectives: Objectives) -> list[Alert]:
    """All of them."""
    return [
        *_canary(objectives),
        _fidelity(),
        _integrity(),
        _golden(),
        _ann(),
        *_recall_burns(objectives),
        _unreadable(),
        _qdrant(objectives),
        *_drift(objectives),
    ]


def _alarm(probe: str) -> str:
    return f'plumbline:probe_alarm:live{{probe="{probe}"}} == 1'


def _canary(objectives: Objectives) -> Iterator[Alert]:
    refusing = current(
        'plumbline_canary_workers{state="refusal"}', "version", objectives=objectives
    )
    hold = window(objectives.monitor_hold, objectives)
    words = "The fixed texts no longer get the vectors that are stored with {{ $labels.version }}"
    yield Alert(
        "PlumblineCanaryMismatch",
        f"({_alarm('canary')} and on (index, version) {refusing} > 0)\n"
        f"or\n"
        # Somebody starts the job again: the alert stays until it is there, so that its absence is
        # not told in between.
        f"(\n"
        f'  plumbline:probe_alarm:live{{probe="canary"}}\n'
        f"  and on (index, version) max by (index, version) (\n"
        f'    max_over_time(plumbline_canary_workers{{state="refusal"}}{hold})\n'
        f"  ) > 0\n"
        f'  unless on (index) up{{job="{objectives.scraping.jobs.ingest}"}} == 1\n'
        f")",
        "{{ $labels.index }}: a worker's encoder gives other vectors",
        f"{words}. Workers that refuse to write: "
        + figure("plumbline_canary_workers", "count", state="refusal")
        + "; the greatest distance that one reports is "
        + figure("plumbline_canary_worker_distance")
        + f" (allowed is 0.001). Reason: {reason('canary')}. A worker that refuses ends its job: "
        "look at that host's model files, libraries, dtype and device before you start it again.",
        "search",
        "plumbline-quality",
        {"encoder": "worker"},
    )
    yield Alert(
        "PlumblineCanaryMismatch",
        f"({_alarm('canary')})\nunless on (index, version) {refusing} > 0",
        "{{ $labels.index }}: the monitor's encoder gives other vectors",
        f"{words}: the monitor's own encoder is "
        + figure("plumbline_canary_encoder_distance")
        + f" away (allowed is 0.001). Reason: {reason('canary')}. If searches are encoded as the "
        "monitor encodes, they meet vectors of another model: compare the releases of torch and "
        "transformers, dtype and model files with those of the job.",
        "search",
        "plumbline-quality",
        {"encoder": "monitor"},
    )


def _fidelity() -> Alert:
    return Alert(
        "PlumblineFidelityBroken",
        _alarm("fidelity"),
        "{{ $labels.index }}: stored vectors are not those of their texts",
        figure("plumbline_fidelity_mismatch_ratio", "share")
        + " of the sampled documents of {{ $labels.version }} have vectors that the contract does "
        "not give for their text, up to "
        + figure("plumbline_fidelity_distance", percentile="100")
        + " away. Two models, prompts or chunkers have written into one version: find who wrote "
        "these documents, then write them again.",
        "search",
        "plumbline-quality",
    )


def _integrity() -> Alert:
    return Alert(
        "PlumblineIntegrityBroken",
        _alarm("integrity"),
        "{{ $labels.index }}: the version is not what it claims to be",
        f"Integrity of {{{{ $labels.version }}}}: {reason('integrity')}. Documents lost without a "
        "deletion: "
        + figure("plumbline_integrity_lost_documents", "count")
        + ", points of another contract: "
        + figure("plumbline_integrity_foreign_points", "count")
        + ", chunks without a vector: "
        + figure("plumbline_integrity_vectorless_points", "count")
        + ".",
        "search",
        "plumbline-quality",
    )


def _golden() -> Alert:
    return Alert(
        "PlumblineGoldenRecallLost",
        _alarm("golden"),
        "{{ $labels.index }}: search no longer finds the judged documents",
        "Recall of the golden queries on {{ $labels.version }} is "
        + figure("plumbline_golden_recall_ratio", documents="baseline")
        + ", lost since the baseline are "
        + figure("plumbline_golden_recall_loss_ratio")
        + f", over the same documents. Reason: {reason('golden')}. Look at canary, fidelity, "
        "integrity and ann first: they say why.",
        "search",
        "plumbline-quality",
    )


def _ann() -> Alert:
    return Alert(
        "PlumblineAnnRecallLow",
        _alarm("ann"),
        "{{ $labels.index }}: the approximate search misses its objective",
        "At most "
        + figure("plumbline_ann_recall_upper_bound_ratio", "share")
        + " of what exact search finds on {{ $labels.version }} is found, with 99 % confidence; "
        "the objective is "
        + figure("plumbline_ann_recall_objective_ratio", "share")
        + ". Raise `ef`, or build the graph with a larger `m` and `ef_construct`.",
        "search",
        "plumbline-quality",
    )


def _burning(objective: str, burns: tuple[Burn, ...], ratio: float) -> str:
    pairs = []
    for burn in burns:
        bound = f"{burn.rate * (1 - ratio):.6g}"
        long, short = burn_name(objective, burn.long), burn_name(objective, burn.short)
        pairs.append(f"({long} > {bound} and on (index) {short} > {bound})")
    return "\nor\n".join(pairs)


def _recall_burns(objectives: Objectives) -> Iterator[Alert]:
    rates, ratio = objectives.burn_rates, objectives.recall.ratio
    for kind, burns in (("Fast", rates.fast), ("Slow", rates.slow)):
        yield Alert(
            f"PlumblineRecallBudgetBurn{kind}",
            _burning("recall", burns, ratio),
            f"{{{{ $labels.index }}}}: the error budget of recall burns {kind.lower()}",
            "Search was below its recall for {{ $value | humanizePercentage }} of the window; "
            f"over 30 days it may be for {100 * (1 - ratio):.4g}%. Of that budget "
            + figure(
                "plumbline:recall_error_budget_remaining:ratio_30d",
                "share",
                of="index",
            )
            + " is left. The golden and the ann probe say what is lost.",
            "search",
            "plumbline-service-levels",
        )


def _unreadable() -> Alert:
    # The version is empty where there is no alias, so no role tells whether it is live.
    return Alert(
        "PlumblineVersionUnreadable",
        "max by (index, version) (plumbline_monitor_version_readable) == 0\n"
        "unless on (index, version) plumbline:other_version",
        "{{ $labels.index }}: the live version cannot be read",
        "{{ if $labels.version }}The contract of {{ $labels.version }} cannot be read{{ else }}"
        "No alias of that name, or none that leads to a version{{ end }}: no search is answered by "
        "a process that starts now, and no probe runs. The monitor's log and /readyz say why.",
        "search",
        "plumbline-overview",
    )


def _qdrant(objectives: Objectives) -> Alert:
    up = current("plumbline_monitor_qdrant_up", objectives=objectives)
    return Alert(
        "PlumblineQdrantUnreachable",
        f"{up} == 0",
        "{{ $labels.index }}: Qdrant does not answer",
        "The monitor gets no answer from Qdrant when it asks where {{ $labels.index }} points: "
        "searches fail, and the ingest job waits with nothing committed.",
        "search",
        "plumbline-overview",
    )


def _drift(objectives: Objectives) -> Iterator[Alert]:
    queries, documents = (
        f'plumbline_drift_alarm{{kind="{kind}"}}' for kind in ("queries", "documents")
    )
    of_queries = (
        f"{current(queries, 'version', objectives=objectives)} == 1\n"
        f"  unless on (index, version) {current(documents, 'version', objectives=objectives)} == 1"
    )
    yield Alert(
        "PlumblineDrift",
        f"({_alarm('drift')})\nunless on (index, version) (\n  {of_queries}\n)",
        "{{ $labels.index }}: what is written has changed",
        f"New vectors of {{{{ $labels.version }}}} are unlike the reference: {reason('drift')}. "
        "The effect is "
        + figure("plumbline_drift_effect_spreads", within="2d", kind="documents")
        + " spreads of the known-good windows, the evidence "
        + figure("plumbline_drift_e_value", "count", within="2d", kind="documents")
        + ". `plumbline monitor history --probe drift` names documents and clusters.",
        "search",
        "plumbline-quality",
    )
    yield Alert(
        "PlumblineQueryDrift",
        live(f"(\n{of_queries}\n)"),
        "{{ $labels.index }}: people ask other questions",
        "Recorded queries of {{ $labels.version }} are unlike the reference. The effect is "
        + figure("plumbline_drift_effect_spreads", within="2d", kind="queries")
        + " spreads of the known-good windows, the evidence "
        + figure("plumbline_drift_e_value", "count", within="2d", kind="queries")
        + ". The golden set may no longer ask what users ask.",
        "search",
        "plumbline-quality",
    )
