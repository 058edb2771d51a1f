"""What must be embedded? One read of the store decides for a whole batch."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam

from pipelines.core.failures import guarded
from pipelines.core.job import Job, JobSpec
from pipelines.core.plans import Outcome, Plan
from pipelines.core.records import Event
from pipelines.transforms.account import count_outcome

__all__ = ["ReconcileFn"]


@guarded
class ReconcileFn(beam.DoFn):
    """Lists of `Event` to lists of `Plan`, one a document."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec

    def setup(self) -> None:
        """Opens the job; refuses when contract or canaries do not match."""
        self._job: Job = self._spec.open()

    def process(self, element: list[Event]) -> Iterator[list[Plan]]:
        """Waits for writes of the same documents, reads their heads and decides."""
        self._job.wait_for(event.document_id for event in element)
        plans, repeated = self._job.planner.reconcile(element)
        if repeated:
            count_outcome(Outcome.UNCHANGED, len(repeated))
        yield plans
