"""Fuzzes one target for a while, guided by coverage (atheris, on libFuzzer).

::

    python -m tests.fuzz decode --seconds 60 --seed 7

Ends with 0 when nothing was found; else prints the exception, and the input as `bytes` of Python
that belongs into `tests/fuzz/found.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipelines.core", "pipelines.cli", "monitors.golden"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.seeds import seeds, words
from tests.support.processes import end_with_parent

FOUND = 77
"""Exit code, libFuzzer's own, of a find."""
_LONGEST_INPUT = 4_096


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="keeps what it learns there")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="plumbline-corpus-"))
    corpus = arguments.corpus or scratch / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(arguments.target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    dictionary = scratch / "words"
    dictionary.write_text("".join(f'"{word}"\n' for word in words(arguments.target)))
    target = TARGETS[arguments.target]

    def once(data: bytes) -> None:
        try:
            target(data)
        except BaseException:
            print(f"FOUND by {arguments.target}, bytes:\n{data!r}", flush=True)
            traceback.print_exc()
            raise

    _become_a_child()
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={arguments.seconds}",
            f"-seed={arguments.seed}",
            f"-max_len={_LONGEST_INPUT}",
            f"-dict={dictionary}",
            f"-artifact_prefix={scratch}/",
            "-timeout=20",
            "-rss_limit_mb=1500",
            "-print_final_stats=1",
            str(corpus),
        ],
        once,
    )
    atheris.Fuzz()


def _become_a_child() -> None:
    """Returns in a child; the process itself waits for it and ends with its exit code.

    libFuzzer holds `ru_maxrss` against its limit, and Linux hands that on through `exec`: a fuzzer
    that a process of 2 GB has started counts as one of 2 GB. Only `fork` begins at nought.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) % 256)
    end_with_parent()
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
