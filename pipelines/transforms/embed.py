"""Encodes a batch; what the encoder refuses leaves by the side."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from pipelines.core.dead_letters import DeadLetter
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.failures import guarded
from pipelines.core.job import Job, JobSpec
from pipelines.core.plans import Action, Plan
from pipelines.core.records import Event
from pipelines.transforms.account import count_dead_letter
from pipelines.transforms.decode import DEAD_LETTERS

__all__ = ["EmbedFn"]

_BEHIND_PURGE = (
    "the replayed event is older than tombstones that have been purged, so nobody can tell whether "
    "its document was deleted since; publish the document anew to have it back"
)


@guarded
class EmbedFn(beam.DoFn):
    """Lists of `Plan` with their vectors; `DeadLetter` on the side for what has none."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec

    def setup(self) -> None:
        """Opens the job."""
        self._job: Job = self._spec.open()

    def process(self, element: list[Plan]) -> Iterator[Any]:
        """Encodes in one call; the rest of the batch goes through when a text is refused."""
        for event, message in self._job.planner.encode(element):
            yield self._dead_letter(event, Reason.INVALID_VECTOR, message)
        for plan in element:
            for event in plan.behind_purge:
                yield self._dead_letter(event, Reason.BEHIND_PURGE, _BEHIND_PURGE)
        yield [plan for plan in element if plan.action is not Action.REFUSED]

    def _dead_letter(self, event: Event, reason: Reason, message: str) -> Any:
        assert event.record is not None, "events of the stream carry their record"
        error = BadRecordError(reason, message)
        letter = DeadLetter.of(event.record, error, self._job.settings, now=time.time())
        count_dead_letter(reason)
        return beam.pvalue.TaggedOutput(DEAD_LETTERS, letter)
