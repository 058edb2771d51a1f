"""What a rollout is: its states, its record in the control collection, and how both change.

The work itself (plan, build, verify, switch) is `pipelines.rollout`; what stands here is what the
monitor and the ingest job may know of it.
"""

from pipelines.core.rollout.record import Intent, Rollout, Transition, VersionRef
from pipelines.core.rollout.states import (
    NEXT_COMMAND,
    OPEN,
    TRANSITIONS,
    RolloutState,
    check_transition,
)
from pipelines.core.rollout.store import ROLLOUT, RolloutStore

__all__ = [
    "NEXT_COMMAND",
    "OPEN",
    "ROLLOUT",
    "TRANSITIONS",
    "Intent",
    "Rollout",
    "RolloutState",
    "RolloutStore",
    "Transition",
    "VersionRef",
    "check_transition",
]
