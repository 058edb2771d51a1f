"""The tests are tried: with a fault put into the product, the checks must find it.

=====================  ==========================================================================
fault                  found by
=====================  ==========================================================================
reshuffle              unit/test_fusion.py; here: committed while the writes are stuck, as
                       test_kills.py checks after every kill
commit before write    here: committed while the writes are stuck (test_kills.py)
commit at poll         here: committed while the writes are stuck (test_kills.py)
no update_filter       a frozen job that wakes up (test_lifecycle.py), unit/test_interleavings.py
no clean-up            any comparison with the replay once documents have shrunk (test_kills.py,
                       test_order.py), unit/test_interleavings.py
=====================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import trials
from tests.support.scenario import Scenario


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("mutation", "found"),
    [
        ("none", False),
        ("reshuffle", True),
        ("commit-before-write", True),
        ("commit-at-poll", True),
    ],
)
def test_commits_before_effects_are_found(
    scenario: Callable[..., Scenario], store: Any, mutation: str, found: bool
) -> None:
    """While no write arrives, an offset that is committed all the same shows."""
    # One batch a bundle: the sink holds two before it waits by itself.
    it = scenario(partitions=2, settings={"ingest": {"bundle_events": 32}})
    problems = trials.stuck_writes(it, store, mutation)
    assert found == bool(problems), problems[:5]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("mutation", "found"), [("none", False), ("no-clean-up", True)])
def test_chunks_left_behind_are_found(
    scenario: Callable[..., Scenario], mutation: str, found: bool
) -> None:
    """Documents that shrink leave chunks where nobody cleans up, and the comparison names them."""
    problems = trials.shrinking_documents(scenario(), mutation)
    assert found == bool(problems), problems[:5]
    assert not found or all("chunk" in problem for problem in problems), problems[:5]


@pytest.mark.timeout(200)
def test_unconditional_writes_are_found(scenario: Callable[..., Scenario], store: Any) -> None:
    """Without conditions a job that wakes up writes old events over new ones.

    With them it does not: `test_a_frozen_job_that_lost_its_lease_does_no_harm`.
    """
    it = scenario(settings={"ingest": {"lease_seconds": 1}})
    problems = trials.zombie_wakes_up(it, store, "no-update-filter")
    assert any("position is" in problem for problem in problems), problems[:5]
