"""Runs one probe once: on a thread of its own, within its time, on the version it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from monitors.background import stand_back
from monitors.context import RunDeadline, StagedReferences, make_context
from monitors.failures import FAILURES, describe, reason_of
from monitors.finished import Finished, as_failed, begun_at
from monitors.live import Look, look
from monitors.probes.base import LagReader, Level, Probe, ProbeContext, ProbeResult
from monitors.results import exportable, known_reason, stored_evidence
from monitors.store import Memory, NewReset, Outcome, Run, SupersededError, VersionKey
from pipelines.core.errors import PlumblineError

if TYPE_CHECKING:
    from monitors.encoders import Encoders
    from monitors.store import Store
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import Settings

__all__ = ["Finished", "Reset", "Runner"]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reset:
    """A memory that is given up before a run.

    Parameters
    ----------
    event
        Written with the run.
    forget
        What is left of the memory, at the start of the run.
    """

    event: NewReset
    forget: Callable[[Memory, datetime], Memory]


@dataclass
class _Attempt:
    """One run's thread, and what came of it."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)
    done: bool = False
    key: VersionKey | None = None
    left: bool = False
    """The version was switched under it; see `Runner.leave`."""
    result: ProbeResult | None = None
    error: BaseException | None = None


class Runner:
    """Runs probes; several at once, but never two runs of the same one.

    Parameters
    ----------
    probes
        By name.
    record
        False leaves the store as it is.
    lag
        `None` where no Kafka is set up.
    look_at
        Says which version is to be probed, at the start of a run and again at its end: a result
        is dropped when the answer has changed. Default: the one that is live.
    counted
        False leaves the index's counts of runs and failures alone: those are the live version's.
    reset
        Each run gives up its memory first. Only one that completes is written.
    now
        Injected by tests.
    """

    def __init__(
        self,
        settings: Settings,
        qdrant: Qdrant,
        store: Store,
        probes: Mapping[str, Probe],
        encoders: Encoders,
        *,
        lag: LagReader | None = None,
        record: bool = True,
        look_at: Callable[[], Look] | None = None,
        counted: bool = True,
        reset: Reset | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._qdrant = qdrant
        self._store = store
        self._probes = probes
        self._encoders = encoders
        self._lag = lag
        self._record = record
        self._look = look_at or (lambda: look(qdrant, settings.index))
        self._counted = counted
        self._reset = reset
        self._now = now
        self._lock = threading.Lock()
        self._attempts: dict[str, _Attempt] = {}
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Calls every run off, now and later: no result of theirs is written any more."""
        with self._lock:
            self._cancelled.set()
            for attempt in self._attempts.values():
                attempt.cancelled.set()
                attempt.wake.set()

    def resume(self) -> None:
        """Allows runs again. Threads that were left behind still count as running."""
        with self._lock:
            self._cancelled = threading.Event()

    def leave(self, version: VersionKey | None) -> None:
        """Ends the runs on any version but this one: what they would still find is dropped.

        A probe may take most of its interval, and the new version would wait for so long.
        """
        with self._lock:
            for attempt in self._attempts.values():
                if attempt.key not in (None, version) and not attempt.done:
                    attempt.left = True
                    attempt.cancelled.set()

    @property
    def running(self) -> tuple[str, ...]:
        """Probes with a thread that has not ended."""
        with self._lock:
            return tuple(name for name, attempt in self._attempts.items() if not attempt.done)

    def run(self, name: str) -> Finished | None:
        """One run of a probe; `None` when it was called off, or there is nothing to look at.

        No error of the probe's is raised.

        Parameters
        ----------
        name
            Of the probe.
        """
        attempt = _Attempt()
        with self._lock:
            cancelled = self._cancelled
            before = self._attempts.get(name)
            busy = before is not None and not before.done
            if not busy:
                self._attempts[name] = attempt
        started = False
        started_at, begun = self._now(), time.monotonic()
        try:
            seen = self._look()
            if not seen.allows(name):
                return None
            key = seen.key or self._known_key()
            with self._lock:
                attempt.key = key

            def failed(failure: str, message: str) -> Finished:
                return begun_at(name, key, started_at, begun, failure=failure, message=message)

            if busy:
                return self._write(failed("still_running", FAILURES["still_running"]), cancelled)
            if seen.version is None:
                assert seen.error is not None
                return self._write(failed(reason_of(seen.error), describe(seen.error)), cancelled)
            seconds = float(getattr(self._settings.monitor, name).timeout_seconds)
            try:
                memory = self._store.memory(key, name)
            except PlumblineError as error:
                return self._log(failed("history", describe(error)))
            if self._reset is not None:
                memory = self._reset.forget(memory, started_at)
            context, staged = make_context(
                settings=self._settings,
                qdrant=self._qdrant,
                version=seen.version,
                encoders=self._encoders,
                store=self._store,
                probe=name,
                memory=memory,
                now=started_at,
                deadline=RunDeadline(time.monotonic() + seconds, attempt.cancelled),
                lag=self._lag,
            )
            if cancelled.is_set():
                return None
            started = True
            self._start(name, attempt, context)
        finally:
            attempt.done = attempt.done or not started
        attempt.wake.wait(seconds)
        if not attempt.done and not cancelled.is_set():
            # What it may still answer is dropped: nobody waits for it any more.
            attempt.cancelled.set()
            if attempt.left:
                left = _overtaken(begun_at(name, key, started_at, begun))
                return self._write(left, cancelled, memory)
            message = f"no answer within {seconds:g} s (monitor.{name}.timeout_seconds)"
            return self._write(failed("timeout", message), cancelled, memory)
        if cancelled.is_set():
            return None
        ended = self._judged(name, attempt, begun_at(name, key, started_at, begun))
        return None if ended is None else self._write(ended, cancelled, memory, staged)

    def _judged(self, name: str, attempt: _Attempt, ended: Finished) -> Finished | None:
        """What the thread's answer amounts to, now that the alias may have moved."""
        again = self._look()
        if not again.allows(name):
            _log.info("probe_run_dropped", probe=name, version=ended.key.version)
            return None
        # Where Qdrant does not say, the result stands: it is true of the version it names.
        if attempt.left or (again.key is not None and again.key != ended.key):
            return _overtaken(ended)
        error = attempt.error
        if error is None and attempt.result is None:
            error = TypeError(f"the probe {name} gave no result")
        if error is not None:
            return replace(ended, failure=reason_of(error), message=describe(error))
        return replace(ended, outcome=Outcome.COMPLETED, result=attempt.result)

    def _start(self, name: str, attempt: _Attempt, context: ProbeContext) -> None:
        probe = self._probes[name]

        def body() -> None:
            stand_back()
            try:
                attempt.result = probe.run(context)
            except BaseException as error:  # noqa: BLE001 - it is counted, whatever it is
                attempt.error = error
            finally:
                attempt.done = True
                attempt.wake.set()

        # A daemon: a run that hangs must not keep the process from ending.
        threading.Thread(target=body, name=f"probe {name}", daemon=True).start()

    def _known_key(self) -> VersionKey:
        """The version last seen, while Qdrant does not answer."""
        try:
            live = self._store.live(self._settings.index)
        except PlumblineError:
            live = None
        return VersionKey(self._settings.index, "", "") if live is None else live.key

    def _write(
        self,
        ended: Finished,
        cancelled: threading.Event,
        memory: Memory | None = None,
        staged: StagedReferences | None = None,
    ) -> Finished | None:
        """Stores a run that has ended, unless runs are called off.

        Parameters
        ----------
        memory
            What the run began with; without it, whatever the store has now.
        """
        if cancelled.is_set():
            return None
        if not self._record or (self._reset and ended.outcome is not Outcome.COMPLETED):
            return self._log(ended)
        try:
            if ended.outcome is Outcome.VERSION_SWITCHED:
                self._count(ended, ended.outcome)
            else:
                if memory is None:
                    memory = self._store.memory(ended.key, ended.probe)
                run = self._as_run(ended, staged)
                event = None if self._reset is None else self._reset.event
                self._store.record(run, memory.runs, counted=self._counted, reset=event)
        except SupersededError as error:
            return self._log(self._superseded(ended, error))
        except PlumblineError as error:
            return self._log(as_failed(ended, "history", describe(error)))
        except (TypeError, ValueError) as error:
            if ended.result is None:
                raise
            # The probe's state holds what JSON has not, such as NaN. Said, and kept out.
            message = f"the probe's state or baseline cannot be stored: {describe(error)}"
            return self._write(as_failed(ended, "fault", message), cancelled, memory)
        return self._log(replace(ended, recorded=True))

    def _count(self, ended: Finished, outcome: Outcome) -> None:
        if self._counted:
            self._store.count(ended.key.index, ended.probe, outcome)

    def _superseded(self, ended: Finished, error: SupersededError) -> Finished:
        try:
            self._count(ended, Outcome.SUPERSEDED)
        except PlumblineError:
            _log.warning("run_not_counted", probe=ended.probe)
        return replace(
            ended, outcome=Outcome.SUPERSEDED, failure="", message=str(error), result=None
        )

    def _as_run(self, ended: Finished, staged: StagedReferences | None) -> Run:
        result = ended.result
        common: dict[str, Any] = {
            "key": ended.key,
            "probe": ended.probe,
            "started_at": ended.started_at,
            "seconds": ended.seconds,
            "outcome": ended.outcome,
            "failure": ended.failure,
            "message": ended.message,
        }
        if result is None:
            return Run(**common)
        return Run(
            **common,
            level=result.level,
            reason=known_reason(self._probes[ended.probe], result.reason),
            words=result.words,
            evidence=stored_evidence(result.evidence),
            figures=exportable(self._probes[ended.probe], result.figures),
            details=result.details,
            state=result.state,
            baseline=result.baseline,
            references=tuple(staged.taken.values()) if staged is not None else (),
        )

    def _log(self, ended: Finished) -> Finished:
        fields: dict[str, Any] = {
            "probe": ended.probe,
            "version": ended.key.version,
            "outcome": ended.outcome.value,
            "seconds": round(ended.seconds, 3),
        }
        result = ended.result
        if result is None:
            _log.warning("probe_run", **fields, failure=ended.failure, message=ended.message)
            return ended
        # `level` is the log line's own.
        fields |= {"found": result.level.value, "reason": result.reason, "words": result.words}
        loud = result.level in (Level.ALARM, Level.WARNING)
        (_log.warning if loud else _log.info)("probe_run", **fields)
        return ended


def _overtaken(ended: Finished) -> Finished:
    words = f"another version has taken the place of {ended.key.version} while the probe ran"
    return replace(ended, outcome=Outcome.VERSION_SWITCHED, failure="", message=words)
