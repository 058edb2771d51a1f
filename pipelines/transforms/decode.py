"""Records to events inside a bundle; what cannot be applied leaves by the side."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from pipelines.core.dead_letters import DeadLetter
from pipelines.core.decode import Ignored, decode
from pipelines.core.errors import BadRecordError
from pipelines.core.failures import guarded
from pipelines.core.plans import Outcome
from pipelines.core.records import Record
from pipelines.core.settings import Settings
from pipelines.transforms.account import count_consumed, count_dead_letter, count_outcome

__all__ = ["DEAD_LETTERS", "DecodeFn", "decode"]

DEAD_LETTERS = "dead_letters"
"""Tag of the output that carries `DeadLetter`."""


@guarded
class DecodeFn(beam.DoFn):
    """`Record` to `Event`; a bad one to `DeadLetter` on the output `DEAD_LETTERS`.

    Every record is counted as consumed here, a bad one also by its reason, and one that rightly
    changes nothing (`Ignored`) as unchanged: it has no output. Holds nothing between records.

    Examples
    --------
    ::

        decoded = records | beam.ParDo(DecodeFn(settings)).with_outputs(
            DEAD_LETTERS, main="events"
        )
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def process(self, element: Record) -> Iterator[Any]:
        """One record to its event, its dead letter or nothing."""
        count_consumed(element.topic)
        try:
            event = decode(element, self._settings)
        except BadRecordError as error:
            count_dead_letter(error.reason)
            letter = DeadLetter.of(element, error, self._settings, now=time.time())
            yield beam.pvalue.TaggedOutput(DEAD_LETTERS, letter)
            return
        if isinstance(event, Ignored):
            count_outcome(Outcome.UNCHANGED)
        else:
            yield event
