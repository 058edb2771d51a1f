"""Batches inside a bundle: no state, no timers, nothing left when the bundle ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.core.failures import guarded
from pipelines.core.metrics import job_metrics
from pipelines.core.records import Event
from pipelines.core.settings import IngestSettings

__all__ = ["BatchFn", "at_bundle_end"]


def at_bundle_end(element: Any) -> WindowedValue:
    """An element as `finish_bundle` must give it. Nothing downstream asks for its time."""
    return WindowedValue(element, MIN_TIMESTAMP, [GlobalWindow()])


@guarded
class BatchFn(beam.DoFn):
    """`Event` to lists of events, in their order, bounded by count and by bytes of text."""

    def __init__(self, settings: IngestSettings) -> None:
        self._max_events = settings.batch_events
        self._max_bytes = settings.batch_bytes
        self._events: list[Event] = []
        self._bytes = 0

    def start_bundle(self) -> None:
        """A bundle that failed may have left something behind."""
        self._events, self._bytes = [], 0

    def process(self, element: Event) -> Iterator[list[Event]]:
        """Holds the event back until the batch is full."""
        self._events.append(element)
        self._bytes += len(element.text) + len(element.title)
        if len(self._events) >= self._max_events or self._bytes >= self._max_bytes:
            yield self._take()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Gives out what is left: nothing may wait when offsets are committed."""
        if self._events:
            yield at_bundle_end(self._take())

    def _take(self) -> list[Event]:
        batch = self._events
        self._events, self._bytes = [], 0
        job_metrics().batch_events.observe(len(batch))
        return batch
