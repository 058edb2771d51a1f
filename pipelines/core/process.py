"""Which process this is, and whether another one on this machine has ended."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["ProcessIdentity", "this_actor"]

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process among all that there are, were and will be.

    Parameters
    ----------
    host
        Host name, for people, and because it tells containers apart.
    boot_id
        Changes whenever the machine starts; empty where the system does not say.
    pid_namespace
        Containers on one machine share the boot id and count processes from 1 each.
    pid
        Process number, which the system uses again and again.
    started
        Clock ticks from the boot to the start of the process, which tells one user of a number
        from the next; -1 where the system does not say.
    """

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> ProcessIdentity:
        """The calling process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """A process of this machine and namespace that runs."""
        stat = _stat(pid)
        return cls(
            host=socket.gethostname(),
            boot_id=_read(_PROC / "sys/kernel/random/boot_id"),
            pid_namespace=_link(_PROC / "self/ns/pid"),
            pid=pid,
            started=stat[1] if stat else -1,
        )

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> ProcessIdentity:
        """What `to_payload` gave; fields that are missing or of another type are unknown."""

        def text(key: str) -> str:
            value = payload.get(key)
            return value if isinstance(value, str) else ""

        def number(key: str) -> int:
            value = payload.get(key)
            return value if isinstance(value, int) else -1

        return cls(
            host=text("host"),
            boot_id=text("boot_id"),
            pid_namespace=text("pid_namespace"),
            pid=number("pid"),
            started=number("started"),
        )

    def to_payload(self) -> dict[str, Any]:
        """The fields by name, JSON values."""
        return asdict(self)

    def has_ended(self, *, seen_by: ProcessIdentity) -> bool:
        """True when this process certainly runs no more; False when it may.

        Only a process of the same boot, host and process namespace can tell, and only where the
        system names all three.
        """
        place = (self.boot_id, self.pid_namespace, self.host)
        if not all(place) or place != (seen_by.boot_id, seen_by.pid_namespace, seen_by.host):
            return False
        if self.pid <= 0 or self.started < 0:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # It runs, under another user: its start may still be readable.
        stat = _stat(self.pid)
        if stat is None:
            return False
        state, started = stat
        # Z and X: it has ended and its parent has not asked for the exit code yet.
        return started != self.started or state in "ZX"


def this_actor() -> str:
    """Who this process acts for, in records that people read: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start in clock ticks since the boot, or `None` where unreadable."""
    # The second field is the program's name in parentheses and may itself contain any of them.
    fields = _read(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    return fields[0], int(fields[19])
