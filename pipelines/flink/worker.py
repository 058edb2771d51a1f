"""A worker process: asks a task manager what to do, and does it until that ends.

The pool forks it. It is what Beam's container image does before it starts its worker, without that
image: it installs nothing, since the pipeline's code is what is installed here.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any

__all__ = ["PRELOADED", "work"]

PRELOADED = (
    "torch",
    "sentence_transformers",
    "apache_beam.runners.worker.sdk_worker_main",
    "pipelines.ingest",
)
"""What a worker needs and is slow to import; none of them starts a thread when it is imported."""

_PROVISION_SECONDS = 60.0


def work(environment: Mapping[str, str], slot: int) -> None:
    """Runs one worker in this process, until the task manager that it belongs to hangs up.

    Parameters
    ----------
    environment
        `WORKER_ID` and the endpoints that the pool was given for it.
    slot
        The pool's number for it.
    """
    die_with_pool()
    # Standard output is nobody's: what is said goes to standard error and to Flink.
    os.dup2(2, 1)
    os.environ.update(environment)
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        # Files by the pool's number for the worker, not by its process: the next worker of that
        # number counts on where this one has stopped, and a job that restarts often leaves no
        # thousand files behind.
        from prometheus_client import values

        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
    from pipelines.core.log import configure_logging

    configure_logging("info", "json")
    provision(os.environ)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


def die_with_pool() -> None:
    """Ends this process when the pool does, killed or not: no worker goes on unwatched."""
    pool = multiprocessing.parent_process()
    assert pool is not None

    def watch() -> None:
        pool.join()
        os.kill(os.getpid(), signal.SIGKILL)

    # A signal at the parent's death would not do: the process that forks the workers lives on as
    # long as one of them does.
    threading.Thread(target=watch, name="plumbline-pool", daemon=True).start()


def provision(environment: MutableMapping[str, str]) -> None:
    """Asks for options and endpoints, and puts them where Beam's worker looks for them."""
    import grpc
    from apache_beam.portability.api import (
        beam_provision_api_pb2,
        beam_provision_api_pb2_grpc,
        endpoints_pb2,
    )
    from google.protobuf import json_format, text_format

    worker_id = environment["WORKER_ID"]
    with grpc.insecure_channel(environment["POOL_WORKER_PROVISION"]) as channel:
        stub: Any = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        info = stub.GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            metadata=[("worker_id", worker_id)],
            timeout=_PROVISION_SECONDS,
            wait_for_ready=True,
        ).info
    environment["PIPELINE_OPTIONS"] = json.dumps(json_format.MessageToDict(info.pipeline_options))
    environment["RUNNER_CAPABILITIES"] = " ".join(info.runner_capabilities)
    for name, endpoint, given in (
        ("LOGGING", info.logging_endpoint.url, "POOL_WORKER_LOGGING"),
        ("CONTROL", info.control_endpoint.url, "POOL_WORKER_CONTROL"),
        ("STATUS", info.status_endpoint.url, ""),
    ):
        url = endpoint or environment.get(given, "")
        if url:
            descriptor = endpoints_pb2.ApiServiceDescriptor(url=url)
            environment[f"{name}_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(descriptor)
