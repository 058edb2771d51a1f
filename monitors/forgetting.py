"""What the alarms of a probe stand on beside what is there now, and how it is given up.

Most probes judge the present: their alarm ends with its cause. Three compare it with what they
remember, so that theirs stands, also over a change that somebody made on purpose.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from monitors.drift import SequentialControl
from monitors.golden.baseline import Baseline
from monitors.probes import PROBES
from monitors.probes.windows import ACCEPTED, milliseconds
from monitors.store import Memory
from pipelines.core.errors import SettingsError, UnknownNameError

__all__ = ["FORGETTING", "Forgetting", "forgetting_of"]

_KINDS = ("documents", "queries")


@dataclass(frozen=True, slots=True)
class Forgetting:
    """How a probe's memory is given up.

    Parameters
    ----------
    words
        What is given up and what takes its place, one sentence for people.
    forget
        What is left of the memory for a run that begins now.
    remembered
        What there is to give up, in figures: JSON.
    """

    words: str
    forget: Callable[[Memory, datetime], Memory]
    remembered: Callable[[Memory], dict[str, Any]]


def forgetting_of(probe: str) -> Forgetting:
    """How this probe forgets.

    Raises
    ------
    UnknownNameError
        There is no such probe, or none of its alarms stands on what it remembers.
    """
    if probe in FORGETTING:
        return FORGETTING[probe]
    valid = f"Valid are {', '.join(FORGETTING)}."
    if probe in PROBES:
        raise UnknownNameError(
            f"the probe {probe} judges what there is now, and its alarm ends with the cause: there "
            f"is nothing to take back. {valid}"
        )
    close = difflib.get_close_matches(probe, FORGETTING, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    raise UnknownNameError(f"there is no probe {probe!r} to reset. {hint}{valid}")


def _everything(memory: Memory, _now: datetime) -> Memory:
    return Memory(memory.runs)


def _counted(memory: Memory) -> dict[str, Any]:
    state = memory.state or {}
    return {
        "documents_and_tombstones": int(state.get("heads", 0)),
        "purged_tombstones": int(state.get("purged", 0)),
        "remembered_documents": len(state.get("known", ())),
    }


def _compared(memory: Memory) -> dict[str, Any]:
    baseline = Baseline.from_json(memory.baseline)
    if baseline is None:
        return {"baseline_taken_at": None}
    taken = datetime.fromtimestamp(baseline.clock_cut / 1000, UTC)
    return {
        "baseline_taken_at": taken.isoformat(timespec="seconds"),
        "queries": len(baseline.rankings),
        "judged_documents": len(baseline.present),
        "deleted_since": len((memory.state or {}).get("deleted", ())),
    }


def _calm(memory: Memory, now: datetime) -> Memory:
    """Without alarm and evidence, and past what has been written up to now."""
    state = dict(memory.state or {})
    for kind in _KINDS:
        part = state.get(kind)
        if isinstance(part, Mapping):
            control = _control(part)
            if control is not None:
                control.reset()
            state[kind] = {
                **part,
                ACCEPTED: milliseconds(now),
                "control": None if control is None else control.to_json(),
            }
    return Memory(memory.runs, state, memory.baseline)


def _controls(memory: Memory) -> dict[str, Any]:
    state = memory.state or {}
    parts = {kind: state[kind] for kind in _KINDS if isinstance(state.get(kind), Mapping)}
    found: dict[str, Any] = {}
    for kind, part in parts.items():
        control = _control(part)
        found[kind] = {
            "reference": part.get("reference"),
            "alarm": control is not None and control.to_json()["alarm"],
            "known_good_windows": 0 if control is None else control.baseline_size,
        }
    return found


def _control(part: Mapping[str, Any]) -> SequentialControl | None:
    """`None` for none, and for one that this release cannot read."""
    kept = part.get("control")
    if not isinstance(kept, Mapping):
        return None
    try:
        return SequentialControl.from_json(kept)
    except SettingsError:
        return None


FORGETTING: Mapping[str, Forgetting] = {
    "integrity": Forgetting(
        "What the version held and the documents it remembered are given up: what is there now is "
        "what losses are measured against.",
        _everything,
        _counted,
    ),
    "golden": Forgetting(
        "The baseline, and the evidence against it, are given up: what search finds now is the "
        "baseline.",
        _everything,
        _compared,
    ),
    "drift": Forgetting(
        "The alarm and its evidence are given up, and what was written up to now is not tested "
        "again. Reference and known-good windows stay: where the change is the new normal, "
        "`plumbline monitor reference set` takes another reference.",
        _calm,
        _controls,
    ),
}
"""By probe. The others remember nothing that an alarm of theirs would stand on."""
