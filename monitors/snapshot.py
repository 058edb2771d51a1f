"""What the metrics show: the store's last word on the versions, read now and then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipelines.core.errors import PlumblineError

if TYPE_CHECKING:
    from monitors.live import Role
    from monitors.store import LiveVersion, ReferenceSummary, Store, StoredRun, VersionKey

__all__ = ["Snapshot", "VersionRuns", "read_snapshot"]


@dataclass(frozen=True)
class VersionRuns:
    """What the store says of one version.

    Parameters
    ----------
    problem
        Why it cannot be monitored, empty when it can.
    last, completed
        By probe: the last run, and the last one that completed.
    references
        Those in force.
    """

    key: VersionKey
    role: Role
    problem: str = ""
    last: Mapping[str, StoredRun] = field(default_factory=dict)
    completed: Mapping[str, StoredRun] = field(default_factory=dict)
    references: tuple[ReferenceSummary, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """One reading of the store.

    Parameters
    ----------
    live
        `None` before anybody has looked.
    last, completed
        By probe, on the live version: the last run, and the last one that completed.
    counts
        Runs by probe, outcome and failure, over all versions.
    references
        Those in force.
    other
        The version beside the live one in a rollout; `None` where there is none.
    error
        Why the store could not be read; the rest is then the reading before.
    read_at
        On `time.monotonic()`'s scale; `None` before the first.
    """

    live: LiveVersion | None = None
    last: Mapping[str, StoredRun] = field(default_factory=dict)
    completed: Mapping[str, StoredRun] = field(default_factory=dict)
    counts: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    references: tuple[ReferenceSummary, ...] = ()
    other: VersionRuns | None = None
    error: str = ""
    read_at: float | None = None

    @property
    def versions(self) -> tuple[VersionRuns, ...]:
        """The live one, and the other one of a rollout; each once."""
        found: list[VersionRuns] = []
        if self.live is not None:
            live = self.live
            found.append(
                VersionRuns(
                    live.key, "live", live.problem, self.last, self.completed, self.references
                )
            )
        # Between a switch and the next look they can be the same.
        if self.other is not None and all(
            one.key.version != self.other.key.version for one in found
        ):
            found.append(self.other)
        return tuple(found)


def read_snapshot(
    store: Store, index: str, before: Snapshot, other: VersionRuns | None = None
) -> Snapshot:
    """What the store says now; where it says nothing, what it said before, with the reason.

    Parameters
    ----------
    other
        The version beside the live one, its runs not read yet.
    """
    try:
        live = store.live(index)
        counts = store.counts(index)
        if other is not None:
            last, completed, references = _runs(store, other.key)
            other = replace(other, last=last, completed=completed, references=references)
        if live is None:
            return Snapshot(counts=counts, other=other, read_at=time.monotonic())
        last, completed, references = _runs(store, live.key)
    except PlumblineError as error:
        kept = before.other
        if kept is not None and other is not None and kept.key == other.key:
            kept = replace(kept, role=other.role, problem=other.problem)
        else:
            kept = None  # It is monitored no more, or never was: nothing can be said of it.
        return replace(before, other=kept, error=str(error))
    return Snapshot(live, last, completed, counts, references, other, read_at=time.monotonic())


def _runs(
    store: Store, key: VersionKey
) -> tuple[Mapping[str, StoredRun], Mapping[str, StoredRun], tuple[ReferenceSummary, ...]]:
    last, completed = store.latest(key)
    return last, completed, tuple(one for one in store.references(key) if one.in_force)
