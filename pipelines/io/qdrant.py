"""The Qdrant sink: writes batches while the next one is being encoded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import apache_beam as beam

from pipelines.core.dead_letters import DeadLetter
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.failures import guarded
from pipelines.core.job import Job, JobSpec
from pipelines.core.metrics import job_metrics
from pipelines.core.plans import Action, Outcome, Plan
from pipelines.core.versions import check_unchanged
from pipelines.core.writing import Written
from pipelines.transforms.account import count_dead_letter, count_outcome
from pipelines.transforms.batch import at_bundle_end
from pipelines.transforms.decode import DEAD_LETTERS
from pipelines.transforms.stamps import Stamps

__all__ = ["WriteToQdrantFn"]

_IN_FLIGHT = 2
"""Batches handed to the writer: one being written, one behind it. More would only hold memory."""

_Write = tuple[list[Plan], "Future[list[Written]]"]


@guarded
class WriteToQdrantFn(beam.DoFn):
    """Writes lists of `Plan` into the job's version; `DeadLetter` on the side for what is refused.

    Delivery: at least once, newest wins. A batch is written by a thread of the sink's own while
    the bundle goes on; `finish_bundle` returns when every batch of the bundle is durable in the
    version that the job opened, and raises when one could not be written, or when another
    collection has taken the version's name meanwhile, so that the runner commits nothing.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec

    def setup(self) -> None:
        """Opens the job and the writer's thread."""
        self._job: Job = self._spec.open()
        self._stamps = Stamps(self._job.version.order_by)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plumbline-write")
        self._in_flight: deque[_Write] = deque()
        self._given = False

    def teardown(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=True)

    def start_bundle(self) -> None:
        """Forgets the writes of a bundle that failed: they are conditional, so they do no harm."""
        while self._in_flight:
            write = self._in_flight.popleft()[1]
            if not write.cancel():
                write.exception()
        self._given = False
        self._job.check_canaries()

    def process(self, element: list[Plan]) -> Iterator[Any]:
        """Hands the batch to the writer, and settles those that are done."""
        if not element:
            return
        self._given = True
        while len(self._in_flight) >= _IN_FLIGHT:
            yield from self._settle()
        write = self._thread.submit(self._write, element)
        self._job.announce((plan.event.document_id for plan in element), write)
        self._in_flight.append((element, write))

    def finish_bundle(self) -> Iterator[Any]:
        """Waits until everything of the bundle is durable."""
        while self._in_flight:
            for letter in self._settle():
                yield beam.pvalue.TaggedOutput(DEAD_LETTERS, at_bundle_end(letter.value))
        self._job.qdrant.sync(self._job.version.name)
        if self._given:
            # A collection without the contract takes writes all the same, and what this job wrote
            # before is not in it.
            check_unchanged(self._job.qdrant, self._job.version)

    def _write(self, plans: list[Plan]) -> list[Written]:
        started = time.perf_counter()
        written = self._job.writer.write(plans)
        job_metrics().write_seconds.observe(time.perf_counter() - started)
        return written

    def _settle(self) -> Iterator[beam.pvalue.TaggedOutput]:
        plans, write = self._in_flight.popleft()
        results = write.result()
        now = time.time()
        for plan, written in zip(plans, results, strict=True):
            if plan.older:
                count_outcome(Outcome.STALE, len(plan.older))
            self._hold_against_the_clock(plan, written, now)
            if written.refused is not None:
                yield beam.pvalue.TaggedOutput(DEAD_LETTERS, self._refused(written, now))
                continue
            count_outcome(written.outcome)

    def _hold_against_the_clock(self, plan: Plan, written: Written, now: float) -> None:
        newest, beaten = plan.event.position, plan.older
        if plan.action is Action.STALE and plan.stored is not None:
            newest, beaten = plan.stored.position, [plan.event, *plan.older]
        for event in beaten:
            self._stamps.beaten(event.position, newest, now)
        if plan.writes and written.refused is None:
            self._stamps.written(written.event.position, now)

    def _refused(self, written: Written, now: float) -> DeadLetter:
        assert written.event.record is not None, "events of the stream carry their record"
        assert written.refused is not None, "asked for refused ones only"
        error = BadRecordError(Reason.REFUSED_BY_STORE, written.refused)
        count_dead_letter(Reason.REFUSED_BY_STORE)
        return DeadLetter.of(written.event.record, error, self._job.settings, now=now)
