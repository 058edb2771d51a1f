"""The test that ships: several statistics under shared permutations, one calibrated p-value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from monitors.drift.arrays import Labellings, Values
from monitors.drift.base import Detector, DriftTest, Pooled, SampleError
from monitors.drift.frechet import Frechet
from monitors.drift.half_whitened import HalfWhitenedMMD
from monitors.drift.isolated import Isolated
from monitors.drift.mmd import MMD
from monitors.drift.nearest import NearestNeighbour
from monitors.drift.permutations import labellings
from monitors.drift.prepare import prepare
from monitors.drift.whitened_mean import WhitenedMean
from monitors.probes.base import Deadline

__all__ = ["DETECTORS", "LEAST_PERMUTATIONS", "Combined", "two_sample_test"]

DETECTORS: Sequence[Detector] = (
    MMD(),
    HalfWhitenedMMD(),
    Frechet(),
    WhitenedMean(),
    NearestNeighbour(),
    Isolated(),
)
"""What is combined. The first one's value is the effect."""

LEAST_PERMUTATIONS = 19
"""Fewer cannot give a p-value of .05."""

_NOTHING = 1e-12

_SHARPNESS = 2.0
"""Of the soft maximum. At 1 what a single statistic sees is lost among the others (a foreign domain
of 5 % was found in .83 of draws instead of .91, over halves of the sets that chose it); from 3 on
what several see a little is (10 % of one topic in .66 instead of .69)."""


class Combined:
    """Soft maximum of the standardised statistics. A detector itself.

    (1/c) log mean exp(c zᵢ), c = 2, where zᵢ is what detector i gives, standardised by the mean and
    the standard deviation over all labellings, the observed one among them: that treats every
    labelling alike, so the p-value of the combination is exact. Where one statistic stands out it
    is the maximum but for a constant; where several are raised a little they add up, which a
    maximum wastes. Null hypothesis: both samples come from one distribution. Related: Schrab et
    al. 2023, "MMD Aggregated Two-Sample Test", JMLR 24; and "MMD-FUSE" by Biggs, Schrab and
    Gretton 2023, whose soft maximum this is.
    """

    NAME = "combined"

    def values(self, pooled: Pooled, labels: Labellings, between: Callable[[], None]) -> Values:
        """The combined statistic under each labelling."""
        return combine(all_values(pooled, labels, between))


def all_values(
    pooled: Pooled, labels: Labellings, between: Callable[[], None]
) -> dict[str, Values]:
    """Each detector's values by its name."""
    return {detector.NAME: detector.values(pooled, labels, between) for detector in DETECTORS}


def combine(values: Mapping[str, Values]) -> Values:
    """Soft maximum over the detectors, each standardised over all labellings."""
    table = np.stack(list(values.values()))
    spread = np.maximum(table.std(axis=1, keepdims=True), _NOTHING)
    return _soft_maximum((table - table.mean(axis=1, keepdims=True)) / spread)


def _soft_maximum(standardised: Values) -> Values:
    """Over the first axis."""
    return np.asarray(
        (logsumexp(_SHARPNESS * standardised, axis=0) - np.log(len(standardised))) / _SHARPNESS
    )


def p_value(values: Values) -> float:
    """(1 + k) / (1 + permutations): k permuted values are at least as large as the first.

    Values equal but for rounding count as equal, which errs to the safe side.
    """
    observed, permuted = values[0], values[1:]
    tolerance = 1e-9 * max(1.0, abs(float(observed)))
    return float((1 + np.count_nonzero(permuted >= observed - tolerance)) / len(values))


def two_sample_test(
    reference: npt.ArrayLike,
    current: npt.ArrayLike,
    *,
    permutations: int = 199,
    random: np.random.Generator,
    deadline: Deadline | None = None,
) -> DriftTest:
    """Do two samples of vectors come from one distribution?

    Parameters
    ----------
    reference, current
        Shape (rows, components), finite; stored vectors as they are.
    permutations
        At least 19; the smallest p-value is 1 / (1 + permutations).
    random
        Draws the permutations and which copy of a duplicate stays. The same state gives the same
        result.
    deadline
        Checked between blocks of work.

    Raises
    ------
    SampleError
        A sample cannot be tested; see `prepare`.
    ProbeTimeoutError
        The deadline has passed.
    """
    if permutations < LEAST_PERMUTATIONS:
        raise SampleError(
            f"{permutations} permutations are too few; at least {LEAST_PERMUTATIONS} are needed"
        )
    prepared = prepare(reference, current, random)
    pooled = prepared.pooled
    labels = labellings(pooled.reference, pooled.current, permutations, random)
    between = deadline.check if deadline is not None else _nothing
    values = all_values(pooled, labels, between)
    parts = {name: _standardised(found) for name, found in values.items()}
    return DriftTest(
        p_value=p_value(combine(values)),
        statistic=float(_soft_maximum(np.array(list(parts.values())))),
        effect=float(values[DETECTORS[0].NAME][0]),
        parts=parts,
        reference=pooled.reference,
        current=pooled.current,
        reference_duplicates=len(reference) - pooled.reference,  # type: ignore[arg-type]
        current_duplicates=len(current) - pooled.current,  # type: ignore[arg-type]
        live_components=int(prepared.live.sum()),
        components=len(prepared.live),
        awakened=prepared.awakened,
    )


def _standardised(values: Values) -> float:
    """Standard deviations of the permuted values between their mean and the observed one."""
    permuted = values[1:]
    return float((values[0] - permuted.mean()) / max(float(permuted.std(ddof=1)), _NOTHING))


def _nothing() -> None:
    pass
