"""What a detector is given, what it answers, and what the combined test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol

from monitors.drift.arrays import Floats, Labellings, Values, centred
from monitors.drift.axes import Axes, principal_axes
from monitors.drift.distances import Distances
from pipelines.core.errors import PlumblineError

__all__ = ["Detector", "DriftTest", "Pooled", "SampleError"]

_AXES = 64
"""Principal axes that are found at once; detectors take as many of the first as they use."""


class SampleError(PlumblineError):
    """A sample cannot be tested.

    Operator action: the message says what came and what is needed.
    """


@dataclass(frozen=True)
class Pooled:
    """Both samples, one above the other, as every detector sees them.

    Parameters
    ----------
    vectors
        Shape (reference + current, live components), float32; the reference's rows first.
    reference, current
        How many rows each sample has.
    """

    vectors: Floats = field(repr=False)
    reference: int
    current: int

    @property
    def size(self) -> int:
        """Rows in all."""
        return self.reference + self.current

    @cached_property
    def centred(self) -> Floats:
        """Its vectors, their mean at the origin."""
        return centred(self.vectors)

    @cached_property
    def axes(self) -> Axes:
        """Its leading principal axes, at most 64: the same under every labelling."""
        return principal_axes(self.centred, _AXES)

    @cached_property
    def distances(self) -> Distances:
        """Between its rows: the same under every labelling."""
        return Distances(self.centred, keep=True)


class Detector(Protocol):
    """One statistic that is larger the more the samples differ. Without state.

    Every statistic is computed from the pooled sample and a labelling of its rows alone, and what
    does not depend on the labels (a kernel, principal axes) is computed once. So under the null
    hypothesis, that both samples come from one distribution, the observed value and the permuted
    ones are exchangeable, and their ranks give a calibrated p-value.
    """

    NAME: ClassVar[str]
    """In results, metrics and tests."""

    def values(self, pooled: Pooled, labels: Labellings, between: Callable[[], None]) -> Values:
        """The statistic under each labelling.

        Parameters
        ----------
        labels
            See `Labellings`.
        between
            Called between blocks of work; raises when the time is used up.

        Returns
        -------
        array
            Shape (1 + permutations,); the first value is the observed one.
        """
        ...


@dataclass(frozen=True, slots=True)
class DriftTest:
    """What the combined test found.

    Parameters
    ----------
    p_value
        Of the combination, (1 + k) / (1 + permutations): k permuted statistics are at least as
        large as the observed one. Never 0.
    statistic
        Soft maximum of `parts` (`combined.Combined`). What the control over time ranks.
    effect
        Unbiased MMD² (Gaussian kernel, median heuristic). Its expectation does not depend on the
        samples' sizes and is 0 without drift; it may be negative.
    parts
        Detector name to its standardised value: how many standard deviations of the permuted
        values the observed one lies above their mean.
    reference, current
        Sizes after duplicates were removed.
    reference_duplicates, current_duplicates
        Vectors removed because the same vector is there already, in either sample.
    live_components, components
        Components that vary in the reference, and all.
    awakened
        Components, from 0, that do not vary in the reference and are not the same in the current
        sample: damage by itself, whatever the p-value is. The test leaves them out.
    """

    p_value: float
    statistic: float
    effect: float
    parts: Mapping[str, float]
    reference: int
    current: int
    reference_duplicates: int
    current_duplicates: int
    live_components: int
    components: int
    awakened: tuple[int, ...]
