"""The worker pool, asked for workers by Beam's own job server instead of Flink's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

from tests.support.pool_steps import Count
from tests.support.processes import free_port, wait_until
from tests.support.worker_pool import PoolProcess


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[PoolProcess]:
    with PoolProcess("127.0.0.1", free_port(), tmp_path / "pool.log") as process:
        yield process


def run_on(pool: PoolProcess, events: int, folder: Path) -> None:
    """A pipeline whose steps run in a worker of the pool."""
    options = PipelineOptions(
        [
            "--job_endpoint=embed",
            "--environment_type=EXTERNAL",
            f"--environment_config={pool.host}:{pool.port}",
        ]
    )
    with beam.Pipeline(runner="PortableRunner", options=options) as pipeline:
        pipeline | beam.Create(range(events), reshuffle=False) | beam.ParDo(Count(str(folder)))


def test_metrics_of_two_workers_add_up(pool: PoolProcess, tmp_path: Path) -> None:
    """One endpoint: counters of every worker, also of those that ended; gauges of the living.

    An orderly end of the pool ends the worker that it has then.
    """
    run_on(pool, 3, tmp_path)
    run_on(pool, 4, tmp_path)
    wait_until(lambda: not pool.worker_pids(), 30, what="both workers have ended")
    assert len(pool.events("worker_started")) == 2
    assert len(list(tmp_path.glob("worker-*"))) == 2
    assert pool.samples("plumbline_consumed_events_total", topic="documents") == [7]
    assert pool.samples("plumbline_consumer_lag_records") == []
    pid = start_worker(pool)
    os.kill(pool.process.pid, signal.SIGTERM)
    wait_until(lambda: not pool.process.running, 20, what="the pool has ended")
    assert pool.process.returncode == 0, pool.process.log_tail()
    assert not _runs(pid)


def start_worker(pool: PoolProcess) -> int:
    """A worker that waits for a task manager that never answers; its process."""
    nowhere = endpoints_pb2.ApiServiceDescriptor(url=f"127.0.0.1:{free_port()}")
    request = beam_fn_api_pb2.StartWorkerRequest(
        worker_id="1-1",
        control_endpoint=nowhere,
        logging_endpoint=nowhere,
        provision_endpoint=nowhere,
    )
    with grpc.insecure_channel(f"{pool.host}:{pool.port}") as channel:
        answer = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel).StartWorker(request)
    assert answer.error == ""
    (pid,) = pool.worker_pids()
    return pid


def test_no_worker_outlives_a_pool_that_was_killed(pool: PoolProcess) -> None:
    """SIGKILL of the pool ends its workers: none goes on writing that nobody watches."""
    pid = start_worker(pool)
    pool.kill()
    wait_until(lambda: not _runs(pid), 20, what="the worker has ended")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
