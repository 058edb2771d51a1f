"""When a tombstone may go: each condition with its figure, each refusing on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from pipelines.core.lag import PartitionLag

if TYPE_CHECKING:
    from pipelines.core.position import Position
    from pipelines.core.rollout import Rollout

__all__ = ["Condition", "Grounds", "Held", "Judgement", "Role", "TopicRetention", "judge"]

Role = Literal["source", "replay", "dead letters"]

_DAY_MS = 86_400_000

_SEGMENT_MS = 7 * _DAY_MS
"""Kafka's default of `segment.ms`, where the broker does not tell."""

_REMOVAL_MS = 3_600_000
"""Brokers look for what is too old every five minutes by default, and delete files a minute
later; an hour covers a slow one."""


class Held(StrEnum):
    """Why a single tombstone stays."""

    TOO_YOUNG = "too_young"
    """Deleted more recently than the age that the conditions ask for."""
    WRITTEN_LATELY = "written_lately"
    """The deletion is old, but this version learned of it lately."""
    TOPIC_NOT_READ = "topic_not_read"
    """Its topic or partition is not read any more: where the group stands says nothing of it."""
    NOT_COMMITTED = "not_committed"
    """The group has not committed a position past the deletion."""


@dataclass(frozen=True, slots=True)
class TopicRetention:
    """How long one topic can give an event back.

    Parameters
    ----------
    role
        What the topic is to the index.
    cleanup_policy
        `delete`, `compact` or both, as Kafka writes it; `None` where the broker does not tell.
    retention_ms
        -1 for ever, `None` where the broker does not tell.
    segment_ms
        A record leaves with its segment, whose youngest record must be too old: so long longer.
    """

    topic: str
    role: Role
    cleanup_policy: str | None
    retention_ms: int | None
    segment_ms: int | None = None

    @property
    def kept_ms(self) -> int | None:
        """Milliseconds after which a record is surely gone; `None`: never, or nobody knows."""
        if self.cleanup_policy is None or self.retention_ms is None or self.retention_ms < 0:
            return None
        # Compaction alone keeps the newest record of each key, and an older one in another
        # partition, or of another topic, for ever.
        if "delete" not in self.cleanup_policy:
            return None
        segment = _SEGMENT_MS if self.segment_ms is None else self.segment_ms
        return self.retention_ms + segment + _REMOVAL_MS

    @property
    def figure(self) -> str:
        """In words: `source docs 37.0 d`."""
        kept = self.kept_ms
        if kept is not None:
            return f"{self.role} {self.topic} {_days(kept)}"
        if self.cleanup_policy is None or self.retention_ms is None:
            return f"{self.role} {self.topic} not told"
        how = "for ever" if "delete" in self.cleanup_policy else "compacted"
        return f"{self.role} {self.topic} {how}"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition: what was found, what is asked for, and in words why that refuses."""

    name: Literal["rollout", "retention", "committed", "replays", "age"]
    figure: str
    bound: str
    ok: bool
    words: str = ""


@dataclass(frozen=True)
class Grounds:
    """What the conditions are judged by.

    Parameters
    ----------
    topics
        Every source topic, the replay topic and the dead-letter topic.
    lag
        Of the version's consumer group, read before any tombstone is.
    replay_topic
        Its name.
    rollout
        The index's present or last one.
    now_ms
        This machine's clock, milliseconds since the epoch.
    least_days
        Age below which no tombstone goes: the setting, or what the command line says.
    allow_kept_topics
        Do without a retention where a topic keeps records for ever. The committed positions alone
        protect then: whoever resets the group's offsets brings documents back.
    """

    topics: Sequence[TopicRetention]
    lag: Sequence[PartitionLag]
    replay_topic: str
    rollout: Rollout | None
    now_ms: int
    least_days: float
    allow_kept_topics: bool = False


@dataclass(frozen=True)
class Judgement:
    """What the conditions say, and which tombstones they let go.

    Parameters
    ----------
    age_ms
        How old a tombstone must be: the longest of all that was asked for.
    deleted_before
        Milliseconds since the epoch: deletions of this time and later stay.
    written_before
        The same for the time at which the version learned of them.
    """

    conditions: tuple[Condition, ...]
    age_ms: int
    deleted_before: int
    written_before: int
    committed: dict[tuple[str, int], int | None]

    @property
    def ok(self) -> bool:
        """Whether every condition holds."""
        return all(condition.ok for condition in self.conditions)

    def held(self, position: Position, indexed_at: int | None) -> Held | None:
        """Why a tombstone stays; `None` when it may go.

        Parameters
        ----------
        indexed_at
            When the version learned of the deletion, milliseconds; `None` is never long ago.
        """
        if position.timestamp >= self.deleted_before:
            return Held.TOO_YOUNG
        if indexed_at is None or indexed_at >= self.written_before:
            return Held.WRITTEN_LATELY
        place = (position.topic, position.partition)
        if place not in self.committed:
            return Held.TOPIC_NOT_READ
        committed = self.committed[place]
        if committed is None or committed <= position.offset:
            return Held.NOT_COMMITTED
        return None


def judge(grounds: Grounds) -> Judgement:
    """Judges every condition; none hides another."""
    least_ms = round(grounds.least_days * _DAY_MS)
    kept = [topic.kept_ms for topic in grounds.topics]
    age_ms = max([least_ms, *(period for period in kept if period is not None)])
    unread = [one for one in grounds.lag if one.records > 0 and one.topic != grounds.replay_topic]
    stamps = [one.oldest_timestamp for one in unread if one.oldest_timestamp is not None]
    # What is unread may be late by as much as what is read: the age counts from the first of it.
    seen_until = min([grounds.now_ms, *stamps])
    conditions = (
        _rollout(grounds),
        _retention(grounds),
        _age(least_ms, age_ms),
        _committed(grounds, unread, stamps, age_ms),
        _replays(grounds),
    )
    return Judgement(
        conditions,
        age_ms,
        deleted_before=seen_until - age_ms,
        written_before=grounds.now_ms - age_ms,
        committed={(one.topic, one.partition): one.committed for one in grounds.lag},
    )


def _rollout(grounds: Grounds) -> Condition:
    rollout = grounds.rollout
    if rollout is None or not rollout.open:
        figure = "none" if rollout is None else f"{rollout.rollout_id} {rollout.state}"
        return Condition("rollout", figure, "none open", ok=True)
    return Condition(
        "rollout",
        f"{rollout.rollout_id} {rollout.state}",
        "none open",
        ok=False,
        words=f"a rollout to {rollout.candidate.name} is open, and its backfill copies "
        "tombstones: finish it, or `plumbline rollout abort`",
    )


def _retention(grounds: Grounds) -> Condition:
    figure = ", ".join(topic.figure for topic in grounds.topics) or "no topic"
    bound = "every topic drops old records"
    if not grounds.topics:
        return Condition("retention", figure, bound, ok=False, words="no topic is known")
    kept = [topic for topic in grounds.topics if topic.kept_ms is None]
    if not kept or grounds.allow_kept_topics:
        return Condition("retention", figure, bound, ok=True)
    names = ", ".join(topic.topic for topic in kept)
    return Condition(
        "retention",
        figure,
        bound,
        ok=False,
        words=f"{names} may keep an event that is older than any tombstone (no retention, "
        "compaction alone, or the broker does not tell): read again, it would bring its document "
        "back. Read again it is only when somebody resets the group's offsets; "
        "--allow-kept-topics says that nobody will",
    )


def _age(least_ms: int, age_ms: int) -> Condition:
    why = "rollout.tombstone_days or --older-than" if age_ms == least_ms else "the retention above"
    return Condition("age", f"older than {_days(age_ms)}", f"from {why}", ok=True)


def _committed(
    grounds: Grounds, unread: Sequence[PartitionLag], stamps: Sequence[int], age_ms: int
) -> Condition:
    waiting = sum(one.records for one in unread)
    figure = f"{waiting:,} unread"
    if stamps:
        figure += f", the oldest of {_time(min(stamps))}"
    bound = f"no older unread event than {_days(age_ms)}"

    def refused(words: str) -> Condition:
        return Condition("committed", figure, bound, ok=False, words=words)

    if all(one.committed is None for one in grounds.lag):
        return refused("the version's consumer group has committed nothing: no job has read for it")
    if len(stamps) < len(unread):
        places = ", ".join(
            f"{one.topic}/{one.partition}" for one in unread if one.oldest_timestamp is None
        )
        return refused(f"the first unread event of {places} could not be read, or has no time")
    if stamps and min(stamps) <= grounds.now_ms - age_ms:
        return refused(
            "the group is behind: what it has not read is as old as the tombstones are. Let the "
            "job catch up"
        )
    return Condition("committed", figure, bound, ok=True)


def _replays(grounds: Grounds) -> Condition:
    waiting = sum(one.records for one in grounds.lag if one.topic == grounds.replay_topic)
    words = "replayed events are not read yet: let the job read them first" if waiting else ""
    return Condition("replays", f"{waiting:,} unread", "0 unread", ok=not waiting, words=words)


def _days(milliseconds: float) -> str:
    return f"{milliseconds / _DAY_MS:.1f} d"


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
