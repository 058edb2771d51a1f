"""PostgreSQL for tests: one server on loopback, from the packages that install.py put there."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.processes import (
    Server,
    ServerProcess,
    free_port,
    listening,
    servers_dir,
    stamped,
)

__all__ = ["INSTALL_HINT", "PostgresServer", "postgres_available"]

INSTALL_HINT = "PostgreSQL is not installed: python deploy/local/install.py postgres"

PASSWORD = "correct-horse"

_CONFIGURATION = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 60
shared_buffers = 32MB
# Tests kill the server's clients, and the server itself, not the machine.
fsync = off
"""


def _root() -> Path:
    return servers_dir() / "postgres"


def _binaries(root: Path) -> Path | None:
    found = sorted(root.glob("usr/lib/postgresql/*/bin"))
    return found[-1] if found else None


def postgres_available() -> bool:
    """Whether install.py has put it there."""
    return stamped("postgres") and _binaries(_root()) is not None


def _library_path(root: Path) -> dict[str, str]:
    folders = [str(folder) for folder in sorted(root.glob("usr/lib/*-linux-gnu*"))]
    return {"LD_LIBRARY_PATH": ":".join(folders)} if folders else {}


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.resolve().parents))


class PostgresServer(Server):
    """A server of its own; use it as a context manager.

    It refuses to run as root, so that root runs it as `nobody`, who owns its folder then, and a
    copy of the programs where the checkout lies in a folder that is closed to others.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="plumbline-postgres-"))
        self._data = self._folder / "data"
        self._root = _root()
        self._user: pwd.struct_passwd | None = None

    def start(self, timeout_seconds: float = 60.0) -> Self:
        """Make the cluster if there is none, start the server and wait until it answers."""
        if not postgres_available():
            raise RuntimeError(INSTALL_HINT)
        if os.geteuid() == 0:
            self._user = pwd.getpwnam("nobody")
            if self._root == _root() and not _open_to_all(self._root):
                self._folder.chmod(0o755)
                self._root = self._folder / "programs"
                shutil.copytree(_root(), self._root, symlinks=True)
        binaries = _binaries(self._root)
        assert binaries is not None, "install.py put it there"
        if not self._data.exists():
            self._make(binaries)
        command = [str(binaries / "postgres"), "-D", str(self._data)]
        if self._user is not None:
            # Not through `su` or `runuser`: those would be the child, and the server its child.
            command = [
                "setpriv",
                f"--reuid={self._user.pw_uid}",
                f"--regid={self._user.pw_gid}",
                "--clear-groups",
                *command,
            ]
        self._process = ServerProcess(
            command,
            self._folder / "postgres.log",
            environment=_library_path(self._root),
            working_directory=self._folder,
        )
        self._process.wait_ready(lambda: listening(self.port), timeout_seconds)
        self._process.wait_ready(lambda: self._query("SELECT 1") == "1", timeout_seconds)
        return self

    def _make(self, binaries: Path) -> None:
        self._data.mkdir(mode=0o700)
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            for path in (self._folder, self._data, password):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        subprocess.run(
            [
                str(binaries / "initdb"),
                *("-D", str(self._data), "-U", "plumbline", "-A", "scram-sha-256"),
                *("-E", "UTF8", "--locale=C", "--no-sync", f"--pwfile={password}"),
                *("-L", str(next(self._root.glob("usr/share/postgresql/*")))),
            ],
            check=True,
            capture_output=True,
            env={**os.environ, **_library_path(self._root)},
            cwd=self._folder,
            user=None if self._user is None else self._user.pw_uid,
            group=None if self._user is None else self._user.pw_gid,
            extra_groups=None if self._user is None else [],
        )
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION.format(port=self.port))

    def create_database(self) -> str:
        """A new, empty database; gives its URL, password and all."""
        name = f"test_{secrets.token_hex(4)}"
        self._query(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str, password: str = PASSWORD) -> str:
        """For `monitor.database_url`."""
        return f"postgresql+psycopg://plumbline:{password}@127.0.0.1:{self.port}/{database}"

    def _query(self, statement: str) -> str:
        import psycopg

        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="plumbline",
            password=PASSWORD,
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            row = cursor.fetchone() if cursor.description else None
            return "" if row is None else str(row[0])

    def stop(self) -> None:
        """End it; connections are cut, port and data stay for `start`."""
        if self._process is not None:
            self._process.kill()
            # What it forked ends a moment later, and holds the data until then.
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def close(self) -> None:
        """End it for good and remove its data."""
        if self._process is not None:
            self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
