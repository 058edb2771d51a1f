"""From the topic to the index: late, stuck, lost, refused."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.alerting.durations import format_duration
from deploy.alerting.objectives import Burn, Objectives, Recent
from deploy.alerting.promql import current, grown, live, of_live_jobs, window
from deploy.alerting.recording import burn_name
from deploy.alerting.rule import Alert
from deploy.alerting.words import figure

__all__ = ["ingest_alerts"]


def ingest_alerts(objectives: Objectives) -> list[Alert]:
    """All of them."""
    return [
        *_freshness_burns(objectives),
        _silent(objectives),
        _down(objectives),
        _stalled(objectives),
        _dead_letters(objectives),
        _lost(objectives),
        _recreated(objectives),
        _truncated(objectives),
        _ahead(objectives),
        _commits(objectives),
    ]


def _selected(metric: str, objectives: Objectives) -> str:
    return f'{metric}{{job="{objectives.scraping.jobs.ingest}"}}'


def _freshness_burns(objectives: Objectives) -> Iterator[Alert]:
    rates, freshness = objectives.burn_rates, objectives.freshness
    for kind, burns in (("Fast", rates.fast), ("Slow", rates.slow)):
        pairs = "\nor\n".join(_burning(objectives, burn) for burn in burns)
        yield Alert(
            f"PlumblineFreshnessBudgetBurn{kind}",
            pairs,
            f"{{{{ $labels.index }}}}: the error budget of freshness burns {kind.lower()}",
            "{{ $value | humanizePercentage }} of the events took longer than "
            f"{format_duration(freshness.within_seconds)} to become searchable; "
            f"{100 * (1 - freshness.ratio):.4g}% may. The oldest that waits now has waited for "
            + figure("plumbline:oldest_unprocessed_seconds:live", "time", of="index")
            + ", and of the budget of 30 days "
            + figure(
                "plumbline:freshness_error_budget_remaining:ratio_30d",
                "share",
                of="index",
            )
            + " is left.",
            "ingest",
            "plumbline-service-levels",
        )


def _burning(objectives: Objectives, burn: Burn) -> str:
    freshness = objectives.freshness
    bound = f"{burn.rate * (1 - freshness.ratio):.6g}"
    long, short = (burn_name("freshness", part) for part in (burn.long, burn.short))
    span = window(burn.long, objectives)
    interval = objectives.scraping.evaluation_interval
    return (
        f"(\n"
        f"  {long} > {bound}\n"
        f"  and on (index) {short} > {bound}\n"
        # Of three events one is a third.
        f"  and on (index)\n"
        f"  sum_over_time(plumbline:late_events:rate5m{span}) * {interval:g}"
        f" >= {freshness.minimum_events}\n"
        # By the stamp of an event; the monitor knows how long it has really waited. A replay or an
        # import of old events is late by its stamps alone.
        f"  unless on (index)\n"
        f"  max_over_time(plumbline:oldest_unprocessed_seconds:live{span})"
        f" < {freshness.within_seconds:g}\n"
        f")"
    )


def _silent(objectives: Objectives) -> Alert:
    objective = objectives.alerts.PlumblineBrokerSilent
    silence = _selected("plumbline_kafka_silence_seconds", objectives)
    retries = f'plumbline_retries_total{{job="{objectives.scraping.jobs.ingest}", service="kafka"}}'
    span = window(objective.window, objectives)
    hold = window(objectives.monitor_hold, objectives)
    return Alert(
        "PlumblineBrokerSilent",
        f"max by (index) ({silence}) > {objective.silence_seconds:g}\n"
        f"or\n"
        # It answers again, and the freshness probe has not asked since: its failure is not news.
        f"max by (index) (max_over_time({silence}{hold})) > {objective.silence_seconds:g}\n"
        f'and on (index) max by (index) (plumbline_probe_failing{{probe="freshness"}}) == 1\n'
        f"or\n"
        f"sum by (index) (increase({retries}{span})) > {objective.retries}",
        "{{ $labels.index }}: Kafka does not answer the ingest job",
        "The job waits for a broker that has said nothing for "
        + figure("plumbline_kafka_silence_seconds", "time", of="index")
        + ", or repeats its requests to it again and again. Events wait in the topic, nothing is "
        "lost; after `kafka.outage_timeout_seconds` the job ends and has to be started again.",
        "ingest",
        "plumbline-ingest",
    )


def _down(objectives: Objectives) -> Alert:
    jobs = objectives.scraping.jobs
    return Alert(
        "PlumblineIngestDown",
        # Known from the monitor, or because a job of it was there within the day.
        f"(\n"
        f"  max by (index) (plumbline_monitor_info)\n"
        f'  or max by (index) (last_over_time(up{{job="{jobs.ingest}"}}[1d]))\n'
        f")\n"
        f'unless on (index) (up{{job="{jobs.ingest}"}} == 1)',
        "{{ $labels.index }}: no ingest job runs",
        "Nothing that writes {{ $labels.index }} can be scraped: events wait in the topic. Its log "
        "says why it ended; nothing is committed that is not written, so it can be started again.",
        "ingest",
        "plumbline-ingest",
    )


def _stalled(objectives: Objectives) -> Alert:
    stalled = current("plumbline_freshness_stalled_partitions", "version", objectives=objectives)
    span = window(300.0, objectives)
    lag = of_live_jobs(_selected("plumbline_consumer_lag_records", objectives))
    consumed = of_live_jobs(
        f"rate({_selected('plumbline_consumed_events_total', objectives)}{span})"
    )
    return Alert(
        "PlumblineIngestStalled",
        # What the monitor sees from outside, or, without it, what the job says of itself.
        f"max by (index) (\n"
        f"  {live(stalled)}\n"
        f") > 0\n"
        f"or\n"
        f"(\n"
        f"  sum by (index) (\n  {lag}\n  ) > 0\n"
        f"  unless on (index) sum by (index) (\n  {consumed}\n  ) > 0\n"
        f")",
        "{{ $labels.index }}: events wait and nothing is committed",
        "Partitions whose committed offset stands still while events in them are older than the "
        "objective: "
        + figure("plumbline_freshness_stalled_partitions", "count", of="index")
        + ". The oldest event has waited for: "
        + figure("plumbline:oldest_unprocessed_seconds:live", "time", of="index")
        + ". Records that wait: "
        + figure("plumbline_freshness_lag_records", "count", of="index")
        + ". Look at the job's log.",
        "ingest",
        "plumbline-ingest",
    )


def _dead_letters(objectives: Objectives) -> Alert:
    objective = objectives.alerts.PlumblineDeadLettersGrowing
    letters, consumed = (
        grown(_selected(name, objectives), objective.window, objectives)
        for name in ("plumbline_dead_letters_total", "plumbline_consumed_events_total")
    )
    return Alert(
        "PlumblineDeadLettersGrowing",
        f"{letters}\n/ on (index) (\n{consumed} > 0\n)\n> {objective.ratio:g}\n"
        f"and on (index) {letters} >= {objective.events}",
        "{{ $labels.index }}: many events cannot be applied",
        "{{ $value | humanizePercentage }} of the events of the last "
        f"{format_duration(objective.window)} became dead letters; "
        f"{100 * objective.ratio:.4g}% is tolerated. `plumbline dead-letters list --count` names "
        "the reasons; what was refused is kept, and can be replayed once it is mended.",
        "ingest",
        "plumbline-ingest",
    )


def _recent(objectives: Objectives, metric: str, objective: Recent, by: str = "index") -> str:
    return f"{grown(_selected(metric, objectives), objective.window, objectives, by=by)} > 0"


def _lost(objectives: Objectives) -> Alert:
    objective = objectives.alerts.PlumblineDataLoss
    counted = _recent(objectives, "plumbline_data_loss_records_total", objective)
    expired = current("plumbline_freshness_expired_records", "version", objectives=objectives)
    return Alert(
        "PlumblineDataLoss",
        # The monitor sees it where the job, as `kafka.on_data_loss: stop` says, has ended.
        f"max by (index) (\n  {live(expired)}\n) > 0\nor\n{counted}",
        "{{ $labels.index }}: the topic dropped events before they were read",
        'About {{ $value | printf "%.0f" }} records left the topic by its retention before they '
        "were read: they are in no version. Publish these documents again, or build the version "
        "anew.",
        "ingest",
        "plumbline-ingest",
    )


def _recreated(objectives: Objectives) -> Alert:
    objective = objectives.alerts.PlumblineTopicRecreated
    return Alert(
        "PlumblineTopicRecreated",
        _recent(objectives, "plumbline_recreated_topics_total", objective, by="index, topic"),
        "{{ $labels.index }}: the topic {{ $labels.topic }} was made anew",
        "The job found another topic under the name {{ $labels.topic }} and reads it from its "
        "beginning. Documents that are not in it stay in the index: if they are to go, build the "
        "version anew.",
        "ingest",
        "plumbline-ingest",
    )


def _truncated(objectives: Objectives) -> Alert:
    objective = objectives.alerts.PlumblineLogTruncated
    return Alert(
        "PlumblineLogTruncated",
        _recent(objectives, "plumbline_truncated_records_total", objective, by="index, topic"),
        "{{ $labels.index }}: the topic {{ $labels.topic }} has lost acknowledged records",
        'About {{ $value | printf "%.0f" }} records that the job had read are gone from '
        "{{ $labels.topic }}: a broker without them leads now. The job has gone back to where the "
        "logs part and reads on from there. What the lost records said stays in the index until a "
        "newer event; what nobody had read yet is lost with no trace here: have the producers send "
        "it again.",
        "ingest",
        "plumbline-ingest",
    )


def _ahead(objectives: Objectives) -> Alert:
    objective = objectives.alerts.PlumblineClockAhead
    future, shadowed = (
        _recent(objectives, f"plumbline_{name}_events_total", objective, by="index, topic")
        for name in ("future", "shadowed")
    )
    return Alert(
        "PlumblineClockAhead",
        f"{future}\nor\n{shadowed}",
        "{{ $labels.index }}: events of {{ $labels.topic }} are stamped in the future",
        '{{ $value | printf "%.0f" }} events of {{ $labels.topic }} within '
        f"{format_duration(objective.window)} are stamped ahead of the job's clock, or lost to a "
        "stored state that is. Until its time has come such a state stays the newest of its "
        "document, and what is sent in the meantime is left out. Set the clock of the producer, or "
        "of the job's machine, right.",
        "ingest",
        "plumbline-ingest",
    )


def _commits(objectives: Objectives) -> Alert:
    objective = objectives.alerts.PlumblineCommitFailing
    return Alert(
        "PlumblineCommitFailing",
        _recent(objectives, "plumbline_commit_failures_total", objective),
        "{{ $labels.index }}: offsets cannot be committed",
        f"Commits that failed within {format_duration(objective.window)}: "
        '{{ $value | printf "%.0f" }}. What is written stays right; after a restart it is '
        "read and recognised once more. The job's log has the broker's answer.",
        "ingest",
        "plumbline-ingest",
    )
