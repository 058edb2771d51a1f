"""Which version is live, asked anew for every run."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal

from monitors.failures import UnreadableVersionError
from monitors.store.records import VersionKey
from pipelines.core.errors import (
    IndexMissingError,
    PlumblineError,
    ServiceUnavailableError,
    StoreConflictError,
    TransientError,
)
from pipelines.core.qdrant import Qdrant
from pipelines.core.versions import Version, list_versions, live_version_name, open_version

__all__ = ["ROLES", "Look", "Role", "look", "open_look"]

Role = Literal["live", "candidate", "previous"]

ROLES: Mapping[Role, str] = {
    "live": "The alias points at it: users search it.",
    "candidate": "It is being built or proved, and nobody searches it.",
    "previous": "It was live before the switch and is kept for a rollback; nobody searches it.",
}
"""What a version is to its index."""


@dataclass(frozen=True)
class Look:
    """What is there to be monitored: behind an index's alias, or beside it.

    Parameters
    ----------
    key
        `None` where Qdrant did not answer. Without an alias, version and incarnation are empty;
        the incarnation alone where the version cannot be read.
    version
        `None` where there is an `error`.
    error
        Why the version cannot be monitored.
    probes
        Those that say something of the version; `None` for all of them.
    role
        What the version is to the index.
    """

    key: VersionKey | None
    version: Version | None
    error: PlumblineError | None
    probes: Container[str] | None = None
    role: Role = "live"

    @property
    def opened(self) -> tuple[VersionKey, Version]:
        """What is there; raises the error where it cannot be monitored."""
        if self.error is not None:
            raise self.error
        assert self.key is not None
        assert self.version is not None
        return self.key, self.version

    def allows(self, probe: str) -> bool:
        """Whether the probe has something to look at."""
        return self.probes is None or probe in self.probes


def look(qdrant: Qdrant, index: str, version: str | None = None) -> Look:
    """Opens the version behind the alias, or the named one; errors of ours are answers."""
    if version is not None:
        return open_look(qdrant, index, version)
    try:
        name = live_version_name(qdrant, index)
        if name is None:
            return Look(VersionKey(index, "", ""), None, _missing(qdrant, index))
    except PlumblineError as error:
        return Look(None, None, error)
    return open_look(qdrant, index, name)


def open_look(qdrant: Qdrant, index: str, name: str) -> Look:
    """Opens a version of the index by its own name; errors of ours are answers."""
    unreadable = VersionKey(index, name, "")
    try:
        version = open_version(qdrant, name)
    except (TransientError, ServiceUnavailableError) as error:
        return Look(None, None, error)
    except IndexMissingError as error:
        # Dropped between the two questions.
        return Look(unreadable, None, error)
    except PlumblineError as error:
        return Look(unreadable, None, UnreadableVersionError(str(error)))
    except (KeyError, TypeError, ValueError) as error:
        return Look(
            unreadable,
            None,
            UnreadableVersionError(
                f"the metadata of {name} cannot be read ({type(error).__name__}): it was edited, "
                "or a newer release wrote it. Upgrade Plumbline, or build a new version."
            ),
        )
    if version.index != index:
        return Look(
            unreadable,
            None,
            UnreadableVersionError(
                f"{name} is a version of the index {version.index!r}, not of {index!r}. If the "
                f"alias {index} points at it, point it back."
            ),
        )
    return Look(VersionKey.of(version), version, None)


def _missing(qdrant: Qdrant, index: str) -> PlumblineError:
    try:
        others = sorted({version.index for version in list_versions(qdrant)})
    except StoreConflictError as error:
        return error
    known = f"there are {', '.join(others)}" if others else "there is none yet"
    return IndexMissingError(
        f"no index {index!r} in Qdrant at {qdrant.where}: {known}. `plumbline index create` or "
        "`plumbline ingest --create` makes one."
    )
