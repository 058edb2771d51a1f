"""What the store keeps, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from monitors.probes.base import Level

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipelines.core.versions import Version

__all__ = [
    "LiveVersion",
    "Memory",
    "NewReference",
    "NewReset",
    "Outcome",
    "ReferenceEvent",
    "ReferenceSummary",
    "ResetEvent",
    "Run",
    "StoredFigure",
    "StoredRun",
    "VersionKey",
]


class Outcome(StrEnum):
    """How a run went."""

    COMPLETED = "completed"
    FAILED = "failed"
    VERSION_SWITCHED = "version_switched"
    """The alias moved while it ran: its result is of no use any more."""
    SUPERSEDED = "superseded"
    """Another process has written a run of this probe meanwhile; this one's result is dropped."""


@dataclass(frozen=True, slots=True)
class VersionKey:
    """One version of an index, and which building of it."""

    index: str
    version: str
    incarnation: str

    @classmethod
    def of(cls, version: Version) -> VersionKey:
        """The version's key."""
        return cls(version.index, version.name, version.incarnation)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a probe is given back.

    Parameters
    ----------
    runs
        How many runs of it the store has of this version; the number of the next one.
    """

    runs: int = 0
    state: Mapping[str, Any] | None = None
    baseline: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StoredFigure:
    """One value of a family, by the family's name."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewReference:
    """A sample of vectors to be stored and put in force.

    Parameters
    ----------
    vectors
        Shape (n, dimension), float32.
    document_ids
        Of each row.
    """

    kind: str
    name: str
    vectors: npt.NDArray[np.float32] = field(repr=False)
    document_ids: Sequence[str] = field(repr=False)
    created_at: datetime
    created_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class NewReset:
    """What somebody takes back of a probe's memory, to be written with the run that replaces it.

    Parameters
    ----------
    by, reason
        Kept in a history that outlives the runs.
    level, words
        What the probe had last said; `None` and empty where it had said nothing.
    """

    by: str
    reason: str
    level: Level | None = None
    words: str = ""


@dataclass(frozen=True)
class Run:
    """One run to be stored, with what the probe wants to remember.

    Parameters
    ----------
    failure
        Reason for programs, where the outcome is `failed`.
    message
        Reason for people, without secrets.
    state, baseline
        `None` leaves what is there.
    references
        Put in force with the run, or not at all.
    """

    key: VersionKey
    probe: str
    started_at: datetime
    seconds: float
    outcome: Outcome
    failure: str = ""
    message: str = ""
    level: Level | None = None
    reason: str = ""
    words: str = ""
    evidence: Mapping[str, Any] | None = None
    figures: Sequence[StoredFigure] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] | None = None
    baseline: Mapping[str, Any] | None = None
    references: Sequence[NewReference] = ()


@dataclass(frozen=True)
class StoredRun:
    """One run as it is kept."""

    id: int
    key: VersionKey
    probe: str
    started_at: datetime
    seconds: float
    outcome: Outcome
    failure: str
    message: str
    level: Level | None
    reason: str
    words: str
    evidence: Mapping[str, Any]
    figures: tuple[StoredFigure, ...]
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReferenceSummary:
    """A reference without its vectors."""

    id: int
    kind: str
    name: str
    rows: int
    dimension: int
    digest: str
    created_at: datetime
    created_by: str
    reason: str
    in_force: bool


@dataclass(frozen=True, slots=True)
class ReferenceEvent:
    """One line of the references' history."""

    key: VersionKey
    kind: str
    name: str
    action: str
    at: datetime
    by: str
    reason: str
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class ResetEvent:
    """One line of the history of resets."""

    key: VersionKey
    probe: str
    at: datetime
    by: str
    reason: str
    level: Level | None
    words: str
    run_id: int


@dataclass(frozen=True, slots=True)
class LiveVersion:
    """The version that the alias was last seen to point at.

    Parameters
    ----------
    key
        Version and incarnation are empty while the index has no alias; the incarnation while the
        version cannot be read.
    problem
        Why it cannot be monitored, empty when it can.
    """

    key: VersionKey
    problem: str
    since: datetime
