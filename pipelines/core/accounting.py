"""Every event is accounted for: the counts of one run, and whether they add up."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from pipelines.core.errors import Reason
from pipelines.core.metrics import job_metrics
from pipelines.core.plans import Outcome

__all__ = ["Account", "Counts"]


@dataclass(frozen=True)
class Counts:
    """What one process has counted so far."""

    consumed: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def accounted(self) -> int:
        """Events that have an outcome."""
        return sum(self.outcomes.values())

    @property
    def balanced(self) -> bool:
        """Whether every consumed event has an outcome."""
        return self.consumed == self.accounted


class Account:
    """Counts of one process since its start, mirrored in its Prometheus metrics."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._consumed = 0
        self._outcomes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def consumed(self, topic: str) -> None:
        """One record was read."""
        with self._lock:
            self._consumed += 1
        job_metrics().consumed.labels(topic).inc()

    def settled(self, outcome: Outcome, count: int = 1) -> None:
        """Events found their outcome."""
        with self._lock:
            self._outcomes[outcome.value] += count
        job_metrics().events.labels(outcome.value).inc(count)

    def dead_lettered(self, reason: Reason) -> None:
        """One event became a dead letter."""
        self.settled(Outcome.DEAD_LETTERED)
        with self._lock:
            self._reasons[reason.value] += 1
        job_metrics().dead_letters.labels(reason.value).inc()

    def counts(self) -> Counts:
        """A copy of the counts; every outcome is there, also those that never happened."""
        with self._lock:
            return Counts(
                consumed=self._consumed,
                outcomes={outcome.value: self._outcomes[outcome.value] for outcome in Outcome},
                reasons=dict(sorted(self._reasons.items())),
            )


ACCOUNT = Account()
"""The account of this process."""
