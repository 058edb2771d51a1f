"""Fills a candidate beside the live version, and leaves its ingest job running.

In order: the candidate's collection; where its consumer group starts, committed; its ingest job;
the backfill, or the replay of the topic by that same job; `created_at` where the two raced; and,
once the job has caught up, the state `verifying`. Each step can be repeated, and finds what an
earlier build that was killed has done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

import structlog

from pipelines.backfill import BackfillReport, check_texts, run_backfill
from pipelines.core.encoder import Encoder, load_encoder
from pipelines.core.errors import (
    ContractMismatchError,
    IndexMissingError,
    LeaseHeldError,
    PlumblineError,
    RolloutConflictError,
    RolloutStateError,
    ServiceUnavailableError,
    SettingsError,
    SystemicError,
)
from pipelines.core.faults import point
from pipelines.core.lease import Lease
from pipelines.core.metrics_server import serve_metrics
from pipelines.core.rollout import NEXT_COMMAND, Rollout, RolloutState, VersionRef
from pipelines.core.settings import ContractSettings, Settings
from pipelines.core.settling import settle_created_at
from pipelines.core.versions import Version, create_version, find_version, live_version_name
from pipelines.ingest import run_ingest
from pipelines.io.kafka import STOP, check_broker, start_at_beginning, start_like
from pipelines.io.kafka.lag import lag_reader
from pipelines.rollout.candidate_job import CandidateJob, job_directory
from pipelines.rollout.context import RolloutContext, command_lease

__all__ = ["BuildReport", "build"]

Source = Literal["version", "topic"]

Progress = Callable[[Mapping[str, Any]], None]

_WATCH_SECONDS = 1.0
_RECORD_SECONDS = 5.0
_LAG_SECONDS = 1.0
_REMIND_SECONDS = 30.0
_FINISH_ATTEMPTS = 5

_BUILDABLE = (RolloutState.PLANNED, RolloutState.BUILDING, RolloutState.FAILED)

_log = structlog.get_logger()


@dataclass(frozen=True)
class BuildReport:
    """How a build ended.

    Parameters
    ----------
    complete
        False when it was told to stop; build again to go on.
    note
        What the rollout's record keeps of it.
    """

    rollout: Rollout
    complete: bool
    note: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **self.note,
            "rollout": self.rollout.rollout_id,
            "index": self.rollout.index,
            "state": self.rollout.state.value,
            "live": self.rollout.live.name,
            "candidate": self.rollout.candidate.name,
            "complete": self.complete,
        }


def build(
    settings: Settings,
    *,
    source: Source = "version",
    start_job: bool = True,
    again: bool = False,
    on_progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> BuildReport:
    """Fills the candidate of the index's rollout and moves it to `verifying`.

    Safe to repeat after a kill at any moment, and does nothing where the candidate is built.

    Parameters
    ----------
    source
        `version` re-embeds the texts that live keeps; `topic` replays the topic.
    start_job
        Start the candidate's ingest job here, where none runs; it goes on when this returns. The
        embedded store belongs to one process: there the job runs in this one, after the backfill,
        until it has caught up.
    again
        Fill a candidate that is built once more: what it lacks, or holds in an older state, comes
        from the source; what stands is read and left alone.
    on_progress
        Called about once a second: tokens and documents done and in all, rate, ETA, phase.
    stop
        Ends the build in order; the rollout stays `building`.

    Raises
    ------
    RolloutStateError
        There is no rollout, or it is past its build.
    RolloutConflictError
        It was aborted meanwhile, or another version has become live.
    GateError, DataLossError
        The source does not hold every document's text. Nothing was written.
    LeaseHeldError
        Another rollout command is running.
    PlumblineError
        What else stopped it. After an outage the rollout stays `building`, else it is `failed`.
    """
    context = RolloutContext.open(settings)
    with command_lease(context) as lease:
        rollout = _finish_intent(context, context.rollout())
        if rollout.state is RolloutState.VERIFYING and not again:
            return BuildReport(rollout, True, rollout.note("build"))
        if rollout.state not in (*_BUILDABLE, RolloutState.VERIFYING):
            raise RolloutStateError(
                f"the rollout {rollout.rollout_id} of {rollout.index} is {rollout.state}: what is "
                f"built is one that is {', '.join(_BUILDABLE)}. Next: "
                f"`{NEXT_COMMAND[rollout.state]}`."
            )
        work = _Build(
            context,
            lease,
            source,
            start_job,
            on_progress or (lambda _: None),
            stop or threading.Event(),
        )
        with _metrics(settings):
            return work.run(rollout)


def _finish_intent(context: RolloutContext, rollout: Rollout) -> Rollout:
    if rollout.intent is None:
        return rollout
    from pipelines.rollout.switch import finish_intent

    return finish_intent(context, rollout)


def _round(rollout: Rollout) -> int:
    """How often the candidate has been filled, the present time included; from 1."""
    return int(rollout.note("build").get("round", 1))


def _backfill_id(rollout: Rollout) -> str:
    """Ranges that one round has done are to be read again in the next."""
    number = _round(rollout)
    return rollout.rollout_id if number == 1 else f"{rollout.rollout_id}-{number}"


@contextmanager
def _metrics(settings: Settings) -> Iterator[None]:
    """The build's own metrics; on any free port where the one that is set is taken."""
    wanted = settings.metrics.model_copy(update={"port": settings.rollout.metrics_port})
    try:
        server = serve_metrics(wanted)
        server.__enter__()
    except SettingsError as error:
        _log.warning("metrics_port_taken", error=str(error))
        server = serve_metrics(wanted.model_copy(update={"port": 0}))
        server.__enter__()
    try:
        yield
    finally:
        server.__exit__(None, None, None)


class _Build:
    """One run of a build, under the lease."""

    def __init__(
        self,
        context: RolloutContext,
        lease: Lease,
        source: Source,
        start_job: bool,
        on_progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._context = context
        self._settings = context.settings
        self._lease = lease
        self._source = source
        self._start_job = start_job
        self._on_progress = on_progress
        self._stop = stop
        self._local = context.qdrant.local

    def run(self, rollout: Rollout) -> BuildReport:
        live, encoder = self._preflight(rollout)
        rollout = self._enter(rollout)
        watch: _Watch | None = None
        try:
            rollout, candidate = self._collection(rollout, encoder)
            self._start_offsets(live, candidate)
            watch = _Watch(self._context, self._lease, rollout, self._job(rollout, candidate))
            with watch:
                point("rollout.build.after_job")
                note = self._fill(live, candidate, watch)
            if note is None:
                return self._ended_early(watch.rollout, watch)
            point("rollout.build.before_verifying")
            rollout = watch.finish(f"built from the {self._source}", note)
            return BuildReport(rollout, True, rollout.note("build"))
        except (
            ServiceUnavailableError,
            LeaseHeldError,
            RolloutConflictError,
            RolloutStateError,
        ):
            raise  # Nothing is wrong with the rollout: build again, or look who moved it.
        except PlumblineError as error:
            self._fail(watch.rollout if watch is not None else rollout, error)
            raise

    def _preflight(self, rollout: Rollout) -> tuple[Version, Encoder]:
        """Everything that can be refused before anything is written."""
        if self._local and not self._start_job:
            raise SettingsError(
                "the embedded store belongs to one process at a time, so no job can run elsewhere "
                "beside this build: leave --no-job out"
            )
        begun_from = rollout.note("build").get("source", self._source)
        if begun_from != self._source:
            raise RolloutStateError(
                f"this build was begun from the {begun_from} and cannot go on from the "
                f"{self._source}: the candidate's job starts elsewhere. Build with --from "
                f"{begun_from}, or abort the rollout and plan it again."
            )
        if rollout.state is RolloutState.VERIFYING and self._source == "topic":
            raise RolloutStateError(
                f"{rollout.candidate.name} was built by replaying the topic, whose records its job "
                "has committed: it cannot be filled again. `plumbline rollout abort`, then plan "
                "anew."
            )
        live = self._context.live()
        if live.name != rollout.live.name or live.incarnation != rollout.live.incarnation:
            raise RolloutConflictError(
                f"the live version of {rollout.index} is {live.name} now; the rollout was planned "
                f"when it was {rollout.live.name}. Abort it (`plumbline rollout abort`) and plan "
                "it again."
            )
        contract = ContractSettings(**rollout.contract_settings)
        encoder = load_encoder(contract, self._settings.runtime)
        differences = encoder.contract.differences(rollout.contract)
        if self._settings.kafka.order_by is not live.order_by:
            differences["order_by"] = (live.order_by.value, self._settings.kafka.order_by.value)
        if differences:
            raise ContractMismatchError(rollout.candidate.name, differences)
        if self._source == "version":
            check_texts(self._context.qdrant, live)
        check_broker(self._settings)
        return live, encoder

    def _enter(self, rollout: Rollout) -> Rollout:
        """`building`, with what this build is on record, before anything exists of it."""
        if rollout.state is RolloutState.BUILDING:
            return rollout
        note = {
            "source": self._source,
            "begun_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **rollout.note("build"),
        }
        again = rollout.state is RolloutState.VERIFYING
        if again:
            note["round"] = _round(rollout) + 1
        point("rollout.build.before_move")
        rollout = self._context.store.move(
            rollout,
            RolloutState.BUILDING,
            f"{'filled again' if again else 'build'} from the {self._source}",
            build=note,
        )
        point("rollout.build.after_move")
        return rollout

    def _collection(self, rollout: Rollout, encoder: Encoder) -> tuple[Rollout, Version]:
        """The candidate's collection, made or taken over, and on record."""
        known = rollout.candidate
        qdrant, settings = self._context.qdrant, self._settings
        there = find_version(qdrant, rollout.index, known.fingerprint)
        if there is None and known.incarnation and rollout.note("build").get("incarnation"):
            raise IndexMissingError(
                f"{known.name} is gone: somebody dropped it while it was being built. "
                "`plumbline rollout abort` gives the rollout up."
            )
        contract = ContractSettings(**rollout.contract_settings)
        candidate = create_version(
            qdrant, settings.model_copy(update={"contract": contract}), encoder
        )
        point("rollout.build.after_collection")
        if live_version_name(qdrant, rollout.index) == candidate.name:
            raise RolloutConflictError(
                f"{candidate.name} is live: somebody set the alias of {rollout.index}. "
                "`plumbline rollout status` says more."
            )
        reference = VersionRef.of(candidate)
        if known.incarnation and known != reference and there is not None:
            self._context.opened(known)  # raises: another collection has its name
        if known != reference or not rollout.note("build").get("incarnation"):
            note = {**rollout.note("build"), "incarnation": candidate.incarnation}
            rollout = self._context.store.update(rollout, candidate=reference, build=note)
        point("rollout.build.after_record")
        return rollout, candidate

    def _start_offsets(self, live: Version, candidate: Version) -> None:
        # Before a document is read: what comes after it is the job's.
        if self._source == "version":
            start_like(self._settings, candidate.group_id, live.group_id)
        else:
            start_at_beginning(self._settings, candidate.group_id)
        point("rollout.build.after_offsets")

    def _job(self, rollout: Rollout, candidate: Version) -> CandidateJob | None:
        if self._local or not self._start_job:
            return None
        note = rollout.note("build").get("job")
        return CandidateJob(
            self._settings,
            candidate.name,
            rollout.contract_settings,
            self._context.control,
            job_directory(self._settings, rollout.rollout_id),
            note,
        )

    def _fill(self, live: Version, candidate: Version, watch: _Watch) -> dict[str, Any] | None:
        """What the record is to keep of it; `None` when it was stopped."""
        begun = time.monotonic()
        note: dict[str, Any] = {}
        halt = watch.halt
        link = threading.Thread(target=_link, args=(self._stop, halt), daemon=True)
        link.start()
        if self._source == "version":
            report = self._backfill(live, candidate, watch)
            if not report.complete:
                watch.check()
                return None
            note["backfill"] = report.to_json()
            point("rollout.build.after_backfill")
        self._tell(watch, {"phase": "catching up"})
        lag = self._catch_up(candidate, watch)
        watch.check()
        if lag is None:
            return None
        note["lag_records"] = lag
        self._tell(watch, {"phase": "settling"})
        settled = settle_created_at(self._context.qdrant, live, candidate, stop=halt)
        watch.check()
        if halt.is_set():
            return None
        note["settled"] = settled.to_json()
        note["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        note["last_run_seconds"] = round(time.monotonic() - begun, 1)
        return note

    def _backfill(self, live: Version, candidate: Version, watch: _Watch) -> BackfillReport:
        contract = ContractSettings(**watch.rollout.contract_settings)
        return run_backfill(
            # Helps to find the candidate's model.
            self._settings.model_copy(update={"contract": contract}),
            live,
            candidate,
            backfill_id=_backfill_id(watch.rollout),
            stop=watch.halt,
            tell=lambda at: self._tell(watch, {**at, "phase": "backfill"}),
        )

    def _tell(self, watch: _Watch, at: Mapping[str, Any]) -> None:
        watch.progress = {**watch.progress, **at}
        self._on_progress(watch.progress)

    def _catch_up(self, candidate: Version, watch: _Watch) -> int | None:
        """Records that the candidate's job is behind, within the bound; `None` when stopped."""
        bound = self._settings.rollout.lag_bound_records
        read = lag_reader(self._settings, read_seconds=0.0)
        if self._local:
            self._ingest_here(watch.rollout, candidate, watch.halt)
        reminded = time.monotonic()
        while not watch.halt.is_set():
            lag = sum(one.records for one in read(candidate))
            self._tell(watch, {"lag_records": lag})
            if lag <= bound:
                return lag
            if self._local:
                self._ingest_here(watch.rollout, candidate, watch.halt)
            elif time.monotonic() - reminded > _REMIND_SECONDS:
                reminded = time.monotonic()
                _log.info(
                    "waiting_for_candidate_job",
                    lag_records=lag,
                    bound=bound,
                    command=f"plumbline ingest --version {candidate.name}",
                )
            watch.halt.wait(_LAG_SECONDS)
        return None

    def _ingest_here(self, rollout: Rollout, candidate: Version, halt: threading.Event) -> None:
        if halt.is_set():
            return
        settings = self._settings.model_copy(
            update={
                "contract": ContractSettings(**rollout.contract_settings),
                "metrics": self._settings.metrics.model_copy(update={"port": None}),
            }
        )
        done = threading.Event()

        def drain() -> None:
            while not done.wait(0.1):
                if halt.is_set():
                    STOP.set()
                    return

        link = threading.Thread(target=drain, daemon=True)
        link.start()
        try:
            result = run_ingest(settings, until_caught_up=True, version=candidate.name)
        finally:
            done.set()
            link.join()
            if halt.is_set():
                STOP.clear()
        if result.exit_code and not halt.is_set():
            raise SystemicError(
                f"the candidate's ingest ended with exit code {result.exit_code}: "
                f"{result.counts.consumed} events consumed, {result.counts.accounted} accounted "
                f"for, {len(result.uncommitted)} partitions not committed. Build again."
            )

    def _ended_early(self, rollout: Rollout, watch: _Watch) -> BuildReport:
        _log.info("build_stopped", rollout=rollout.rollout_id, state=rollout.state.value)
        return BuildReport(rollout, False, {**rollout.note("build"), "progress": watch.progress})

    def _fail(self, rollout: Rollout, error: PlumblineError) -> None:
        try:
            now = self._context.store.refresh(rollout)
            if now.state is RolloutState.BUILDING and now.intent is None:
                self._context.store.move(now, RolloutState.FAILED, str(error)[:500])
        except PlumblineError as second:
            _log.warning("rollout_not_moved", error=str(second))


def _link(stop: threading.Event, halt: threading.Event) -> None:
    while not halt.is_set():
        if stop.wait(0.2):
            halt.set()


class _Watch:
    """Looks after a build from a thread of its own: lease, record, job, progress on record.

    Parameters
    ----------
    rollout
        As it stands; `rollout` is the newest state afterwards.
    job
        Kept running; `None` where that is not this build's business.
    """

    def __init__(
        self,
        context: RolloutContext,
        lease: Lease,
        rollout: Rollout,
        job: CandidateJob | None,
    ) -> None:
        self._context = context
        self._lease = lease
        self.rollout = rollout
        self._job = job
        self.halt = threading.Event()
        """Ends the work."""
        self.progress: Mapping[str, Any] = rollout.note("progress")
        self._recorded: Mapping[str, Any] = self.progress
        self._recorded_at = time.monotonic()
        self._error: PlumblineError | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="plumbline-build", daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self.check()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.halt.set()
        self._done.set()
        self._thread.join()

    def finish(self, reason: str, note: Mapping[str, Any]) -> Rollout:
        """Moves the rollout to verifying; whoever wrote beside us decides first.

        An abort may come between the last look and this step, or right in it.

        Raises
        ------
        RolloutConflictError
            It was aborted or moved meanwhile, or somebody writes all the time.
        """
        for attempt in range(_FINISH_ATTEMPTS):
            self._refresh()
            try:
                self.rollout = self._context.store.move(
                    self.rollout,
                    RolloutState.VERIFYING,
                    reason,
                    build={**self.rollout.note("build"), **note},
                    progress=self.progress,
                )
            except RolloutConflictError:
                if attempt + 1 == _FINISH_ATTEMPTS:
                    raise
            else:
                break
        return self.rollout

    def check(self) -> None:
        """Raises what ended the build: the lease is lost, it was aborted, the job does not run."""
        if self._error is not None:
            raise self._error

    def _loop(self) -> None:
        while not self._done.wait(_WATCH_SECONDS):
            self._look()
            if self._error is not None:
                return

    def _look(self) -> None:
        try:
            self._lease.check()
            self._refresh()
            started = self._job is not None and self._job.keep()
            due = time.monotonic() - self._recorded_at >= _RECORD_SECONDS
            if started or (due and self.progress != self._recorded):
                self._record()
        except PlumblineError as error:
            self._error = error
            self.halt.set()

    def _refresh(self) -> None:
        now = self._context.store.refresh(self.rollout)
        aborted = now.intent is not None and now.intent.action == "abort"
        if aborted or now.state is not RolloutState.BUILDING:
            if self._job is not None:
                self._job.stop()
            what = "is being aborted" if aborted else f"is {now.state}"
            who = now.intent.actor if now.intent is not None else now.history[-1].actor
            raise RolloutConflictError(
                f"the build stops: the rollout {now.rollout_id} of {now.index} {what} (by {who})."
            )
        self.rollout = now

    def _record(self) -> None:
        """Progress and job on record; where somebody else writes, the next look tries again."""
        note = self.rollout.note("build")
        if self._job is not None:
            note["job"] = self._job.note
        progress = self.progress
        try:
            self.rollout = self._context.store.update(self.rollout, build=note, progress=progress)
        except RolloutConflictError:
            self._refresh()
            if self._job is not None and self.rollout.note("build").get("job") != self._job.note:
                self._recorded_at = float("-inf")
            return
        self._recorded, self._recorded_at = progress, time.monotonic()
