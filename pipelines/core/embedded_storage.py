"""One transaction a request, where the embedded engine makes one a point."""

from __future__ import annotations

import sqlite3
from types import TracebackType
from typing import Any, Self

__all__ = ["RequestTransaction"]


class RequestTransaction:
    """The engine's connection to SQLite, with its writes held back until `flush`.

    The engine stores each point in a transaction of its own. What it has stored it also
    has in memory, so a write must not get lost when the disk refuses it: it then stays here, and
    every further request tries it first.

    Parameters
    ----------
    connection
        The engine's own.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._writes: list[tuple[str, Any]] = []

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor | None:
        """Holds a write back; the engine's only statements with parameters are writes."""
        if parameters:
            self._writes.append((sql, parameters))
            return None
        return self._connection.execute(sql)

    def flush(self) -> None:
        """Stores what was held back; raises `sqlite3.Error`, and still holds it, when it cannot."""
        if not self._writes:
            return
        with self._connection:
            for sql, parameters in self._writes:
                self._connection.execute(sql, parameters)
        self._writes.clear()

    def checkpoint(self) -> None:
        """Stores it in a way that survives a power cut."""
        self.flush()
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing: the request is over when `flush` is called."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
