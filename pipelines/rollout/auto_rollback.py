"""The soak: both versions answer the same questions, and the new one goes back if it is worse."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import structlog

from monitors.golden.files import read_golden
from monitors.golden.measures import score
from monitors.golden.run import Pace, VersionStore, encode_golden, unhurried
from pipelines.core.canaries import REFUSE_DISTANCE, compare
from pipelines.core.errors import (
    LeaseHeldError,
    PlumblineError,
    RolloutConflictError,
    RolloutStateError,
    SettingsError,
)
from pipelines.core.index import encoder_for
from pipelines.core.lag import LagReader
from pipelines.core.rollout import NEXT_COMMAND, Rollout, RolloutState, VersionRef
from pipelines.core.rollout_settings import RolloutSettings
from pipelines.core.settings import ContractSettings, Settings
from pipelines.rollout.context import RolloutContext, command_lease
from pipelines.rollout.evidence import SoakTest
from pipelines.rollout.switch import rollback

if TYPE_CHECKING:
    import numpy.typing as npt

    from monitors.golden.golden_set import GoldenSet
    from pipelines.core.encoder import Encoder
    from pipelines.core.versions import Version

__all__ = ["SoakReport", "SoakRun", "is_worse", "soak"]

Decision = Literal["ok", "worse", "canary", "failed"]

_SHARE_OF_INTERVAL = 0.25
"""In which the queries are asked, no faster than it takes: nobody must feel it."""
_MOST_PER_SECOND = 50.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class SoakRun:
    """One look at both versions.

    Parameters
    ----------
    number
        From 1, over all processes that have watched this soak.
    recall_before, recall_after
        Recall at `rollout.k` of the previous and of the new version, means over the queries.
    loss
        The one minus the other; above 0 the new version is worse.
    fall
        How much of it has come since the first look.
    p_value
        Of this look alone. It decides nothing: many looks have small ones by chance.
    worse
        Whether the test over all looks has found the new version worse.
    canary_distance
        Greatest of the new version's canaries, encoded here, to what is stored.
    decision
        `ok`; `worse`: the test says so, and at least the margin is lost; `canary`: this process
        does not reproduce the new version's vectors but the old one's; `failed`: could not look.
    problem
        Why it failed, or why a rollback that was decided did not happen.
    """

    number: int
    at: datetime
    decision: Decision
    queries: int = 0
    recall_before: float = 0.0
    recall_after: float = 0.0
    loss: float = 0.0
    fall: float = 0.0
    p_value: float = 1.0
    worse: bool = False
    canary_distance: float = 0.0
    problem: str = ""

    def words(self) -> str:
        """One line for people."""
        head = f"{self.at.isoformat(timespec='minutes')} run {self.number}"
        if self.decision == "failed":
            return f"{head}: could not look: {self.problem}"
        line = (
            f"{head}: recall {self.recall_after:.3f}, previous version {self.recall_before:.3f} "
            f"over {self.queries:,} queries (p {self.p_value:.2g} alone); over all looks "
            f"{'worse' if self.worse else 'not shown to be worse'}"
        )
        if self.decision == "canary":
            line += f"; its canaries do not hold ({self.canary_distance:.3g})"
        if self.decision == "worse":
            line += f", by {100 * self.loss:.1f} points"
        return f"{line}; {self.problem}" if self.problem else line

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "at": self.at.isoformat(timespec="seconds")}


@dataclass(frozen=True)
class SoakReport:
    """How a soak ended, or where it stands when this process was stopped.

    Parameters
    ----------
    runs
        Looks of this process.
    reason
        Why it was rolled back; empty where it was not.
    """

    rollout: Rollout
    runs: int
    last: SoakRun | None = field(repr=False)
    rolled_back: bool
    reason: str = ""

    def words(self) -> list[str]:
        """For people."""
        name = self.rollout.candidate.name
        if self.rolled_back:
            return [f"{name} was rolled back: {self.reason}"]
        lines = [f"{name} is {self.rollout.state} after {self.runs:,} looks"]
        if self.last is not None:
            lines.append(self.last.words())
        if self.rollout.state is RolloutState.SOAKING:
            lines.append(f"next: `{NEXT_COMMAND[self.rollout.state]}`")
        return lines

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "rollout": self.rollout.rollout_id,
            "state": self.rollout.state.value,
            "runs": self.runs,
            "rolled_back": self.rolled_back,
            "reason": self.reason,
            "last": None if self.last is None else self.last.to_json(),
        }


def _now() -> datetime:
    return datetime.now(UTC)


def soak(
    settings: Settings,
    *,
    golden: Path | None,
    auto_rollback: bool,
    interval_seconds: float = 3600.0,
    until: datetime | None = None,
    stop_event: threading.Event | None = None,
    on_run: Callable[[SoakRun], None] | None = None,
    reader: LagReader | None = None,
    clock: Callable[[], datetime] = _now,
) -> SoakReport:
    """Asks both versions the golden queries, time after time, until the soak is over.

    What was seen is kept in the rollout's record: a process that takes over goes on with it, at
    the same pace. See `pipelines.rollout.evidence` for the test; a rollback wants, too, that at
    least `rollout.margin` of recall is lost.

    Parameters
    ----------
    golden
        Judged queries.
    auto_rollback
        Act on what is found; else it is only told.
    interval_seconds
        Between two looks.
    until
        When to end; default: the end of the soak.
    stop_event
        Ends it earlier.
    on_run
        Called with each look.
    reader
        As in `rollback`.
    clock
        Injected by tests.

    Raises
    ------
    RolloutStateError
        Nothing is soaking.
    SettingsError
        There is no golden set, or it belongs to another index.
    """
    if golden is None:
        raise SettingsError(
            "a soak is watched with golden queries: name the file with --golden, or set "
            "monitor.golden.file"
        )
    context = RolloutContext.open(settings)
    rollout = context.rollout()
    if rollout.state is not RolloutState.SOAKING:
        raise RolloutStateError(
            f"nothing is soaking: the rollout {rollout.rollout_id} of {rollout.index} is "
            f"{rollout.state}. Next: `{NEXT_COMMAND[rollout.state]}`."
        )
    hours = settings.rollout.soak_hours
    stop = stop_event or threading.Event()
    watch = _Watch(
        context,
        rollout,
        read_golden(golden),
        planned=math.ceil(3600 * hours / interval_seconds),
        interval_seconds=interval_seconds,
        clock=clock,
        stop=stop,
    )
    end = until or rollout.entered_at + timedelta(hours=hours)
    interval = timedelta(seconds=interval_seconds)
    due = watch.last_at + interval if watch.last_at is not None else clock()
    runs = 0
    last: SoakRun | None = None
    while due < end and not _stopped(stop, due, clock):
        rollout = context.rollout()
        if rollout.rollout_id != watch.rollout_id or rollout.state is not RolloutState.SOAKING:
            break
        try:
            last = watch.look(rollout)
        except _StoppedError:
            break
        runs += 1
        # From start to start, as the plan counts them: a look may take a quarter of the interval.
        due = max(last.at + interval, clock())
        if auto_rollback and last.decision in ("worse", "canary"):
            reason = _reason(last, settings)
            try:
                rollout = rollback(
                    settings,
                    reason=reason,
                    wait=True,
                    timeout=interval_seconds,
                    reader=reader,
                    stop=stop,
                    automatic=True,
                )
            except PlumblineError as error:
                # It is tried again after the next look: what was found stays found.
                _log.error("auto_rollback_failed", rollout=rollout.rollout_id, error=str(error))
                last = replace(last, problem=f"the rollback was refused: {error}")
            else:
                if on_run is not None:
                    on_run(last)
                return SoakReport(rollout, runs, last, rolled_back=True, reason=reason)
        if on_run is not None:
            on_run(last)
    return SoakReport(context.rollout(), runs, last, rolled_back=False)


def is_worse(test: SoakTest, loss: float, fall: float, settings: RolloutSettings) -> bool:
    """Whether to go back: it is proven, and it is as much as the gate would have refused.

    Parameters
    ----------
    loss, fall
        Of this run: see `SoakRun`.
    """
    return test.worse and max(loss, fall) >= settings.margin


def _stopped(stop: threading.Event, due: datetime, clock: Callable[[], datetime]) -> bool:
    """Waits until it is time; True when it was stopped first."""
    while (left := (due - clock()).total_seconds()) > 0:
        # In slices: the clock may be set.
        if stop.wait(min(left, 60.0)):
            return True
    return stop.is_set()


def _reason(run: SoakRun, settings: Settings) -> str:
    if run.decision == "canary":
        return (
            f"auto-rollback: the new version's canaries are {run.canary_distance:.3g} from their "
            f"stored vectors here, allowed are {REFUSE_DISTANCE:g}; the previous version's hold"
        )
    return (
        f"auto-rollback: recall@{settings.rollout.k} is {100 * run.loss:.1f} points below the "
        f"previous version's over {run.queries:,} queries, {100 * run.fall:.1f} of them since the "
        f"first look; a version that is no worse would be rolled back with a chance of "
        f"{settings.rollout.false_rollback:g} in the whole soak"
    )


class _StoppedError(Exception):
    """In the midst of a look, which counts for nothing then."""


class _StopWatch:
    """Ends a look when the process is to end."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def check(self) -> None:
        """Raises `_StoppedError` once the process is to end."""
        if self._stop.wait(0):
            raise _StoppedError


class _Watch:
    """What one process knows of a soak; the record keeps what others need to go on."""

    def __init__(
        self,
        context: RolloutContext,
        rollout: Rollout,
        golden: GoldenSet,
        *,
        planned: int,
        interval_seconds: float,
        clock: Callable[[], datetime],
        stop: threading.Event,
    ) -> None:
        self._context = context
        self._golden = golden
        self._seconds = _SHARE_OF_INTERVAL * interval_seconds
        self._clock = clock
        self._stop = _StopWatch(stop)
        self.rollout_id = rollout.rollout_id
        self._encoders: dict[str, Encoder] = {}
        note = rollout.note("soak")
        self._test = (
            SoakTest.from_json(note["test"])
            if note
            else SoakTest(planned, context.settings.rollout.false_rollback)
        )
        self._baseline: Mapping[str, float] | None = (
            note["baseline"] if note.get("digest") == golden.digest else None
        )
        self.last_at = datetime.fromisoformat(note["at"]) if note else None

    def look(self, rollout: Rollout) -> SoakRun:
        """One run; a version or a service that cannot be reached makes it a failed one."""
        number, at = self._test.run + 1, self._clock()
        try:
            run = self._look(rollout, number, at)
        except SettingsError:
            raise
        except PlumblineError as error:
            _log.warning("soak_run_failed", rollout=self.rollout_id, error=str(error))
            return SoakRun(number, at, "failed", problem=str(error))
        self._record(rollout, run)
        return run

    def _look(self, rollout: Rollout, number: int, at: datetime) -> SoakRun:
        settings = self._context.settings.rollout
        live, candidate = (
            (self._context.opened(ref), self._encoder(rollout, ref))
            for ref in (rollout.live, rollout.candidate)
        )
        # Outside the chance of the draw: what this process encodes is right or it is not.
        old, new = (_canary_distance(*pair) for pair in (live, candidate))
        recall_before, recall_after = self._recalls(live, candidate)
        differences = recall_after - recall_before
        queries = list(self._golden.qrels)
        if number == 1 and not recall_before.any():
            raise SettingsError(
                f"{self._golden.source}: the previous version finds no judged document at all: "
                "this golden set belongs to another index. `plumbline golden check` lists what is "
                "missing."
            )
        if self._baseline is None:
            self._baseline = {
                query: round(float(value), 6)
                for query, value in zip(queries, differences, strict=True)
                if value
            }
        first = np.array([self._baseline.get(query, 0.0) for query in queries])
        self._test = self._test.add(queries, differences, first)
        loss = float(-differences.mean())
        fall = float(-(differences - first).mean())
        decision: Decision = "ok"
        if new > REFUSE_DISTANCE >= old:
            decision = "canary"
        elif is_worse(self._test, loss, fall, settings):
            decision = "worse"
        return SoakRun(
            number=number,
            at=at,
            decision=decision,
            queries=len(queries),
            recall_before=float(recall_before.mean()),
            recall_after=float(recall_after.mean()),
            loss=loss,
            fall=fall,
            p_value=self._test.p_value,
            worse=self._test.worse,
            canary_distance=new,
        )

    def _encoder(self, rollout: Rollout, ref: VersionRef) -> Encoder:
        found = self._encoders.get(ref.name)
        if found is None:
            settings = self._context.settings
            if ref == rollout.candidate:
                own = ContractSettings.model_validate(dict(rollout.contract_settings))
                settings = settings.model_copy(update={"contract": own})
            found = encoder_for(self._context.opened(ref), settings)
            self._encoders[ref.name] = found
        return found

    def _recalls(self, *versions: tuple[Version, Encoder]) -> tuple[npt.NDArray[np.float64], ...]:
        """Of each version: of every scored query, in the golden set's order.

        A query goes to all of them at the same moment, so that what happens to the documents
        while they are asked happens to all.
        """
        k = self._context.settings.rollout.k
        queries = self._golden.scored
        vectors = [encode_golden(encoder, queries, self._stop) for _, encoder in versions]
        pace = Pace(unhurried(len(queries), self._seconds, _MOST_PER_SECOND), self._stop)
        stores = [
            VersionStore(self._context.qdrant, version, Pace(None, self._stop))
            for version, _ in versions
        ]
        ranked: list[dict[str, list[str]]] = [{} for _ in versions]
        for query in queries:
            pace.wait()
            for store, known, answers in zip(stores, vectors, ranked, strict=True):
                if query.id in known:
                    found = store.search(known[query.id], k)
                    answers[query.id] = [one.document_id for one in found]
        return tuple(score(self._golden.qrels, answers, (k,)).recall[k] for answers in ranked)

    def _record(self, rollout: Rollout, run: SoakRun) -> None:
        note = {
            "digest": self._golden.digest,
            "at": run.at.isoformat(timespec="milliseconds"),
            "baseline": dict(self._baseline or {}),
            "test": self._test.to_json(),
            "last": run.to_json(),
        }
        try:
            with command_lease(self._context):
                now = self._context.store.refresh(rollout)
                if now.state is RolloutState.SOAKING and now.intent is None:
                    self._context.store.update(now, soak=note)
        except (LeaseHeldError, RolloutConflictError) as error:
            # Another command is at work; the next run keeps what this one found.
            _log.info("soak_not_recorded", rollout=self.rollout_id, error=str(error))


def _canary_distance(version: Version, encoder: Encoder) -> float:
    report = compare(version.canaries, encoder)
    # Infinite where a side has no vector, which JSON has no word for; 2 is opposite.
    return min(2.0, max(report.document_distance, report.query_distance))
