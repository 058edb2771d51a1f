"""Every probe once, in the foreground."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from monitors.encoders import Encoders
from monitors.finished import Finished
from monitors.live import look
from monitors.probes import PROBES
from monitors.runner import Runner
from monitors.service import enabled_probes, lease_name, prompt
from monitors.store import VersionKey, open_store
from pipelines.core.control import Control
from pipelines.core.errors import LeaseHeldError
from pipelines.core.lease import Lease
from pipelines.core.qdrant import connect

if TYPE_CHECKING:
    from monitors.probes.base import LagReader, Probe
    from monitors.store import Store
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import Settings

__all__ = ["Round", "run_once"]


@dataclass(frozen=True)
class Round:
    """One run of each probe.

    Parameters
    ----------
    recorded
        Whether the store has the runs.
    note
        Why it has not.
    """

    key: VersionKey
    runs: tuple[Finished, ...]
    recorded: bool
    note: str = ""


def run_once(
    settings: Settings,
    names: Sequence[str] = (),
    *,
    lag: LagReader | None = None,
    record: bool = True,
    probes: Mapping[str, Probe] | None = None,
    encoders: Encoders | None = None,
    on_run: Callable[[Finished], None] | None = None,
) -> Round:
    """Runs probes one after another on the live version.

    The runs are a round like those of the service, with its memory, under its lease. Where the
    service is at work itself the probes only look, and nothing is written.

    Parameters
    ----------
    names
        Default: the probes that are turned on.
    record
        False looks only.
    probes, encoders
        Injected by tests and by the demo.
    on_run
        Called after each run.

    Raises
    ------
    UnknownNameError
        There is no such probe; names the valid ones.
    IndexMissingError, StoreConflictError, ServiceUnavailableError, TransientError
        The live version cannot be found or read.
    """
    known: Mapping[str, Probe] = PROBES if probes is None else probes
    if names:
        chosen = {name: known[name] for name in dict.fromkeys(names)}
    else:
        chosen = dict(probes) if probes is not None else enabled_probes(settings)
    settings = prompt(settings)
    qdrant = connect(settings)
    seen = look(qdrant, settings.index)
    if seen.error is not None:
        raise seen.error
    assert seen.key is not None
    store = open_store(settings.monitor)
    try:
        if not record:
            return _round(
                settings, qdrant, store, chosen, seen.key, lag, False, "", on_run, encoders
            )
        lease = Lease(Control(qdrant), lease_name(settings.index), settings.monitor.lease_seconds)
        try:
            lease.acquire()
        except LeaseHeldError:
            note = "a monitor is running and holds the lease, so these runs are not recorded"
            return _round(
                settings, qdrant, store, chosen, seen.key, lag, False, note, on_run, encoders
            )
        try:
            store.set_live(seen.key, "", datetime.now(UTC))
            return _round(
                settings, qdrant, store, chosen, seen.key, lag, True, "", on_run, encoders
            )
        finally:
            lease.release()
    finally:
        store.close()


def _round(
    settings: Settings,
    qdrant: Qdrant,
    store: Store,
    probes: Mapping[str, Probe],
    key: VersionKey,
    lag: LagReader | None,
    record: bool,
    note: str,
    on_run: Callable[[Finished], None] | None,
    encoders: Encoders | None,
) -> Round:
    encoders = encoders or Encoders(settings)
    runner = Runner(settings, qdrant, store, probes, encoders, lag=lag, record=record)
    runs = []
    for name in probes:
        finished = runner.run(name)
        assert finished is not None, "nobody calls these runs off"
        runs.append(finished)
        if on_run is not None:
            on_run(finished)
    return Round(key, tuple(runs), record, note)
