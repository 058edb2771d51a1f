"""Who listens on a port of this machine."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass
from pathlib import Path

from deploy.local.stack.errors import PortTakenError, StackError

__all__ = ["Port", "require_free"]

_PROC = Path("/proc")
_LISTENS = "0A"


@dataclass(frozen=True)
class Port:
    """A port that a service listens on.

    Parameters
    ----------
    number, host
        Where.
    setting
        How a person chooses another one, in words: "`monitor.port` in plumbline.yaml".
    """

    number: int
    setting: str
    host: str = "127.0.0.1"


def require_free(service: str, port: Port) -> None:
    """Raises `PortTakenError`, which names the port and its setting, where somebody listens."""
    with socket.socket() as probe:
        # As servers bind: a port is free though old connections to it linger.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.number))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise StackError(
                    f"port {port.number} on {port.host} cannot be had for {service}: "
                    f"{error.strerror}. Choose another with {port.setting}."
                ) from None
            raise PortTakenError(
                f"port {port.number} on {port.host} is taken by {_holder(port.number)}, and "
                f"{service} needs it. Stop that program, or choose another port with "
                f"{port.setting}."
            ) from None


def _holder(port: int) -> str:
    """The program that listens there, as far as this user may see it."""
    sockets = _listening(port)
    for process in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or it has just ended
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in sockets:
                    name = (process / "comm").read_text().strip()
                    return f"process {process.name} ({name})"
    return "another program"


def _listening(port: int) -> set[str]:
    """The sockets that listen on the port, as the links of open files name them."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found
