"""A thread that stands back where processors are scarce."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

__all__ = ["stand_back"]

_NICE = 10
"""A tenth of the time that a thread of ordinary priority gets beside it, while both want it all."""


def stand_back() -> None:
    """Gives the calling thread, and the threads that it starts, a low priority for good.

    Encoding golden queries takes all cores for seconds, and a store on the same machine would
    answer its users late. The threads of PyTorch and OpenMP are started by the one that encodes
    first, and belong to it. Does nothing where threads have no priorities of their own.
    """
    if sys.platform == "linux":
        # Elsewhere the number of a thread would be taken for a process, or refused. Where the
        # system forbids even this, the probe runs as before.
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            lower = max(_NICE, os.getpriority(os.PRIO_PROCESS, thread))
            os.setpriority(os.PRIO_PROCESS, thread, lower)
