"""What the steps of a job share in one process: the store, the version, the encoder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from pipelines.core.canaries import compare
from pipelines.core.chunker import chunker_for
from pipelines.core.control import Control
from pipelines.core.encoder import Encoder, load_encoder
from pipelines.core.errors import (
    CanaryMismatchError,
    ContractMismatchError,
    PlumblineError,
)
from pipelines.core.failures import FAILURES
from pipelines.core.lease import Lease, ingest_lease
from pipelines.core.metrics import job_metrics
from pipelines.core.planning import Planner
from pipelines.core.qdrant import Qdrant, connect
from pipelines.core.settings import Settings
from pipelines.core.versions import Version, check_process, open_version
from pipelines.core.worker_reports import WorkerReporter
from pipelines.core.writing import DocumentWriter

__all__ = ["Job", "JobSpec", "job_lease"]


@dataclass(frozen=True)
class JobSpec:
    """What travels with the pipeline's steps; `open` makes the rest where they run.

    Parameters
    ----------
    settings
        The job's settings.
    version
        Collection the job writes, by its own name.
    run
        Id of a run on a cluster, whose processes hold the version's lease together; `None` where
        the process that reads and writes holds it alone.
    owner
        That run in words.
    """

    settings: Settings
    version: str
    run: str | None = None
    owner: str = ""

    def open(self) -> Job:
        """This process's job, made and checked against the version's canaries the first time."""
        key = (self.version, self.settings.model_dump_json(), self.run)
        with _lock:
            found = _jobs.get(key)
            if found is None:
                found = _jobs[key] = Job(self)
            return found


class Job:
    """One version's writer in this process. Shared by the threads of the runner.

    Raises
    ------
    ContractMismatchError, CanaryMismatchError
        This process must not write this version.
    LeaseHeldError
        Another job writes it.
    """

    def __init__(self, spec: JobSpec) -> None:
        settings = spec.settings
        self.settings = settings
        self.qdrant: Qdrant = connect(settings)
        if spec.run is not None:
            # Kept until the process ends: Flink has a worker killed when its job has ended. A loss
            # goes to FAILURES, where the reader finds it and what would commit refuses.
            self._lease = job_lease(self.qdrant, spec, on_lost=FAILURES.fence)
            self._lease.acquire()
        self.version: Version = open_version(self.qdrant, spec.version)
        self.encoder: Encoder = load_encoder(settings.contract, settings.runtime)
        self._reporter = WorkerReporter(
            self.qdrant, self.version.name, settings.ingest.canary_interval_seconds
        )
        self._checked_at = float("-inf")
        self._check_lock = threading.Lock()
        self.check_canaries()
        self.planner = Planner(
            self.qdrant,
            self.version,
            self.encoder,
            chunker_for(self.version.contract, self.encoder),
            replay_topic=settings.replay_topic,
        )
        self.writer = DocumentWriter(
            self.qdrant,
            self.version.name,
            index=self.version.index,
            fingerprint=self.version.fingerprint,
            order_by=self.version.order_by,
            chunked=self.version.contract.chunk is not None,
            store_text=settings.ingest.store_text,
        )
        self._pending: dict[str, Future[Any]] = {}
        self._pending_lock = threading.Lock()
        job_metrics().encoder_info.labels(
            self.version.index,
            self.version.name,
            self.version.fingerprint,
            self.version.contract.model_name,
            settings.runtime.device,
            settings.runtime.dtype,
        ).set(1)

    def check_canaries(self) -> None:
        """Encodes the canaries anew when `ingest.canary_interval_seconds` have passed.

        Raises
        ------
        ContractMismatchError, CanaryMismatchError
            This process must not write this version, or not any longer.
        """
        with self._check_lock:
            now = time.monotonic()
            if now - self._checked_at < self.settings.ingest.canary_interval_seconds:
                return
            try:
                report = check_process(self.version, self.encoder, self.settings.kafka.order_by)
            except CanaryMismatchError as error:
                self._reporter.report(compare(self.version.canaries, self.encoder), error)
                raise
            except ContractMismatchError as error:
                self._reporter.report(None, error)
                raise
            self._reporter.report(report)
            distance = job_metrics().canary_distance
            distance.labels("document").set(report.document_distance)
            distance.labels("query").set(report.query_distance)
            self._checked_at = time.monotonic()

    def announce(self, document_ids: Iterable[str], write: Future[Any]) -> None:
        """A write of these documents is under way."""
        with self._pending_lock:
            for document_id in document_ids:
                self._pending[document_id] = write
        write.add_done_callback(self._forget)

    def _forget(self, write: Future[Any]) -> None:
        with self._pending_lock:
            for document_id in [key for key, value in self._pending.items() if value is write]:
                del self._pending[document_id]

    def wait_for(self, document_ids: Iterable[str]) -> None:
        """Waits for writes of these documents that are under way in this process.

        A batch that reads what the one before it is writing would decide on an old state: no
        harm to what is stored, but to its `created_at`, and an encoding for nothing.
        """
        with self._pending_lock:
            if not self._pending:
                return
            writes = {
                self._pending[document_id]
                for document_id in document_ids
                if document_id in self._pending
            }
        for write in writes:
            write.result()


def job_lease(
    qdrant: Qdrant, spec: JobSpec, on_lost: Callable[[PlumblineError], None] | None = None
) -> Lease:
    """The lease of a version, as its job, or every process of a run, claims and renews it."""
    return Lease(
        Control(qdrant),
        ingest_lease(spec.version),
        spec.settings.ingest.lease_seconds,
        on_lost=on_lost,
        run=spec.run,
        owner=spec.owner,
    )


_jobs: dict[tuple[str, str, str | None], Job] = {}
_lock = threading.Lock()


def forget_jobs() -> None:
    """Drops what this process shares, so that the next job starts from its settings."""
    with _lock:
        _jobs.clear()
