"""Promote, roll back, retire and abort are killed again and again; the next one ends it."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.core import faults
from pipelines.core.control import Control
from pipelines.core.lease import LEASE
from pipelines.core.qdrant import Qdrant
from pipelines.core.rollout import Rollout, RolloutState
from pipelines.core.versions import create_version, list_versions, live_version_name, set_alias
from pipelines.rollout.context import RolloutContext, command_lease
from tests.support.corpora import Document
from tests.support.probing import Watched
from tests.support.recorded_rollout import recorded_rollout
from tests.support.rollout_command import RolloutCommand
from tests.support.switching import two_encoders

SEED = 20_260_802
KILLS, ACCEPTANCE_KILLS = 10, 120
DOCUMENTS = [Document(f"d/{number}", "", f"text number {number}") for number in range(8)]
LONGEST_MS = 1500
"""Within which a kill at a random time strikes; every request takes 10 ms longer meanwhile."""

LEASE_TIMEOUT_SECONDS = 120.0

S = RolloutState
BEFORE = {"promote": S.READY, "rollback": S.SOAKING, "retire": S.SOAKING, "abort": S.READY}
AFTER = {
    "promote": S.SOAKING,
    "rollback": S.ROLLED_BACK,
    "retire": S.COMPLETED,
    "abort": S.ABORTED,
}
POINTS = [
    (command, name)
    for command in BEFORE
    for name in sorted(faults.POINTS)
    if name.startswith(f"rollout.{command}.")
    or (name.startswith("rollout.drop.") and command in ("retire", "abort"))
]


@dataclass
class Life:
    """One index with two versions and a rollout, on a server that processes share."""

    values: dict[str, Any]
    context: RolloutContext
    live: str
    candidate: str
    folder: Path

    @classmethod
    def begin(cls, stack: ExitStack, url: str, folder: Path, state: RolloutState) -> Life:
        index = f"kills-{os.getpid()}-{next(_numbers)}"
        one, two = two_encoders().values()
        watched = stack.enter_context(Watched(url=url, index=index, encoder=one))
        watched.write(DOCUMENTS)
        live = watched.version
        watched.encoder = two
        watched.version = create_version(watched.qdrant, watched.settings, two)
        watched.write(DOCUMENTS, at=1_750_000_000_000)
        context = RolloutContext.open(watched.settings)
        rollout = recorded_rollout(
            context, live, watched.version, contract_settings={"model": "seeded"}
        )
        if state is S.SOAKING:
            set_alias(context.qdrant, index, watched.version.name)
            context.store.move(rollout, S.SOAKING, "test")
        values = {"index": index, "qdrant": {"url": url}}
        return cls(values, context, live.name, watched.version.name, folder)

    @property
    def qdrant(self) -> Qdrant:
        return self.context.qdrant

    @property
    def rollout(self) -> Rollout:
        return self.context.rollout()

    @property
    def alias(self) -> str | None:
        return live_version_name(self.qdrant, self.context.index)

    def run(self, command: str, fault: str = "") -> RolloutCommand:
        log = self.folder / f"{command}-{next(_numbers)}.log"
        return RolloutCommand(command, self.values, self.live, log, fault=fault)

    def collections(self) -> set[str]:
        """All of this index that the server has."""
        found = self.qdrant.call("get_collections").collections
        return {c.name for c in found if c.name.startswith(f"{self.context.index}--")}

    def unbroken(self) -> list[str]:
        """What is wrong at a moment at which a command has just been killed."""
        problems = []
        alias = self.alias
        if alias not in (self.live, self.candidate):
            problems.append(f"the alias names {alias}")
        elif self.qdrant.call("count", alias).count != len(DOCUMENTS):
            problems.append(f"{alias}, which is live, has lost documents")
        listed = {version.name for version in list_versions(self.qdrant, self.context.index)}
        if self.collections() != listed:
            problems.append(f"not listed: {self.collections() - listed}")
        return problems

    def ended(self, command: str, *, idle: bool) -> list[str]:
        """What is wrong after the command was repeated.

        Parameters
        ----------
        idle
            Nothing was left to do for it, so that it needed no lease: the killed one's runs out.
        """
        problems = self.unbroken()
        if idle:
            stop = threading.Event()
            timer = threading.Timer(LEASE_TIMEOUT_SECONDS, stop.set)
            timer.start()
            with command_lease(self.context, wait=True, stop=stop):
                timer.cancel()
        rollout = self.rollout
        if (rollout.state, rollout.intent) != (AFTER[command], None):
            problems.append(f"{rollout.state} with {rollout.intent}, not {AFTER[command]}")
        switched = command in ("promote", "retire")
        if self.alias != (self.candidate if switched else self.live):
            problems.append(f"the alias names {self.alias}")
        gone = {"retire": {self.live}, "abort": {self.candidate}}.get(command, set())
        if self.collections() != {self.live, self.candidate} - gone:
            problems.append(f"collections {self.collections()}")
        if len({move.at for move in rollout.history}) != len(rollout.history):
            problems.append("a move is there twice")
        held = [
            record.name
            for record in Control(self.qdrant).list(LEASE)
            if record.name == f"rollout:{self.context.index}" and record.fields.get("holder")
        ]
        if held:
            problems.append(f"leases {held}")
        return problems


_numbers = itertools.count(1)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _kill_at_random(life: Life, command: str, chance: random.Random, store: Any) -> int:
    store.faults("", method=None, times=None, delay_seconds=0.01)
    process = life.run(command)
    process.ready()
    threading.Event().wait(chance.random() * LONGEST_MS / 1000)
    process.kill()
    store.clear_faults()
    return process.end()


@pytest.mark.acceptance
@pytest.mark.timeout(7200)
def test_a_killed_command_is_finished_by_the_next(
    store: Any, stack: ExitStack, tmp_path: Path, acceptance: bool
) -> None:
    """At every point and at random times: live is never without its documents, nothing is lost."""
    chance = random.Random(SEED)
    kills = ACCEPTANCE_KILLS if acceptance else KILLS
    points = list(POINTS) if acceptance else chance.sample(POINTS, (2 * kills) // 3)
    at_random = ((command, "") for command in itertools.cycle(BEFORE))
    killed = 0
    seen: Counter[str] = Counter()
    for number, (command, name) in enumerate(itertools.chain(points, at_random)):
        if killed == kills:
            break
        life = Life.begin(stack, store.url, tmp_path, BEFORE[command])
        if name:
            process = life.run(command, fault=name)
            status = process.end()
            assert status == -signal.SIGKILL, process.log()[-2000:]
            where = name
        else:
            status = _kill_at_random(life, command, chance, store)
            where = "killed" if status == -signal.SIGKILL else "ended first"
            where = f"{command} at random: {where}, left {life.rollout.state}" + (
                " with an intent" if life.rollout.intent else ""
            )
        seen[where] += 1
        # A command that was quicker than its end was not killed.
        killed += status == -signal.SIGKILL
        problems = life.unbroken()
        assert not problems, f"kill {number} ({command}, {where}): {problems}"
        left = life.rollout
        again = life.run(command)
        status = again.end()
        # What had ended already says so.
        done = left.state is AFTER[command] and left.intent is None
        assert status == (1 if done else 0), f"{command} after {where}: {again.log()[-2000:]}"
        problems = life.ended(command, idle=done)
        assert not problems, f"kill {number} ({command}, {where}): {problems}"
    print(f"\n{killed} kills, each resumed")
    for where, count in sorted(seen.items()):
        print(f"  {count:3} {where}")
