"""The version beside the live one while a rollout is under way, and what is asked of it."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from monitors.live import Look, Role, open_look
from monitors.store.records import VersionKey
from pipelines.core.errors import IndexMissingError, PlumblineError
from pipelines.core.rollout import Rollout, RolloutState, RolloutStore, VersionRef
from pipelines.core.versions import live_version_name

if TYPE_CHECKING:
    from pipelines.core.qdrant import Qdrant

__all__ = ["FILLING_PROBES", "NOTHING", "OtherLook", "OtherVersion", "other_version"]

FILLING_PROBES = frozenset({"canary", "fidelity", "freshness"})
"""What a half-filled version can be asked: whether its vectors are right and its job keeps up. It
has no rankings to keep, no sample to be a reference, and counts that change by the minute."""

NOTHING = Look(None, None, None, probes=frozenset())
"""There is no other version."""


@dataclass(frozen=True, slots=True)
class OtherVersion:
    """Which version, what it is to the index, and the probes to run on it (`None`: all)."""

    role: Role
    ref: VersionRef
    probes: Container[str] | None = None


def other_version(rollout: Rollout | None, live: str | None) -> OtherVersion | None:
    """The version of an open rollout that searches do not reach; `None` where none exists.

    The alias decides which of the two it is, not the state: the alias is switched a moment before
    the record moves.

    Parameters
    ----------
    live
        Name of the version behind the alias.
    """
    if rollout is None or not rollout.open or rollout.state is RolloutState.PLANNED:
        return None
    if rollout.intent is not None and rollout.intent.action in ("retire", "abort"):
        return None  # It is being dropped.
    switched = rollout.state is RolloutState.SOAKING
    if live in (rollout.live.name, rollout.candidate.name):
        switched = live == rollout.candidate.name
    if switched:
        return OtherVersion("previous", rollout.live)
    if not rollout.candidate.incarnation:
        return None  # Its collection has not been made.
    filling = rollout.state in (RolloutState.BUILDING, RolloutState.FAILED)
    return OtherVersion("candidate", rollout.candidate, FILLING_PROBES if filling else None)


class OtherLook:
    """Where the other version is looked for: by the rollout's record and the alias, anew each time.

    Parameters
    ----------
    rollouts
        Where the record is read.
    """

    def __init__(self, qdrant: Qdrant, index: str, rollouts: RolloutStore) -> None:
        self._qdrant = qdrant
        self._index = index
        self._rollouts = rollouts
        self._last = NOTHING

    def __call__(self) -> Look:
        """What is there to be probed now.

        A version that is gone, or a rollout that has ended, is `NOTHING`. While Qdrant does not
        say, it is what it was, with the error.
        """
        try:
            rollout = self._rollouts.read(self._index)
            live = live_version_name(self._qdrant, self._index)
        except PlumblineError as error:
            return self._unknown(error)
        return self.at(other_version(rollout, live))

    def at(self, other: OtherVersion | None) -> Look:
        """The same for a version that is known."""
        found = NOTHING if other is None else self._open(other)
        if found.key is None and found.error is not None:
            return self._unknown(found.error)
        self._last = found
        return found

    def _unknown(self, error: PlumblineError) -> Look:
        last = self._last
        return last if last.key is None else replace(last, version=None, error=error)

    def _open(self, other: OtherVersion) -> Look:
        found = open_look(self._qdrant, self._index, other.ref.name)
        if found.key is None:
            return found
        if isinstance(found.error, IndexMissingError):
            return NOTHING
        if found.version is None:
            key = VersionKey(self._index, other.ref.name, other.ref.incarnation)
            return replace(found, key=key, probes=other.probes, role=other.role)
        if found.version.incarnation != other.ref.incarnation:
            return NOTHING  # Another collection has its name now.
        return replace(found, probes=other.probes, role=other.role)
