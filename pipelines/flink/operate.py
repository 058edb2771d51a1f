"""Looks at a version's job on Flink, and stops it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from pipelines.core.control import Control
from pipelines.core.errors import (
    ServiceUnavailableError,
    SystemicError,
    UnknownNameError,
)
from pipelines.core.lease import free_lease, ingest_lease
from pipelines.core.qdrant import Qdrant
from pipelines.core.settings import Settings
from pipelines.flink.options import job_name
from pipelines.flink.record import read_run, write_run
from pipelines.flink.rest import ENDED, FlinkJob, FlinkRest, JobGoneError

__all__ = ["Stopped", "jobs_of_index", "running_job", "stop_job", "version_of"]

_POLL_SECONDS = 0.3

_log = structlog.get_logger()


@dataclass(frozen=True)
class Stopped:
    """A job that was stopped.

    Parameters
    ----------
    version, job_id
        Which one.
    savepoint
        Its path; empty after a cancellation.
    """

    version: str
    job_id: str
    savepoint: str


def jobs_of_index(rest: FlinkRest, index: str) -> list[FlinkJob]:
    """The jobs of an index that Flink knows, the newest first; those that ended among them."""
    prefix = job_name(f"{index}--")
    return rest.jobs(lambda name: name.startswith(prefix))


def version_of(job: FlinkJob) -> str:
    """Name of the version that a job writes."""
    return job.name.removeprefix(job_name(""))


def running_job(rest: FlinkRest, index: str, version: str | None) -> FlinkJob:
    """The one job of an index, or of a version, that has not ended.

    Raises
    ------
    UnknownNameError
        There is none, or there are several and no version was named.
    """
    alive = [
        job
        for job in jobs_of_index(rest, index)
        if not job.ended and version in (None, version_of(job))
    ]
    if len(alive) == 1:
        return alive[0]
    if not alive:
        raise UnknownNameError(
            f"no job of {version or f'the index {index!r}'} runs in Flink at {rest.url}"
        )
    names = ", ".join(sorted({version_of(job) for job in alive}))
    raise UnknownNameError(f"{len(alive)} jobs of {index!r} run, name one by --version: {names}")


def stop_job(
    settings: Settings,
    qdrant: Qdrant,
    *,
    version: str | None = None,
    cancel: bool = False,
) -> Stopped:
    """Ends a job, with a savepoint unless it is cancelled, and frees the version for the next.

    What the savepoint holds is committed by its completion. After a cancellation the next job
    starts at the offsets of the last checkpoint, and reads again what came after it.

    Raises
    ------
    SystemicError
        Flink could make no savepoint. The job goes on.
    ServiceUnavailableError
        Flink did not answer, or did not come to an end in time.
    UnknownNameError
        See `running_job`.
    """
    rest = FlinkRest(settings.flink.rest_url)
    job = running_job(rest, settings.index, version)
    name = version_of(job)
    control = Control(qdrant)
    deadline = time.monotonic() + settings.flink.stop_timeout_seconds
    savepoint = ""
    if cancel:
        rest.cancel(job.job_id)
    else:
        savepoint = _savepoint(rest, job, settings, deadline)
    _wait_for_end(rest, job, deadline)
    run = read_run(control, name)
    if run is not None and run.job_id == job.job_id:
        write_run(control, name, run.stopped(savepoint))
        free_lease(control, ingest_lease(name), run.run)
    _log.info("job_stopped", job_id=job.job_id, version=name, savepoint=savepoint)
    return Stopped(name, job.job_id, savepoint)


def _savepoint(rest: FlinkRest, job: FlinkJob, settings: Settings, deadline: float) -> str:
    try:
        request = rest.stop(job.job_id, settings.flink.savepoint_path)
        while (path := rest.savepoint(job.job_id, request)) is None:
            _not_too_late(deadline, "the savepoint was not made")
            time.sleep(_POLL_SECONDS)
    except JobGoneError:
        raise
    except SystemicError as error:
        if isinstance(error, ServiceUnavailableError):
            raise
        raise SystemicError(
            f"{error}. The job goes on. With --cancel it is stopped without a savepoint: the next "
            "one starts at the committed offsets, and nothing is lost."
        ) from None
    return path


def _wait_for_end(rest: FlinkRest, job: FlinkJob, deadline: float) -> None:
    while rest.job_ids(job.name).get(job.job_id, "FINISHED") not in ENDED:
        _not_too_late(deadline, "the job did not end")
        time.sleep(_POLL_SECONDS)


def _not_too_late(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise ServiceUnavailableError(
            f"{what} in time (flink.stop_timeout_seconds); look at Flink's page"
        )
