"""Situations in which a job that keeps its promises does no harm, and any other shows it."""

from __future__ import annotations

import time
from typing import Any

from tests.support.processes import wait_until
from tests.support.scenario import Scenario
from tests.support.stream import Stream

__all__ = ["shrinking_documents", "stuck_writes", "zombie_wakes_up"]

SEED = 20_260_318
_WATCH_SECONDS = 4.0
"""How long a stuck job is watched: some eight bundles of `Scenario`'s settings."""


def stuck_writes(it: Scenario, store: Any, mutation: str = "none") -> list[str]:
    """What a job commits while none of its writes arrives: nothing, or it is named here."""
    it.topic.produce(Stream(SEED, 60, sentences=3).take(300))
    store.faults(
        f"/collections/{it.settings.index}--.*/points$",
        method="PUT",
        times=None,
        delay_seconds=5,
        drop="close",
    )
    with it.job(mutation=mutation) as job:
        job._process.wait_ready(
            lambda: store.fault_hits()[0] > 0 or it.committed(),
            90,
            what="a write is held up, or something is committed all the same",
        )
        deadline = time.monotonic() + _WATCH_SECONDS

        def found() -> bool:
            job.require_running()
            return bool(it.durability_problems()) or time.monotonic() > deadline

        wait_until(found, 2 * _WATCH_SECONDS + 10)
        problems = it.durability_problems()
    store.clear_faults()
    return problems


def shrinking_documents(it: Scenario, mutation: str = "none") -> list[str]:
    """How the index differs from the replay after documents have grown and shrunk in chunks."""
    it.topic.produce(Stream(SEED + 1, 30, sentences=5, unchanged_share=0).take(200))
    with it.job("--until-caught-up", mutation=mutation) as job:
        job.wait(120)
    return it.problems()


def zombie_wakes_up(it: Scenario, store: Any, mutation: str = "none") -> list[str]:
    """A job is frozen in front of a write, another takes over and is done, the first goes on.

    Of the events that the zombie holds, each document has newer ones by then: they have other
    texts, and fewer chunks or none.
    """
    events = Stream(SEED + 2, 20, sentences=6, hostile_share=0, unchanged_share=0)
    it.topic.produce(events.take(20))
    path = f"/collections/{it.settings.index}--.*/points$"
    with it.job(mutation=mutation) as zombie:
        it.wait_caught_up(zombie)
        # The next write does not arrive, and is repeated after the waking.
        store.faults(path, method="PUT", delay_seconds=3, drop="close")
        it.topic.produce(events.take(30))
        zombie._process.wait_ready(lambda: store.fault_hits() == [1], 60, what="a write is held")
        zombie.pause()
        newer = Stream(SEED + 3, 20, sentences=1, hostile_share=0, unchanged_share=0)
        it.topic.produce(newer.take(200))
        with it.job("--standby", "--until-caught-up", mutation=mutation) as heir:
            heir.done(120)
        store.clear_faults()
        zombie.resume()
        status = zombie.wait(60)
        assert status != 0, zombie.log()[-2000:]
    # Its last commit may have been on the way: at worst, events are read again.
    with it.job("--until-caught-up", mutation=mutation) as job:
        job.done(120)
    return it.problems()
