"""A worker process: asks a task manager what to do, and does it until that ends.

    python -m pipelines.flink.worker

The pool starts it. It is what Beam's container image does before it starts its worker, without
that image: it installs nothing, since the pipeline's code is what is installed here.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import MutableMapping
from typing import Any

__all__ = ["main"]

_PROVISION_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Runs the worker that the environment describes."""
    die_with(int(os.environ["POOL_WORKER_PARENT"]))
    slot = os.environ["POOL_WORKER_SLOT"]
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
    return 0


def die_with(parent: int) -> None:
    """Ends this process when its parent does: a pool that was killed leaves no worker behind."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


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


if __name__ == "__main__":
    # What Beam pickles by name must not live in `__main__`.
    from pipelines.flink.worker import main as run

    sys.exit(run())
