"""Steps that tests run in workers of a pool, which import them by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam

from pipelines.core.metrics import job_metrics

__all__ = ["Count"]


class Count(beam.DoFn):
    """Counts elements in the job's metrics.

    Parameters
    ----------
    folder
        Where each worker leaves a file with its pid in the name.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, element: int) -> Iterator[int]:
        """One element."""
        (Path(self._folder) / f"worker-{os.getpid()}").touch()
        job_metrics().consumed.labels("documents").inc()
        job_metrics().lag.labels("documents", "0").set(element)
        yield element
