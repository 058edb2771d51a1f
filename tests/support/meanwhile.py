"""Work that goes on beside a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["meanwhile"]


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs work in a thread until the block ends, and fails with what stopped it.

    Parameters
    ----------
    work
        Is given the event that tells it to end.
    """
    done = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(done)
        except BaseException as error:  # noqa: BLE001 - shown when the block ends
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not failed, failed
