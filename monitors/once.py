"""Every probe once, in the foreground."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from monitors.encoders import Encoders
from monitors.finished import Finished
from monitors.golden.run import MOST_PER_SECOND
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
    version: str | None = None,
    probes: Mapping[str, Probe] | None = None,
    encoders: Encoders | None = None,
    on_run: Callable[[Finished], None] | None = None,
) -> Round:
    """Runs probes one after another on the live version, or on one by name.

    The runs are a round like those of the service, with its memory, under its lease. Where the
    service is at work itself the probes only look, and nothing is written.

    Parameters
    ----------
    names
        Default: the probes that are turned on.
    record
        False looks only.
    version
        In place of the live one; its runs are kept under its own name, with its own memory.
    probes, encoders
        Injected by tests and by the demo.
    on_run
        Called after each run.

    Raises
    ------
    UnknownNameError
        There is no such probe; names the valid ones.
    IndexMissingError, StoreConflictError, ServiceUnavailableError, TransientError
        The version cannot be found or read.
    """
    known: Mapping[str, Probe] = PROBES if probes is None else probes
    if names:
        chosen = {name: known[name] for name in dict.fromkeys(names)}
    else:
        chosen = dict(probes) if probes is not None else enabled_probes(settings)
    settings = _awaited(prompt(settings))
    qdrant = connect(settings)
    look_at = partial(look, qdrant, settings.index, version)
    key, _ = look_at().opened
    encoders = encoders or Encoders(settings)
    store = open_store(settings.monitor)

    def go(*, record: bool, note: str = "") -> Round:
        runner = Runner(
            settings,
            qdrant,
            store,
            chosen,
            encoders,
            lag=lag,
            record=record,
            look_at=look_at,
            counted=version is None,
        )
        runs = []
        for name in chosen:
            finished = runner.run(name)
            assert finished is not None, "nobody calls these runs off"
            runs.append(finished)
            if on_run is not None:
                on_run(finished)
        return Round(key, tuple(runs), record, note)

    try:
        if not record:
            return go(record=False)
        lease = Lease(Control(qdrant), lease_name(settings.index), settings.monitor.lease_seconds)
        try:
            lease.acquire()
        except LeaseHeldError:
            return go(
                record=False,
                note="a monitor is running and holds the lease, so these runs are not recorded",
            )
        try:
            if version is None:
                store.set_live(key, "", datetime.now(UTC))
            return go(record=True)
        finally:
            lease.release()
    finally:
        store.close()


def _awaited(settings: Settings) -> Settings:
    """The settings for a run that somebody waits for, where they leave its pace to us."""
    if settings.monitor.golden.queries_per_second is not None:
        return settings
    golden = settings.monitor.golden.model_copy(update={"queries_per_second": MOST_PER_SECOND})
    monitor = settings.monitor.model_copy(update={"golden": golden})
    return settings.model_copy(update={"monitor": monitor})
