"""One kind of vectors, one window: contract checks, the test, the control, and the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from monitors.drift import (
    Decision,
    DriftTest,
    Explanation,
    SampleError,
    SequentialControl,
    explain,
    two_sample_test,
)
from monitors.drift.prepare import live_components
from monitors.probes.base import Level

if TYPE_CHECKING:
    import numpy.typing as npt

    from monitors.probes.base import ProbeContext, Reference
    from monitors.probes.windows import Window

    Vectors = npt.NDArray[np.float32]

__all__ = ["Current", "Judgement", "judge"]

_NORM_TOLERANCE = 0.01
"""Relative; rounding of bfloat16 is below it."""
_NAMED = 20

_FAR = 10.0
"""Median statistic of known-good windows from which on the reference hides what changes. With
1,000 vectors against 5,000 (parts of arXiv abstracts) it was 1.0 where topics' shares moved by a
log-normal factor of .15 from window to window, and 3.9 at .3; where a third of the reference was
another corpus it was 127, and neither a flood of 20 % nor a foreign domain of 5 % was seen."""


@dataclass(frozen=True)
class Current:
    """The sample to be tested: `vectors` of shape (n, dimension), and of each row an id."""

    window: Window
    vectors: Vectors = field(repr=False)
    ids: Sequence[str] = field(repr=False)


@dataclass(frozen=True)
class Judgement:
    """What was found of one kind of vectors.

    Parameters
    ----------
    state
        Of this kind, for the next run; `None` leaves it as it is.
    test, decision
        `None` where it did not come to one.
    """

    level: Level
    reason: str
    words: str
    details: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] | None = None
    test: DriftTest | None = None
    decision: Decision | None = None


def judge(
    context: ProbeContext,
    reference: Reference,
    current: Current,
    state: Mapping[str, Any],
    *,
    normalized: bool,
) -> Judgement:
    """Tests a window against the reference, and counts it.

    Parameters
    ----------
    state
        What the last run kept of this kind.
    normalized
        Whether the vectors should have unit length as they are given.
    """
    settings = context.settings.monitor.drift
    broken = _check(reference, current, normalized=normalized)
    if broken is not None:
        # The window is not counted and not passed: the alarm stands until the cause is gone.
        return broken
    try:
        test = two_sample_test(
            reference.vectors,
            current.vectors,
            permutations=settings.permutations,
            random=context.random,
            deadline=context.deadline,
        )
    except SampleError as error:
        return Judgement(Level.UNDECIDED, "small_window", f"the window cannot be tested: {error}")
    if test.awakened:
        named = ", ".join(map(str, test.awakened[:_NAMED]))
        return Judgement(
            Level.ALARM,
            "components_changed",
            f"{len(test.awakened)} components that are the same in all of the reference vary in "
            f"the window (numbers {named}): another encoder wrote these vectors",
            {"awakened": list(test.awakened[:_NAMED])},
            test=test,
        )
    least = settings.minimum_window // 2
    if test.current < least:
        return Judgement(
            Level.UNDECIDED,
            "small_window",
            f"of {len(current.ids)} vectors in the window {test.current} are different; the test "
            f"needs {least}",
            test=test,
        )
    known = state.get("control") if state.get("reference") == reference_key(reference) else None
    control = SequentialControl.from_json(
        known if isinstance(known, Mapping) else None,
        average_run_length=settings.average_run_length,
    )
    decision = control.update(
        test.statistic,
        effect=test.effect,
        # Known-good windows set the scale: `SequentialControl.minimum_spreads`.
        minimum_effect=0.0,
        at=current.window.end,
        season=current.window.season,
    )
    kept = {
        "reference": reference_key(reference),
        "end": current.window.until,
        "control": control.to_json(),
    }
    level, reason = _level(test, decision, settings.level)
    details: dict[str, Any] = {"parts": dict(test.parts)}
    words = _words(test, decision, settings.average_run_length)
    if level in (Level.ALARM, Level.WARNING):
        context.deadline.check()
        found = explain(
            reference.vectors,
            reference.document_ids,
            current.vectors,
            current.ids,
            context.random,
        )
        words = f"{words}. {found.words}"
        details["explanation"] = _plain(found)
    return Judgement(level, reason, words, details, kept, test, decision)


def reference_key(reference: Reference) -> str:
    """Tells a reference from the one before: known-good windows count for one of them alone."""
    return f"{reference.name}@{reference.created_at.isoformat()}"


def _check(reference: Reference, current: Current, *, normalized: bool) -> Judgement | None:
    """What no sampling error explains, and so needs no test."""
    vectors = current.vectors
    if reference.vectors.shape[1] != vectors.shape[1]:
        words = (
            f"the window's vectors have {vectors.shape[1]} components, those of the reference "
            f"{reference.name!r} have {reference.vectors.shape[1]}"
        )
        return Judgement(Level.ALARM, "dimension_changed", words)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    bad = ~np.isfinite(norms) | (norms == 0)
    if normalized:
        bad |= np.abs(norms - 1) > _NORM_TOLERANCE
    if bad.any():
        rows = np.flatnonzero(bad)
        words = (
            f"{len(rows)} of {len(vectors)} vectors of the window are of no valid length"
            f"{' (1 is what the contract gives)' if normalized else ''}: a normalisation is "
            "missing where they were made"
        )
        ids = [current.ids[row] for row in rows[:_NAMED]]
        return Judgement(Level.ALARM, "norms_changed", words, {"ids": ids})
    alive = live_components(vectors)
    died = np.flatnonzero(live_components(reference.vectors) & ~alive)
    # One vector many times over says nothing of components.
    if len(died) and alive.any():
        numbers = [int(number) for number in died[:_NAMED]]
        words = (
            f"{len(died)} components that vary in the reference are the same in all of the window "
            f"(numbers {', '.join(map(str, numbers))}): another encoder wrote these vectors"
        )
        return Judgement(Level.ALARM, "components_changed", words, {"died": numbers})
    return None


def _level(test: DriftTest, decision: Decision, level: float) -> tuple[Level, str]:
    if decision.alarm:
        return Level.ALARM, "drifted"
    if decision.warning:
        return Level.WARNING, "drifting"
    if not decision.trusted:
        # It cannot be said yet what is usual here, so a single test's word is taken, as a warning.
        if test.p_value <= level:
            return Level.WARNING, "differs_young_baseline"
        return Level.OK, "young_baseline"
    if decision.usual >= _FAR:
        return Level.WARNING, "far_reference"
    return Level.OK, "steady"


def _words(test: DriftTest, decision: Decision, average_run_length: float) -> str:
    trust = (
        "" if decision.trusted else ", too few or over too short a time to raise an alarm on yet"
    )
    return (
        f"MMD² {test.effect:.4g} over {test.current} vectors against {test.reference} "
        f"(p = {test.p_value:.3g} alone, {decision.spreads:.1f} spreads above the known-good "
        f"windows); evidence over time {decision.e_value:.3g}, an alarm at {average_run_length:g}; "
        f"{_usual(decision)}"
        f"{decision.baseline_size} known-good windows{trust}"
    )


def _usual(decision: Decision) -> str:
    if decision.usual < _FAR:
        return ""
    return f"windows here usually lie {decision.usual:.0f} deviations from this reference; "


def _plain(found: Explanation) -> dict[str, Any]:
    return {
        "words": found.words,
        "unexplained": found.unexplained,
        "exemplars": [asdict(exemplar) for exemplar in found.exemplars],
        "grew": [asdict(change) for change in found.grew],
        "shrank": [asdict(change) for change in found.shrank],
    }
