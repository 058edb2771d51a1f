"""An encoder that takes a fixed time for a batch, in place of one that takes a processor.

    python -m tests.support.slow_encoder worker-pool --port 50000

runs `plumbline` with it, in the worker processes of a pool too. The vectors are the model's own:
with a tiny model nearly all of the time is a sleep, so that more workers than processors can be
watched, and an encoder that is slow on a machine that is not.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

__all__ = ["COMMAND", "SECONDS", "slow_down"]

SECONDS = "PLUMBLINE_TEST_ENCODER_SECONDS"
"""Environment variable: seconds that a batch takes at least."""

DEFAULT_SECONDS = 0.2

COMMAND = (sys.executable, "-m", "tests.support.slow_encoder")
"""In place of `plumbline`."""

_lock = threading.Lock()


def slow_down() -> None:
    """From now on every encoder of this process works on one batch at a time, and slowly."""
    from pipelines.core.encoder.sentence_transformer import SentenceTransformerEncoder

    seconds = float(os.environ.get(SECONDS) or DEFAULT_SECONDS)
    encode = SentenceTransformerEncoder.encode_documents

    def slowly(self: Any, texts: Any) -> Any:
        if _quick.is_set():
            return encode(self, texts)
        with _lock:
            until = time.monotonic() + seconds
            encoded = encode(self, texts)
            time.sleep(max(0.0, until - time.monotonic()))
        return encoded

    SentenceTransformerEncoder.encode_documents = slowly  # type: ignore[method-assign]


_quick = threading.Event()


def slow_until_signal() -> None:
    """The same until SIGUSR1: then the encoder is as fast as it can be."""
    slow_down()
    signal.signal(signal.SIGUSR1, lambda *_: _quick.set())


def main() -> int:
    """Run the command."""
    from pipelines.cli.app import run
    from pipelines.flink import pool

    slow_down()
    pool.PRELOADED = (*pool.PRELOADED, "tests.support.slow_worker")  # type: ignore[misc]
    return run(sys.argv[1:])


if __name__ == "__main__":
    # Beam pickles what is defined in `__main__`; what was changed is looked up in the module.
    from tests.support.slow_encoder import main as run_main

    sys.exit(run_main())
