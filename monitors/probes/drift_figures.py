"""What the drift probe exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monitors.probes.base import Evidence, Figure, FigureFamily, Level

if TYPE_CHECKING:
    from monitors.probes.drift_judgement import Judgement

__all__ = ["FAMILIES", "evidence_of", "figures_of"]


def _family(name: str, text: str, unit: str, *labels: str) -> FigureFamily:
    return FigureFamily(f"plumbline_drift_{name}", text, ("kind", *labels), unit)


_MMD = _family("mmd_squared", "Unbiased MMD^2 of window and reference; 0 without drift.", "MMD^2")
_SPREADS = _family(
    "effect_spreads",
    "MMD^2 above the known-good windows' mean, in their standard deviations.",
    "standard deviations",
)
_P_VALUE = _family("p_value", "Of the last window's test alone.", "probability")
_E_VALUE = _family("e_value", "Evidence of drift, gathered over windows.", "e-value")
_PART = _family(
    "detector_statistic",
    "Each detector's statistic, standardised by its permutations.",
    "standard deviations",
    "detector",
)
_WINDOW = _family("window_vectors", "Different vectors of the last tested window.", "vectors")
_REFERENCE = _family("reference_vectors", "Different vectors of the reference.", "vectors")
_DUPLICATES = _family(
    "window_duplicate_ratio", "Share of exact duplicates taken out of the window.", "ratio"
)
_LIVE = _family("live_components", "Components that vary in the reference.", "components")
_BASELINE = _family("baseline_windows", "Known-good windows.", "windows")
_USUAL = _family(
    "baseline_statistic",
    "Median statistic of the known-good windows; a large one hides smaller changes: the reference "
    "is unlike what comes.",
    "standard deviations",
)
_TRUSTED = _family(
    "baseline_trusted", "Whether the baseline is large and long enough for alarms.", "0 or 1"
)
_ALARM = _family("alarm", "Whether this kind of vectors gives the alarm.", "0 or 1")
_UNEXPLAINED = _family(
    "unexplained_ratio",
    "Share of the window that is unlike anything in the reference; when it warns or alarms.",
    "ratio",
)

FAMILIES = (
    *(_MMD, _SPREADS, _P_VALUE, _E_VALUE, _PART, _WINDOW, _REFERENCE),
    *(_DUPLICATES, _LIVE, _BASELINE, _USUAL, _TRUSTED, _UNEXPLAINED, _ALARM),
)


def figures_of(kind: str, judgement: Judgement) -> list[Figure]:
    """What one kind of vectors gives to export."""
    figures = []
    if judgement.level is not Level.UNDECIDED:
        figures.append(Figure(_ALARM, float(judgement.level is Level.ALARM), (kind,)))
    test, decision = judgement.test, judgement.decision
    if test is not None:
        given = test.current + test.current_duplicates
        figures += [
            Figure(_MMD, test.effect, (kind,)),
            Figure(_P_VALUE, test.p_value, (kind,)),
            Figure(_WINDOW, float(test.current), (kind,)),
            Figure(_REFERENCE, float(test.reference), (kind,)),
            Figure(_DUPLICATES, test.current_duplicates / given, (kind,)),
            Figure(_LIVE, float(test.live_components), (kind,)),
            *(Figure(_PART, value, (kind, name)) for name, value in test.parts.items()),
        ]
    if decision is not None:
        figures += [
            Figure(_SPREADS, min(decision.spreads, 1e6), (kind,)),
            Figure(_E_VALUE, decision.e_value, (kind,)),
            Figure(_BASELINE, float(decision.baseline_size), (kind,)),
            Figure(_USUAL, decision.usual, (kind,)),
            Figure(_TRUSTED, float(decision.trusted), (kind,)),
        ]
    explanation = judgement.details.get("explanation")
    if explanation is not None:
        figures.append(Figure(_UNEXPLAINED, explanation["unexplained"], (kind,)))
    return figures


def evidence_of(judgement: Judgement) -> Evidence | None:
    """The statistical side; `None` where nothing was tested."""
    test, decision = judgement.test, judgement.decision
    if test is None:
        return None
    return Evidence(
        statistic=test.statistic,
        effect=test.effect,
        p_value=test.p_value,
        e_value=None if decision is None else decision.e_value,
        samples={"current": test.current, "reference": test.reference},
        baseline=None if decision is None else decision.baseline_size,
    )
