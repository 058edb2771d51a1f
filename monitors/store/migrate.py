"""Brings the schema to this release's: at every start, safe for several processes at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import StoreConflictError

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

    from monitors.store.engine import Database

__all__ = ["MIGRATIONS", "schema_version", "upgrade"]

MIGRATIONS = Path(__file__).with_name("migrations")

_LOCK = 7_103_421_965_088_221_201
"""Of PostgreSQL's advisory locks; a number of our own, the same in every process."""


def upgrade(database: Database, migrations: Path = MIGRATIONS) -> str:
    """The schema's version after bringing it up to this release's.

    One transaction, under a lock: of several processes one upgrades, the others wait for it and
    find nothing to do; one that ends half way leaves the old schema.

    Parameters
    ----------
    migrations
        Folder of the revisions; tests bring their own.

    Raises
    ------
    StoreConflictError
        A newer release has written the schema.
    TransientError, ServiceRefusedError
        The database cannot be reached or used.
    """
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(migrations))
    head = scripts.get_current_head()
    assert head is not None, "there is a first revision"
    with database.writing() as connection:
        if database.shared:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        found = schema_version(connection)
        if found == head:
            return head
        _refuse_newer(scripts, found, head, database.where)

        def steps(current: Any, _context: Any) -> Any:
            return scripts._upgrade_revs(head, current)

        with EnvironmentContext(_config(migrations), scripts, fn=steps) as environment:
            environment.configure(connection=connection, transactional_ddl=True)
            environment.run_migrations()
    return head


def schema_version(connection: Connection) -> str | None:
    """Revision that the database has, `None` for an empty one."""
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


def _config(migrations: Path) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    return config


def _refuse_newer(scripts: ScriptDirectory, found: str | None, head: str, where: str) -> None:
    known = {revision.revision for revision in scripts.walk_revisions()}
    if found is not None and found not in known:
        raise StoreConflictError(
            f"the {where} has schema {found}, which a newer release of Plumbline wrote; this one "
            f"knows up to {head}. Upgrade Plumbline, or name another database in "
            "monitor.database_url."
        )
