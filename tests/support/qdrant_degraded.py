"""A Qdrant that a test makes read-only or full, or whose key it revokes, while others use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.qdrant_proxy import QdrantProxy
from tests.support.qdrant_server import REAL_SERVER, QdrantServer

__all__ = ["NO_SPACE", "DegradedQdrant", "degraded_qdrant"]

NO_SPACE = "No space left on device: WAL buffer size exceeds available disk space"
"""What Qdrant 1.18.3 says, with 500, while less than 64 MiB of its disk are free."""

_STORAGE = "PLUMBLINE_TEST_QDRANT_STORAGE"
"""Folder on the small file system that a real server keeps its storage on."""

_LARGEST_DISK_BYTES = 2 << 30
"""A disk that is larger is somebody's own: it is not filled."""

_LEFT_BYTES = 40 << 20

_WRITES_OF_POINTS = (r"/points$|/index$", "PUT"), (r"/points/(?!scroll|count|query)", "POST")
"""What a full disk refuses. Collections and aliases are made all the same."""


class DegradedQdrant:
    """A server behind a proxy that decides with which key a client's request arrives.

    Parameters
    ----------
    proxy
        What clients are given as the server.
    upstream, full, read_only
        The server itself, its key, and its key that only reads.
    storage
        Where a real server's disk can be filled; `None` lets the proxy answer as a full one does.
    """

    def __init__(
        self, proxy: QdrantProxy, upstream: str, full: str, read_only: str, storage: Path | None
    ) -> None:
        self._proxy = proxy
        self.upstream = upstream
        self.full = full
        self._read_only = read_only
        self._ballast = None if storage is None else storage / "ballast"

    @property
    def url(self) -> str:
        """For the settings of jobs and monitors."""
        return self._proxy.url

    @property
    def secrets(self) -> list[str]:
        """What nothing may show."""
        return [self.full, self._read_only, *self._proxy.keys]

    def allow(self, key: str) -> None:
        """A key of a client's may do everything."""
        self._proxy.keys[key] = self.full

    def make_read_only(self, key: str) -> None:
        """A key of a client's may read, and nothing else."""
        self._proxy.keys[key] = self._read_only

    def revoke(self, key: str) -> None:
        """The server does not know a client's key any longer."""
        self._proxy.keys[key] = "revoked"

    def fill_disk(self) -> None:
        """No write of a point succeeds any longer; what is read goes on."""
        if self._ballast is None:
            for path, method in _WRITES_OF_POINTS:
                words = f"Service internal error: {NO_SPACE}"
                self._proxy.faults(path, method=method, status=500, message=words, times=None)
            return
        disk = os.statvfs(self._ballast.parent)
        assert disk.f_blocks * disk.f_frsize < _LARGEST_DISK_BYTES, f"{self._ballast.parent}: large"
        free = disk.f_bavail * disk.f_frsize - _LEFT_BYTES
        with self._ballast.open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, free)

    def refuse_writes(self, collection: str, words: str) -> None:
        """A collection answers every write of a point with 400, as a limit of strict mode does."""
        path = f"/collections/{collection}/points$"
        self._proxy.faults(path, method="PUT", status=400, message=words, times=None)

    def mend(self) -> None:
        """Room on the disk, and no limit; keys stay as they are."""
        self._proxy.clear_faults()
        if self._ballast is not None:
            self._ballast.unlink(missing_ok=True)


@contextmanager
def degraded_qdrant() -> Iterator[DegradedQdrant]:
    """A stand-in, or the real server where its address and both of its keys are in the environment.

    PLUMBLINE_TEST_QDRANT_URL, …_API_KEY and …_READ_ONLY_API_KEY name it, and
    PLUMBLINE_TEST_QDRANT_STORAGE the small disk (less than 2 GiB) that it writes to.
    """
    real = os.environ.get(REAL_SERVER)
    full = os.environ.get("PLUMBLINE_TEST_QDRANT_API_KEY")
    read_only = os.environ.get("PLUMBLINE_TEST_QDRANT_READ_ONLY_API_KEY")
    storage = os.environ.get(_STORAGE)
    with ExitStack() as stack:
        if not (real and full and read_only):
            full, read_only, storage = "key-of-the-server", "key-of-the-reader", None
            server = QdrantServer(api_key=full, read_only_api_key=read_only)
            real = stack.enter_context(server).url
        proxy = stack.enter_context(QdrantProxy(real))
        made = DegradedQdrant(proxy, real, full, read_only, Path(storage) if storage else None)
        stack.callback(made.mend)
        yield made
