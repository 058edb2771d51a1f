"""A candidate is built beside a live version that changes, and killed; it ends up the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.rollout import RolloutState
from tests.support.processes import wait_until
from tests.support.rollouts import FAST_BUILDS, RolloutScenario, answer
from tests.support.scenario import Scenario, updates
from tests.support.stream import Stream

SEED = 20_261_128


def settle(it: Scenario, at: RolloutScenario, job: Any) -> None:
    """Waits until both jobs have written everything that was produced."""
    it.wait_caught_up(job)
    wait_until(at.candidate_caught_up, 120, what="the candidate's job has caught up")


@pytest.fixture
def start(scenario: Callable[..., Scenario], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes a scenario with a filled live version and a planned rollout."""
    with ExitStack() as stack:

        def make(events: int, documents: int, **more: Any) -> tuple[Any, Stream, RolloutScenario]:
            settings = {**FAST_BUILDS, "rollout": {**FAST_BUILDS["rollout"]}}
            settings["rollout"]["job_directory"] = str(tmp_path / "jobs")
            it = scenario(partitions=3, settings=settings, **more)
            stream = Stream(SEED, documents, sentences=3)
            it.topic.produce(stream.take(events))
            with it.job("--until-caught-up") as job:
                job.done()
            at = RolloutScenario(it, tmp_path, chunk={"size": 24, "overlap": 4})
            stack.callback(at.close)
            at.plan()
            return it, stream, at

        yield make


def test_a_build_beside_a_live_stream(start: Callable[..., Any]) -> None:
    """Updates, metadata, deletes and re-creations during the backfill end as in live."""
    it, stream, at = start(800, 250)
    with it.job() as live:
        with updates(it, stream, most=1200):
            build = at.build()
            build_status = _wait(build)
        assert build_status == 0, build.log_tail()
        report = answer(build)
        assert report["state"] == "verifying"
        settle(it, at, live)
    problems = at.problems()
    assert not problems, problems[:20]
    assert it.index_problems() == []
    counts = report["backfill"]
    assert counts["documents"] == sum(
        counts[name] for name in ("embedded", "tombstones", "unchanged", "stale", "refused")
    )
    print(f"\n{counts}; settled {report['settled']}")


def _wait(build: Any, timeout_seconds: float = 240.0) -> int:
    wait_until(lambda: not build.running, timeout_seconds, what="the build has ended")
    return int(build.returncode)


@pytest.mark.acceptance
@pytest.mark.timeout(2400)
def test_killed_again_and_again(start: Callable[..., Any], acceptance: bool) -> None:
    """SIGKILL of the build and of both jobs at random moments: it resumes, and ends the same."""
    events, documents, kills = (6000, 1500, 20) if acceptance else (2000, 600, 6)
    it, stream, at = start(events, documents)
    chance = random.Random(SEED)
    done_before = 0
    with ExitStack() as stack:
        live = stack.enter_context(it.job())
        with updates(it, stream, most=6 * events):
            for number in range(kills):
                build = at.build()
                _sleep_until(build, chance.uniform(0.5, 8.0))
                if number % 3 == 1:
                    live.kill()
                    live = stack.enter_context(it.job())
                if number % 3 == 2 or chance.random() < 0.5:
                    at.kill_job()
                build.kill()
                assert at.rollout.state in (
                    RolloutState.PLANNED,
                    RolloutState.BUILDING,
                    RolloutState.VERIFYING,
                ), at.rollout.history
                ranges = _ranges_done(at)
                assert ranges >= done_before
                done_before = ranges
            build = at.build()
            assert _wait(build, 600) == 0, build.log_tail()
        report = answer(build)
        settle(it, at, live)
    problems = at.problems()
    assert not problems, problems[:20]
    assert it.index_problems() == []
    print(f"\n{kills} kills, {done_before} ranges done before the last build; {report}")


def _sleep_until(build: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until or not build.running, 60, interval_seconds=0.01)


def _ranges_done(at: RolloutScenario) -> int:
    from pipelines.core.control import Control

    prefix = f"{at.rollout.rollout_id}/"
    records = Control(at.it.qdrant).list("backfill")
    return sum(record.name.startswith(prefix) for record in records)
