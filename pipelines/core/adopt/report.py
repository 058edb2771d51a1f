"""What an adoption found and did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["AdoptReport", "Listed", "Verification"]

EXAMPLES = 10
"""Ids that are listed of each reason."""


@dataclass
class Listed:
    """Points or documents that cannot be adopted for one reason.

    Parameters
    ----------
    message
        Of the first of them.
    examples
        Ids of the first ten.
    """

    count: int = 0
    message: str = ""
    examples: list[str] = field(default_factory=list)

    def add(self, identity: str, message: str) -> None:
        """One more."""
        self.count += 1
        self.message = self.message or message
        if len(self.examples) < EXAMPLES:
            self.examples.append(identity)


@dataclass(frozen=True)
class Verification:
    """How far stored vectors are from those that the contract gives for the stored texts.

    Parameters
    ----------
    sampled
        Documents whose every chunk was encoded anew.
    off
        Of them, those of which a chunk is further away than `bound`.
    median, p90, p99, largest
        Cosine distance of the documents' worst chunks, 0 to 2; infinite where the model gives no
        vector. `None` where nothing was sampled.
    examples
        Id and distance of the furthest ten that are off.
    """

    sampled: int
    of: int
    seed: int
    bound: float
    off: int = 0
    median: float | None = None
    p90: float | None = None
    p99: float | None = None
    largest: float | None = None
    examples: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class AdoptReport:
    """What an adoption found and did.

    Parameters
    ----------
    source
        The collection, which is never changed.
    version
        The version it becomes; empty where that is refused.
    refused
        Why it was refused, in words; empty when it was not. Nothing is written then.
    points
        Of the source.
    documents, chunks
        That can be adopted.
    numbers_as_ids
        Points whose id was a number, written here as text.
    unmapped
        Reason to what was found; counted in documents where points belong to one, else in points.
    dropped_metadata
        Name to documents whose chunks do not agree on it.
    copied, present
        Documents written by this run, and there before it, in the state of then or newer.
    live
        Whether the index's alias points at the version.
    already
        An earlier run finished it: this one did nothing.
    """

    source: str
    index: str
    dry_run: bool
    version: str = ""
    refused: str = ""
    points: int = 0
    documents: int = 0
    chunks: int = 0
    numbers_as_ids: int = 0
    unmapped: Mapping[str, Listed] = field(default_factory=dict)
    dropped_metadata: Mapping[str, int] = field(default_factory=dict)
    verification: Verification | None = None
    copied: int = 0
    present: int = 0
    live: bool = False
    already: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it; infinite distances are null."""
        values = asdict(self)
        found = values["verification"]
        if found is not None:
            for name in ("median", "p90", "p99", "largest"):
                if found[name] == float("inf"):
                    found[name] = None
            found["examples"] = [
                [identity, None if distance == float("inf") else distance]
                for identity, distance in found["examples"]
            ]
        return values
