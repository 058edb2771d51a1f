"""Which steps of a pipeline a runner fuses into the stage that reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

__all__ = ["SINKS", "STEPS", "FusedStage", "fusion_problems", "in_process_stages"]

READER = "ReadFromKafka"
STEPS = ("Decode", "Batch", "Reconcile", "Chunk", "Embed", "WriteToQdrant")
SINKS = ("WriteDeadLettersOfDecode", "WriteDeadLettersOfEmbed", "WriteDeadLettersOfWrite")

_PROCESS = common_urns.sdf_components.PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS.urn


@dataclass(frozen=True)
class FusedStage:
    """Steps that a runner works as one; offsets are committed when all of them have finished.

    Parameters
    ----------
    steps
        Full names of what it executes.
    reads
        Whether the reader's own step is among them.
    holding
        Those with state, timers or side inputs: they may hold elements, or wait for some, beyond
        the end of the bundle.
    """

    steps: frozenset[str]
    reads: bool
    holding: frozenset[str] = frozenset()

    def has(self, step: str) -> bool:
        """Whether it executes a step, or a part of it."""
        return any(name == step or name.startswith(step + "/") for name in self.steps)


def in_process_stages(pipeline: beam.Pipeline) -> list[FusedStage]:
    """What the in-process runner makes of a pipeline, from its own optimiser."""
    proto = pipeline.to_runner_api(default_environment=EmbeddedPythonEnvironment.default())
    _, stages = FnApiRunner().create_stages(proto)
    found = []
    for stage in stages:
        executed = [t for t in stage.transforms if not t.spec.urn.startswith("beam:runner:")]
        found.append(
            FusedStage(
                frozenset(transform.unique_name for transform in executed),
                any(
                    transform.spec.urn == _PROCESS and transform.unique_name.startswith(READER)
                    for transform in executed
                ),
                frozenset(t.unique_name for t in executed if _holds(t)),
            )
        )
    return found


def _holds(transform: Any) -> bool:
    if transform.spec.urn not in (common_urns.primitives.PAR_DO.urn, _PROCESS):
        return False
    payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
    return bool(payload.state_specs or payload.timer_family_specs or payload.side_inputs)


def fusion_problems(
    stages: Sequence[FusedStage], steps: Iterable[str] = (*STEPS, *SINKS)
) -> list[str]:
    """Why offsets could be committed before their effects; empty when they cannot.

    All steps of the job must stand in the one stage that reads, whole: a composite of which a
    part stands elsewhere has a fusion break inside.
    """
    reading = [stage for stage in stages if stage.reads]
    if len(reading) != 1:
        return [f"{len(reading)} stages read, expected one"]
    problems = [
        f"{step} is not in the stage that reads" for step in steps if not reading[0].has(step)
    ]
    problems += [f"{name} may hold elements back" for name in sorted(reading[0].holding)]
    for stage in stages:
        if stage is reading[0]:
            continue
        problems += [
            f"{name} stands behind a fusion break"
            for name in sorted(stage.steps)
            if not name.startswith(READER)
        ]
    return problems
