"""The batch job that fills a version from another one's stored texts.

`Ranges → ReadFromVersion → Encode → Write`: every document of the source is written into the
target under the position that the source holds it at, by the planner and the writer of the
ingest job. Newest wins on the server, so it may run beside the target's own ingest job, twice,
or after a crash in the middle.

A range is put on record when everything of it is durable; a run that was killed goes on with the
others. From reader to writer there is no fusion break but the one that spreads the ranges.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import structlog
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.typehints import with_output_types

from pipelines.core.backfill_progress import (
    BackfillLedger,
    BackfillPlan,
    BackfillProgress,
    RangeCounts,
)
from pipelines.core.chunker import chunker_for
from pipelines.core.control import Control
from pipelines.core.errors import (
    ContractMismatchError,
    GateError,
    IndexMissingError,
    PlumblineError,
    SettingsError,
    SystemicError,
)
from pipelines.core.failures import FAILURES, guarded
from pipelines.core.faults import point
from pipelines.core.index import contract_for, encoder_for
from pipelines.core.job import Job, JobSpec
from pipelines.core.lease import LEASE, Lease, ingest_lease
from pipelines.core.plans import Action, Outcome, Plan
from pipelines.core.qdrant import Qdrant, connect
from pipelines.core.settings import Settings
from pipelines.core.stored_documents import (
    StoredDocument,
    count_heads,
    id_ranges,
    missing_texts,
    read_heads_of,
    stored_document,
)
from pipelines.core.throttle import Freshness, FreshnessReader, LatestFreshness, Throttle
from pipelines.core.versions import Version, list_versions, live_version_name, open_version
from pipelines.core.writing import Written
from pipelines.io.freshness import live_freshness
from pipelines.io.in_process import InProcessRunner
from pipelines.io.version import DocumentBatch, ReadFromVersion

__all__ = [
    "BackfillReport",
    "BackfillSpec",
    "backfill_pipeline",
    "check_texts",
    "fill_version",
    "run_backfill",
]

_SAMPLE_DOCUMENTS = 256

_PIECE_DOCUMENTS = 32
"""Encoded at once while live events wait: a batch of hundreds would hold them up for seconds."""

_IN_FLIGHT = 2
"""Batches handed to the writer: one being written, one behind it. More would only hold memory."""

_TELL_SECONDS = 1.0
_LOG_SECONDS = 10.0

_log = structlog.get_logger()

Tell = Callable[[Mapping[str, Any]], None]
"""Takes what `BackfillProgress.snapshot` gives, about once a second."""


@dataclass(frozen=True)
class BackfillReport:
    """How a backfill stands after a run.

    Parameters
    ----------
    complete
        Whether every range is done; False when the run was stopped.
    counts
        Of all runs together.
    seconds, throttled_seconds
        Of this run: wall time, and how much of it was pauses.
    """

    backfill_id: str
    source: str
    target: str
    complete: bool
    ranges: int
    ranges_done: int
    counts: RangeCounts = field(repr=False)
    seconds: float = 0.0
    throttled_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "backfill": self.backfill_id,
            "source": self.source,
            "target": self.target,
            "complete": self.complete,
            "ranges": self.ranges,
            "ranges_done": self.ranges_done,
            "seconds": round(self.seconds, 1),
            "throttled_seconds": round(self.throttled_seconds, 1),
            **self.counts.to_json(),
        }


@dataclass(frozen=True)
class BackfillSpec:
    """What travels with the pipeline's steps; `run` is what a process makes of it.

    Parameters
    ----------
    settings
        With the target's contract in place.
    source, target
        Collections, by their own names.
    """

    settings: Settings
    source: str
    target: str
    backfill_id: str
    plan: BackfillPlan

    def run(self) -> _Run:
        """This process's share of the backfill."""
        with _runs_lock:
            found = _runs.get(self.backfill_id)
            if found is None:
                found = _runs[self.backfill_id] = _Run(self)
            return found

    def stopped(self) -> bool:
        """Whether this process is to stop reading."""
        return self.run().stop.is_set()


class _Run:
    """Throttle, progress and stop of a backfill in one process."""

    def __init__(
        self,
        spec: BackfillSpec,
        *,
        before: RangeCounts | None = None,
        freshness: FreshnessReader | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        settings = spec.settings
        qdrant = connect(settings)
        source, target = open_version(qdrant, spec.source), open_version(qdrant, spec.target)
        self.stop = stop or threading.Event()
        self.control = Control(qdrant)
        self.ledger = BackfillLedger(self.control, spec.backfill_id, source, target)
        self.progress = BackfillProgress(
            spec.plan, before or RangeCounts(), (target.index, target.name)
        )
        if freshness is None:
            freshness = _nothing if qdrant.local else self._of_live_job(settings, source)
        self.freshness = LatestFreshness(freshness)
        self.throttle = Throttle(
            self.freshness,
            settings.rollout.freshness_bound_seconds,
            settings.rollout.lag_bound_records,
            stop=self.stop,
        )

    def _of_live_job(self, settings: Settings, source: Version) -> FreshnessReader:
        """How the source's job fares while there is one; without, nobody waits for it to read."""
        look, control = live_freshness(settings, source), self.control

        def read() -> Freshness | None:
            lease = control.read(LEASE, ingest_lease(source.name))
            return look() if lease is not None and lease.fields.get("holder") else Freshness(0, 0.0)

        return read


def _nothing() -> None:
    """The embedded store belongs to one process: no job runs beside this one."""
    return


_runs: dict[str, _Run] = {}
_runs_lock = threading.Lock()


@dataclass
class _PlannedBatch:
    """A batch, or a piece of one, ready to be written.

    Parameters
    ----------
    counts
        What is known before the write: refusals of the encoder, altered texts, tokens.
    """

    range_number: int
    plans: list[Plan]
    counts: RangeCounts
    last: bool


@guarded
@with_output_types(_PlannedBatch)
class EncodeFn(beam.DoFn):
    """`DocumentBatch` to plans with their vectors, at the pace that live events leave."""

    def __init__(self, spec: BackfillSpec) -> None:
        self._spec = spec

    def setup(self) -> None:
        """Opens the target; refuses when contract or canaries do not match."""
        self._job: Job = JobSpec(self._spec.settings, self._spec.target).open()
        self._run = self._spec.run()

    def process(self, element: DocumentBatch) -> Iterator[_PlannedBatch]:
        """Reads what the target holds, cuts, encodes, and makes room for live events."""
        self._job.check_canaries()
        documents = list(element.documents)
        while documents:
            size = len(documents) if self._run.throttle.share == 1 else _PIECE_DOCUMENTS
            piece, documents = documents[:size], documents[size:]
            begun = time.perf_counter()
            yield self._plan(element.range_number, piece)
            paused = self._run.throttle.after(time.perf_counter() - begun)
            self._run.progress.throttled(self._run.throttle.share, paused)
            if self._run.stop.is_set():
                return
        if element.last:
            yield _PlannedBatch(element.range_number, [], RangeCounts(), last=True)

    def _plan(self, range_number: int, documents: Sequence[StoredDocument]) -> _PlannedBatch:
        planner = self._job.planner
        created_at = {one.event.document_id: one.created_at for one in documents}
        plans, _ = planner.reconcile([one.event for one in documents])
        for plan in plans:
            if plan.writes and not plan.event.deleted:
                plan.created_at = created_at[plan.event.document_id]
        counts = RangeCounts(documents=len(documents))
        for one in documents:
            if one.altered:
                counts.alter(one.event.document_id)
        planner.cut(plans)
        for event, why in planner.encode(plans):
            counts.refuse(event.document_id, why)
        counts.tokens = sum(plan.tokens for plan in plans)
        kept = [plan for plan in plans if plan.action is not Action.REFUSED]
        return _PlannedBatch(range_number, kept, counts, last=False)


@guarded
class WriteFn(beam.DoFn):
    """Writes planned batches while the next one is encoded, and puts finished ranges on record.

    Delivery: a range is on record only when every document of it is durable in the target, or
    something newer is, or its refusal is counted. A range that a failure or a stop cuts off is
    not put on record, and done again from its start by the next run.
    """

    def __init__(self, spec: BackfillSpec) -> None:
        self._spec = spec

    def setup(self) -> None:
        """Opens the target and the writer's thread."""
        self._job: Job = JobSpec(self._spec.settings, self._spec.target).open()
        self._run = self._spec.run()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plumbline-write")
        self._in_flight: deque[Future[None]] = deque()
        # Of the writer's thread alone, which carries out everything in the order it was given.
        self._open: dict[int, RangeCounts] = {}
        self._failed = False

    def teardown(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=True)

    def start_bundle(self) -> None:
        """Forgets what a bundle that failed has left: its ranges begin anew."""
        while self._in_flight:
            self._in_flight.popleft().exception()
        self._open.clear()
        self._failed = False

    def process(self, element: _PlannedBatch) -> None:
        """Hands the batch to the writer, and raises what an earlier one failed with."""
        while len(self._in_flight) >= _IN_FLIGHT:
            self._in_flight.popleft().result()
        work = self._finish if element.last else self._write
        self._in_flight.append(self._thread.submit(work, element))

    def finish_bundle(self) -> None:
        """Waits until everything of the bundle is durable."""
        while self._in_flight:
            self._in_flight.popleft().result()
        self._job.qdrant.sync(self._job.version.name)

    def _write(self, batch: _PlannedBatch) -> None:
        counts = batch.counts
        point("backfill.before_write")
        try:
            results = self._job.writer.write(batch.plans)
        except BaseException:
            self._failed = True
            raise
        for plan, written in zip(batch.plans, results, strict=True):
            _count(counts, plan, written)
        point("backfill.after_write")
        self._open.setdefault(batch.range_number, RangeCounts()).add(counts)
        self._run.progress.add(counts)

    def _finish(self, batch: _PlannedBatch) -> None:
        if self._failed:
            return  # the bundle is about to fail, and a range is not whole
        counts = self._open.pop(batch.range_number, RangeCounts())
        self._job.qdrant.sync(self._job.version.name)
        self._run.ledger.finish(batch.range_number, counts)
        point("backfill.after_range")


def _count(counts: RangeCounts, plan: Plan, written: Written) -> None:
    if written.refused is not None:
        counts.refuse(plan.event.document_id, written.refused)
    elif written.outcome is Outcome.STALE:
        counts.stale += 1
    elif plan.action is Action.NOTHING:
        counts.unchanged += 1
    elif plan.event.deleted:
        counts.tombstones += 1
    else:
        counts.embedded += 1
        counts.chunks += len(plan.chunks)


def backfill_pipeline(pipeline: beam.Pipeline, spec: BackfillSpec, ranges: Sequence[Any]) -> None:
    """Applies the job's steps to a pipeline."""
    (
        pipeline
        | "ReadFromVersion"
        >> ReadFromVersion(
            spec.settings,
            spec.source,
            ranges,
            batch_documents=spec.settings.rollout.batch_documents,
            stopped=spec.stopped,
        )
        | "Encode" >> beam.ParDo(EncodeFn(spec))
        | "Write" >> beam.ParDo(WriteFn(spec))
    )


def check_texts(qdrant: Qdrant, source: Version) -> None:
    """Refuses a source that does not keep the text of every living document.

    Raises
    ------
    GateError
        Counts the documents without text and lists ten. Nothing was written.
    """
    missing = missing_texts(qdrant, source.name)
    if missing.count:
        shown = ", ".join(repr(document_id) for document_id in missing.document_ids)
        more = ", …" if missing.count > len(missing.document_ids) else ""
        raise GateError(
            f"{source.name} does not keep the text of {missing.count:,} documents ({shown}{more}): "
            "they were written with ingest.store_text off, so there is nothing to embed anew. "
            "Build from a compacted topic (`--from topic`), or send those documents again with "
            "ingest.store_text on. Nothing was written."
        )


def run_backfill(
    settings: Settings,
    source: Version,
    target: Version,
    *,
    backfill_id: str,
    freshness: FreshnessReader | None = None,
    stop: threading.Event | None = None,
    tell: Tell | None = None,
    runner: Any = None,
    pipeline_options: Sequence[str] = (),
) -> BackfillReport:
    """Writes every document of the source into the target, where it is not there in a newer state.

    Parameters
    ----------
    settings
        Their `contract` only helps to find the target's model.
    backfill_id
        Names the work: another run under the same name goes on where this one ends.
    freshness
        How live fares; by default its lag in Kafka and its job's metrics.
    stop
        Ends the run after the batch that is under way; the report is then not complete.
    tell
        Called with the progress, from a thread of its own.
    runner, pipeline_options
        Of Beam; by default in process.

    Raises
    ------
    GateError
        The source does not keep its texts.
    ContractMismatchError, CanaryMismatchError, ModelError
        This process must not write the target.
    PlumblineError
        What stopped it. Start it again: finished ranges are not done twice.
    """
    qdrant = connect(settings)
    check_texts(qdrant, source)
    settings = settings.model_copy(update={"contract": contract_for(target, settings)})
    FAILURES.clear()
    JobSpec(settings, target.name).open()
    ledger = BackfillLedger(Control(qdrant), backfill_id, source, target)
    plan = ledger.plan() or ledger.begin(_plan(qdrant, settings, source, target))
    point("backfill.after_plan")
    done = ledger.done()
    before = RangeCounts()
    for counts in done.values():
        before.add(counts)
    ranges = [one for one in id_ranges(plan.ranges) if one.number not in done]
    spec = BackfillSpec(settings, source.name, target.name, backfill_id, plan)
    run = _Run(spec, before=before, freshness=freshness, stop=stop)
    with _runs_lock:
        _runs[backfill_id] = run
    _log.info(
        "backfill_starting",
        source=source.name,
        target=target.name,
        ranges=plan.ranges,
        ranges_left=len(ranges),
        documents=plan.documents,
        tombstones=plan.tombstones,
    )
    begun = time.monotonic()
    teller = _Teller(run.progress, tell)
    try:
        if ranges:
            _run_pipeline(spec, ranges, runner, pipeline_options, run.stop)
    finally:
        teller.close()
        run.freshness.close()
        with _runs_lock:
            _runs.pop(backfill_id, None)
    done = ledger.done()
    total = RangeCounts()
    for counts in done.values():
        total.add(counts)
    report = BackfillReport(
        backfill_id,
        source.name,
        target.name,
        complete=len(done) == plan.ranges,
        ranges=plan.ranges,
        ranges_done=len(done),
        counts=total,
        seconds=time.monotonic() - begun,
        throttled_seconds=run.throttle.paused_seconds,
    )
    if not report.complete and not run.stop.is_set():
        raise SystemicError(
            f"the backfill ended and {plan.ranges - len(done)} of {plan.ranges} ranges are not on "
            "record: start it again."
        )
    _log.info("backfill_finished" if report.complete else "backfill_stopped", **report.to_json())
    return report


def fill_version(
    settings: Settings,
    to: str,
    source: str | None = None,
    *,
    stop: threading.Event | None = None,
    tell: Tell | None = None,
    runner: Any = None,
    pipeline_options: Sequence[str] = (),
) -> BackfillReport:
    """Fills a version of the settings' index from another one, outside a rollout.

    One at a time for each target: a lease keeps a second one out.

    Parameters
    ----------
    to, source
        Names of the versions; by default the source is the live one.
    stop, tell, runner, pipeline_options
        See `run_backfill`.

    Raises
    ------
    SettingsError
        Source and target are the same.
    IndexMissingError
        The index has no such version.
    ContractMismatchError
        They order events differently.
    LeaseHeldError
        Another backfill of the target is running.
    PlumblineError
        See `run_backfill`.
    """
    qdrant = connect(settings)
    versions = {version.name: version for version in list_versions(qdrant, settings.index)}
    name = source or live_version_name(qdrant, settings.index)
    for wanted in (name, to):
        if wanted not in versions:
            raise IndexMissingError(
                f"the index {settings.index!r} has no version {wanted or 'that is live'} in Qdrant "
                f"at {qdrant.where}; its versions: {', '.join(versions) or 'it has none'}"
            )
    assert name is not None, "it is among the versions"
    if name == to:
        raise SettingsError(f"{to} cannot be filled from itself: name another version with --from")
    origin, target = versions[name], versions[to]
    if origin.order_by is not target.order_by:
        raise ContractMismatchError(
            to, {"order_by": (target.order_by.value, origin.order_by.value)}
        )
    lease = Lease(Control(qdrant), f"backfill:{to}", settings.ingest.lease_seconds)
    lease.acquire()
    try:
        return run_backfill(
            settings,
            origin,
            target,
            backfill_id=f"{origin.incarnation}-{target.incarnation}",
            stop=stop,
            tell=tell,
            runner=runner,
            pipeline_options=pipeline_options,
        )
    finally:
        lease.release()


def _run_pipeline(
    spec: BackfillSpec,
    ranges: Sequence[Any],
    runner: Any,
    options: Sequence[str],
    stop: threading.Event,
) -> None:
    pipeline = beam.Pipeline(
        runner=InProcessRunner() if runner is None else runner,
        options=PipelineOptions(list(options)),
    )
    backfill_pipeline(pipeline, spec, ranges)
    try:
        running = pipeline.run()
        if runner is not None:
            _cancel_when(stop, running)
        running.wait_until_finish()
    except PlumblineError as error:
        raise FAILURES.first or error from None
    except Exception as error:
        if runner is not None and stop.is_set():
            return
        # Runners hand on what a step raised as text; the error itself was recorded on its way.
        if FAILURES.first is not None:
            raise FAILURES.first from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SystemicError(
            f"the runner stopped the backfill: {type(error).__name__}: "
            f"{lines[-1][:300] if lines else 'no message'}"
        ) from error
    if FAILURES.first is not None:
        raise FAILURES.first


def _cancel_when(stop: threading.Event, running: Any) -> None:
    """Workers elsewhere do not see the stop of this process: the whole job ends instead."""

    def watch() -> None:
        stop.wait()
        running.cancel()

    threading.Thread(target=watch, name="plumbline-stop-backfill", daemon=True).start()


def _plan(qdrant: Qdrant, settings: Settings, source: Version, target: Version) -> BackfillPlan:
    alive, tombstones = count_heads(qdrant, source.name)
    heads = alive + tombstones
    return BackfillPlan(
        ranges=max(1, -(-heads // settings.rollout.range_documents)),
        documents=alive,
        tombstones=tombstones,
        tokens_per_head=_sample_tokens(qdrant, settings, source, target),
    )


def _sample_tokens(qdrant: Qdrant, settings: Settings, source: Version, target: Version) -> float:
    """Tokens to encode for a head of the source, the mean of a sample; 0 when it is empty."""
    encoder = encoder_for(target, settings)
    contract, chunker = target.contract, chunker_for(target.contract, encoder)
    texts: list[str] = []
    # Ids are hashes, so the first are as good as any. One read: the embedded engine walks through
    # all of its points for each.
    (everything,) = id_ranges(1)
    page = next(read_heads_of(qdrant, source.name, everything, page=_SAMPLE_DOCUMENTS), [])
    for record in page:
        event = stored_document(record.payload).event
        if not event.deleted:
            texts += [
                contract.render(event.title, piece.text)
                for piece in chunker.chunk(event.title, event.text)
            ]
    if not page:
        return 0.0
    counts = encoder.count_tokens(texts) if texts else []
    limit = contract.max_tokens
    return sum(min(count + encoder.special_tokens, limit) for count in counts) / len(page)


class _Teller:
    """Tells the progress about once a second, and logs it every ten."""

    def __init__(self, progress: BackfillProgress, tell: Tell | None) -> None:
        self._progress = progress
        self._tell = tell
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="plumbline-report", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tells it once more."""
        self._done.set()
        self._thread.join()

    def _loop(self) -> None:
        logged, last = time.monotonic(), False
        while not last:
            last = self._done.wait(_TELL_SECONDS)
            at = self._progress.snapshot()
            if self._tell is not None:
                self._tell(at)
            if last or time.monotonic() - logged >= _LOG_SECONDS:
                logged = time.monotonic()
                _log.info("backfill_progress", **at)
