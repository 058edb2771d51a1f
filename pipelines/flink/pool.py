"""A pool of worker processes beside a Flink task manager, and their metrics on one port.

Beam's contract for `EXTERNAL` environments: a task manager asks the pool to start a worker for a
job, and to stop it when the job ends or starts again. The workers then talk to the task manager on
ports that it opens on its loopback, so a pool stands on its host, or in its pod.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import grpc
import structlog
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from prometheus_client import multiprocess

from pipelines.core.errors import SettingsError
from pipelines.core.metrics_server import serve_metrics
from pipelines.core.settings import MetricsSettings
from pipelines.flink.worker import PRELOADED, work

__all__ = ["WorkerPool", "serve_pool"]

_STOP_SECONDS = 10.0
_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"

_log = structlog.get_logger()


# Workers are forked from a process that has imported what they need, and nothing else: Flink starts
# all of a job's workers anew whenever any part of it fails, and imports would be most of the wait.
_context = multiprocessing.get_context("forkserver")


@dataclass
class _Worker:
    worker_id: str
    slot: int
    process: BaseProcess
    ended: threading.Event = field(default_factory=threading.Event)
    asked: bool = False
    """Whether its end was asked for."""


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts and stops workers on request.

    Parameters
    ----------
    metrics_directory
        Where the workers write their metrics.
    """

    def __init__(self, metrics_directory: Path) -> None:
        self._metrics_directory = metrics_directory
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._closed = False

    @property
    def workers(self) -> int:
        """How many run."""
        with self._lock:
            return len(self._workers)

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - Beam's names
        """Starts a worker; an answer with an error fails the job's start, and Flink tries again."""
        try:
            self._start(request)
        except (OSError, RuntimeError) as error:
            _log.exception("worker_not_started", worker=request.worker_id)
            return beam_fn_api_pb2.StartWorkerResponse(error=f"{type(error).__name__}: {error}")
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - Beam's names
        """Ends a worker, and waits until it has.

        Jobs number their workers from 1 each. Where two jobs' workers have one id, the one that is
        meant is left by its task manager before this request, and ends by itself.
        """
        with self._lock:
            meant = [one for one in self._workers if one.worker_id == request.worker_id]
        if len(meant) == 1:
            self._end(meant[0])
        elif meant:
            deadline = time.monotonic() + _STOP_SECONDS
            while not any(one.ended.wait(0.1) for one in meant):
                if time.monotonic() > deadline:
                    _log.warning("worker_not_told_apart", worker=request.worker_id)
                    break
        return beam_fn_api_pb2.StopWorkerResponse()

    def close(self) -> None:
        """Ends all workers and starts none any more."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.asked = True
            worker.process.terminate()
        for worker in workers:
            self._end(worker)

    def _start(self, request: Any) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is stopping")
            used = {worker.slot for worker in self._workers}
            slot = next(number for number in range(1, len(used) + 2) if number not in used)
            environment = {
                _MULTIPROCESS: str(self._metrics_directory),
                "WORKER_ID": request.worker_id,
                "POOL_WORKER_PROVISION": request.provision_endpoint.url,
                "POOL_WORKER_LOGGING": request.logging_endpoint.url,
                "POOL_WORKER_CONTROL": request.control_endpoint.url,
            }
            process = _context.Process(
                target=work, args=(environment, slot), name=f"plumbline-worker-{slot}"
            )
            process.start()
            worker = _Worker(request.worker_id, slot, process)
            self._workers.append(worker)
        _log.info("worker_started", worker=request.worker_id, slot=slot, pid=process.pid)
        threading.Thread(
            target=self._reap,
            args=(worker,),
            name=f"plumbline-worker-{slot}",
            daemon=True,
        ).start()

    def _end(self, worker: _Worker) -> None:
        worker.asked = True
        worker.process.terminate()
        if not worker.ended.wait(_STOP_SECONDS):
            worker.process.kill()
            worker.ended.wait()

    def _reap(self, worker: _Worker) -> None:
        worker.process.join()
        status = worker.process.exitcode
        with self._lock:
            # Gauges of a worker that is gone would stand still for ever; its counters stay.
            multiprocess.mark_process_dead(worker.slot, str(self._metrics_directory))  # type: ignore[no-untyped-call]
            self._workers = [one for one in self._workers if one is not worker]
        worker.ended.set()
        say = _log.info if worker.asked or status == 0 else _log.warning
        say(
            "worker_ended",
            worker=worker.worker_id,
            pid=worker.process.pid,
            slot=worker.slot,
            status=status,
        )


@contextlib.contextmanager
def serve_pool(host: str, port: int, metrics: MetricsSettings) -> Iterator[tuple[int, int | None]]:
    """Serves a pool while the block runs, and its workers' metrics added up.

    Parameters
    ----------
    host, port
        Of the pool; 0 picks a free port.
    metrics
        Where `/metrics` is served.

    Yields
    ------
    tuple
        Ports of the pool and of the metrics; `None` where those are turned off.

    Raises
    ------
    SettingsError
        A port cannot be had.
    """
    _context.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plumbline-pool-")))
        pool = WorkerPool(directory)
        server = grpc.server(ThreadPoolExecutor(max_workers=16))
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
        try:
            bound = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise SettingsError(
                f"port {port} on {host} cannot be had; choose another by --port, 0 for any"
            )
        before = os.environ.get(_MULTIPROCESS)
        os.environ[_MULTIPROCESS] = str(directory)
        stack.callback(_restore, before)
        metrics_port = stack.enter_context(serve_metrics(metrics))
        server.start()
        stack.callback(pool.close)
        stack.callback(lambda: server.stop(grace=1).wait())
        _log.info("worker_pool_serving", host=host, port=bound, metrics_port=metrics_port)
        yield bound, metrics_port


def _restore(value: str | None) -> None:
    if value is None:
        os.environ.pop(_MULTIPROCESS, None)
    else:
        os.environ[_MULTIPROCESS] = value
