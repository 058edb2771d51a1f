"""What was purged of a version, in the control collection: it outlives the version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import StoreConflictError
from pipelines.core.position import Position

if TYPE_CHECKING:
    from pipelines.core.control import Control, ControlRecord
    from pipelines.core.versions import Version

__all__ = ["PURGE", "PurgeLog", "PurgeRecord", "behind_purge"]

PURGE = "purge"
"""Kind of the control record that says what was purged; its name is the version."""


@dataclass(frozen=True)
class PurgeRecord:
    """What was purged of one version so far.

    Parameters
    ----------
    version, index, incarnation
        Which collection; one made anew under the same name begins to count at 0, and keeps
        `newest`.
    newest
        The newest position of any tombstone that was purged, or is about to be.
    purged_at
        Milliseconds since the epoch, of the last purge.
    purged
        Tombstones taken away from this incarnation.
    pending
        Point ids of tombstones that are being deleted: which of them are gone is not known yet.
    least_age_ms
        The smallest age that any purge asked for: for so long each purged tombstone could be seen.
    """

    version: str
    index: str
    incarnation: str
    newest: Position
    purged_at: int
    purged: int = 0
    pending: tuple[str, ...] = ()
    least_age_ms: int = 0
    record: ControlRecord | None = field(default=None, compare=False, repr=False)

    def covers(self, position: Position) -> bool:
        """Whether the tombstone that would beat an event of this position may be gone.

        It may where a purged tombstone was newer, unless the event was sent after the purge.
        """
        return position <= self.newest and position.timestamp < self.purged_at

    def to_fields(self) -> dict[str, Any]:
        """The record's fields, JSON values."""
        newest = self.newest
        return {
            "version": self.version,
            "index": self.index,
            "incarnation": self.incarnation,
            "newest": {
                "topic": newest.topic,
                "partition": newest.partition,
                "offset": newest.offset,
                "timestamp": newest.timestamp,
                "version": newest.version,
            },
            "purged_at": self.purged_at,
            "purged": self.purged,
            "pending": list(self.pending),
            "least_age_ms": self.least_age_ms,
        }

    @classmethod
    def from_record(cls, record: ControlRecord) -> PurgeRecord:
        """What `to_fields` described.

        Raises
        ------
        StoreConflictError
            It was edited, or a newer release wrote it.
        """
        fields: Mapping[str, Any] = record.fields
        try:
            return cls(
                version=fields["version"],
                index=fields["index"],
                incarnation=fields["incarnation"],
                newest=Position(**fields["newest"]),
                purged_at=int(fields["purged_at"]),
                purged=int(fields["purged"]),
                pending=tuple(fields["pending"]),
                least_age_ms=int(fields["least_age_ms"]),
                record=record,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreConflictError(
                f"the record of what was purged of {record.name} cannot be read "
                f"({type(error).__name__}): it was edited, or another release wrote it"
            ) from error


def behind_purge(records: Sequence[PurgeRecord], position: Position) -> bool:
    """Whether any purge may have taken the tombstone that would beat this position."""
    return any(record.covers(position) for record in records)


class PurgeLog:
    """Reads and writes what was purged. Every write is conditional on what it was decided on.

    Parameters
    ----------
    control
        The collection the records live in.
    """

    def __init__(self, control: Control) -> None:
        self._control = control

    def read(self, version: Version) -> PurgeRecord | None:
        """What was purged of a version; `None` when nothing ever was."""
        record = self._control.read(PURGE, version.name)
        return None if record is None else PurgeRecord.from_record(record)

    def of_index(self, index: str) -> list[PurgeRecord]:
        """Of every version that the index has or had.

        A version that was filled from another one holds no tombstone that the other had lost, so
        what was purged anywhere counts for all.
        """
        records = [PurgeRecord.from_record(record) for record in self._control.list(PURGE)]
        return [record for record in records if record.index == index]

    def begin(
        self,
        version: Version,
        seen: PurgeRecord | None,
        tombstones: Mapping[str, Position],
        *,
        purged_at: int,
        age_ms: int,
    ) -> PurgeRecord:
        """Says that these tombstones are about to go, before any does.

        Parameters
        ----------
        seen
            The record as it was read; nothing of it may be pending.
        tombstones
            Point id to position, at least one.
        """
        newest = max(tombstones.values(), key=lambda position: position.key)
        same = seen is not None and seen.incarnation == version.incarnation
        if seen is not None and newest < seen.newest:
            newest = seen.newest
        return self._write(
            PurgeRecord(
                version=version.name,
                index=version.index,
                incarnation=version.incarnation,
                newest=newest,
                purged_at=max(purged_at, seen.purged_at if seen is not None else 0),
                purged=seen.purged if seen is not None and same else 0,
                pending=tuple(tombstones),
                least_age_ms=min(age_ms, seen.least_age_ms) if seen is not None else age_ms,
                record=None if seen is None else seen.record,
            )
        )

    def settle(self, record: PurgeRecord, gone: int) -> PurgeRecord:
        """Says how many of the pending tombstones are gone."""
        return self._write(replace(record, purged=record.purged + gone, pending=()))

    def _write(self, purge: PurgeRecord) -> PurgeRecord:
        written = self._control.swap(
            PURGE, purge.version, seen=purge.record, fields=purge.to_fields()
        )
        if written is None:
            raise StoreConflictError(
                f"another process purges tombstones of {purge.version} at the same time: nothing "
                "is lost; run it again"
            )
        return PurgeRecord.from_record(written)
