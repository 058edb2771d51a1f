"""The streaming job: from Kafka to one version of an index.

From the reader to the sinks there is no fusion break: no state, GroupByKey, Reshuffle, timer or
side input. Runners finalise a checkpoint, and with it commit offsets, when the stage that reads
has finished its bundle; everything between reader and sinks is that one stage.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import structlog
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.core.accounting import ACCOUNT, Counts
from pipelines.core.control import Control
from pipelines.core.encoder import Encoder, load_encoder
from pipelines.core.errors import (
    CommitError,
    ContractMismatchError,
    ExitCode,
    IndexMissingError,
    PlumblineError,
    StoreConflictError,
    SystemicError,
)
from pipelines.core.failures import FAILURES
from pipelines.core.index import contract_for
from pipelines.core.job import JobSpec, forget_jobs, job_lease
from pipelines.core.lease import end_message
from pipelines.core.metrics_server import serve_metrics
from pipelines.core.qdrant import Qdrant, connect
from pipelines.core.settings import Settings
from pipelines.core.versions import (
    Version,
    create_version,
    find_version,
    list_versions,
    live_version_name,
    open_version,
)
from pipelines.io.in_process import InProcessRunner
from pipelines.io.kafka import (
    STOP,
    ReadFromKafka,
    WriteDeadLetters,
    check_broker,
    close_consumers,
    commit_failure,
    ensure_topics,
    position_report,
    resolve_start,
    unread_ends,
)
from pipelines.io.kafka.producer import close_producers
from pipelines.io.kafka.until import CancelWhenCommitted
from pipelines.io.qdrant import WriteToQdrantFn
from pipelines.transforms.batch import BatchFn
from pipelines.transforms.chunk import ChunkFn
from pipelines.transforms.decode import DEAD_LETTERS, DecodeFn
from pipelines.transforms.embed import EmbedFn
from pipelines.transforms.reconcile import ReconcileFn

__all__ = [
    "IngestResult",
    "Prepared",
    "check_still_there",
    "ingest_pipeline",
    "named_version",
    "prepare_ingest",
    "run_ingest",
    "select_version",
]

_log = structlog.get_logger()


@dataclass(frozen=True)
class IngestResult:
    """How a run ended.

    Parameters
    ----------
    version
        The version that was written.
    counts
        Events by outcome, of this process.
    uncommitted
        (topic, partition) to (position written, position committed) where they differ.
    seconds
        Wall time of the pipeline.
    """

    version: str
    counts: Counts
    uncommitted: dict[tuple[str, int], tuple[int | None, int | None]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 when everything adds up and is committed; 3 when offsets are behind; 1 otherwise."""
        if self.uncommitted:
            return ExitCode.UNAVAILABLE
        return ExitCode.OK if self.counts.balanced else ExitCode.NO


def select_version(
    qdrant: Qdrant, settings: Settings, encoder: Encoder, *, create: bool
) -> Version:
    """The version this contract writes.

    Parameters
    ----------
    create
        Make the index's first version when it has none.

    Raises
    ------
    ContractMismatchError
        The index has versions, but none under this contract; names what differs from the live
        one. A second version is made by `plumbline index create` or a rollout, never by a job
        whose settings somebody has edited.
    IndexMissingError
        The index has no version and `create` is not set.
    """
    name = find_version(qdrant, settings.index, encoder.contract.fingerprint)
    if name is not None:
        if create:
            return create_version(qdrant, settings, encoder)  # mends what a crash left undone
        return open_version(qdrant, name)
    live = live_version_name(qdrant, settings.index)
    others = list_versions(qdrant, settings.index)
    if live is not None or others:
        other = open_version(qdrant, live) if live is not None else others[0]
        raise ContractMismatchError(other.name, encoder.contract.differences(other.contract))
    if not create:
        raise IndexMissingError(
            f"the index {settings.index!r} does not exist in Qdrant at {qdrant.where}. Make it "
            "with `plumbline index create`, or start with `--create`."
        )
    return create_version(qdrant, settings, encoder)


def named_version(qdrant: Qdrant, settings: Settings, name: str) -> tuple[Version, Settings]:
    """The version of this name, and the settings with the version's own contract in place.

    Live's job and a candidate's share one settings file this way: what `contract` says there
    only helps to find the model's files.

    Raises
    ------
    IndexMissingError
        There is no such version of the settings' index.
    ContractMismatchError, ModelError
        The encoder it was written with cannot be had here.
    """
    versions = list_versions(qdrant, settings.index)
    for version in versions:
        if version.name == name:
            contract = contract_for(version, settings)
            return version, settings.model_copy(update={"contract": contract})
    known = ", ".join(version.name for version in versions) or "it has none"
    raise IndexMissingError(
        f"the index {settings.index!r} has no version {name} in Qdrant at {qdrant.where}; its "
        f"versions: {known}"
    )


def ingest_pipeline(
    pipeline: beam.Pipeline, spec: JobSpec, group_id: str, *, until_caught_up: bool = False
) -> None:
    """Applies the job's steps to a pipeline.

    The three outputs of dead letters have a sink each: a Flatten would be a fusion break on the
    in-process runner.
    """
    settings = spec.settings
    records = pipeline | "ReadFromKafka" >> ReadFromKafka(
        settings, group_id, until_caught_up=until_caught_up
    )
    decoded = records | "Decode" >> beam.ParDo(DecodeFn(settings)).with_outputs(
        DEAD_LETTERS, main="events"
    )
    embedded = (
        decoded.events
        | "Batch" >> beam.ParDo(BatchFn(settings.ingest))
        | "Reconcile" >> beam.ParDo(ReconcileFn(spec))
        | "Chunk" >> beam.ParDo(ChunkFn(spec))
        | "Embed" >> beam.ParDo(EmbedFn(spec)).with_outputs(DEAD_LETTERS, main="plans")
    )
    written = embedded.plans | "WriteToQdrant" >> beam.ParDo(WriteToQdrantFn(spec)).with_outputs(
        DEAD_LETTERS, main="written"
    )
    for name, output in (("Decode", decoded), ("Embed", embedded), ("Write", written)):
        output[DEAD_LETTERS] | f"WriteDeadLettersOf{name}" >> WriteDeadLetters(settings)


def run_ingest(
    settings: Settings,
    *,
    until_caught_up: bool = False,
    standby: bool = False,
    create: bool = False,
    version: str | None = None,
    runner: str = "in-process",
    pipeline_options: Callable[[Version], Sequence[str]] | None = None,
    on_ready: Callable[[Version], None] | None = None,
    on_end: Callable[[], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> IngestResult:
    """Runs the job until it is stopped, or has caught up.

    Everything that can be refused is checked before a record is read: broker, topics and login;
    store and version; contract and canaries; the lease.

    Parameters
    ----------
    settings
        The job's settings.
    until_caught_up
        Stop at the ends that the partitions have now.
    standby
        Wait while another job writes this version.
    create
        Make the index when it does not exist.
    version
        Write the version of this name, under its own contract; by default the one that the
        settings' contract describes.
    runner
        `in-process`, or the name of a Beam runner such as `PortableRunner`.
    pipeline_options
        Gives options of Beam, as on its command line, once it is known what is written.
    on_ready
        Called when the job is about to read.
    on_end
        Called when it has ended, however it did, before its lease is free.
    on_wait
        Called with a sentence about the other job, before a wait for its lease.

    Raises
    ------
    PlumblineError
        What stopped the job. Nothing was committed that is not durable.
    """
    prepared = prepare_ingest(settings, create=create, version=version, runner=runner)
    settings, target, qdrant = prepared.settings, prepared.target, prepared.qdrant
    options = pipeline_options(target) if pipeline_options is not None else ()
    with ExitStack() as stack:
        lease = job_lease(qdrant, JobSpec(settings, target.name), on_lost=_stop_for)
        if not lease.acquire(standby=standby, stop=STOP.event, on_wait=on_wait):
            return IngestResult(target.name, Counts())
        stack.callback(lease.release)
        check_still_there(qdrant, target, lease.name)
        stack.callback(close_producers)
        stack.callback(close_consumers)
        stack.enter_context(serve_metrics(settings.metrics))
        ensure_topics(settings)
        resolve_start(settings, target.group_id)
        before = ACCOUNT.counts()
        started = time.monotonic()
        if on_end is not None:
            stack.callback(on_end)
        if on_ready is not None:
            on_ready(target)
        with _periodic_report(settings):
            try:
                cancelled = _run_pipeline(settings, target, runner, options, until_caught_up)
            except IndexMissingError as error:
                raise _dropped(qdrant, lease.name, error, target) from None
        lease.check()
        failure = commit_failure(target.group_id)
        if failure is not None:  # of the last bundle: no other came that would have raised it
            raise failure
        seconds = time.monotonic() - started
        counts = _difference(ACCOUNT.counts(), before)
        uncommitted = {
            key: positions
            for key, positions in position_report(target.group_id).items()
            if positions[0] != positions[1] and not cancelled
        }
        result = IngestResult(target.name, counts, uncommitted, seconds)
        _report(result)
        return result


@dataclass(frozen=True)
class Prepared:
    """A job whose settings, services, version and model were found right.

    Parameters
    ----------
    settings
        With the version's own contract in place.
    target
        What will be written.
    qdrant
        The connection.
    """

    settings: Settings
    target: Version
    qdrant: Qdrant


def prepare_ingest(
    settings: Settings, *, create: bool, version: str | None, runner: str
) -> Prepared:
    """Checks what can be checked before a record is read; raises as `run_ingest`."""
    FAILURES.clear()
    forget_jobs()
    check_broker(settings)
    qdrant = connect(settings)
    qdrant.check_release()
    if version is not None:
        target, settings = named_version(qdrant, settings, version)
    else:
        encoder = load_encoder(settings.contract, settings.runtime)
        target = select_version(qdrant, settings, encoder, create=create)
    JobSpec(settings, target.name).open()  # contract and canaries, before anything is read
    _log.info(
        "job_starting",
        index=settings.index,
        version=target.name,
        fingerprint=target.fingerprint,
        group=target.group_id,
        runner=runner,
    )
    return Prepared(settings, target, qdrant)


def check_still_there(qdrant: Qdrant, version: Version, lease_name: str) -> None:
    """A job that stood by may have waited for the end of its version."""
    try:
        now = open_version(qdrant, version.name)
    except IndexMissingError as error:
        raise _dropped(qdrant, lease_name, error, version) from None
    if now.incarnation != version.incarnation:
        raise StoreConflictError(
            f"{version.name} was dropped and made anew while this job waited for its lease "
            f"(incarnation {version.incarnation}, now {now.incarnation}). Start the job again."
        )


def _dropped(
    qdrant: Qdrant, lease_name: str, error: IndexMissingError, version: Version
) -> IndexMissingError:
    """The same error in the words of whoever dropped the version, where they left some."""
    try:
        why = end_message(Control(qdrant), lease_name)
    except StoreConflictError:
        why = ""  # The control collection has gone with it.
    if why:
        return IndexMissingError(why)
    if qdrant.call("collection_exists", version.name):
        return error
    return IndexMissingError(
        f"the version {version.name} is gone from Qdrant at {qdrant.where}: somebody dropped its "
        "collection. Nothing was committed that is not written. Restore it from a snapshot, or "
        "start with `--create`, which makes it anew and fills it from the topics."
    )


def _run_pipeline(
    settings: Settings,
    version: Version,
    runner: str,
    pipeline_options: Sequence[str],
    until_caught_up: bool,
) -> bool:
    """True when the job was cancelled because all that it had to commit is committed."""
    engine: Any = InProcessRunner() if runner == "in-process" else runner
    options = PipelineOptions(["--streaming", *pipeline_options])
    pipeline = beam.Pipeline(runner=engine, options=options)
    # Elsewhere than in process the source never ends: Flink would mark its splits done for ever,
    # and take no checkpoint at which the last offsets could be committed.
    watched = until_caught_up and runner != "in-process"
    ends = unread_ends(settings, version.group_id) if watched else {}
    if watched and not ends:
        return True
    ingest_pipeline(
        pipeline,
        JobSpec(settings, version.name),
        version.group_id,
        until_caught_up=until_caught_up and not watched,
    )
    watch: CancelWhenCommitted | None = None
    try:
        running = pipeline.run()
        if watched:
            watch = CancelWhenCommitted(settings, version.group_id, ends, running.cancel)
        with watch or nullcontext():
            running.wait_until_finish()
    except PlumblineError as error:
        raise FAILURES.first or error from None
    except Exception as error:
        # Runners hand on what a step raised as text; the error itself was recorded on its way.
        if FAILURES.first is not None:
            raise FAILURES.first from None
        if watch is not None and watch.cancelled:
            return True
        raise SystemicError(
            f"the runner stopped the job: {_last_line(error)}. Nothing was committed that is not "
            "durable."
        ) from error
    if FAILURES.first is not None:
        raise FAILURES.first
    return watch is not None and watch.cancelled


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300] if lines else 'no message'}"


def _stop_for(error: PlumblineError) -> None:
    FAILURES.record(error)
    STOP.set()


def _difference(now: Counts, before: Counts) -> Counts:
    return Counts(
        consumed=now.consumed - before.consumed,
        outcomes={key: now.outcomes[key] - before.outcomes.get(key, 0) for key in now.outcomes},
        reasons={
            key: count - before.reasons.get(key, 0)
            for key, count in now.reasons.items()
            if count != before.reasons.get(key, 0)
        },
    )


def _report(result: IngestResult) -> None:
    _log.info(
        "job_finished",
        version=result.version,
        consumed=result.counts.consumed,
        **result.counts.outcomes,
        reasons=result.counts.reasons,
        balanced=result.counts.balanced,
        seconds=round(result.seconds, 1),
    )
    if not result.counts.balanced:
        _log.error(
            "events_unaccounted",
            consumed=result.counts.consumed,
            accounted=result.counts.accounted,
        )
    if result.uncommitted:
        _log.error(
            "offsets_behind",
            partitions={
                f"{topic}/{partition}": {"written": written, "committed": committed}
                for (topic, partition), (written, committed) in result.uncommitted.items()
            },
            error=CommitError.__name__,
        )


class _periodic_report:  # noqa: N801 - used as a context manager, like a function
    """Logs the counts every ten seconds while the job runs."""

    def __init__(self, settings: Settings) -> None:
        self._index = settings.index
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="plumbline-report", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _loop(self) -> None:
        last = -1
        while not self._done.wait(10.0):
            counts = ACCOUNT.counts()
            if counts.consumed != last:
                last = counts.consumed
                _log.info(
                    "progress", index=self._index, consumed=counts.consumed, **counts.outcomes
                )
