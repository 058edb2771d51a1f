"""Worlds in which no alert may fire: what happens to every team every week."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from monitors.probes import PROBES
from tests.rules.world import (
    FOREVER,
    INDEX,
    LIVE,
    OTHER,
    Target,
    World,
    after,
    healthy,
    ingest,
    monitor,
    version,
)

__all__ = ["KINDS", "NEVER", "Never"]


def _deploy() -> World:
    """Job and monitor are restarted in their places, and later replaced by other pods."""
    world = healthy()
    world["ingest"].down = [(600, 720)]
    world["monitor"].down = [(840, 960)]
    world["ingest"].gone = [(1500, FOREVER)]
    pod = world.add("ingest-new", ingest("ingest-1:9108", LIVE))
    pod.gone, pod.resets = [(0, 1590)], [1590]
    world["monitor"].gone = [(1800, FOREVER)]
    other = world.add("monitor-new", monitor("monitor-9:9109", leader=True))
    other.gone = [(0, 1890)]
    return world


def _empty_index() -> World:
    """The version is live, nothing has been published, and every probe is undecided."""
    world = healthy()
    for target in world.targets.values():
        for selector in list(target.series):
            name = selector.split("{")[0]
            own = name.removeprefix("plumbline_").split("_")[0] in PROBES
            if own or (target.job == "plumbline-ingest" and 'topic="' in selector):
                del target.series[selector]
    job = world["ingest"]
    for selector in list(job.series):
        name = selector.split("{")[0]
        if name.endswith(("_total", "_bucket", "_count")):
            del job.series[selector]
    job.counter("plumbline_commit_failures_total", 0)
    job.counter("plumbline_event_to_searchable_seconds_count", 0)
    for bound in ("300.0", "+Inf"):
        job.counter("plumbline_event_to_searchable_seconds_bucket", 0, le=bound)
    for probe in PROBES:
        world.probe("undecided", 1, probe)
    return world


def _counter_reset() -> World:
    """The job is restarted so quickly that no scrape misses it."""
    world = healthy()
    world["ingest"].resets = [615, 1230, 1245]
    return world


def _version_switch() -> World:
    """A candidate is promoted; its job had much to catch up with. The replicas see it in turn."""
    world = healthy(replicas=2)
    switch = 1200.0
    leader, standby = world["monitor"], world["monitor-1"]
    world.state("soaking", switch)
    _candidate(leader)
    _switched(leader, switch)
    version(standby, OTHER, "live")
    _switched(standby, switch + 30)
    for selector in [one for one in standby.series if OTHER in one]:
        value = standby.series[selector]
        standby.series[selector] = _from(switch + 30, value)
    job = world.add("ingest-candidate", ingest("ingest-b:9108", OTHER))
    searchable = "plumbline_event_to_searchable_seconds_bucket"
    for selector in [one for one in job.series if one.startswith(searchable) and "Inf" not in one]:
        # Nothing was on time before it had caught up.
        job.series[selector] = lambda at: max(0.0, 2.0 * (at - 900))
    job.gauge(
        "plumbline_consumer_lag_records", after(900, 0, 50_000), topic="documents", partition="0"
    )
    job.series['plumbline_dead_letters_total{reason="not_json"}'] = lambda at: 0.5 * min(at, 900)
    return world


def _candidate(target: Target) -> None:
    version(target, OTHER, "candidate")


def _from(moment: float, value: object) -> Callable[[float], float | None]:
    def found(at: float) -> float | None:
        if at < moment:
            return None
        return value(at) if callable(value) else value  # type: ignore[return-value]

    return found


def _switched(target: Target, moment: float) -> None:
    role = "plumbline_monitor_version_role"
    target.gauge(role, after(moment, None, 1), index=INDEX, version=LIVE, role="live")
    target.gauge(role, after(moment, 1, None), index=INDEX, version=LIVE, role="previous")
    target.gauge(role, after(moment, None, 1), index=INDEX, version=OTHER, role="candidate")
    target.gauge(role, after(moment, 1, None), index=INDEX, version=OTHER, role="live")
    since = "plumbline_monitor_version_since_timestamp_seconds"
    target.gauge(since, after(moment, None, -2e6), index=INDEX, version=LIVE)
    target.gauge(since, after(moment, moment, None), index=INDEX, version=OTHER)


def _missing_scrape() -> World:
    """One scrape of each target fails, then two in a row, then one of all at once."""
    world = healthy()
    world["ingest"].missed = [600, 900, 930, 1500]
    world["monitor"].missed = [720, 1080, 1110, 1500]
    return world


def _two_replicas() -> World:
    """Three, of which one has lost the store, and goes on saying what it read when all was bad."""
    world = healthy(replicas=3)
    lost = world["monitor-2"]
    lost.gauge("plumbline_monitor_store_up", 0, index=INDEX)
    for selector in list(lost.series):
        name = selector.split("{")[0]
        if name in ("plumbline_probe_alarm", "plumbline_probe_failing"):
            lost.series[selector] = 1
        if name.endswith(("stalled_partitions", "expired_records")):
            lost.series[selector] = 7
        if name.startswith("plumbline_probe_last"):
            lost.series[selector] = -90_000
    lost.gauge("plumbline_canary_workers", 1, index=INDEX, version=LIVE, state="refusal")
    return world


KINDS: Mapping[str, Callable[[], World]] = {
    "deploy": _deploy,
    "empty index": _empty_index,
    "counter reset": _counter_reset,
    "version switch": _version_switch,
    "missing scrape": _missing_scrape,
    "two replicas": _two_replicas,
}
"""By what happens."""


@dataclass(frozen=True)
class Never:
    """Something of one alert's own that must not fire it.

    Parameters
    ----------
    others
        Alerts that rightly do.
    """

    alert: str
    what: str
    change: Callable[[World], None]
    minutes: float = 40
    others: tuple[str, ...] = ()


def _replay(world: World) -> None:
    # Old stamps, and nothing has waited by the monitor's clock.
    job = world["ingest"]
    searchable = "plumbline_event_to_searchable_seconds_bucket"
    for selector in [one for one in job.series if one.startswith(searchable) and "Inf" not in one]:
        job.series[selector] = lambda at: 1e6 + 2.0 * min(at, 600.0)


def _few_late(world: World) -> None:
    _replay(world)
    world.figure("freshness_oldest_unprocessed_seconds", after(600, 400, 2))
    job = world["ingest"]
    for selector in list(job.series):
        if selector.startswith("plumbline_event_to_searchable_seconds"):
            # Seven events, all of them late, in all the time.
            late = "Inf" in selector or "_count" in selector
            job.series[selector] = after(900, 7 if late else 0)


def _few_letters(world: World) -> None:
    job = world["ingest"]
    job.drop("plumbline_consumed_events_total")
    job.counter("plumbline_consumed_events_total", 0.01, 1e6, topic="documents")
    job.gauge("plumbline_dead_letters_total", after(600, 1005, 1000), reason="not_json")


def _backlog(world: World) -> None:
    job = world["ingest"]
    job.gauge("plumbline_consumer_lag_records", 500_000, topic="documents", partition="0")
    world.probe("warning", 1, "freshness")
    world.figure("freshness_lag_records", 500_000)


def _failed_once(world: World) -> None:
    world.probe("failing", lambda at: float(900 <= at < 1200), "canary")
    success = "last_success_timestamp_seconds"
    world.probe(success, lambda at: 600 if 900 <= at < 1200 else 300.0 * (at // 300), "canary")


def _progress(world: World) -> None:
    world.state("building", -50_000)
    world.rollout("tokens", lambda at: 1e6 + at // 600, kind="done")


def _switches(world: World) -> None:
    world.rollout("alias_moved", after(600, 1))
    world.rollout("intent", after(600, 1), action="promote")


def _seen_in_between(world: World) -> None:
    world.rollout("alias_moved", lambda at: float(600 <= at < 660))


def _by_hand(world: World) -> None:
    world.state("rolled_back", 600)
    world.rollout("automatic_rollback", after(600, 0, None))


def _long_ago(world: World) -> None:
    world.state("rolled_back", -86_400)
    world.rollout("automatic_rollback", 1)


def _soaked(world: World) -> None:
    world.rollout("promotion_forced", 1)


def _handover(world: World) -> None:
    for target in world.monitors:
        target.gauge("plumbline_monitor_leader", lambda at: float(not 600 <= at < 720), index=INDEX)


def _candidates_canary(world: World) -> None:
    for target in world.monitors:
        version(target, OTHER, "candidate")
        labels = {"index": INDEX, "version": OTHER}
        target.gauge("plumbline_probe_alarm", 1, probe="canary", **labels)
        target.gauge("plumbline_canary_workers", 1, state="refusal", **labels)


def _slow_broker(world: World) -> None:
    world["ingest"].gauge("plumbline_kafka_silence_seconds", lambda at: 25.0 * (at % 60 == 0))


def _candidate_unreadable(world: World) -> None:
    for target in world.monitors:
        version(target, OTHER, "candidate")
        labels = {"index": INDEX, "version": OTHER}
        target.gauge("plumbline_monitor_version_readable", 0, **labels)


def _golden_flaps(world: World) -> None:
    world.probe("alarm", lambda at: float(at == 1200), "golden")


NEVER = (
    Never("PlumblineFreshnessBudgetBurnFast", "a replay of events with old stamps", _replay),
    Never("PlumblineFreshnessBudgetBurnSlow", "a replay of events with old stamps", _replay),
    Never("PlumblineFreshnessBudgetBurnFast", "all of seven events late", _few_late),
    Never("PlumblineDeadLettersGrowing", "five letters among few events", _few_letters),
    Never("PlumblineIngestStalled", "a backlog that the job works off", _backlog),
    Never("PlumblineProbeFailing", "one run that failed", _failed_once),
    Never("PlumblineRolloutStuck", "a build that moves slowly", _progress),
    Never(
        "PlumblineAliasMoved",
        "a step that has switched it and not ended",
        _switches,
        others=("PlumblineRolloutStepUnfinished",),
    ),
    Never("PlumblineAliasMoved", "a switch between two looks", _seen_in_between),
    Never("PlumblineRolledBackAutomatically", "a rollback by hand", _by_hand),
    Never("PlumblineRolledBackAutomatically", "a day after it", _long_ago),
    Never("PlumblinePromotionForced", "its soak is over", _soaked),
    Never("PlumblineMonitorNoLeader", "the lease goes over to another replica", _handover),
    Never(
        "PlumblineCanaryMismatch",
        "a candidate's worker refuses",
        _candidates_canary,
        others=("PlumblineCandidateAlarm",),
    ),
    Never("PlumblineBrokerSilent", "a broker that answers late", _slow_broker),
    Never("PlumblineVersionUnreadable", "a candidate that cannot be read", _candidate_unreadable),
    Never("PlumblineRecallBudgetBurnFast", "an alarm of one scrape", _golden_flaps),
)
