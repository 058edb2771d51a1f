"""Readers of what others wrote, fuzzed under guidance of coverage: short in CI, long by request."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.fuzz.targets import TARGETS
from tests.support.jobs import ENVIRONMENT

SHORT, LONG = 5, 400
"""Seconds of each target; the long form makes over 30 minutes of CPU of them all."""


@pytest.mark.acceptance
@pytest.mark.timeout(900)
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this platform")
@pytest.mark.parametrize("target", list(TARGETS))
def test_nothing_is_found(target: str, acceptance: bool) -> None:
    """Whatever bytes come are read or refused in words, within bounds of time and memory."""
    seconds = LONG if acceptance else SHORT
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, "--seconds", str(seconds)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-6_000:]
    runs = re.search(r"stat::number_of_executed_units:\s*([0-9]+)", output)
    assert runs is not None, output[-2_000:]
    print(f"{target}: {runs[1]} inputs in {seconds} s")
    assert int(runs[1]) > 20 * seconds, output[-2_000:]


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this platform")
def test_memory_of_who_started_it_does_not_count() -> None:
    """Linux hands a process's peak on through `exec`; libFuzzer would take it for the fuzzer's."""
    large = (
        "import subprocess, sys\n"
        "held = b'1' * 1_600_000_000\n"
        "sys.exit(subprocess.run([sys.executable, '-m', 'tests.fuzz', *sys.argv[1:]]).returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", large, "contract", "--seconds", "1"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6_000:]
