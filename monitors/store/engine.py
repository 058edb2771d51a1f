"""The database: its URL, its connections, its transactions, and its errors in our words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from monitors.store.values import dumps
from pipelines.core.errors import (
    PlumblineError,
    ServiceRefusedError,
    SettingsError,
    StoreConflictError,
    TransientError,
)
from pipelines.core.redact import redact_text, remember
from pipelines.core.settings import secret

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

    from pipelines.core.monitor_settings import MonitorSettings

__all__ = ["DEFAULT_URL", "Database", "open_database", "translate"]

DEFAULT_URL = "sqlite:///plumbline-monitor.db"

_VALID = "valid are sqlite:///file.db and postgresql+psycopg://user@host/database"
_BUSY_SECONDS = 30.0
_CONNECT_SECONDS = 10
_STATEMENT_SECONDS = 60
_WRITE = "plumbline_write"


class Database:
    """One engine, with transactions that read or write.

    Parameters
    ----------
    engine
        Of SQLite or PostgreSQL.
    where
        For messages and logs: never a login.
    """

    def __init__(self, engine: Engine, where: str) -> None:
        self.engine = engine
        self.where = where

    @property
    def shared(self) -> bool:
        """Whether processes on several machines can use it at once."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view; errors translated."""
        with self._translated(), self.engine.connect() as plain:
            # SQLite's transactions are that already.
            options = {"isolation_level": "REPEATABLE READ"} if self.shared else {}
            connection = plain.execution_options(**options)
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """All of the block's writes or none; errors translated."""
        # SQLite: a transaction that reads first and writes later can find that another has
        # written meanwhile, and cannot wait then. It takes the write lock at its start instead.
        with self._translated(), self.engine.connect() as plain:
            connection = plain.execution_options(**{_WRITE: True})
            with connection.begin():
                yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise translate(error, self.where) from None

    def close(self) -> None:
        """Closes its connections."""
        self.engine.dispose()


def open_database(settings: MonitorSettings) -> Database:
    """The database of the settings; a PostgreSQL is reached at the first transaction.

    Raises
    ------
    SettingsError
        The URL is none of SQLite or PostgreSQL, or the driver is missing. The message shows no
        part of the URL.
    """
    given = secret(settings.database_url, settings.database_url_file, "monitor.database_url") or (
        DEFAULT_URL
    )
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise SettingsError(f"monitor.database_url is not a database's URL: {_VALID}") from None
    if url.password:
        remember([url.password, given])
    kind = url.get_backend_name()
    if kind == "sqlite":
        return _sqlite(url)
    if kind in ("postgresql", "postgres"):
        return _postgres(url)
    raise SettingsError(f"monitor.database_url names {kind}, which is not supported: {_VALID}")


def _sqlite(url: URL) -> Database:
    if not url.database or url.database == ":memory:":
        raise SettingsError(
            "monitor.database_url names no file, and history that ends with the process is of no "
            "use: sqlite:///plumbline-monitor.db is valid"
        )
    path = Path(url.database)
    if not path.parent.is_dir():
        raise SettingsError(
            f"monitor.database_url: there is no folder {path.parent} for {path.name}. Make it, or "
            "name a file in another one."
        )
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        connect_args={"timeout": _BUSY_SECONDS},
        json_serializer=dumps,
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # The driver's own transactions would begin at the first write only, and not for DDL.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # With a write-ahead log that survives the end of the process at any moment; only a power
        # cut can take the last runs.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return Database(engine, f"SQLite file {path}")


def _postgres(url: URL) -> Database:
    try:
        import psycopg  # noqa: F401 - only to say what is missing
    except ImportError:
        raise SettingsError(
            "monitor.database_url names PostgreSQL, whose driver is not installed: "
            "pip install 'plumbline[postgres]'"
        ) from None
    if "+" in url.drivername and url.get_driver_name() != "psycopg":
        raise SettingsError(
            f"monitor.database_url asks for the driver {url.get_driver_name()}: {_VALID}"
        )
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "application_name": "plumbline-monitor",
        },
        # A connection that a restart of the server has cut is found out before it is used.
        pool_pre_ping=True,
        pool_timeout=_BUSY_SECONDS,
        isolation_level="READ COMMITTED",
        json_serializer=dumps,
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # A server that holds a request for ever must not hold the monitor.
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = '{_STATEMENT_SECONDS}s'")
        connection.commit()

    port = f":{url.port}" if url.port else ""
    return Database(engine, f"PostgreSQL at {url.host or 'the local socket'}{port}/{url.database}")


def translate(error: Exception, where: str) -> PlumblineError:
    """Our error for one of SQLAlchemy's.

    Parameters
    ----------
    error
        What SQLAlchemy raised; its statement and parameters are never shown.
    where
        The database, without its login.

    Returns
    -------
    PlumblineError
        `TransientError` for what may pass, otherwise the error to stop with.
    """
    if isinstance(error, PlumblineError):
        return error
    if not isinstance(error, DBAPIError):
        if isinstance(error, PoolTimeoutError):
            return TransientError(f"the {where} did not give a connection in time")
        return StoreConflictError(f"the {where} cannot be used: {type(error).__name__}")
    source: Any = error.orig
    state = getattr(source, "sqlstate", None) or ""
    words = _first_line(source)
    if state[:2] in ("28", "3D") or "authentication failed" in words or '" does not exist' in words:
        return ServiceRefusedError(
            f"the {where} refuses this login or has no such database: {words}. Check "
            "monitor.database_url."
        )
    if state == "42501" or "readonly" in words:
        return ServiceRefusedError(f"the {where} cannot be written: {words}")
    # 40: a conflict of transactions; the next run finds the newer state.
    if state[:2] == "40" or isinstance(error, OperationalError | InterfaceError):
        return TransientError(f"the {where} does not answer as it should: {words}")
    if isinstance(source, sqlite3.DatabaseError) and "not a database" in words:
        return StoreConflictError(f"the {where} is no SQLite database. Name another file.")
    if isinstance(error, IntegrityError):
        return StoreConflictError(f"the {where} refused a write: another process was quicker")
    return StoreConflictError(f"the {where} refused a request: {type(source).__name__} {state}")


def _first_line(source: Any) -> str:
    lines = str(source).splitlines() or [type(source).__name__]
    return redact_text(lines[0])[:300]
