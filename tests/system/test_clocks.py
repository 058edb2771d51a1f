"""A job whose wall clock is set under its feet does what it did before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import require
from tests.support.child import CHILD_ENVIRONMENT
from tests.support.faketime import INSTALL_HINT, FakeClock, faketime_available
from tests.support.scenario import Scenario
from tests.support.stream import Stream

SEED = 20_261_127


@pytest.mark.timeout(300)
def test_a_clock_that_is_set_loses_nothing(scenario: Callable[..., Scenario]) -> None:
    """A day ahead and a day behind: index, offsets and dead letters are a replay's.

    A broker refuses stamps that are more than an hour ahead, those of dead letters among them.
    """
    require(faketime_available(), INSTALL_HINT)
    it = scenario()
    clock = FakeClock(it.config.with_suffix(".clock"))
    stream = Stream(SEED, 60, sentences=2, unchanged_share=0.3)
    environment = {**clock.environment, **CHILD_ENVIRONMENT}
    clock.set(86_400)
    with it.job(fresh=True, environment=environment) as job:
        for ahead_seconds in (86_400, -86_400):
            clock.set(ahead_seconds)
            it.topic.produce(stream.take(120))
            it.wait_caught_up(job)
        job.terminate()
        job.done(60)
    clock.sweep()
    assert it.topic.hostile
    problems = it.problems()
    assert not problems, problems[:10]
