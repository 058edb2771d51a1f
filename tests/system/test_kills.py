"""The ingest job is killed again and again, and the index ends up as if it had not been."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.jobs import IngestProcess
from tests.support.processes import wait_until
from tests.support.scenario import PACKAGED_MODEL, Scenario
from tests.support.stream import Stream

SEED = 20_260_314

# Requests of one multi-chunk write, in its order: chunks and head, their read-back, the look for
# older chunks and their deletion.
UPSERT = ("PUT", r"/points$")
READ = ("POST", r"/points$")
LOOK = ("POST", r"/points/scroll$")
DELETE = ("POST", r"/points/delete$")


@dataclass(frozen=True)
class Kill:
    """When to kill: after a time, after so many writes, or at a request that a fault holds up."""

    kind: str
    moment: float = 0.0
    writes: int = 0
    fault: tuple[str, str] | None = None
    skip: int = 0
    how: str = ""


def plan(seed: int, count: int) -> list[Kill]:
    """`count` kills; half of them between the operations of one write."""
    rng = random.Random(seed)
    kills = []
    for number in range(count):
        if number % 2:
            fault = [UPSERT, DELETE, UPSERT, READ, UPSERT, LOOK][number // 2 % 6]
            how = ["never applied", "applied, answer lost", "applied late"][number // 2 % 3]
            # Deletions are few: only documents that have shrunk need one.
            skip = rng.randrange(1, 3) if fault is DELETE else rng.randrange(1, 40)
            kills.append(Kill("between", fault=fault, skip=skip, how=how))
        elif number % 8 == 4:
            kills.append(Kill("start-up", moment=rng.uniform(0.5, 8.0)))
        else:
            kills.append(Kill("writing", writes=rng.randrange(1, 60)))
    return kills


def kill(scenario: Scenario, store: Any, job: IngestProcess, when: Kill) -> None:
    """Carries out one kill; fails when its moment does not come."""
    if when.kind == "start-up":
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started >= when.moment, 60, interval_seconds=0.01)
    elif when.kind == "writing":
        job._process.wait_ready(
            lambda: _writes(store, scenario) >= when.writes, 120, what=f"{when.writes} writes"
        )
    else:
        job._process.wait_ready(
            lambda: store.fault_hits() == [1], 120, what=f"a request for {when} is held up"
        )
    job.kill()


def arm(scenario: Scenario, store: Any, when: Kill) -> None:
    """Puts the fault of an aimed kill in force."""
    store.clear_faults()
    if when.fault is None:
        return
    method, path = when.fault
    effect: dict[str, Any] = {
        "never applied": {"delay_seconds": 20, "drop": "close"},
        "applied, answer lost": {"when": "after", "drop": "close"},
        "applied late": {"delay_seconds": 1.0},
    }[when.how]
    # Only this index's own collection, or everything of the index before it has one.
    store.faults(
        f"/collections/{scenario.settings.index}--.*{path}", method=method, skip=when.skip, **effect
    )


def _writes(store: Any, scenario: Scenario) -> int:
    prefix = f"PUT /collections/{scenario.settings.index}--"
    return sum(
        count
        for request, count in store.requests().items()
        if request.startswith(prefix) and request.endswith("/points")
    )


@pytest.mark.acceptance
@pytest.mark.timeout(2400)
def test_killed_again_and_again(
    scenario: Callable[..., Scenario], store: Any, acceptance: bool
) -> None:
    """After SIGKILLs at any moment nothing is lost, mixed up, or left behind."""
    events, kills, documents = (24_000, 24, 2500) if acceptance else (6_000, 9, 700)
    it = scenario(partitions=4, **({"model": PACKAGED_MODEL} if acceptance else {}))
    stream = Stream(SEED, documents, sentences=3, unchanged_share=0.35)
    planned = plan(SEED, kills)
    share = events // (kills + 1)
    seen: Counter[str] = Counter()
    for number, when in enumerate(planned):
        it.topic.produce(stream.take(share))
        arm(it, store, when)
        with it.job(fresh=acceptance) as job:
            kill(it, store, job, when)
        seen[when.kind] += 1
        problems = it.durability_problems()
        assert not problems, f"after kill {number} ({when}): {problems[:10]}"
    it.topic.produce(stream.take(events - len(it.topic.records)))
    store.clear_faults()
    with it.job("--until-caught-up") as job:
        finished = job.done(600)
    assert len(it.topic.records) == events
    assert seen["between"] >= min(kills // 2, 6) if acceptance else seen["between"] >= 4
    problems = it.problems()
    assert not problems, problems[:20]
    print(
        f"\n{events} events over {documents} ids, {sum(seen.values())} kills {dict(seen)}; "
        f"last run consumed {finished['consumed']}; {len(it.topic.hostile)} dead letters, "
        f"{it.duplicates()} of them again"
    )
