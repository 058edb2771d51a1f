"""What SIGTERM and Ctrl-C do to a running job: drain, give up after a bound, leave at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipelines.core.errors import ExitCode

__all__ = ["draining"]


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

    done = threading.Event()
    asked = False

    def give_up() -> None:
        if not done.wait(drain_seconds):
            _leave(
                f"did not drain within {drain_seconds:g} s (ingest.drain_seconds) and gave up: "
                "what is not committed is read again at the next start",
                ExitCode.NO,
            )

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            _leave("left at once: what is not committed is read again", 128 + number)
        asked = True
        if not in_process:
            raise KeyboardInterrupt
        _say(f"draining, {drain_seconds:g} s at most; once more to leave at once")
        threading.Thread(target=give_up, name="plumbline-drain", daemon=True).start()
        STOP.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
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
