"""Harm at random, to everything, while a rollout is being built: nothing is lost in the end.

`make chaos SEED=7 KILLS=40` runs a seed of one's own, `RUNNER=flink` one with live's job on Flink,
and prints what it did.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.chaos import Chaos
from tests.support.chaos_flink import FlinkChaos
from tests.support.chaos_report import sorted_problems
from tests.support.child import CHILD_ENVIRONMENT
from tests.support.encodings import VARIABLE, Encodings
from tests.support.faketime import INSTALL_HINT as FAKETIME_HINT
from tests.support.faketime import FakeClock, faketime_available
from tests.support.kafka_server import INSTALL_HINT as KAFKA_HINT
from tests.support.kafka_server import kafka_available
from tests.support.processes import ServerProcess
from tests.support.small_disk import SmallDisk, why_no_small_disk
from tests.support.toxiproxy import INSTALL_HINT, toxiproxy_available

SEED = int(os.environ.get("PLUMBLINE_TEST_SEED", "20261127"))
KILLS = int(os.environ.get("PLUMBLINE_TEST_KILLS", "0"))
LONG = 200

_SLEEPER = """
import json, threading, time

def seconds_of(sleep):
    begun = time.monotonic()
    sleep(0.1)
    return time.monotonic() - begun

while True:
    slept = [seconds_of(time.sleep), seconds_of(threading.Event().wait)]
    print(json.dumps({"now": time.time(), "slept": slept}), flush=True)
"""


def attack(chaos: Chaos, harms: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Does the harms, prints what was done, and demands that nothing came of it."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        assert not chaos.report.left_out, chaos.report.left_out
    report = chaos.report
    try:
        with chaos:
            chaos.run(harms, 600)
    finally:
        # Also of one that came to no end: who looks for the reason wants its seed.
        with capsys.disabled():
            print(f"\n{report.words()}")
    assert report.harms.total() == harms
    assert not report.problems, report.problems[:20]
    assert report.encoded > 0
    missed = report.unseen()
    assert not missed, missed


@pytest.mark.acceptance
@pytest.mark.timeout(7200)
def test_nothing_is_lost_in_process_whatever_is_harmed(
    tmp_path: Path, model: Path, acceptance: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills, freezes, cuts and errors at random: both versions are what a replay says."""
    require(kafka_available(), KAFKA_HINT)
    require(toxiproxy_available(), INSTALL_HINT)
    # Each of the fifteen kinds once, or until there are two hundred.
    attack(Chaos(tmp_path, model, SEED), KILLS or (LONG if acceptance else 15), capsys)


@pytest.mark.acceptance
@pytest.mark.timeout(7200)
def test_nothing_is_lost_on_flink_whatever_is_harmed(
    require_flink: None,
    tmp_path: Path,
    model: Path,
    acceptance: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same with live's job on a cluster, whose processes are killed as well."""
    require(kafka_available(), KAFKA_HINT)
    require(toxiproxy_available(), INSTALL_HINT)
    # Two of the four kinds that Flink adds, or all kinds until there are fifty. A kill of each of
    # its parts, and of all at once, is test_flink_cluster.py's.
    attack(FlinkChaos(tmp_path, model, SEED), KILLS or (50 if acceptance else 2), capsys)


def test_a_wrong_clock_leaves_sleeps_as_they_are(tmp_path: Path) -> None:
    """The wall clock goes ahead and behind under a program's feet, and it sleeps as long as before.

    Python sleeps until a moment of the monotonic clock, and libfaketime 0.9.10 moves that moment.
    """
    require(faketime_available(), FAKETIME_HINT)
    clock = FakeClock(tmp_path / "clock")
    log = tmp_path / "program.log"
    program = ServerProcess(
        [sys.executable, "-c", _SLEEPER],
        log,
        environment={**clock.environment, **CHILD_ENVIRONMENT},
    )
    try:
        for ahead in (0, -86_400, 86_400):
            clock.set(ahead)

            def wrong_by(seconds: int = ahead) -> bool:
                said = json.loads(program.log().splitlines()[-1])
                assert all(0.09 < one < 5 for one in said["slept"]), said
                return abs(said["now"] - time.time() - seconds) < 20

            program.wait_ready(wrong_by, 30, what=f"the clock is {ahead} s ahead")
    finally:
        program.kill()
        clock.sweep()


def test_a_full_disk_takes_not_a_byte(tmp_path: Path) -> None:
    """Nothing can be written while it is full, and what is there goes on when it is not."""
    require(not why_no_small_disk(tmp_path), why_no_small_disk(tmp_path))
    with SmallDisk(tmp_path / "disk", megabytes=2) as disk:
        kept = disk.folder / "kept"
        kept.write_bytes(b"x" * 4096)
        with disk.full(), kept.open("ab") as file, pytest.raises(OSError, match="No space left"):
            os.write(file.fileno(), b"y")
        with kept.open("ab") as file:
            assert os.write(file.fileno(), b"y") == 1
        assert kept.stat().st_size == 4097
    assert not list(disk.folder.iterdir())


def test_encodings_are_counted_by_state(tmp_path: Path) -> None:
    """The same state again counts twice; half a line of one that was killed does not."""
    encodings = Encodings(tmp_path / "encodings")
    assert encodings.counts() == {}
    first, second = (json.dumps(["version", "id", ["topic", 0, n, 0, None]]) for n in (1, 2))
    Path(encodings.environment[VARIABLE]).write_text(
        f"\n{first}\n\n{first[:9]}\n{first}\n{second}\n"
    )
    assert encodings.counts() == {first: 2, second: 1}


def test_problems_are_told_apart() -> None:
    """The report counts under the right name."""
    found = sorted_problems(
        [
            "'a': nothing is stored",
            "'b': deleted is False, expected True",
            "'c': orphan chunks [1] without a head",
            "'d': position is 1, expected 2",
            "good, and dead-lettered: ('t', 0, 1, 'not_json')",
            "something else",
        ]
    )
    assert found == {
        "lost": 1,
        "resurrected": 1,
        "stale": 1,
        "orphan chunks": 1,
        "wrongly dead-lettered": 1,
        "other": 1,
    }
