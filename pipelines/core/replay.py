"""Which dead letters can be sent again, decided before anything is sent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pipelines.core.dead_letters import DeadLetter, WireRecord
from pipelines.core.decode import Ignored, Origin, decode, origin_headers
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.purge.record import PurgeRecord, behind_purge
from pipelines.core.records import Record
from pipelines.core.settings import Settings

__all__ = [
    "MAX_REPLAYS",
    "Planned",
    "ReplayPlan",
    "Verdict",
    "next_origin",
    "plan_replay",
    "to_replay_record",
]

MAX_REPLAYS = 3
"""How often an event is replayed at most. Some reasons (`refused_by_model`, `refused_by_store`)
show only when the job tries, so an event could go round for ever; three leaves room for two fixes
that did not help."""


class Verdict(StrEnum):
    """What a replay does with the event of a dead letter."""

    SEND = "send"
    """Today's code and settings accept it."""
    STILL_REFUSED = "still_refused"
    """It would be a dead letter again."""
    ALREADY_REPLAYED = "already_replayed"
    """Sent since it was refused, and not come back."""
    EXHAUSTED = "exhausted"
    """Replayed `MAX_REPLAYS` times."""
    OMITTED = "omitted"
    """The dead letter holds no body: the original was too large for the broker."""
    TOO_OLD = "too_old"
    """Older than tombstones that have been purged: it could bring back what was deleted."""
    NOT_SELECTED = "not_selected"
    """Of another reason than those asked for."""
    OTHER_INDEX = "other_index"
    """Refused for another index that shares the dead-letter topic."""
    OVER_LIMIT = "over_limit"
    """Could be sent, and the limit was reached before."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One event to send.

    Parameters
    ----------
    stored_at
        Partition and offset of its dead letter.
    origin
        Its first position, with the number of replays that this one makes.
    reason
        Why it was refused.
    """

    stored_at: tuple[int, int]
    origin: Origin
    reason: str


@dataclass(frozen=True)
class ReplayPlan:
    """What a replay would do.

    Parameters
    ----------
    planned
        What would be sent, in the order of the dead-letter topic. Holds positions, no bodies.
    counts
        Events by (verdict, reason they were refused for).
    still_refused_for
        Of those still refused: events by (reason then, reason today).
    duplicates
        Dead letters beyond the first of the same event: delivery is at least once.
    """

    planned: tuple[Planned, ...] = ()
    counts: Mapping[tuple[Verdict, str], int] = field(default_factory=dict)
    still_refused_for: Mapping[tuple[str, str], int] = field(default_factory=dict)
    duplicates: int = 0

    def count(self, verdict: Verdict) -> int:
        """Events with this verdict."""
        return sum(count for (given, _), count in self.counts.items() if given is verdict)


@dataclass(slots=True)
class _Newest:
    """The newest dead letter of an event, judged while its body was at hand."""

    letter: DeadLetter
    verdict: Verdict
    today: str = ""


def plan_replay(
    letters: Iterable[DeadLetter],
    settings: Settings,
    *,
    reasons: Collection[str] = (),
    limit: int | None = None,
    not_before: int | None = None,
    purges: Sequence[PurgeRecord] = (),
    replayed: Mapping[tuple[str, int, int], int] | None = None,
    now: float | None = None,
) -> ReplayPlan:
    """What a replay would do with these dead letters. Sends nothing.

    Parameters
    ----------
    letters
        As `pipelines.io.kafka.read_dead_letters` gives them. One pass, one body at a time in
        memory.
    settings
        Those of today: an event is judged by decoding what would be sent under them.
    reasons
        Only events refused for one of these; default: all.
    limit
        Send no more than this many events.
    not_before
        Milliseconds since the epoch: events with an older first timestamp are `TOO_OLD`.
    purges
        What was purged of the index: events that it covers are `TOO_OLD`.
    replayed
        Of each event in the replay topic, the greatest number of replays it carries there.
    now
        Seconds since the epoch, default the clock: timestamp of the records to be sent.
    """
    events: dict[tuple[str, int, int], _Newest] = {}
    duplicates = 0
    moment = time.time() if now is None else now
    for letter in letters:
        if letter.index != settings.index:
            # Its event may be refused for this index as well, by a letter of its own.
            identity = (f"{letter.index}\0{letter.origin.topic}", *letter.event[1:])
        else:
            identity = letter.event
        known = events.get(identity)
        if known is not None:
            duplicates += 1
            if letter.origin.replays < known.letter.origin.replays:
                continue
        verdict, today = _judge(
            letter,
            settings,
            reasons=reasons,
            not_before=not_before,
            purges=purges,
            replays_sent=(replayed or {}).get(letter.event, 0),
            now=moment,
        )
        events[identity] = _Newest(_without_body(letter), verdict, today)

    planned: list[Planned] = []
    counts: Counter[tuple[Verdict, str]] = Counter()
    refused: Counter[tuple[str, str]] = Counter()
    for event in sorted(events.values(), key=lambda event: event.letter.stored_at or (0, 0)):
        letter, verdict = event.letter, event.verdict
        if verdict is Verdict.SEND:
            if limit is not None and len(planned) >= limit:
                verdict = Verdict.OVER_LIMIT
            else:
                stored_at = letter.stored_at or (0, 0)
                planned.append(Planned(stored_at, next_origin(letter.origin), letter.reason))
        elif verdict is Verdict.STILL_REFUSED:
            refused[letter.reason, event.today] += 1
        counts[verdict, letter.reason] += 1
    return ReplayPlan(tuple(planned), dict(counts), dict(refused), duplicates)


def to_replay_record(letter: DeadLetter) -> WireRecord:
    """What is produced to the replay topic for a dead letter.

    Key, value and headers are the original's (null headers become empty ones), with the block of
    `pipelines.core.decode.origin_headers` behind them.
    """
    headers = tuple((name, b"" if held is None else held) for name, held in letter.headers)
    return WireRecord(
        letter.key, letter.value, headers + origin_headers(next_origin(letter.origin))
    )


def next_origin(origin: Origin) -> Origin:
    """The origin that the event's next replay carries."""
    return replace(origin, replays=origin.replays + 1)


def _without_body(letter: DeadLetter) -> DeadLetter:
    return replace(letter, key=None, value=None, headers=(), message="")


def _judge(
    letter: DeadLetter,
    settings: Settings,
    *,
    reasons: Collection[str],
    not_before: int | None,
    purges: Sequence[PurgeRecord],
    replays_sent: int,
    now: float,
) -> tuple[Verdict, str]:
    """The verdict, and for `STILL_REFUSED` the reason of today."""
    if letter.index != settings.index:
        return Verdict.OTHER_INDEX, ""
    if reasons and letter.reason not in reasons:
        return Verdict.NOT_SELECTED, ""
    if replays_sent > letter.origin.replays:
        return Verdict.ALREADY_REPLAYED, ""
    if letter.origin.replays >= MAX_REPLAYS:
        return Verdict.EXHAUSTED, ""
    if letter.omitted:
        return Verdict.OMITTED, ""
    if letter.origin.topic == settings.replay_topic:
        # Never was an event of a source topic; sent again, it would get the position it lacks.
        return Verdict.STILL_REFUSED, Reason.INVALID_ORIGIN.value
    if not_before is not None and letter.origin.timestamp < not_before:
        return Verdict.TOO_OLD, ""
    wire = to_replay_record(letter)
    record = Record(
        settings.replay_topic, 0, 0, round(now * 1000), wire.key, wire.value, wire.headers
    )
    try:
        event = decode(record, settings)
    except BadRecordError as error:
        return Verdict.STILL_REFUSED, error.reason.value
    # A deletion brings nothing back, however old it is.
    if isinstance(event, Ignored) or event.deleted:
        return Verdict.SEND, ""
    return (Verdict.TOO_OLD if behind_purge(purges, event.position) else Verdict.SEND), ""
