"""What is said of an index's rollout, read from its record in the control collection."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from monitors.failures import describe
from monitors.families import Family
from pipelines.core.errors import PlumblineError
from pipelines.core.rollout import OPEN, Rollout, RolloutState

if TYPE_CHECKING:
    from pipelines.core.rollout import RolloutStore

__all__ = [
    "ENDED",
    "GATE_OUTCOMES",
    "INTENTS",
    "ROLLOUT_FAMILIES",
    "RolloutReader",
    "RolloutReading",
    "rollout_series",
]

ENDED = tuple(state for state in RolloutState if state not in OPEN)
"""States in which a rollout is over."""

GATE_OUTCOMES = ("pass", "refuse", "undecided")

INTENTS = ("promote", "rollback", "retire", "abort", "other")
"""Steps that are announced before their first write; `other` is one of another release."""

_log = structlog.get_logger()


def _gauge(name: str, text: str, unit: str, *labels: str) -> Family:
    return Family(f"plumbline_rollout_{name}", "gauge", text, ("index", *labels), unit)


ROLLOUT_FAMILIES = (
    _gauge("state", "Whether the present or last rollout is in this state.", "0 or 1", "state"),
    _gauge(
        "info",
        "Id and versions of the present or last rollout; live is the version that was live when "
        "it was planned. Always 1.",
        "1",
        *("rollout", "live", "candidate"),
    ),
    _gauge(
        "state_since_timestamp_seconds",
        "When the rollout came to its state, by the clock of whoever moved it.",
        "Unix time",
    ),
    _gauge(
        "progress_ratio",
        "Share of the backfill that is done, in tokens, as the build recorded it last.",
        "ratio",
    ),
    _gauge(
        "eta_seconds",
        "Time the backfill still takes, as the build recorded it last; none before it can be told, "
        "and none while nothing is being built.",
        "seconds",
    ),
    _gauge("tokens", "Tokens of the backfill; the total is an estimate.", "tokens", "kind"),
    _gauge("gate", "Whether the golden gate's last answer is this one.", "0 or 1", "outcome"),
    _gauge("gate_queries", "Judged queries that the gate compared.", "queries"),
    _gauge(
        "gate_change_ratio",
        "Recall of the candidate less that of live in the gate's last answer; below 0 for a loss.",
        "ratio",
    ),
    _gauge("gate_change_lower_ratio", "Lower confidence bound of that change.", "ratio"),
    _gauge("gate_change_upper_ratio", "Upper confidence bound of that change.", "ratio"),
    _gauge("gate_margin_ratio", "Loss of recall that the gate does not accept.", "ratio"),
    _gauge(
        "promotion_forced",
        "Whether the promotion was forced past the gate; no value before a promotion.",
        "0 or 1",
    ),
    _gauge(
        "automatic_rollback",
        "Whether `soak --auto-rollback` decided on the rollback; no value before a rollback.",
        "0 or 1",
    ),
    _gauge(
        "alias_moved",
        "Whether the alias points elsewhere than the record of the present or last rollout has it: "
        "somebody moved it by hand, or a step has just switched it.",
        "0 or 1",
    ),
    _gauge(
        "intent",
        "Whether this step of the rollout has begun and has not been seen to end: running the "
        "command again finishes one that was killed.",
        "0 or 1",
        "action",
    ),
    Family(
        "plumbline_rollouts_ended_total",
        "counter",
        "Rollouts of the index that are over, by how they ended.",
        ("index", "state"),
        "rollouts",
    ),
)
"""What is said of a rollout."""


@dataclass(frozen=True)
class RolloutReading:
    """One reading of an index's rollouts.

    Parameters
    ----------
    rollout
        The present or last one; `None` when there was none.
    ended
        How many are over, by state.
    alias
        Version behind the index's alias, empty without one; `None` where nobody has looked.
    """

    rollout: Rollout | None = None
    ended: Mapping[RolloutState, int] = field(default_factory=dict)
    alias: str | None = None


class RolloutReader:
    """Reads an index's rollouts now and then, and what ended before only when that has changed."""

    def __init__(self, rollouts: RolloutStore, index: str) -> None:
        self._rollouts = rollouts
        self._index = index
        self._before: tuple[str, Mapping[RolloutState, int]] | None = None
        self._problem = ""

    def read(self, alias: str | None = None) -> RolloutReading | None:
        """What the control collection says; `None` where it does not answer or cannot be read.

        Parameters
        ----------
        alias
            See `RolloutReading`.
        """
        try:
            rollout = self._rollouts.read(self._index)
            ended = dict(self._ended_before(rollout))
        except PlumblineError as error:
            self._say(describe(error))
            return None
        self._say("")
        if rollout is not None and not rollout.open:
            ended[rollout.state] = ended.get(rollout.state, 0) + 1
        return RolloutReading(rollout, ended, alias)

    def _ended_before(self, rollout: Rollout | None) -> Mapping[RolloutState, int]:
        """Those before this one; they change only when another takes its place."""
        present = "" if rollout is None else rollout.rollout_id
        if self._before is None or self._before[0] != present:
            counts: dict[RolloutState, int] = {}
            for past in self._rollouts.history(self._index):
                if past.rollout_id != present and not past.open:
                    counts[past.state] = counts.get(past.state, 0) + 1
            self._before = (present, counts)
        return self._before[1]

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            _log.warning("monitor_rollout", index=self._index, message=problem)
        self._problem = problem


def rollout_series(
    index: str, reading: RolloutReading
) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Family, label values and value of everything that the record says.

    Notes are what other processes wrote, of this release or another: a figure that is missing or
    is no number gives no series.
    """
    for state in ENDED:
        total = float(reading.ended.get(state, 0))
        yield "plumbline_rollouts_ended_total", (index, state.value), total
    if reading.rollout is not None:
        for name, labels, value in _of(reading.rollout):
            yield f"plumbline_rollout_{name}", (index, *labels), value
        if reading.alias is not None:
            moved = reading.alias != reading.rollout.serving.name
            yield "plumbline_rollout_alias_moved", (index,), float(moved)


def _of(rollout: Rollout) -> Iterator[tuple[str, tuple[str, ...], float]]:
    for state in RolloutState:
        yield "state", (state.value,), float(rollout.state is state)
    yield "info", (rollout.rollout_id, rollout.live.name, rollout.candidate.name), 1.0
    since = _since(rollout)
    if since is not None:
        yield "state_since_timestamp_seconds", (), since
    action = None if rollout.intent is None else rollout.intent.action
    known = action if action in INTENTS else "other"
    for one in INTENTS:
        yield "intent", (one,), float(action is not None and one == known)
    yield from _progress(rollout)
    yield from _gate(_note(rollout, "gate"))
    for name, note, key in (
        ("promotion_forced", "promotion", "forced"),
        ("automatic_rollback", "rollback", "automatic"),
    ):
        value = _note(rollout, note).get(key)
        if isinstance(value, bool):
            yield name, (), float(value)


def _progress(rollout: Rollout) -> Iterator[tuple[str, tuple[str, ...], float]]:
    if not rollout.open:
        return
    note = _note(rollout, "progress") or _note(rollout, "build")
    done, total = (_number(note, f"tokens_{kind}", least=0.0) for kind in ("done", "total"))
    if done is not None:
        yield "tokens", ("done",), done
    if total is not None:
        yield "tokens", ("total",), total
    if done is not None and total:
        yield "progress_ratio", (), min(1.0, done / total)
    eta = _number(note, "eta_seconds", least=0.0)
    if eta is not None and rollout.state is RolloutState.BUILDING:
        yield "eta_seconds", (), eta


def _gate(note: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...], float]]:
    outcome = note.get("outcome")
    if outcome in GATE_OUTCOMES:
        for one in GATE_OUTCOMES:
            yield "gate", (one,), float(one == outcome)
    for name, key in (
        ("gate_queries", "queries"),
        ("gate_change_ratio", "difference"),
        ("gate_change_lower_ratio", "low"),
        ("gate_change_upper_ratio", "high"),
        ("gate_margin_ratio", "margin"),
    ):
        value = _number(note, key)
        if value is not None:
            yield name, (), value


def _note(rollout: Rollout, name: str) -> Mapping[str, Any]:
    note = rollout.notes.get(name)
    return note if isinstance(note, Mapping) else {}


def _number(note: Mapping[str, Any], key: str, *, least: float = -math.inf) -> float | None:
    value = note.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number >= least else None


def _since(rollout: Rollout) -> float | None:
    try:
        return rollout.entered_at.timestamp()
    except (IndexError, OSError, OverflowError, TypeError, ValueError):
        return None
