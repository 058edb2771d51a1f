"""From a change to a decision: an alarm needs both proof and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from monitors.drift.control import SequentialControl
from monitors.golden.change import Change

__all__ = ["Verdict", "decide"]

_SUSPECT_LEVEL = 0.05
_TOP_SCORE_EFFECT = 0.02
"""Fall of the mean score of the first hit that is worth a word; wrong prompts and other models
move it by .02 and more, rounding by .001."""


@dataclass(frozen=True)
class Verdict:
    """What to make of a change.

    Parameters
    ----------
    reason
        From the probe's `REASONS`.
    e_value
        Evidence so far: at `average_run_length` it is enough for an alarm.
    baseline
        Known-good runs that the control over time stands on.
    control
        State of the control, for the next run.
    """

    level: Literal["ok", "warning", "alarm"]
    reason: str
    e_value: float
    baseline: int
    control: Mapping[str, Any]


def decide(
    change: Change,
    *,
    minimum_effect: float,
    average_run_length: float,
    control: Mapping[str, Any] | None,
    at: datetime,
    lost_share: float,
) -> Verdict:
    """Alarms on a sudden loss at once, and on a small one that stays.

    Two detectors share the allowance of false alarms, one in `average_run_length` runs between
    them. The first is the paired test against the baseline: a p-value (Holm over the measures) of
    at most `1 / (2 average_run_length)` is enough by itself. However runs depend on each other, and
    they do, since all are compared with one baseline, the chance of a false alarm in n runs is at
    most the sum, n times that. It needs no history, so that a real drop is found from the second
    run on. As an e-value it is `2 average_run_length` below that level, and 0 above (the calibrator
    that bets everything on one level; Vovk and Wang 2021). The second is the sequential control of
    -log10 p over time, which finds a loss that no single run proves.

    Both also need a loss of recall of at least `minimum_effect`. A document that is gone without
    having been deleted is no matter of chance: when that share of the judged ones is, it alarms
    without a test, also where others have taken their places among the first k.

    Parameters
    ----------
    control
        What the last run gave; `None` in the first.
    lost_share
        Of the judged documents that are compared, those gone without a tombstone; 0 to 1.
    """
    run_length = 2 * average_run_length
    sequential = SequentialControl.from_json(control, average_run_length=run_length)
    p_value = change.p_value
    over_time = sequential.update(
        float(-np.log10(max(p_value, 1e-300))),
        effect=change.loss,
        minimum_effect=minimum_effect,
        at=at,
    )
    large = change.loss >= minimum_effect
    proven = p_value <= 1 / run_length
    e_value = max(float(over_time.e_value), run_length if proven else 0.0)
    top = change.tests["top_score"]
    level: Literal["ok", "warning", "alarm"]
    if lost_share > 0 and lost_share >= minimum_effect:
        level, reason = "alarm", "documents_lost"
    elif large and proven:
        level, reason = "alarm", "recall_lost"
    elif over_time.alarm:
        level, reason = "alarm", "recall_declining"
    elif lost_share > 0:
        level, reason = "warning", "judged_documents_missing"
    elif large and (over_time.warning or p_value <= _SUSPECT_LEVEL):
        level, reason = "warning", "recall_suspect"
    elif top.adjusted_p <= 1 / run_length and -top.change >= _TOP_SCORE_EFFECT:
        level, reason = "warning", "scores_changed"
    else:
        level, reason = "ok", "unchanged"
    return Verdict(level, reason, e_value / 2, int(over_time.baseline_size), sequential.to_json())
