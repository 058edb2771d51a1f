"""What `/healthz` and `/readyz` say."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from monitors.http import Health

if TYPE_CHECKING:
    from monitors.schedule import Schedule
    from monitors.snapshot import Snapshot

__all__ = ["Pulse", "health_of", "readiness_of"]

_STILL_SECONDS = 90.0
"""How long the service's own loop may stand still: a reading of the store can take a while."""


@dataclass
class Pulse:
    """When the service's own loop last came round."""

    at: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        """It has just come round."""
        self.at = time.monotonic()

    @staticmethod
    def since(moment: float) -> float:
        """Seconds since a moment on `time.monotonic()`'s scale."""
        return time.monotonic() - moment


def health_of(pulse: Pulse, schedule: Schedule | None) -> Health:
    """Whether the process and its scheduler are alive; a service out of reach is no matter."""
    still = pulse.since(pulse.at)
    checks = {"loop": f"last round {still:.0f} s ago"}
    ok = still < _STILL_SECONDS
    if schedule is None:
        checks["scheduler"] = "not needed: another process runs the probes, or none can yet"
    else:
        alive = schedule.alive
        checks["scheduler"] = "running" if alive else "stopped"
        ok = ok and alive
    return Health(ok, checks)


def readiness_of(
    snapshot: Snapshot,
    *,
    probes: Sequence[str],
    attempted: Collection[str],
    leader: bool,
    waiting: str,
    store_needed: bool,
) -> Health:
    """Whether the metrics say something: the store is read, and each probe has had its turn.

    A version that cannot be read, or a Qdrant that is away, is in the metrics: the answer here
    says it in words and stays ready, or nobody would scrape them.
    """
    checks = {"store": _store(snapshot, store_needed=store_needed)}
    ok = not store_needed or (snapshot.read_at is not None and not snapshot.error)
    live = snapshot.live
    if live is None:
        checks["version"] = waiting or "nobody has looked yet"
        ok = ok and not leader
    else:
        checks["version"] = live.problem or live.key.version
    if leader:
        missing = [name for name in probes if name not in attempted and name not in snapshot.last]
        checks["probes"] = f"no run yet of {', '.join(missing)}" if missing else "each has run"
        ok = ok and not missing
    else:
        checks["probes"] = waiting or "standing by"
        # Standing by is a state to be in; being about to ask for the lease, or having none for
        # want of Qdrant or store, is none.
        ok = ok and waiting.startswith("standing by")
    return Health(ok, checks)


def _store(snapshot: Snapshot, *, store_needed: bool) -> str:
    if snapshot.error:
        return snapshot.error
    if snapshot.read_at is None:
        return "not read yet" if store_needed else "not opened: another process uses it"
    return "answers"
