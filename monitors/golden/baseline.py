"""The run that later runs of a version are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Baseline", "DocumentState", "Found", "Ranking", "Store"]

_SCHEMA = 1


class DocumentState(StrEnum):
    """What a version knows of a document id."""

    PRESENT = "present"
    DELETED = "deleted"
    """There is a tombstone: somebody deleted it."""
    GONE = "gone"
    """There is nothing, not even a tombstone."""


@dataclass(frozen=True, slots=True)
class Found:
    """One answer of the store.

    Parameters
    ----------
    created_at
        Timestamp of the document's first event, milliseconds; `None` where it is not known.
    written_at
        When the point was last written, milliseconds; `None` where it is not known.
    """

    document_id: str
    score: float
    created_at: int | None = None
    written_at: int | None = None


class Store(Protocol):
    """Where golden queries are asked."""

    def search(
        self, vector: npt.NDArray[np.float32], limit: int, among: Sequence[str] | None = None
    ) -> list[Found]:
        """The nearest documents, best first; only of these ids where some are given."""
        ...

    def states(self, document_ids: Sequence[str]) -> dict[str, DocumentState]:
        """What there is of each of these ids."""
        ...


@dataclass(frozen=True, slots=True)
class Ranking:
    """Documents of one query, best first, and their scores."""

    ids: tuple[str, ...]
    scores: tuple[float, ...]

    @classmethod
    def of(cls, found: Sequence[Found]) -> Ranking:
        """Of a store's answers."""
        return cls(
            tuple(item.document_id for item in found),
            # Seven digits are what float32 has.
            tuple(round(item.score, 7) for item in found),
        )

    def only(self, keep: set[str] | frozenset[str]) -> Ranking:
        """The same without ids that are not in `keep`."""
        kept = [pair for pair in zip(self.ids, self.scores, strict=True) if pair[0] in keep]
        return Ranking(tuple(i for i, _ in kept), tuple(s for _, s in kept))


@dataclass(frozen=True)
class Baseline:
    """What the golden queries found when a version was first looked at.

    Parameters
    ----------
    digest
        Of the golden set.
    depth
        Documents asked for, of each query.
    event_cut, clock_cut
        When it was taken, milliseconds: on the scale of event times, and on the clock of this
        machine. They are one where nobody simulates time.
    rankings
        Query to what it found.
    present
        Judged documents that the version held.
    """

    digest: str
    depth: int
    event_cut: int
    clock_cut: int
    rankings: Mapping[str, Ranking] = field(repr=False)
    present: frozenset[str] = field(repr=False)

    @cached_property
    def known(self) -> frozenset[str]:
        """Documents that existed at the baseline for certain: ranked for some query, or judged."""
        ranked = (document for ranking in self.rankings.values() for document in ranking.ids)
        return self.present.union(ranked)

    def existed(self, found: Found) -> bool:
        """Whether the document counts as one that existed at the baseline.

        It does when the baseline knows it, and when it was created and last written before. One
        that was created before and written since is either old and edited, or an event with an old
        timestamp that arrived late. Both may happen to any number of documents, and nothing in the
        point tells them apart; it does not count, so that late arrivals in bulk never look like
        damage. What that hides is an edited document that rises from beyond every baseline ranking;
        the figures over all documents show it.
        """
        if found.document_id in self.known:
            return True
        created_before = found.created_at is None or found.created_at <= self.event_cut
        written_before = found.written_at is None or found.written_at <= self.clock_cut
        return created_before and written_before

    def to_json(self) -> dict[str, Any]:
        """As the monitor's store keeps it."""
        return {
            "schema": _SCHEMA,
            "digest": self.digest,
            "depth": self.depth,
            "event_cut": self.event_cut,
            "clock_cut": self.clock_cut,
            "rankings": {
                query: {"ids": list(ranking.ids), "scores": list(ranking.scores)}
                for query, ranking in self.rankings.items()
            },
            "present": sorted(self.present),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Baseline | None:
        """The baseline that `to_json` wrote; `None` for none, or one of another release."""
        if value is None or value.get("schema") != _SCHEMA:
            return None
        return cls(
            digest=value["digest"],
            depth=int(value["depth"]),
            event_cut=int(value["event_cut"]),
            clock_cut=int(value["clock_cut"]),
            rankings={
                query: Ranking(tuple(kept["ids"]), tuple(kept["scores"]))
                for query, kept in value["rankings"].items()
            },
            present=frozenset(value["present"]),
        )
