"""Counting outcomes where Beam, Prometheus and the end of the run can see them."""

from __future__ import annotations

from apache_beam.metrics import Metrics

from pipelines.core.accounting import ACCOUNT
from pipelines.core.errors import Reason
from pipelines.core.plans import Outcome

__all__ = ["NAMESPACE", "count_consumed", "count_dead_letter", "count_outcome"]

NAMESPACE = "plumbline"
"""Namespace of the job's Beam counters: the runner adds them up over all workers."""

_CONSUMED = Metrics.counter(NAMESPACE, "consumed")
_OUTCOMES = {outcome: Metrics.counter(NAMESPACE, outcome.value) for outcome in Outcome}


def count_consumed(topic: str) -> None:
    """One record was read. Call it in the thread of the bundle: Beam counts by thread."""
    _CONSUMED.inc()
    ACCOUNT.consumed(topic)


def count_outcome(outcome: Outcome, count: int = 1) -> None:
    """Events found their outcome."""
    _OUTCOMES[outcome].inc(count)
    ACCOUNT.settled(outcome, count)


def count_dead_letter(reason: Reason) -> None:
    """One event became a dead letter."""
    _OUTCOMES[Outcome.DEAD_LETTERED].inc()
    ACCOUNT.dead_lettered(reason)
