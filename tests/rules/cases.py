"""One damage for each alert: when its condition begins to hold, and what the alert then says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.rules.world import FOREVER, INDEX, LIVE, OTHER, World, after, version

__all__ = ["CASES", "Case"]

T = 600.0
"""When the damage begins, seconds."""

SEARCHABLE = "plumbline_event_to_searchable_seconds_bucket"


@dataclass(frozen=True)
class Case:
    """A damage.

    Parameters
    ----------
    what
        Sets it apart from others of the same alert.
    change
        Does it to a healthy world with two replicas of the monitor.
    labels
        Of the alert, beside those that are static.
    true_at
        When the condition holds for the first time, seconds.
    """

    alert: str
    what: str
    change: Callable[[World], None]
    labels: Mapping[str, str]
    true_at: float = T
    minutes: float = 40
    static: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In the list of words, and of the test."""
        return f"{self.alert}, {self.what}" if self.what else self.alert


LIVE_LABELS = {"index": INDEX, "version": LIVE}


def _alarm(probe: str, reason: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.probe("alarm", after(T, 1), probe)
        for target in world.monitors:
            target.drop("plumbline_probe_reason", probe=probe, version=LIVE)
        world.probe("reason", 1, probe, reason=reason)

    return change


def _worker(world: World) -> None:
    _alarm("canary", "worker_changed")(world)
    world.figure("canary_workers", after(T, 1), state="refusal")
    world.figure("canary_worker_distance", after(T, 0.31), role="document")


def _monitors_encoder(world: World) -> None:
    _alarm("canary", "encoder_changed")(world)
    world.figure("canary_encoder_distance", after(T, 0.02), role="document")


def _fidelity(world: World) -> None:
    _alarm("fidelity", "mismatch")(world)
    world.figure("fidelity_mismatch_ratio", after(T, 0.055))
    world.figure("fidelity_distance", after(T, 0.4), percentile="100")


def _integrity(world: World) -> None:
    _alarm("integrity", "lost_documents")(world)
    world.figure("integrity_lost_documents", after(T, 20))


def _golden(world: World) -> None:
    _alarm("golden", "recall_lost")(world)
    world.figure("golden_recall_ratio", after(T, 0.76, 0.8), k="10", documents="baseline")
    world.figure("golden_recall_loss_ratio", after(T, 0.04))


def _ann(world: World) -> None:
    _alarm("ann", "recall_low")(world)
    world.figure("ann_recall_upper_bound_ratio", after(T, 0.91, 0.99), source="stored")


def _late(world: World) -> None:
    job = world["ingest"]
    for selector in [one for one in job.series if one.startswith(SEARCHABLE) and "Inf" not in one]:
        if float(selector.partition('le="')[2].partition('"')[0]) <= 300:
            job.series[selector] = lambda at: 1e6 + 2.0 * min(at, T)
    world.figure("freshness_oldest_unprocessed_seconds", after(T, 420, 2))


def _unreadable(world: World) -> None:
    for target in world.monitors:
        target.gauge("plumbline_monitor_version_readable", after(T, 0, 1), **LIVE_LABELS)


def _no_alias(world: World) -> None:
    for target in world.monitors:
        for selector in [one for one in target.series if LIVE in one]:
            target.series[selector] = _until(T, target.series[selector])
        target.gauge(
            "plumbline_monitor_version_readable", after(T, 0, None), index=INDEX, version=""
        )


def _until(moment: float, value: object) -> Callable[[float], float | None]:
    def found(at: float) -> float | None:
        if at >= moment:
            return None
        return value(at) if callable(value) else value  # type: ignore[return-value]

    return found


def _qdrant(world: World) -> None:
    world["monitor"].gauge("plumbline_monitor_qdrant_up", after(T, 0, 1), index=INDEX)


def _drift(kind: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        _alarm("drift", "drifted")(world)
        world.figure("drift_alarm", after(T, 1), kind=kind)
        world.figure("drift_effect_spreads", after(T, 6.4), kind=kind)
        world.figure("drift_e_value", after(T, 2500), kind=kind)

    return change


def _silent(world: World) -> None:
    world["ingest"].gauge("plumbline_kafka_silence_seconds", after(T, 45, 0.2))


def _retries(world: World) -> None:
    world["ingest"].gauge(
        "plumbline_retries_total", lambda at: 7 + max(0.0, at - T) / 10, service="kafka"
    )


def _down(world: World) -> None:
    world["ingest"].down = [(T, FOREVER)]


def _no_target(world: World) -> None:
    world["ingest"].gone = [(T, FOREVER)]


def _stalled(world: World) -> None:
    _alarm("freshness", "stalled")(world)
    world.figure("freshness_stalled_partitions", after(T, 2))
    world.figure("freshness_oldest_unprocessed_seconds", after(T, 420, 2))
    world.figure("freshness_lag_records", after(T, 1234, 5))


def _reads_nothing(world: World) -> None:
    for target in list(world.targets):
        if target.startswith("monitor"):
            del world.targets[target]
    job = world["ingest"]
    job.gauge("plumbline_consumed_events_total", lambda at: 1e6 + 2 * min(at, T), topic="documents")
    job.gauge("plumbline_consumer_lag_records", after(T, 500), topic="documents", partition="0")


def _letters(world: World) -> None:
    world["ingest"].gauge(
        "plumbline_dead_letters_total",
        lambda at: 1000 + (at if at < T else T + 100 * (at - T)) / 1000,
        reason="not_json",
    )


def _lost(world: World) -> None:
    world["ingest"].gauge(
        "plumbline_data_loss_records_total", after(T, 350, 100), topic="documents"
    )


def _lost_first(world: World) -> None:
    world["ingest"].gauge("plumbline_data_loss_records_total", after(2 * T, 40, None), topic="news")


def _expired(world: World) -> None:
    _alarm("freshness", "expired")(world)
    world.figure("freshness_expired_records", after(T, 40))


def _recreated(world: World) -> None:
    world["ingest"].gauge("plumbline_recreated_topics_total", after(T, 2, 1), topic="documents")


def _log_truncated(world: World) -> None:
    world["ingest"].gauge("plumbline_truncated_records_total", after(T, 25, 5), topic="documents")


def _future(world: World) -> None:
    world["ingest"].gauge("plumbline_future_events_total", after(T, 12, 9), topic="documents")


def _shadowed(world: World) -> None:
    world["ingest"].gauge("plumbline_shadowed_events_total", after(T, 4, 2), topic="documents")


def _commits(world: World) -> None:
    world["ingest"].gauge("plumbline_commit_failures_total", after(T, 4, 3))


def _monitors_down(world: World) -> None:
    for target in world.monitors:
        target.down = [(T, FOREVER)]


def _never_a_monitor(world: World) -> None:
    for target in world.monitors:
        target.down = [(0, FOREVER)]


def _no_leader(world: World) -> None:
    for target in world.monitors:
        target.gauge(
            "plumbline_monitor_leader", after(T, 0, float(target is world["monitor"])), index=INDEX
        )


def _store(world: World) -> None:
    for target in world.monitors:
        target.gauge("plumbline_monitor_store_up", after(T, 0, 1), index=INDEX)


def _probe_hangs(world: World) -> None:
    world.probe("last_run_timestamp_seconds", lambda at: min(300.0 * (at // 300), T), "canary")


def _never_ran(world: World) -> None:
    for target in world.monitors:
        target.drop("plumbline_probe_last_run_timestamp_seconds", probe="canary")
        target.gauge("plumbline_monitor_version_since_timestamp_seconds", T, **LIVE_LABELS)


def _fails(world: World) -> None:
    world.probe("failing", after(T, 1), "canary")
    world.probe("last_success_timestamp_seconds", lambda at: min(300.0 * (at // 300), T), "canary")


def _failed(world: World) -> None:
    world.state("completed", -1e6)
    for state in ("completed", "failed"):
        now = float(state == "failed")
        world.rollout("state", after(T, now, 1 - now), state=state)


def _no_progress(world: World) -> None:
    world.state("building", T - 3600)
    world.rollout("tokens", 1000, kind="done")


def _waits(world: World) -> None:
    world.state("ready", T - 7 * 86_400)


def _unfinished(world: World) -> None:
    world.rollout("intent", after(T, 1), action="promote")


def _moved(world: World) -> None:
    world.rollout("alias_moved", after(T, 1))


def _rolled_back(world: World) -> None:
    world.state("rolled_back", T)
    world.rollout("automatic_rollback", after(T, 1, None))


def _forced(world: World) -> None:
    world.state("soaking", T)
    world.rollout("promotion_forced", after(T, 1, None))


def _candidate(world: World) -> None:
    target = world["monitor"]
    version(target, OTHER, "candidate")
    target.gauge("plumbline_probe_alarm", after(T, 1), index=INDEX, version=OTHER, probe="fidelity")


CASES = (
    Case(
        "PlumblineCanaryMismatch",
        "in a worker",
        _worker,
        {**LIVE_LABELS, "probe": "canary"},
        static={"encoder": "worker"},
    ),
    Case(
        "PlumblineCanaryMismatch",
        "in the monitor",
        _monitors_encoder,
        {**LIVE_LABELS, "probe": "canary"},
        static={"encoder": "monitor"},
    ),
    Case("PlumblineFidelityBroken", "", _fidelity, {**LIVE_LABELS, "probe": "fidelity"}),
    Case("PlumblineIntegrityBroken", "", _integrity, {**LIVE_LABELS, "probe": "integrity"}),
    Case("PlumblineGoldenRecallLost", "", _golden, {**LIVE_LABELS, "probe": "golden"}),
    Case("PlumblineAnnRecallLow", "", _ann, {**LIVE_LABELS, "probe": "ann"}),
    Case("PlumblineRecallBudgetBurnFast", "", _golden, {"index": INDEX}, T + 510),
    Case("PlumblineRecallBudgetBurnSlow", "", _golden, {"index": INDEX}, T + 2580, minutes=75),
    Case("PlumblineFreshnessBudgetBurnFast", "", _late, {"index": INDEX}, T + 150),
    Case("PlumblineFreshnessBudgetBurnSlow", "", _late, {"index": INDEX}, T + 60),
    Case("PlumblineVersionUnreadable", "by its contract", _unreadable, LIVE_LABELS),
    Case("PlumblineVersionUnreadable", "without an alias", _no_alias, {"index": INDEX}),
    Case("PlumblineQdrantUnreachable", "", _qdrant, {"index": INDEX}),
    Case("PlumblineDrift", "", _drift("documents"), {**LIVE_LABELS, "probe": "drift"}),
    Case("PlumblineQueryDrift", "", _drift("queries"), LIVE_LABELS),
    Case("PlumblineBrokerSilent", "while it reads", _silent, {"index": INDEX}),
    Case("PlumblineBrokerSilent", "while it commits", _retries, {"index": INDEX}, T + 45),
    Case("PlumblineIngestDown", "a target that does not answer", _down, {"index": INDEX}),
    Case("PlumblineIngestDown", "no target", _no_target, {"index": INDEX}),
    Case("PlumblineIngestStalled", "by the monitor", _stalled, {"index": INDEX}),
    Case(
        "PlumblineIngestStalled",
        "by the job itself",
        _reads_nothing,
        {"index": INDEX},
        T + 300,
    ),
    Case("PlumblineDeadLettersGrowing", "", _letters, {"index": INDEX}, T + 150),
    Case("PlumblineDataLoss", "counted", _lost, {"index": INDEX}),
    Case("PlumblineDataLoss", "the first one of a topic", _lost_first, {"index": INDEX}, 2 * T),
    Case("PlumblineDataLoss", "by the monitor", _expired, {"index": INDEX}),
    Case("PlumblineTopicRecreated", "", _recreated, {"index": INDEX, "topic": "documents"}),
    Case("PlumblineLogTruncated", "", _log_truncated, {"index": INDEX, "topic": "documents"}),
    Case("PlumblineClockAhead", "an event ahead", _future, {"index": INDEX, "topic": "documents"}),
    Case(
        "PlumblineClockAhead",
        "an event that loses to one",
        _shadowed,
        {"index": INDEX, "topic": "documents"},
    ),
    Case("PlumblineCommitFailing", "", _commits, {"index": INDEX}),
    Case("PlumblineMonitorDown", "of an index", _monitors_down, {"index": INDEX}),
    Case(
        "PlumblineMonitorDown",
        "that never was",
        _never_a_monitor,
        {"job": "plumbline-monitor"},
        0,
    ),
    Case("PlumblineMonitorNoLeader", "", _no_leader, {"index": INDEX}),
    Case("PlumblineMonitorStoreDown", "", _store, {"index": INDEX}),
    Case(
        "PlumblineProbeSilent",
        "hangs",
        _probe_hangs,
        {**LIVE_LABELS, "probe": "canary"},
        T + 915,
    ),
    Case(
        "PlumblineProbeSilent",
        "never ran",
        _never_ran,
        {**LIVE_LABELS, "probe": "canary"},
        T + 915,
    ),
    Case("PlumblineProbeFailing", "", _fails, {**LIVE_LABELS, "probe": "canary"}, T + 915),
    Case("PlumblineRolloutStuck", "failed", _failed, {"index": INDEX, "state": "failed"}),
    Case(
        "PlumblineRolloutStuck",
        "encodes nothing",
        _no_progress,
        {"index": INDEX, "state": "building"},
        T + 15,
    ),
    Case("PlumblineRolloutStuck", "waits", _waits, {"index": INDEX, "state": "ready"}, T + 15),
    Case(
        "PlumblineRolloutStepUnfinished",
        "",
        _unfinished,
        {"index": INDEX, "action": "promote"},
    ),
    Case("PlumblineAliasMoved", "", _moved, {"index": INDEX}),
    Case("PlumblineRolledBackAutomatically", "", _rolled_back, {"index": INDEX}),
    Case("PlumblinePromotionForced", "", _forced, {"index": INDEX}),
    Case(
        "PlumblineCandidateAlarm",
        "",
        _candidate,
        {"index": INDEX, "version": OTHER, "role": "candidate", "probe": "fidelity"},
    ),
)
