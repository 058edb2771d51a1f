"""How long until an event is searchable?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from monitors.freshness import figures as gauges
from monitors.freshness.delays import percentile, recent_delays
from monitors.freshness.waiting import Waiting, remembered, state_of, wait_of
from monitors.probes.base import (
    Evidence,
    Figure,
    FigureFamily,
    Level,
    ProbeContext,
    ProbeName,
    ProbeResult,
)

__all__ = ["FreshnessProbe"]

_MAXIMUM_PARTITIONS = 200
"""Partitions that get figures of their own, those that lag most: labels must stay bounded."""

_MINIMUM_DOCUMENTS = 20
"""Below it, the 95th percentile would be the slowest document."""


class FreshnessProbe:
    """Asks how far ingest is behind, and how long recent events took to become searchable.

    An event has waited from its timestamp until now. That clock is the producers', so the runs of
    this probe bound the figure from both sides by the partition's ends that they saw: events with
    times long past, or in the future, raise no alarm and hide none (`monitors.freshness.waiting`).

    Offsets are committed once a bundle is durable, so waiting times are upper bounds, by one
    bundle (`ingest.bundle_seconds`).

    It alarms when an event waits for longer than `objective_seconds` in a partition whose
    committed offset has not moved since the last run. An event that waits as long while the
    offset moves (a replay, a burst) is a warning. The effect is the longest wait in seconds.
    """

    NAME: ClassVar[ProbeName] = "freshness"
    QUESTION: ClassVar[str] = "How long until an event is searchable?"
    FAMILIES: ClassVar[tuple[FigureFamily, ...]] = gauges.FAMILIES
    REASONS: ClassVar[Mapping[str, str]] = {
        "fresh": "Every event is searchable within the objective.",
        "stalled": "Events wait for longer than the objective and nothing is committed: look "
        "whether the ingest job runs, and at its log.",
        "expired": "The topic dropped records before the job read them: re-publish them, or build "
        "the version anew.",
        "behind": "Ingest moves, but events wait for longer than the objective: a replay or a "
        "burst will pass, otherwise give the job more room.",
        "late": "Events that were indexed recently took longer than the objective to get there.",
        "first_look": "Events wait for longer than the objective; the next run will tell whether "
        "ingest moves.",
        "no_partitions": "The topics that the settings describe do not exist yet.",
        "no_kafka": "No Kafka is set up here, so only the events in the version are looked at: "
        "whether others wait is not known.",
        "empty": "No Kafka is set up here and the version holds no event.",
    }

    def run(self, context: ProbeContext) -> ProbeResult:
        """Looks once.

        Raises
        ------
        ServiceUnavailableError
            Kafka or Qdrant is out of reach.
        """
        searchable, newest = recent_delays(context)
        figures: list[Figure] = []
        if newest is not None:
            figures.append(Figure(gauges.NEWEST, newest))
        if searchable:
            figures.append(Figure(gauges.MEDIAN, percentile(searchable, 0.5)))
            figures.append(Figure(gauges.P95, percentile(searchable, 0.95)))
        if context.lag is None:
            return _without_kafka(context, searchable, newest, figures)
        context.deadline.check()
        lags = context.lag(context.version)
        if not lags:
            return ProbeResult(
                Level.UNDECIDED,
                "no_partitions",
                "None of the topics to read exists yet, so nothing waits.",
                figures,
                state=state_of(context, []),
            )
        before = remembered(context)
        now = context.now.timestamp()
        waiting = [wait_of(lag, before, now) for lag in lags]
        return _decide(context, waiting, searchable, figures, first=before is None)


def _decide(
    context: ProbeContext,
    waiting: Sequence[Waiting],
    searchable: Sequence[float],
    figures: list[Figure],
    *,
    first: bool,
) -> ProbeResult:
    objective = context.settings.monitor.freshness.objective_seconds
    late = [w for w in waiting if w.seconds > objective]
    stalled = [w for w in late if w.stands]
    expired = sum(w.lag.expired for w in waiting)
    records = sum(max(0, w.lag.records) for w in waiting)
    worst = max(waiting, key=lambda w: w.seconds)
    figures += [
        Figure(gauges.OLDEST, worst.seconds),
        Figure(gauges.LAGGING, records),
        Figure(gauges.STALLED, len(stalled)),
        Figure(gauges.EXPIRED, expired),
    ]
    shown = sorted(waiting, key=lambda w: (-w.seconds, -w.lag.records, w.key))
    for entry in shown[:_MAXIMUM_PARTITIONS]:
        labels = (entry.lag.topic, str(entry.lag.partition))
        figures.append(Figure(gauges.PARTITION_LAG, max(0, entry.lag.records), labels))
        figures.append(Figure(gauges.PARTITION_OLDEST, entry.seconds, labels))
    now_ms = context.now.timestamp() * 1000
    future = sum((w.lag.oldest_timestamp or 0) > now_ms + 1000 for w in waiting)
    slow = percentile(searchable, 0.95) if len(searchable) >= _MINIMUM_DOCUMENTS else 0.0

    level, reason = Level.OK, "fresh"
    words = (
        f"{records} of the topics' records wait, the oldest for {worst.seconds:.0f} s (objective "
        f"{objective:g} s)."
        if records
        else "Every event is committed."
    )
    if expired:
        level, reason = Level.ALARM, "expired"
        words = (
            f"The topics dropped {expired} records before the job committed them: they are in no "
            "version. Re-publish them, or build the version anew."
        )
    elif stalled:
        level, reason = Level.ALARM, "stalled"
        place = max(stalled, key=lambda w: w.seconds)
        words = (
            f"An event in {place.key} has waited for {place.seconds:.0f} s (objective "
            f"{objective:g} s) and nothing was committed since the last run: "
            f"{len(stalled)} of {len(waiting)} partitions stand still, {records} records wait."
        )
    elif late:
        level, reason = Level.WARNING, "first_look" if first else "behind"
        words = (
            f"An event in {worst.key} has waited for {worst.seconds:.0f} s (objective "
            f"{objective:g} s); {records} records wait. "
            + ("Whether ingest moves shows in the next run." if first else "Ingest moves.")
        )
    elif slow > objective:
        level, reason = Level.WARNING, "late"
        words = (
            f"Nothing waits for long, but 5 % of the recent events took {slow:.0f} s or more to "
            f"become searchable (objective {objective:g} s)."
        )
    if future:
        words += f" In {future} partitions the next event is stamped in the future."
    return ProbeResult(
        level,
        reason,
        words,
        figures,
        evidence=Evidence(
            effect=worst.seconds,
            samples={"partitions": len(waiting), "documents": len(searchable)},
        ),
        details={
            "partitions": [
                {
                    "partition": w.key,
                    "records": w.lag.records,
                    "seconds": round(w.seconds, 1),
                    "committed": w.lag.committed,
                    "moved": None if first else not w.stands,
                }
                for w in shown[:20]
            ],
            "upper_bound": "offsets trail the index by up to one bundle",
        },
        state=state_of(context, waiting),
    )


def _without_kafka(
    context: ProbeContext,
    searchable: Sequence[float],
    newest: float | None,
    figures: Sequence[Figure],
) -> ProbeResult:
    if newest is None:
        return ProbeResult(
            Level.UNDECIDED,
            "empty",
            "The version holds no event whose time has come, and no Kafka is set up.",
        )
    age = max(0.0, context.now.timestamp() - newest)
    took = (
        f"; {len(searchable)} recent ones took {percentile(searchable, 0.5):.1f} s (median)"
        if searchable
        else ""
    )
    return ProbeResult(
        Level.UNDECIDED,
        "no_kafka",
        f"The newest event in the version is {age:.0f} s old{took}. Whether others wait is not "
        "known: no Kafka is set up here.",
        figures,
        evidence=Evidence(samples={"documents": len(searchable)}),
    )
