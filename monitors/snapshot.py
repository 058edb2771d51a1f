"""What the metrics show: the store's last word on the live version, read now and then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.core.errors import PlumblineError

if TYPE_CHECKING:
    from monitors.store import LiveVersion, ReferenceSummary, Store, StoredRun

__all__ = ["Snapshot", "read_snapshot"]


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
    error: str = ""
    read_at: float | None = None


def read_snapshot(store: Store, index: str, before: Snapshot) -> Snapshot:
    """What the store says now; where it says nothing, what it said before, with the reason."""
    from dataclasses import replace

    try:
        live = store.live(index)
        counts = store.counts(index)
        if live is None:
            return Snapshot(counts=counts, read_at=time.monotonic())
        last, completed = store.latest(live.key)
        references = tuple(one for one in store.references(live.key) if one.in_force)
    except PlumblineError as error:
        return replace(before, error=str(error))
    return Snapshot(live, last, completed, counts, references, read_at=time.monotonic())
