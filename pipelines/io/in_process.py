"""Beam's in-process runner, for jobs that do not end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from apache_beam.metrics.monitoring_infos import consolidate
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner

__all__ = ["InProcessRunner"]


class InProcessRunner(fn_runner.FnApiRunner):
    """Keeps nothing of a bundle that has ended.

    Beam 2.77 holds what every bundle says of its metrics until the pipeline ends: 75 kB each, so
    that a job grew by .7 kB an event in bundles of a hundred, without end. Nobody here reads
    Beam's own metrics; ours are prometheus-client's.
    """

    def _execute_bundle(self, *arguments: Any, **more: Any) -> Any:
        """The bundle's result, without the metrics."""
        found = super()._execute_bundle(*arguments, **more)
        return beam_fn_api_pb2.InstructionResponse(
            instruction_id=found.instruction_id,
            process_bundle=beam_fn_api_pb2.ProcessBundleResponse(),
        )


def _consolidated(metrics: Iterable[Any]) -> list[Any]:
    return list(consolidate(metrics))


# It is a generator there, over the one of the bundle before, over the one before that.
fn_runner.consolidate_monitoring_infos = _consolidated
