"""A small disk that a test can fill: a tmpfs of its own, which takes root to mount."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

__all__ = ["SmallDisk", "why_no_small_disk"]

_BALLAST = "ballast"
_PIECE_BYTES = 1 << 20


def why_no_small_disk(folder: Path) -> str:
    """Why none can be made here; empty where one can."""
    if os.geteuid() != 0:
        return "only root mounts a tmpfs"
    probe = folder / "probe"
    try:
        with SmallDisk(probe, megabytes=1):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no tmpfs can be mounted here: {getattr(error, 'stderr', None) or error}".strip()
    finally:
        with contextlib.suppress(OSError):
            probe.rmdir()


class SmallDisk:
    """A tmpfs on a folder, for as long as the block runs.

    Parameters
    ----------
    folder
        Where; made when it is not there.
    megabytes
        Of room.
    """

    def __init__(self, folder: Path, *, megabytes: int) -> None:
        self.folder = folder
        self._megabytes = megabytes

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        size = f"size={self._megabytes}m"
        _run("mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        # Whoever has a file open there keeps it until it ends.
        _run("umount", "--lazy", str(self.folder))

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is left while the block runs; fails where one could still be written."""
        # A log of writes is written over from its start once its content is in the database. With
        # nothing in it, it has to grow for the next write.
        for database in self.folder.rglob("*.sqlite"):
            with contextlib.closing(sqlite3.connect(database, timeout=5)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ballast = self.folder / _BALLAST
        try:
            with ballast.open("wb", buffering=0) as file:
                assert _fill(file.fileno()) == errno.ENOSPC
            yield
        finally:
            ballast.unlink(missing_ok=True)


def _fill(file: int) -> int:
    """Writes until it fails, and says why."""
    why = None
    for size in (_PIECE_BYTES, 1):
        piece = bytes(size)
        try:
            while True:
                os.write(file, piece)
        except OSError as error:
            why = error.errno
    return why or 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
