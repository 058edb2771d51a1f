"""Submits the ingest job to a cluster, where it goes on when this process has ended."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import structlog
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.core.control import Control
from pipelines.core.errors import (
    PlumblineError,
    ServiceUnavailableError,
    SettingsError,
    SystemicError,
)
from pipelines.core.job import JobSpec, job_lease
from pipelines.core.settings import Settings
from pipelines.flink.options import beam_options, job_name
from pipelines.flink.record import FlinkRun, now, read_run, write_run
from pipelines.flink.rest import ENDED, FlinkJob, FlinkRest
from pipelines.ingest import check_still_there, ingest_pipeline, prepare_ingest
from pipelines.io.kafka import STOP, ensure_topics, resolve_start

__all__ = ["Submission", "check_cluster_settings", "submit_ingest"]

_POLL_SECONDS = 0.5
_LONGEST_REASON = 500

_log = structlog.get_logger()


@dataclass(frozen=True)
class Submission:
    """A job that runs.

    Parameters
    ----------
    version
        What it writes.
    job
        As Flink tells it.
    savepoint
        It was started from; empty for the committed offsets.
    seconds
        From the first check until all of its subtasks ran.
    """

    version: str
    job: FlinkJob
    savepoint: str
    seconds: float


def check_cluster_settings(settings: Settings) -> None:
    """Whether a job of these settings can run on a cluster; asks no service.

    Raises
    ------
    SettingsError
        It cannot; the message names the key.
    """
    flink = settings.flink
    if settings.kafka.splits < flink.parallelism:
        raise SettingsError(
            f"kafka.splits is {settings.kafka.splits} and flink.parallelism {flink.parallelism}: a "
            "split is read by one subtask, so the others would have nothing to do. Set "
            f"kafka.splits to {flink.parallelism} or a multiple of it."
        )
    if flink.detached and settings.qdrant.url is None:
        raise SettingsError(
            "workers of a cluster need a Qdrant server (qdrant.url): the embedded one belongs to a "
            "single process"
        )


def submit_ingest(
    settings: Settings,
    *,
    create: bool = False,
    version: str | None = None,
    standby: bool = False,
    savepoint: str | None = None,
    recorded: bool = False,
    more_options: Sequence[str] = (),
    on_wait: Callable[[str], None] | None = None,
) -> Submission:
    """Submits the job and waits until it runs.

    Everything that can be refused is checked here first, as for a job of this process: broker,
    topics and login; store and version; contract and canaries; the lease. The run's workers take
    the lease over under its id, and the job goes on without this process.

    Parameters
    ----------
    create, version, standby, on_wait
        As for `pipelines.ingest.run_ingest`.
    savepoint
        Start from it; else from the committed offsets.
    recorded
        Start from the savepoint that the last run of this version was stopped with, if any.
    more_options
        Further options of Beam, as on its command line.

    Raises
    ------
    PlumblineError
        Nothing runs.
    """
    check_cluster_settings(settings)
    began = time.monotonic()
    FlinkRest(settings.flink.rest_url).job_ids("")  # is it there at all?
    # A job manager that takes in a job may answer nothing else for a while.
    rest = FlinkRest(
        settings.flink.rest_url, outage_timeout_seconds=settings.flink.start_timeout_seconds
    )
    prepared = prepare_ingest(settings, create=create, version=version, runner="flink")
    settings, target, qdrant = prepared.settings, prepared.target, prepared.qdrant
    control = Control(qdrant)
    if recorded:
        last = read_run(control, target.name)
        savepoint = last.savepoint or None if last is not None else None
    options = beam_options(settings, target.name, savepoint=savepoint, more=more_options)
    name = job_name(target.name)
    known = set(rest.job_ids(name))
    run = uuid.uuid4().hex
    spec = JobSpec(settings, target.name, run, f"the Flink job {name}")
    lease = job_lease(qdrant, spec)
    if not lease.acquire(standby=standby, stop=STOP.event, on_wait=on_wait):
        raise SystemicError("stopped before the lease was free; nothing was submitted")
    try:
        check_still_there(qdrant, target, lease.name)
        ensure_topics(settings)
        resolve_start(settings, target.group_id)
        pipeline = beam.Pipeline(
            runner="PortableRunner", options=PipelineOptions(["--streaming", *options])
        )
        ingest_pipeline(pipeline, spec, target.group_id)
        job = _start(pipeline, rest, name, known, settings.flink.start_timeout_seconds)
        write_run(
            control,
            target.name,
            FlinkRun(run, job.job_id, rest.url, now(), settings.flink.parallelism),
        )
        lease.check()
    except BaseException:
        lease.release()
        raise
    lease.leave()
    _log.info("job_submitted", job_id=job.job_id, job_name=name, version=target.name)
    return Submission(target.name, job, savepoint or "", time.monotonic() - began)


def _start(
    pipeline: beam.Pipeline, rest: FlinkRest, name: str, known: set[str], timeout_seconds: float
) -> FlinkJob:
    """The job once all of its subtasks run; one that does not come so far is cancelled."""
    result = _submitted(pipeline)
    try:
        return _running(result, rest, name, known, timeout_seconds)
    except BaseException:
        with contextlib.suppress(PlumblineError):
            for job_id, state in rest.job_ids(name).items():
                if job_id not in known and state not in ENDED:
                    rest.cancel(job_id)
        raise


def _running(
    result: Any, rest: FlinkRest, name: str, known: set[str], timeout_seconds: float
) -> FlinkJob:
    deadline = time.monotonic() + timeout_seconds
    while True:
        new = [job_id for job_id in rest.job_ids(name) if job_id not in known]
        job = rest.job(new[0]) if new else None
        if job is not None and job.running:
            return job
        if job is not None and job.ended:
            hint = (
                ". `plumbline ingest resume --from-offsets` needs no savepoint and loses nothing"
                if "savepoint" in job.failure
                else ""
            )
            raise SystemicError(f"the job ended at once ({job.state}): {job.failure}{hint}")
        if job is None and result.state in ("FAILED", "CANCELLED", "DONE"):
            raise SystemicError(f"Beam's job server did not submit the job: {_cause(result)}")
        if time.monotonic() > deadline:
            raise ServiceUnavailableError(_not_up(job, timeout_seconds))
        time.sleep(_POLL_SECONDS)


def _submitted(pipeline: beam.Pipeline) -> Any:
    import grpc

    try:
        return pipeline.run()
    except (grpc.RpcError, grpc.FutureTimeoutError) as error:
        details = error.details() if hasattr(error, "details") else "no answer"
        raise ServiceUnavailableError(
            f"Beam's job server cannot be reached (flink.job_endpoint): {details}"
        ) from None


def _not_up(job: FlinkJob | None, seconds: float) -> str:
    within = f"within {seconds:g} s (flink.start_timeout_seconds)"
    if job is None:
        return f"no job came to be in Flink {within}; look into the log of Beam's job server"
    waiting = ", ".join(
        f"{count} {state}"
        for states in job.tasks.values()
        for state, count in states.items()
        if count and state != "RUNNING"
    )
    why = job.failure or (
        f"subtasks are {waiting}. SCHEDULED: too few task slots; INITIALIZING: no worker pool "
        "answers at flink.environment_config"
    )
    return f"the job did not run {within} and was cancelled: {why}"


def _cause(result: Any) -> str:
    try:
        result.wait_until_finish()
    except Exception as error:  # noqa: BLE001 - Beam raises the text of what went wrong
        return str(error)[:_LONGEST_REASON]
    return "it gives no reason"
