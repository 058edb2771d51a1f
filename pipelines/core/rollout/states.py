"""States of a rollout and the moves between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pipelines.core.errors import RolloutStateError

__all__ = ["NEXT_COMMAND", "OPEN", "TRANSITIONS", "RolloutState", "check_transition"]


class RolloutState(StrEnum):
    """Where a rollout stands. Values are stable: metrics and scripts use them."""

    PLANNED = "planned"
    """The candidate's contract is recorded; nothing else exists of it."""
    BUILDING = "building"
    """The candidate's collection is being filled, and receives every new event."""
    VERIFYING = "verifying"
    """It is full; it has not been shown to be good enough yet, or has been shown not to be."""
    READY = "ready"
    """It passed: `promote` may switch to it."""
    SOAKING = "soaking"
    """It is live; the previous version still receives every event."""
    COMPLETED = "completed"
    """The previous version is retired."""
    ROLLED_BACK = "rolled_back"
    """The previous version is live again."""
    FAILED = "failed"
    """A step cannot go on by itself; it may be tried again, or the rollout aborted."""
    ABORTED = "aborted"
    """Given up before the switch; the candidate is gone, live was never touched."""


_S = RolloutState

TRANSITIONS: Mapping[RolloutState, frozenset[RolloutState]] = {
    _S.PLANNED: frozenset({_S.BUILDING, _S.ABORTED}),
    _S.BUILDING: frozenset({_S.VERIFYING, _S.FAILED, _S.ABORTED}),
    # A forced promotion leads from here to the soak, with its reason in the record; a candidate
    # that lacks something may be filled again.
    _S.VERIFYING: frozenset({_S.READY, _S.BUILDING, _S.SOAKING, _S.ABORTED}),
    # A later check may find otherwise.
    _S.READY: frozenset({_S.SOAKING, _S.VERIFYING, _S.ABORTED}),
    _S.SOAKING: frozenset({_S.COMPLETED, _S.ROLLED_BACK}),
    _S.FAILED: frozenset({_S.BUILDING, _S.ABORTED}),
    _S.COMPLETED: frozenset(),
    _S.ROLLED_BACK: frozenset(),
    _S.ABORTED: frozenset(),
}
"""State to the states it may be followed by."""

OPEN = frozenset(state for state, following in TRANSITIONS.items() if following)
"""States of a rollout that is under way: an index has at most one such rollout."""

NEXT_COMMAND: Mapping[RolloutState, str] = {
    _S.PLANNED: "plumbline rollout build",
    _S.BUILDING: "plumbline rollout build",
    _S.VERIFYING: "plumbline rollout verify",
    _S.READY: "plumbline rollout promote",
    _S.SOAKING: "plumbline rollout retire",
    _S.COMPLETED: "plumbline rollout plan --contract FILE",
    _S.ROLLED_BACK: "plumbline rollout retire",
    _S.FAILED: "plumbline rollout build",
    _S.ABORTED: "plumbline rollout plan --contract FILE",
}
"""What to do next in each state, as a person would type it."""


def check_transition(before: RolloutState, after: RolloutState) -> None:
    """Passes when `after` may follow `before`.

    Raises
    ------
    RolloutStateError
        It may not; names what may.
    """
    valid = TRANSITIONS[before]
    if after not in valid:
        may = ", ".join(sorted(valid)) or "nothing: it has ended"
        raise RolloutStateError(
            f"a rollout that is {before} cannot become {after}; what may follow is {may}. Next: "
            f"`{NEXT_COMMAND[before]}`."
        )
