"""What SIGTERM and Ctrl-C do to what runs for long: end in order, within a bound, or at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipelines.core.errors import ExitCode

__all__ = ["draining", "stopping"]

_STOP_SECONDS = 20.0
"""Bound of an orderly stop: what runs is called off, the lease is freed, the store is closed."""


@contextmanager
def draining(drain_seconds: float, *, in_process: bool) -> Iterator[None]:
    """While the block runs, a signal drains the job.

    The first signal sets the readers' stop: the runner finishes its bundle, commits, and the
    block ends by itself. When that takes longer than `drain_seconds`, or a second signal comes,
    the process leaves on the spot, which loses nothing: what is not committed comes again.

    Parameters
    ----------
    drain_seconds
        Bound of the orderly way.
    in_process
        False for a job that runs on a cluster: a stop there is a savepoint taken by whoever
        operates it (the readers' stop would mark their splits done for ever), so the first
        signal interrupts this process alone.
    """
    # Here and not in the handler, which may interrupt this very import.
    from pipelines.io.kafka.stop import STOP

    def drain() -> None:
        if not in_process:
            raise KeyboardInterrupt
        STOP.set()

    with _handling(
        drain,
        drain_seconds,
        begun=f"draining, {drain_seconds:g} s at most; once more to leave at once",
        late=f"did not drain within {drain_seconds:g} s (ingest.drain_seconds) and gave up: "
        "what is not committed is read again at the next start",
        at_once="left at once: what is not committed is read again",
    ):
        yield


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that a signal sets while the block runs; a second one, or 20 s, end the process."""
    stop = threading.Event()
    with _handling(
        stop.set,
        _STOP_SECONDS,
        begun=f"stopping, {_STOP_SECONDS:g} s at most",
        late=f"did not stop within {_STOP_SECONDS:g} s and left: the lease runs out",
        at_once="left at once: the lease runs out by itself",
        beyond=True,
    ):
        yield stop


@contextmanager
def _handling(
    first: Callable[[], None],
    bound_seconds: float,
    *,
    begun: str,
    late: str,
    at_once: str,
    beyond: bool = False,
) -> Iterator[None]:
    """`first` on the first signal; `beyond`: its bound also counts for what follows the block."""
    done = threading.Event()
    asked = False

    def give_up() -> None:
        if not done.wait(bound_seconds):
            _leave(late, ExitCode.NO)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            _leave(at_once, 128 + number)
        asked = True
        first()
        _say(begun)
        threading.Thread(target=give_up, name="plumbline-stop", daemon=True).start()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        if not (asked and beyond):
            done.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    # Not through `sys.stderr`: the signal may have come in the middle of a write to it, which is
    # not re-entrant.
    os.write(2, f"plumbline: {text}\n".encode())


def _leave(text: str, code: int) -> None:
    _say(text)
    # No clean-up: it may be what hangs. Offsets follow their effect, and the lease runs out.
    sys.stdout.flush()
    os._exit(code)
