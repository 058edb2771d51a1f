"""Cuts what is to be embedded."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam

from pipelines.core.failures import guarded
from pipelines.core.job import Job, JobSpec
from pipelines.core.plans import Plan

__all__ = ["ChunkFn"]


@guarded
class ChunkFn(beam.DoFn):
    """Lists of `Plan`, those that need encoding with their chunks and texts filled in."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec

    def setup(self) -> None:
        """Opens the job."""
        self._job: Job = self._spec.open()

    def process(self, element: list[Plan]) -> Iterator[list[Plan]]:
        """The same plans, cut."""
        self._job.planner.cut(element)
        yield element
