"""Which version is live, asked anew for every run."""

from __future__ import annotations

from dataclasses import dataclass

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

__all__ = ["Look", "look"]


@dataclass(frozen=True)
class Look:
    """What is behind an index's alias.

    Parameters
    ----------
    key
        `None` where Qdrant did not answer. Without an alias, version and incarnation are empty;
        the incarnation alone where the version cannot be read.
    version
        `None` where there is an `error`.
    error
        Why the version cannot be monitored.
    """

    key: VersionKey | None
    version: Version | None
    error: PlumblineError | None


def look(qdrant: Qdrant, index: str) -> Look:
    """Resolves the alias and opens the version; errors of ours are answers, not raised."""
    try:
        name = live_version_name(qdrant, index)
        if name is None:
            return Look(VersionKey(index, "", ""), None, _missing(qdrant, index))
    except PlumblineError as error:
        return Look(None, None, error)
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
                f"the alias {index} points at {name}, which is a version of the index "
                f"{version.index!r}. Point it back."
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
