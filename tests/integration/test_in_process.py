"""The in-process runner: a job that does not end must not grow with the bundles it has done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.io.in_process import InProcessRunner

FIRST, LAST = 200, 1200
RESIDENT: dict[int, float] = {}


def resident() -> float:
    """Of this process, MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


class Provider(beam.transforms.core.RestrictionProvider):
    def initial_restriction(self, element: int) -> OffsetRange:
        return OffsetRange(0, element)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element: int, restriction: OffsetRange) -> int:
        return restriction.size()


LEFT = beam.DoFn.RestrictionParam(Provider())


class OneABundle(beam.DoFn):
    """As a source does that goes on for ever: one step, and the rest in the next bundle."""

    @beam.DoFn.unbounded_per_element()
    def process(self, element: int, tracker: Any = LEFT) -> Iterator[int]:
        position = tracker.current_restriction().start
        if tracker.try_claim(position):
            yield position
            tracker.defer_remainder()


def note(position: int) -> int:
    if position in (FIRST, LAST):
        RESIDENT[position] = resident()
    return position


def test_a_thousand_bundles_leave_nothing_behind() -> None:
    """Beam's own runner keeps the metrics of each: 46 MiB of this pipeline's."""
    options = PipelineOptions(["--streaming"])
    with beam.Pipeline(runner=InProcessRunner(), options=options) as pipeline:
        steps = pipeline | beam.Create([LAST + 1]) | beam.ParDo(OneABundle())
        for number in range(8):
            steps = steps | f"Step {number}" >> beam.Map(lambda position: position)
        _ = steps | beam.Map(note)
    assert RESIDENT[LAST] - RESIDENT[FIRST] < 6, RESIDENT
