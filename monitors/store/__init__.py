"""The monitor's store: history, what probes remember, references. SQLite, or PostgreSQL by URL."""

from monitors.store.engine import Database, open_database
from monitors.store.migrate import upgrade
from monitors.store.records import (
    LiveVersion,
    Memory,
    NewReference,
    NewReset,
    Outcome,
    ReferenceEvent,
    ReferenceSummary,
    ResetEvent,
    Run,
    StoredFigure,
    StoredRun,
    VersionKey,
)
from monitors.store.store import Store, SupersededError, open_store

__all__ = [
    "Database",
    "LiveVersion",
    "Memory",
    "NewReference",
    "NewReset",
    "Outcome",
    "ReferenceEvent",
    "ReferenceSummary",
    "ResetEvent",
    "Run",
    "Store",
    "StoredFigure",
    "StoredRun",
    "SupersededError",
    "VersionKey",
    "open_database",
    "open_store",
    "upgrade",
]
