"""The tables of the store, as this release reads and writes them.

The migrations make them; a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

__all__ = [
    "UtcDateTime",
    "baselines",
    "live_versions",
    "metadata",
    "probe_resets",
    "reference_events",
    "references_in_force",
    "run_counts",
    "runs",
    "states",
    "vector_references",
]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, always with its time zone in Python; SQLite itself keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """In UTC, so that texts in SQLite order as the moments do."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """With its time zone."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite counts on its own only in a column of type INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")
_Name = String(512)

metadata = MetaData()


def _version(*, primary_key: bool) -> list[Column[Any]]:
    """What names one version: a collection made anew under the same name is another."""
    return [
        Column("index_name", _Name, primary_key=primary_key, nullable=False),
        Column("version", _Name, primary_key=primary_key, nullable=False),
        Column("incarnation", _Name, primary_key=primary_key, nullable=False),
    ]


runs = Table(
    "runs",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    *_version(primary_key=False),
    Column("probe", _Name, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("outcome", _Name, nullable=False),
    Column("failure", _Name),
    Column("message", Text),
    Column("level", _Name),
    Column("reason", _Name),
    Column("words", Text),
    Column("evidence", JSON),
    Column("figures", JSON),
    Column("details", JSON),
    Index("runs_of_probe", "index_name", "version", "incarnation", "probe", "id"),
    Index("runs_by_time", "started_at"),
)
"""Every run, for as long as the retention says."""

states = Table(
    "states",
    metadata,
    *_version(primary_key=True),
    Column("probe", _Name, primary_key=True),
    Column("runs", BigInteger, nullable=False),
    Column("state", JSON),
    Column("last_run_id", _Id),
    Column("completed_run_id", _Id),
    Column("updated_at", UtcDateTime, nullable=False),
)
"""What a probe remembers of a version. `runs` counts its runs, and guards the row: who writes
says which count it has seen."""

baselines = Table(
    "baselines",
    metadata,
    *_version(primary_key=True),
    Column("probe", _Name, primary_key=True),
    Column("baseline", JSON, nullable=False),
    Column("run_id", _Id, nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
)

vector_references = Table(
    "vector_references",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    *_version(primary_key=False),
    Column("kind", _Name, nullable=False),
    Column("name", _Name, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("vectors", LargeBinary, nullable=False),
    Column("document_ids", JSON, nullable=False),
    Column("digest", _Name, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", _Name, nullable=False),
    Column("reason", Text, nullable=False),
    Index("reference_by_name", "index_name", "version", "incarnation", "kind", "name", unique=True),
)
"""Samples of vectors: rows × dimension little-endian float32, row by row."""

references_in_force = Table(
    "references_in_force",
    metadata,
    *_version(primary_key=True),
    Column("kind", _Name, primary_key=True),
    Column("reference_id", _Id, ForeignKey("vector_references.id"), nullable=False),
    Column("since", UtcDateTime, nullable=False),
)

reference_events = Table(
    "reference_events",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    *_version(primary_key=False),
    Column("kind", _Name, nullable=False),
    Column("name", _Name, nullable=False),
    Column("action", _Name, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("by", _Name, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("digest", _Name, nullable=False),
    Index("events_of_index", "index_name", "id"),
)
"""Who put which reference in force, when and why. It outlives the references."""

probe_resets = Table(
    "probe_resets",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    *_version(primary_key=False),
    Column("probe", _Name, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("by", _Name, nullable=False),
    Column("reason", Text, nullable=False),
    Column("level", _Name),
    Column("words", Text),
    Column("run_id", _Id, nullable=False),
    Index("resets_of_index", "index_name", "id"),
)
"""Who took back what a probe remembered, when and why. `level` and `words` are what it had said,
`run_id` the run that was written in the same breath. It outlives the runs."""

run_counts = Table(
    "run_counts",
    metadata,
    Column("index_name", _Name, primary_key=True),
    Column("probe", _Name, primary_key=True),
    Column("outcome", _Name, primary_key=True),
    Column("failure", _Name, primary_key=True),
    Column("runs", BigInteger, nullable=False),
)
"""Runs by how they went, for the counters: retention takes nothing off them. `failure` is empty
where nothing failed."""

live_versions = Table(
    "live_versions",
    metadata,
    Column("index_name", _Name, primary_key=True),
    Column("version", _Name, nullable=False),
    Column("incarnation", _Name, nullable=False),
    Column("problem", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
)
"""The version that the alias was last seen to point at, and why it cannot be read, if so."""
