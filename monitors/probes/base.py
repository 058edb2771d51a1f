"""What a probe is, what it is given, and what it answers.

A probe looks at one version of one index and answers with a level, a sentence and figures. It
keeps nothing itself: what it must remember travels in and out as `state` and `baseline`, which the
store writes together with the run. It raises what goes wrong; the service counts it and keeps the
last good values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pipelines.core.errors import PlumblineError
from pipelines.core.lag import LagReader, PartitionLag

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipelines.core.encoder import Encoder
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import Settings
    from pipelines.core.versions import Version

__all__ = [
    "Deadline",
    "Evidence",
    "Figure",
    "FigureFamily",
    "LagReader",
    "Level",
    "PartitionLag",
    "Probe",
    "ProbeContext",
    "ProbeResult",
    "ProbeTimeoutError",
    "Reference",
]


class Level(StrEnum):
    """What a probe decided."""

    OK = "ok"
    WARNING = "warning"
    ALARM = "alarm"
    UNDECIDED = "undecided"
    """There is not enough to decide on: not an alarm, and not silence."""


@dataclass(frozen=True, slots=True)
class FigureFamily:
    """One gauge that a probe exports.

    Parameters
    ----------
    name
        Metric name with its unit: `plumbline_golden_recall_ratio`.
    help
        One sentence.
    labels
        Beside `index` and `version`; every value comes from a bounded set.
    unit
        For the table of metrics: `ratio`, `seconds`, `documents`, `cosine distance`, …
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One value of a family."""

    family: FigureFamily
    value: float
    labels: tuple[str, ...] = ()
    """Values of the family's labels, in their order."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The statistical side of a decision, where there is one; absent parts are `None`.

    Parameters
    ----------
    statistic
        What was measured, on the scale of its test.
    effect
        Size of the change in units a person can act on; the probe's docstring says which.
    p_value
        Of this run alone.
    e_value
        Evidence gathered over runs; an alarm at `1 / level` or at the average run length.
    samples
        `current`, `reference`, `queries`, … to their sizes.
    baseline
        How many known-good runs the control over time stands on.
    """

    statistic: float | None = None
    effect: float | None = None
    p_value: float | None = None
    e_value: float | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    baseline: int | None = None


@dataclass(frozen=True)
class ProbeResult:
    """What one run found.

    Parameters
    ----------
    level
        The decision.
    reason
        Why, for programs: lower case with underscores, from the probe's `REASONS`.
    words
        Why, for people: one or two sentences with values, no document text.
    figures
        Gauges to export. A figure left out keeps no old value.
    details
        For the report and the log, JSON: worst queries, exemplars by document id, clusters.
    state
        What the next run of this probe on this version is given; `None` leaves it as it is.
    baseline
        To be kept as this version's baseline of this probe; `None` leaves it as it is.
    """

    level: Level
    reason: str
    words: str
    figures: Sequence[Figure] = ()
    evidence: Evidence | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] | None = None
    baseline: Mapping[str, Any] | None = None


class ProbeTimeoutError(PlumblineError):
    """A run has used up its time."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a run must be done. Probes call `check` between requests and batches."""

    at: float
    """On `time.monotonic()`'s scale."""

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """That many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds left; negative when it has passed."""
        return self.at - time.monotonic()

    def check(self) -> None:
        """Raises `ProbeTimeoutError` when the time is used up."""
        if self.remaining <= 0:
            raise ProbeTimeoutError("the run has used up its time (`timeout_seconds` of the probe)")


@dataclass(frozen=True)
class Reference:
    """A named, stored sample of vectors that a drift test compares with.

    Parameters
    ----------
    vectors
        Shape (n, dimension), float32.
    document_ids
        Of each row.
    """

    name: str
    vectors: npt.NDArray[np.float32] = field(repr=False)
    document_ids: Sequence[str] = field(repr=False)
    created_at: datetime
    created_by: str
    reason: str


@dataclass(frozen=True)
class ProbeContext:
    """What a run is given.

    Parameters
    ----------
    version
        The version to look at, opened when the run began. The service drops the result when the
        alias has moved on meanwhile.
    encoder
        The version's encoder, loaded and checked against the canaries; raises `ModelError`,
        `ContractMismatchError` or `CanaryMismatchError`.
    unchecked_encoder
        The same without the canaries' check, for the probe that makes it.
    state, baseline
        What earlier runs of this probe on this version kept; `None` in the first.
    reference
        Reference in force for a kind of vectors (`documents`, `queries`) of this version, or
        `None`.
    keep_reference
        Stores a reference and puts it in force: kind, vectors, document ids, reason.
    now
        Start of the run, UTC.
    random
        Seeded from the settings, the probe and the number of the run.
    lag
        `None` where no Kafka is set up.
    """

    settings: Settings
    qdrant: Qdrant
    version: Version
    encoder: Callable[[], Encoder]
    unchecked_encoder: Callable[[], Encoder]
    state: Mapping[str, Any] | None
    baseline: Mapping[str, Any] | None
    reference: Callable[[str], Reference | None]
    keep_reference: Callable[[str, npt.NDArray[np.float32], Sequence[str], str], Reference]
    now: datetime
    deadline: Deadline
    random: np.random.Generator
    lag: LagReader | None = None


ProbeName = Literal[
    "golden", "canary", "fidelity", "drift", "ann", "integrity", "freshness", "geometry"
]


class Probe(Protocol):
    """One scheduled check. Without state of its own; its class attributes describe it."""

    NAME: ClassVar[ProbeName]
    """As in the settings (`monitor.<name>`) and in the label `probe`."""
    QUESTION: ClassVar[str]
    """What it asks, one sentence."""
    FAMILIES: ClassVar[tuple[FigureFamily, ...]]
    """Every gauge it may export."""
    REASONS: ClassVar[Mapping[str, str]]
    """Every `reason` it may give, with what it means and what to do."""

    def run(self, context: ProbeContext) -> ProbeResult:
        """Looks once."""
        ...
