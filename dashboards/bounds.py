"""Where a panel turns orange or red: the bounds and defaults of the code that decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.core.canaries import REFUSE_DISTANCE, WARN_DISTANCE
from pipelines.core.monitor_settings import MonitorSettings

__all__ = [
    "CANARY",
    "DRIFT_EVIDENCE",
    "DUPLICATES",
    "FIDELITY",
    "GOOD",
    "LEVELS",
    "NEUTRAL",
    "RECALL",
    "RECALL_LOSS",
    "WAITING",
    "ZERO",
    "Bounds",
]

Color = Literal["green", "orange", "red", "blue", "text"]

_SETTINGS = MonitorSettings()


@dataclass(frozen=True)
class Bounds:
    """Colours by value.

    Parameters
    ----------
    below
        Colour of what is below the first step.
    steps
        From this value on, this colour; ascending.
    """

    below: Color
    steps: tuple[tuple[float, Color], ...] = ()

    def __post_init__(self) -> None:
        values = [value for value, _ in self.steps]
        if values != sorted(set(values)):
            raise ValueError(f"the steps {values} do not ascend")


NEUTRAL = Bounds("blue")
"""For figures that are neither good nor bad by themselves."""

ZERO = Bounds("green", ((1.0, "red"),))
"""For counts that should stay at nothing."""

GOOD = Bounds("red", ((1.0, "green"),))
"""For gauges that should be 1."""

LEVELS = Bounds("green", ((1.0, "orange"), (2.0, "red")))
"""For 0 without, 1 with a warning, 2 with an alarm."""

CANARY = Bounds("green", ((WARN_DISTANCE, "orange"), (REFUSE_DISTANCE, "red")))
"""Cosine distance of a canary to its stored vector."""

FIDELITY = Bounds(
    "green",
    # What is tolerated is coloured as soon as it is there.
    ((max(_SETTINGS.fidelity.maximum_mismatch_ratio, 1e-9), "red"),),
)
"""Share of documents whose vectors are not their own."""

RECALL = Bounds("red", ((_SETTINGS.ann.objective, "green"),))
"""Recall of the approximate search."""

RECALL_LOSS = Bounds(
    "green",
    (
        (_SETTINGS.golden.minimum_effect / 2, "orange"),
        (_SETTINGS.golden.minimum_effect, "red"),
    ),
)
"""Recall of the golden queries that is lost since the baseline."""

DRIFT_EVIDENCE = Bounds(
    "green",
    (
        (_SETTINGS.drift.average_run_length / 10, "orange"),
        (_SETTINGS.drift.average_run_length, "red"),
    ),
)
"""Evidence of drift; an alarm at the average run length."""

WAITING = Bounds(
    "green",
    (
        (_SETTINGS.freshness.objective_seconds / 2, "orange"),
        (_SETTINGS.freshness.objective_seconds, "red"),
    ),
)
"""Seconds until an event can be found."""

DUPLICATES = Bounds("green", ((_SETTINGS.integrity.maximum_duplicate_ratio, "orange"),))
"""Share of vectors that equal another one."""
