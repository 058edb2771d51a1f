"""Harm at random, to everything, while a rollout is being built: nothing is lost in the end.

`make chaos SEED=7 KILLS=40` runs a seed of one's own and prints what it did.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.chaos import Chaos, sorted_problems
from tests.support.kafka_server import INSTALL_HINT as KAFKA_HINT
from tests.support.kafka_server import kafka_available
from tests.support.toxiproxy import INSTALL_HINT, toxiproxy_available

SEED = int(os.environ.get("PLUMBLINE_TEST_SEED", "20261127"))
SHORT, LONG = 13, 200
"""Each of the thirteen kinds once, or until there are two hundred."""
KILLS = int(os.environ.get("PLUMBLINE_TEST_KILLS", "0"))


@pytest.mark.acceptance
@pytest.mark.timeout(7200)
def test_nothing_is_lost_whatever_is_harmed(
    tmp_path: Path, model: Path, acceptance: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills, freezes, cuts and errors at random: both versions are what a replay says."""
    require(kafka_available(), KAFKA_HINT)
    require(toxiproxy_available(), INSTALL_HINT)
    harms = KILLS or (LONG if acceptance else SHORT)
    with Chaos(tmp_path, model, SEED) as chaos:
        report = chaos.run(harms, 600)
    with capsys.disabled():
        print(f"\n{report.words()}")
    assert report.harms.total() == harms
    assert not report.problems, report.problems[:20]


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
