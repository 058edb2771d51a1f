"""A rollout on record, for tests of what looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.core.rollout import Rollout, RolloutState, VersionRef
from pipelines.core.versions import Version
from pipelines.rollout.context import RolloutContext

__all__ = ["recorded_rollout"]

_PATH = (RolloutState.BUILDING, RolloutState.VERIFYING, RolloutState.READY)


def recorded_rollout(
    context: RolloutContext,
    live: Version,
    candidate: Version,
    *,
    state: RolloutState = RolloutState.READY,
    contract_settings: Mapping[str, Any] | None = None,
    **notes: Mapping[str, Any],
) -> Rollout:
    """A rollout that was moved to a state, at most `ready`, step by step.

    Parameters
    ----------
    notes
        Kept with each step.
    """
    rollout = context.store.begin(
        live.index,
        live=VersionRef.of(live),
        candidate=VersionRef.of(candidate),
        contract=candidate.contract,
        contract_settings=dict(contract_settings or {}),
    )
    for step in _PATH[: _PATH.index(state) + 1]:
        rollout = context.store.move(rollout, step, "test", **notes)
    return rollout
