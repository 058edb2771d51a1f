"""The dead-letter topic: the job's sink, and the commands that read it and send events again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import structlog

from pipelines.core.dead_letters import (
    DeadLetter,
    NotADeadLetterError,
    WireRecord,
    parse_dead_letter,
)
from pipelines.core.decode import origin_of
from pipelines.core.errors import BadRecordError, SystemicError
from pipelines.core.failures import guarded
from pipelines.core.purge.record import PurgeRecord
from pipelines.core.replay import Planned, ReplayPlan, next_origin, plan_replay, to_replay_record
from pipelines.core.settings import Settings
from pipelines.io.kafka.admin import ensure_topics
from pipelines.io.kafka.producer import send_all
from pipelines.io.kafka.topic_reader import read_topic

__all__ = [
    "ReplayResult",
    "WriteDeadLetters",
    "plan_replay_of_topic",
    "read_dead_letters",
    "replay",
    "write_dead_letters",
]

_MAX_LETTERS = 500
_MAX_BYTES = 16 * 1024 * 1024
"""What a bundle holds back at most before it writes: a topic of nothing but garbage must not fill
the memory."""

_REPLAY_BATCHES_PER_SECOND = 5

_log = structlog.get_logger()


def write_dead_letters(letters: list[DeadLetter], settings: Settings) -> None:
    """Write dead letters and wait until the broker has acknowledged every one.

    One that is too large for the broker loses its value, then its headers, then its key; hash,
    size and position stay. At least once; raises as `pipelines.io.kafka.producer.send_all`.
    """
    pending = letters
    while pending:
        wires = [letter.to_wire() for letter in pending]
        shorter = []
        for index in send_all(settings, settings.dead_letter_topic, wires):
            letter = pending[index].shortened()
            if letter is None:
                raise SystemicError(
                    f"{settings.dead_letter_topic} refuses even the smallest dead letter: raise "
                    "its `max.message.bytes`"
                )
            _log.warning(
                "dead_letter_shortened",
                topic=letter.origin.topic,
                partition=letter.origin.partition,
                offset=letter.origin.offset,
                omitted=list(letter.omitted),
                value_bytes=letter.value_bytes,
            )
            shorter.append(letter)
        pending = shorter


class WriteDeadLetters(beam.PTransform):
    """`DeadLetter` to the dead-letter topic; every one acknowledged when its bundle ends.

    At least once: a bundle that is repeated writes its letters again. A letter that cannot be
    written stops the job after `kafka.outage_timeout_seconds`, with nothing committed.

    Parameters
    ----------
    settings
        Kafka's address and the topic.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def expand(self, letters: Any) -> Any:
        """An empty collection: the sink is the end."""
        return letters | beam.ParDo(_WriteDeadLettersFn(self._settings))


@guarded
class _WriteDeadLettersFn(beam.DoFn):
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._letters: list[DeadLetter] = []
        self._bytes = 0

    def start_bundle(self) -> None:
        # A bundle that failed may have left something behind.
        self._letters, self._bytes = [], 0

    def process(self, element: DeadLetter) -> None:
        self._letters.append(element)
        self._bytes += element.value_bytes + len(element.key or b"")
        if len(self._letters) >= _MAX_LETTERS or self._bytes >= _MAX_BYTES:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()

    def _flush(self) -> None:
        letters, self._letters, self._bytes = self._letters, [], 0
        write_dead_letters(letters, self._settings)


def read_dead_letters(
    settings: Settings, *, on_foreign: Callable[[NotADeadLetterError], None] | None = None
) -> Iterator[DeadLetter]:
    """Every dead letter from the earliest to the ends that the topic has now.

    Duplicates come as they are: `DeadLetter.event` tells them. Bodies are read one fetch at a
    time, so a caller that keeps none needs little memory. Raises as
    `pipelines.io.kafka.topic_reader.read_topic`.

    Parameters
    ----------
    on_foreign
        Called for records that are no dead letters; by default they are passed over.
    """
    for record in read_topic(settings, settings.dead_letter_topic):
        try:
            letter = parse_dead_letter(record)
        except NotADeadLetterError as error:
            if on_foreign is not None:
                on_foreign(error)
            continue
        yield letter


@dataclass(frozen=True)
class ReplayResult:
    """What a replay did.

    Parameters
    ----------
    sent
        Events acknowledged by the replay topic.
    too_large
        Events that the replay topic refused for their size: raise its `max.message.bytes`.
    gone
        Planned events whose dead letters retention deleted meanwhile.
    stopped
        Whether `should_stop` ended it early; running it again goes on where it stopped.
    """

    sent: int = 0
    too_large: int = 0
    gone: int = 0
    stopped: bool = False


def plan_replay_of_topic(
    settings: Settings,
    *,
    reasons: tuple[str, ...] = (),
    limit: int | None = None,
    not_before: int | None = None,
    purges: Sequence[PurgeRecord] = (),
) -> ReplayPlan:
    """The dry run: what `replay` would send. Reads both topics, writes nothing.

    Events that stand in the replay topic already and have not come back are left out, so that a
    replay can be repeated. Parameters as `pipelines.core.replay.plan_replay`; raises as
    `read_dead_letters`.
    """
    replayed: dict[tuple[str, int, int], int] = {}
    for record in read_topic(settings, settings.replay_topic):
        try:
            origin = origin_of(record, settings)
        except BadRecordError:
            continue
        event = (origin.topic, origin.partition, origin.offset)
        replayed[event] = max(replayed.get(event, 0), origin.replays)
    return plan_replay(
        read_dead_letters(settings),
        settings,
        reasons=reasons,
        limit=limit,
        not_before=not_before,
        purges=purges,
        replayed=replayed,
    )


def replay(
    settings: Settings,
    plan: ReplayPlan,
    *,
    per_second: float = 100.0,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], None] | None = None,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> ReplayResult:
    """Send the planned events to the replay topic, each under its original position.

    The replay topic is made when it is missing (`kafka.create_topics`). At least once.

    Parameters
    ----------
    per_second
        Events per second at most, so that live events keep their place.
    should_stop
        Asked before each batch; what is sent stays sent.
    on_progress
        Called with the number of events sent so far.
    sleep, clock
        For tests.

    Raises
    ------
    ServiceUnavailableError, ServiceRefusedError, SettingsError, TransientError
        As `read_dead_letters` and `pipelines.io.kafka.producer.send_all`.
    """
    if not plan.planned:
        return ReplayResult()
    if per_second <= 0:
        raise ValueError(f"per_second must be positive, not {per_second}")
    ensure_topics(settings)
    size = max(1, min(_MAX_LETTERS, int(per_second / _REPLAY_BATCHES_PER_SECOND)))
    started = clock()
    sent = too_large = handled = 0
    for batch in _batches(_planned_records(settings, plan), size):
        if should_stop():
            return ReplayResult(sent, too_large, stopped=True)
        refused = send_all(settings, settings.replay_topic, batch, should_stop=should_stop)
        too_large += len(refused)
        sent += len(batch) - len(refused)
        handled += len(batch)
        if on_progress is not None:
            on_progress(sent)
        ahead = handled / per_second - (clock() - started)
        if ahead > 0 and handled < len(plan.planned):
            sleep(ahead)
    return ReplayResult(sent, too_large, gone=len(plan.planned) - handled)


def _planned_records(settings: Settings, plan: ReplayPlan) -> Iterator[WireRecord]:
    wanted: dict[tuple[int, int], Planned] = {one.stored_at: one for one in plan.planned}
    for letter in read_dead_letters(settings):
        planned = wanted.pop(letter.stored_at or (-1, -1), None)
        # A topic that was deleted and made again has other letters at the same offsets.
        if planned is None or planned.origin != next_origin(letter.origin):
            continue
        yield to_replay_record(letter)
        if not wanted:
            return


def _batches(records: Iterator[WireRecord], size: int) -> Iterator[list[WireRecord]]:
    batch: list[WireRecord] = []
    held = 0
    for record in records:
        batch.append(record)
        held += len(record.value or b"")
        if len(batch) >= size or held >= _MAX_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
