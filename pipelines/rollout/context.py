"""What every rollout command works with, and the lease that keeps two of them apart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.core.control import Control
from pipelines.core.errors import (
    IndexMissingError,
    LeaseHeldError,
    RolloutStateError,
    StoreConflictError,
)
from pipelines.core.lease import Lease
from pipelines.core.qdrant import Qdrant, connect
from pipelines.core.rollout import Rollout, RolloutStore, VersionRef
from pipelines.core.settings import Settings
from pipelines.core.versions import Version, live_version_name, open_version

__all__ = ["RolloutContext", "command_lease", "lease_name"]

_LEASE_SECONDS = 15.0


def lease_name(index: str) -> str:
    """Name of the lease of the index's rollout commands."""
    return f"rollout:{index}"


@dataclass(frozen=True)
class RolloutContext:
    """Settings, store and records of one index's rollout."""

    settings: Settings
    qdrant: Qdrant
    control: Control
    store: RolloutStore

    @classmethod
    def open(cls, settings: Settings) -> RolloutContext:
        """The context of the settings' index. Reads nothing yet."""
        qdrant = connect(settings)
        control = Control(qdrant)
        return cls(settings, qdrant, control, RolloutStore(control))

    @property
    def index(self) -> str:
        """Name of the index."""
        return self.settings.index

    def rollout(self) -> Rollout:
        """The index's present or last rollout.

        Raises
        ------
        RolloutStateError
            It never had one.
        """
        rollout = self.store.read(self.index)
        if rollout is None:
            raise RolloutStateError(
                f"the index {self.index!r} has had no rollout. "
                "`plumbline rollout plan --contract FILE` begins one."
            )
        return rollout

    def live(self) -> Version:
        """The version behind the index's alias.

        Raises
        ------
        IndexMissingError
            There is no such index.
        """
        name = live_version_name(self.qdrant, self.index)
        if name is None:
            raise IndexMissingError(
                f"no index {self.index!r} in Qdrant at {self.qdrant.where}: there is nothing to "
                "roll out from. `plumbline ingest --create` makes its first version."
            )
        return open_version(self.qdrant, name)

    def opened(self, ref: VersionRef) -> Version:
        """The very collection that the rollout's record speaks of.

        Raises
        ------
        IndexMissingError
            It is gone.
        StoreConflictError
            Another collection has its name now.
        """
        version = open_version(self.qdrant, ref.name)
        if ref.incarnation and version.incarnation != ref.incarnation:
            raise StoreConflictError(
                f"{ref.name} is not the collection that the rollout knows: it was dropped and made "
                f"anew (incarnation {version.incarnation}, recorded {ref.incarnation}). "
                "`plumbline rollout abort` gives the rollout up."
            )
        return version


@contextmanager
def command_lease(
    context: RolloutContext, *, wait: bool = False, stop: threading.Event | None = None
) -> Iterator[Lease]:
    """Keeps other rollout commands of the index out while the block runs.

    Parameters
    ----------
    wait
        Wait for a command that is running, until `stop` is set.

    Raises
    ------
    LeaseHeldError
        Another command is running, or `stop` was set first.
    """
    lease = Lease(context.control, lease_name(context.index), _LEASE_SECONDS)
    try:
        held = lease.acquire(standby=wait, stop=stop)
    except LeaseHeldError as error:
        raise LeaseHeldError(
            f"another rollout command of the index {context.index!r} is running: "
            f"{str(error).partition(' Stop that job')[0]} Wait for it, or stop it."
        ) from None
    if not held:
        raise LeaseHeldError(
            f"another rollout command of the index {context.index!r} did not end in time. "
            "`plumbline rollout status` shows what it does."
        )
    try:
        yield lease
    finally:
        lease.release()
