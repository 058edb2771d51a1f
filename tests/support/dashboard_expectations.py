"""What each query of the dashboards must give in `tests.support.observed`.

One line a query: `place / part: labels`, all labels that its series have and no others, beside
`index`; with `index=` they have none, and with `...` more than these. `label=a|b` names values that
must be there; `>= n` what the value must have reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dashboards import LINKED
from monitors.probes import PROBES

__all__ = ["NEVER_HERE", "Carries", "expectations"]


@dataclass(frozen=True)
class Carries:
    """What the series of one query have.

    Parameters
    ----------
    labels
        Exactly these, or, with `more`, these at least.
    values
        Of labels, that must be among them.
    least
        That some series must have reached.
    """

    labels: frozenset[str]
    values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    least: float | None = None
    more: bool = False


NEVER_HERE = {
    "plumbline_data_loss_records_total": "retention would have to overtake the job",
    "plumbline_recreated_topics_total": "the topic would have to be deleted under the job",
    "plumbline_truncated_records_total": "a broker would have to lose what it acknowledged",
    "plumbline_future_events_total": "a producer's clock would have to be ahead",
    "plumbline_shadowed_events_total": "a producer's clock would have to be ahead",
}
"""Names without a series in this world, and why; where they stand, an answer needs none."""

_EVERY_PROBE = "|".join(sorted(PROBES))

_ANNOTATIONS = """
Promotion / annotation: rollout, live, candidate
Rollback / annotation: rollout, live, candidate
Live version / annotation: version
Reference / annotation: version, kind=documents
"""

_PANELS = {
    "plumbline-overview": """
Is search healthy? / A:
Is it fresh? / A:
Is it honest? / A:
Probes that are silent / A:
Recall lost since baseline / A: version
Approximate recall / A: version
Oldest event that waits / A:
Alerts that fire / A: index=, >= 1
What each probe says of the live version / A: probe=$every_probe
Alerts, firing and pending / A: alertname=PlumblineIntegrityBroken, alertstate, severity, ...
Time until searchable / A:
Time until searchable / B:
Does search find what it should? / A: k=10
Does search find what it should? / B:
Events by what became of them / A: $outcomes
Which index is unwell? / A: version
Which index is unwell? / B: version
Which index is unwell? / C: version
Versions and their roles / A: version, role=live
Versions and their roles / B: version, role=live
Live since / A: version
Newest event in the index / A: version
Monitors that lead / A: >= 1
Monitor's store answers / A: >= 1
Qdrant answers / A: >= 1
Age of the monitor's figures / A:
Processes that answer to Prometheus / A: index=, job=plumbline-ingest|plumbline-monitor, instance
Can each version be read? / A: version
Can each version be read? / B: version
Releases / A: release, instance
Runs of the probes / A: version, probe=$every_probe
Runs of the probes / B: version, probe=$every_probe
Runs of the probes / C: version, probe=$every_probe
""",
    "plumbline-ingest": """
Events consumed / A:
Records not read yet / A:
Time until searchable, p99 / A:
Dead letters in the last hour / A: >= 1
Events by what became of them / A: $outcomes
Time until searchable / A:
Time until searchable / B:
Records not read yet, by topic / A: topic
Events in flight / A:
Dead letters by reason / A: reason=not_json
Offsets committed / A: topic
Commits that failed / A:
Records lost unread / A:
Topics re-created / A:
Worst canary of the workers / A:
Records that vanished / A:
Events from the future / A:
Events that lost to the future / A:
Time of a batch, p95 / A:
Time of a batch, p95 / B:
Share of the time / A:
Share of the time / B:
Size of a batch / A:
Size of a batch / B:
Tokens encoded / A:
Tokens encoded / B:
Requests repeated, by service / A: service=qdrant
Texts cut off / A:
Longest wait, by partition / A: version, topic, partition=0|1
Records not committed, by partition / A: version, topic, partition=0|1
Stalled partitions and expired records / A: version
Stalled partitions and expired records / B: version
Kafka does not answer / A:
Records read, by topic / A: topic
Encoders of the workers / A: instance, version, fingerprint, model, device=cpu, dtype=float32
Canaries by worker / A: instance, kind=document|query
Workers that answer / A: >= 1
Memory of each worker / A: instance
Processors used by each worker / A: instance
""",
    "plumbline-quality": """
Recall lost since baseline / A: version
Worst canary / A: version
Foreign vectors found / A: version
Evidence of drift / A: version
What each probe says / A: version, probe=$every_probe
Why they say so / A: version, probe=$every_probe, reason
Why they say so / B: version, probe=$every_probe
Why they say so / C: version, probe=$every_probe
Recall of the golden queries / A: version, k=10, documents=all|baseline
Order of the hits / A: version, k=10, documents=all|baseline
Order of the hits / B: version, k=10, documents=all|baseline
Loss and change since the baseline / A: version
Loss and change since the baseline / B: version
Queries and judged documents / A: version
Queries and judged documents / B: version, state=present|deleted|gone
Canaries by encoder / A: version, role=document|query
Canaries by encoder / B: version, role=document|query
Length of the canaries' vectors / A: version, role=document|query
Workers by their last report / A: version, state=ok|warning|refusal|gone
Documents with foreign vectors / A: version
Distance of stored vectors / A: version, percentile=50|99|100
Documents sampled / A: version
Evidence of drift over time / A: version, kind=documents
Effect / A: version, kind=documents
Share unlike anything known / A: version, kind=documents
MMD^2 / A: version, kind=documents
P-value of the last window / A: version, kind=documents
Detectors / A: version, kind=documents, detector
Vectors compared / A: version, kind=documents
Vectors compared / B: version, kind=documents
Vectors compared / C: version, kind=documents
What the windows hold / A: version, kind=documents
Components that vary / A: version, kind=documents
References in force / A: version, kind=documents
References in force / B: version, kind=documents
References in force / C: version, kind=documents
References in force / D: version, kind=documents
References in force / E: version, kind=documents
Recall of the approximate index / A: version, source=stored|golden
Recall of the approximate index / B: version, source=stored|golden
Recall of the approximate index / C: version
Time of a search / A: version, mode=approximate|exact
Time of a search / B: version, mode=approximate|exact
Graph / A: version
Graph / B: version, source=stored|golden
Graph / C: version
What the version holds / A: version
What the version holds / B: version
What the version holds / C: version
Damage that is counted / A: version
Damage that is counted / B: version
Damage that is counted / C: version
Damage that is counted / D: version
Damage that is counted / E: version
Damage that is counted / F: version
Damage in the sample / A: version
Damage in the sample / B: version
Damage in the sample / C: version
Damage in the sample / D: version
Dimensions / A: version
Dimensions / B: version
Dimensions / C: version
Points sampled / A: version
Mean cosine of pairs / A: version
Effective rank / A: version
Uniformity / A: version
Alignment / A: version
Hubs / A: version
Never found / A: version
Vectors sampled / A: version
Statistic / A: version, probe=drift|fidelity|ann
Effect, by probe / A: version, probe=drift|fidelity|ann
Evidence / A: version, probe=drift
Evidence / B: version, probe=drift
Samples / A: version, probe=drift|fidelity|ann, sample=current
Known-good runs / A: version, probe=drift
Time of a run / A: version, probe=$every_probe
Runs in the time shown, by how they went / A: probe=$every_probe, outcome=completed|failed
Failures in the time shown, by reason / A: probe, reason=unavailable
""",
    "plumbline-rollout": """
State / A: state=building|verifying|soaking|rolled_back
In this state for / A:
Backfill done / A:
Backfill ends in / A:
States over time / A: state=$states
Which versions / A: rollout, live, candidate
Which versions / B: rollout, live, candidate
Golden gate / A: outcome
Queries compared / A:
Forced past the gate / A: >= 1
Steps begun and not ended / A: action=promote
Change of recall by the gate / A:
Change of recall by the gate / B:
Change of recall by the gate / C:
Change of recall by the gate / D:
Recall of the golden queries, side by side / A: version, k=10
What the probes say of each version / A: version, role=live|candidate|previous, probe=$every_probe
Roles / A: version, role=live
Roles / B: version, role=live
Records not committed / A: version
Oldest event that waits / A: version
Canaries of each version / A: version
Time until searchable, from the index / A: version
Time until searchable, from the index / B: version
Time of a search, side by side / A: version
Documents by what became of them / A: version, outcome=embedded|tombstones
Tokens encoded / A: version
What is left / A: version
What is left / B: version
Time left / A: version
Time left / B:
Room made for live events / A: version
Room made for live events / B: version
Tokens done and in all / A: kind=done|total
Time to encode a batch, mean / A:
Memory of the build / A: instance
Rolled back by itself / A:
Rollouts that are over / A: state=rolled_back
""",
    "plumbline-service-levels": """
Freshness budget left, 30d / A:
Freshness missed, last hour / A:
Recall budget left, 30d / A:
Recall missed, last hour / A:
Budgets over time / A:
Budgets over time / B:
Time until searchable / A:
Time until searchable / B:
Late events, by window / A:
Late events, by window / B:
Late events, by window / C:
Late events, by window / D:
Late events, by window / E:
Late events, by window / F:
Late events, by window / G:
Time below the recall objective, by window / A:
Time below the recall objective, by window / B:
Time below the recall objective, by window / C:
Time below the recall objective, by window / D:
Time below the recall objective, by window / E:
Time below the recall objective, by window / F:
Time below the recall objective, by window / G:
Time until searchable, all events / A: le=300.0|+Inf
Recall against its objective / A: version, source=stored|golden
Recall against its objective / B: version, source=stored|golden
Recall against its objective / C: version
Which version was live / A: version
Age of the recall's measurement / A: version
Age of the recall's measurement / B:
""",
}

_SHORT = {
    "$every_probe": _EVERY_PROBE,
    "$outcomes": "outcome=embedded|payload_only|unchanged|deleted|stale|dead_lettered",
    "$states": "planned|building|verifying|ready|soaking|completed|rolled_back|failed|aborted",
}


def expectations() -> dict[str, Carries]:
    """By the query's name; those of annotations hold in every dashboard."""
    found = {}
    for uid in LINKED:
        for line in (_PANELS[uid] + _ANNOTATIONS).splitlines():
            place, colon, text = line.rpartition(":")
            if colon:
                found[f"{uid} / {place}"] = _carries(text)
    return found


def _carries(text: str) -> Carries:
    for name, long in _SHORT.items():
        text = text.replace(name, long)
    labels, values, least, more = {"index"}, {}, None, False
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, equals, listed = part.partition("=")
        if part.startswith(">= "):
            least = float(part[3:])
        elif part == "...":
            more = True
        elif equals and not listed:
            labels.discard(name)
        else:
            labels.add(name)
            if listed:
                values[name] = frozenset(listed.split("|"))
    return Carries(frozenset(labels), values, least, more)
