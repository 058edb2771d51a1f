"""Records to events inside a bundle; what cannot be applied leaves by the side."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from pipelines.core.dead_letters import DeadLetter
from pipelines.core.decode import Ignored, decode
from pipelines.core.errors import BadRecordError
from pipelines.core.records import Record
from pipelines.core.settings import Settings

__all__ = ["DEAD_LETTERS", "IGNORED", "DecodeFn", "decode"]

DEAD_LETTERS = "dead_letters"
"""Tag of the output that carries `DeadLetter`."""

IGNORED = "ignored"
"""Tag of the output that carries `Ignored`, counted as `unchanged`."""


class DecodeFn(beam.DoFn):
    """`Record` to `Event`; a bad one to `DEAD_LETTERS`, one without effect to `IGNORED`.

    Exactly one output for each record. Holds nothing between records and waits for nothing.

    Examples
    --------
    ::

        decoded = records | beam.ParDo(DecodeFn(settings)).with_outputs(
            DEAD_LETTERS, IGNORED, main="events"
        )
        decoded.events, decoded[DEAD_LETTERS], decoded[IGNORED]
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def process(self, element: Record) -> Iterator[Any]:
        """One record to one element on one of the outputs."""
        try:
            event = decode(element, self._settings)
        except BadRecordError as error:
            letter = DeadLetter.of(element, error, self._settings, now=time.time())
            yield beam.pvalue.TaggedOutput(DEAD_LETTERS, letter)
            return
        if isinstance(event, Ignored):
            yield beam.pvalue.TaggedOutput(IGNORED, event)
        else:
            yield event
