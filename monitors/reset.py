"""Takes back what a probe's alarm stands on, on somebody's word.

The probe looks once more with its memory given up, and that run is written together with who took
back what, and why: in one transaction, or not at all. No lease is needed, so that it works beside a
monitor that runs. A run of the monitor's that began before is superseded (`Store.record`), and
each later one reads its memory from the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from monitors.encoders import Encoders
from monitors.finished import Finished
from monitors.forgetting import Forgetting, forgetting_of
from monitors.live import look
from monitors.probes import PROBES
from monitors.runner import Reset, Runner
from monitors.store import NewReset, Outcome, Store, StoredRun, VersionKey, open_store
from pipelines.core.errors import StoreConflictError
from pipelines.core.qdrant import connect

if TYPE_CHECKING:
    from monitors.probes.base import Probe
    from pipelines.core.settings import Settings

__all__ = ["Standing", "reset_probe"]

_ATTEMPTS = 3
"""A monitor that runs writes a run every half minute at most, so a second one rarely collides."""


@dataclass(frozen=True)
class Standing:
    """What there is to take back, and what came of it.

    Parameters
    ----------
    last
        The last run that completed; `None` where none has.
    remembered
        In figures, as `monitors.forgetting` gives them.
    words
        What is given up and what takes its place.
    run
        The run that was made without the memory; `None` where nothing was to be done. Unless it
        is `recorded`, nothing was taken back.
    """

    key: VersionKey
    probe: str
    last: StoredRun | None
    remembered: Mapping[str, Any]
    words: str
    run: Finished | None = None

    @property
    def taken_back(self) -> bool:
        """Whether the store has it."""
        return self.run is not None and self.run.recorded


def reset_probe(
    settings: Settings,
    probe: str,
    *,
    reason: str,
    by: str,
    version: str | None = None,
    dry_run: bool = False,
    probes: Mapping[str, Probe] | None = None,
    encoders: Encoders | None = None,
) -> Standing:
    """Takes back what the probe remembers of a version, and lets it look anew.

    Parameters
    ----------
    reason, by
        Kept in a history that outlives the runs.
    version
        In place of the live one.
    dry_run
        Only says what there is.
    probes, encoders
        Injected by tests.

    Raises
    ------
    UnknownNameError
        There is no such probe, or none of its alarms stands on what it remembers.
    StoreConflictError
        It remembers nothing of this version.
    IndexMissingError, ServiceUnavailableError, TransientError
        The version cannot be found or read.
    """
    how = forgetting_of(probe)
    qdrant = connect(settings)
    look_at = partial(look, qdrant, settings.index, version)
    key, _ = look_at().opened
    encoders = encoders or Encoders(settings)
    store = open_store(settings.monitor)
    try:
        standing = _standing(store, key, probe, how)
        if dry_run:
            return standing
        last = standing.last
        event = NewReset(
            by=by,
            reason=reason,
            level=None if last is None else last.level,
            words="" if last is None else last.words,
        )
        runner = Runner(
            settings,
            qdrant,
            store,
            PROBES if probes is None else probes,
            encoders,
            look_at=look_at,
            counted=version is None,
            reset=Reset(event, how.forget),
        )
        for _ in range(_ATTEMPTS):
            finished = runner.run(probe)
            assert finished is not None, "nobody calls this run off"
            if finished.outcome is not Outcome.SUPERSEDED:
                break
        return Standing(key, probe, last, standing.remembered, how.words, finished)
    finally:
        store.close()


def _standing(store: Store, key: VersionKey, probe: str, how: Forgetting) -> Standing:
    memory = store.memory(key, probe)
    if memory.state is None and memory.baseline is None:
        raise StoreConflictError(
            f"the probe {probe} remembers nothing of {key.version}: there is nothing to take back"
        )
    last = store.latest(key)[1].get(probe)
    return Standing(key, probe, last, how.remembered(memory), how.words)
