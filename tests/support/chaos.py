"""Chaos: a live job, a rollout's build and their services, harmed at random while events flow.

What holds at the end is compared document by document with a replay of the topic; a seed decides
which harm comes when, though not what it hits.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from pipelines.core.rollout import RolloutState
from tests.support.jobs import IngestProcess
from tests.support.kafka_server import KafkaServer
from tests.support.processes import free_ports, wait_until
from tests.support.qdrant_server import QdrantServer
from tests.support.rollouts import FAST_BUILDS, RolloutScenario
from tests.support.scenario import Scenario, merged, updates
from tests.support.stream import Stream
from tests.support.toxiproxy import Toxiproxy

__all__ = ["Chaos", "Report", "sorted_problems"]

_PROXIED = "PROXIED"
_KINDS: dict[str, tuple[str, ...]] = {
    "lost": ("nothing is stored", "not in the candidate", "there is no index", "no dead letter"),
    "resurrected": ("deleted is False", "stored, and no event", "only in the candidate"),
    "stale": ("position is", "newest event", "is left", "vector differs", "in live"),
    "orphan chunks": ("orphan chunks", "are left", "its head says", "foreign id"),
    "wrongly dead-lettered": ("good, and dead-lettered",),
}


def sorted_problems(problems: list[str]) -> dict[str, int]:
    """How many of each kind, `other` for what has no name here."""
    found = dict.fromkeys([*_KINDS, "other"], 0)
    for problem in problems:
        kind = next(
            (name for name, words in _KINDS.items() if any(word in problem for word in words)),
            "other",
        )
        found[kind] += 1
    return found


@dataclass
class Report:
    """What was done and what it led to."""

    seed: int
    harms: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    events: int = 0
    dead_letters: int = 0
    repeated_dead_letters: int = 0
    embedded: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def words(self) -> str:
        """For people."""
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.harms.items()))
        ends = ", ".join(f"{name} {count} times" for name, count in sorted(self.restarts.items()))
        kinds = ", ".join(f"{name} {n}" for name, n in sorted_problems(self.problems).items())
        return (
            f"seed {self.seed}: {self.harms.total()} kills and other harms in {self.seconds:.0f} s "
            f"({counts}); started: {ends}\n"
            f"events {self.events}, dead letters {self.dead_letters} "
            f"({self.repeated_dead_letters} of them again), documents embedded by processes that "
            f"lived to say so {self.embedded}\n{kinds}"
        )


class Chaos:
    """The world that is harmed; use it as a context manager.

    Parameters
    ----------
    folder
        For logs, settings and the store.
    model
        Of the contract.
    seed
        Of events and harms.
    """

    def __init__(self, folder: Path, model: Path, seed: int, *, documents: int = 400) -> None:
        self.report = Report(seed)
        self._folder = folder
        self._model = model
        self._dice = random.Random(seed)
        self._stream = Stream(seed, documents, sentences=3, unchanged_share=0.3)
        self._stack = ExitStack()
        self._live: IngestProcess | None = None
        self._build: Any = None
        self._built = False
        # Held while the broker is harmed: what the tests' own producer loses is nobody's promise.
        self._producing = threading.Lock()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        kafka_port, store_port = free_ports(2)
        self.kafka = KafkaServer(extra_listeners={_PROXIED: "PLAINTEXT"})
        proxied = int(self.kafka.address(_PROXIED).rpartition(":")[2])
        self.kafka.configs["advertised.listeners"] = (
            f"PLAINTEXT://{self.kafka.bootstrap},{_PROXIED}://127.0.0.1:{kafka_port}"
        )
        stack.enter_context(self.kafka)
        store_folder = self._folder / "store"
        stack.callback(shutil.rmtree, store_folder, ignore_errors=True)
        self.store = stack.enter_context(QdrantServer(store_folder))
        self.network = stack.enter_context(Toxiproxy())
        self.network.proxy("kafka", kafka_port, proxied)
        self.network.proxy("store", store_port, self.store.port)
        settings = merged(
            FAST_BUILDS,
            {
                "kafka": {
                    "bootstrap_servers": f"127.0.0.1:{kafka_port}",
                    "request_timeout_seconds": 5,
                    "outage_timeout_seconds": 120,
                },
                "qdrant": {
                    "url": f"http://127.0.0.1:{store_port}",
                    "timeout_seconds": 5,
                    "outage_timeout_seconds": 120,
                },
                "rollout": {"job_directory": str(self._folder / "jobs")},
            },
        )
        self.it = Scenario(
            self.kafka,
            f"http://127.0.0.1:{store_port}",
            self._folder,
            "chaos",
            model=self._model,
            partitions=3,
            settings=settings,
        )
        self.at = RolloutScenario(self.it, self._folder, chunk={"size": 24, "overlap": 4})
        stack.callback(self.at.close)
        stack.callback(self._end)

    def run(self, harms: int, first_events: int) -> Report:
        """Fills an index, begins a rollout, does so many harms, mends all, and compares."""
        started = time.monotonic()
        self.it.topic.produce(self._stream.take(first_events))
        with self.it.job("--until-caught-up") as job:
            self._count(job.done(180))
        self.at.plan()
        names = sorted(self._harms)
        with updates(self.it, self._stream, size=15, every_seconds=0.4, beside=self._producing):
            for number in range(harms):
                self._keep_running()
                # Each kind once before any comes again.
                if number % len(names) == 0:
                    self._dice.shuffle(names)
                name = names[number % len(names)]
                self._pause(self._dice.uniform(0.3, 3.0))
                self._harms[name](self)
                self.report.harms[name] += 1
        self._settle()
        self.report.events = len(self.it.topic.records)
        self.report.problems = [
            *self.at.problems(),
            *self.it.problems(),
        ]
        self.report.dead_letters = len(self.it.topic.hostile)
        self.report.repeated_dead_letters = self.it.duplicates()
        self.report.seconds = time.monotonic() - started
        return self.report

    # Harms. Each ends by itself, and leaves its service answering.

    def _kill_job(self) -> None:
        assert self._live is not None
        self._live.kill()

    def _freeze_job(self) -> None:
        """Longer than its lease: another may write meanwhile, and it must notice."""
        assert self._live is not None
        self._live.pause()
        if self._dice.random() < 0.5:
            with self.it.job("--standby"):
                self._pause(self._dice.uniform(3.0, 6.0))
                self._live.resume()
                self._pause(1.0)
        else:
            self._pause(self._dice.uniform(0.5, 4.0))
            self._live.resume()

    def _kill_build(self) -> None:
        if self._build is not None:
            self._build.kill()

    def _kill_candidate_job(self) -> None:
        self.at.kill_job()

    def _kill_broker(self) -> None:
        with self._producing:
            self.kafka.kill()
            self._pause(self._dice.uniform(0.0, 2.0))
            self.kafka.start()

    def _freeze_broker(self) -> None:
        with self._producing, _frozen(self.kafka.process):
            self._pause(self._dice.uniform(1.0, 4.0))

    def _kill_store(self) -> None:
        self.store.kill()
        self._pause(self._dice.uniform(0.0, 2.0))
        self.store.start()

    def _freeze_store(self) -> None:
        with _frozen(self.store.process):
            self._pause(self._dice.uniform(1.0, 7.0))

    def _break_store(self) -> None:
        for _ in range(4):
            self.store.faults(
                r"/points",
                skip=self._dice.randrange(12),
                times=self._dice.randrange(1, 4),
                status=self._dice.choice((429, 500, 503)),
                when=self._dice.choice(("before", "after")),
            )
        self._pause(2.0)
        self.store.clear_faults()

    def _lose_answers(self) -> None:
        for _ in range(3):
            self.store.faults(
                r"/points$", skip=self._dice.randrange(12), when="after", drop="close"
            )
        self._pause(2.0)
        self.store.clear_faults()

    def _cut(self) -> None:
        self._network(self.network.cut)

    def _swallow(self) -> None:
        self._network(self.network.swallow)

    def _delay(self) -> None:
        milliseconds = self._dice.randrange(50, 800)
        self._network(lambda name: self.network.delay(name, milliseconds))

    def _network(self, harm: Callable[[str], None]) -> None:
        harm(self._dice.choice(("kafka", "store")))
        self._pause(self._dice.uniform(0.5, 4.0))
        self.network.mend()

    _harms: ClassVar[dict[str, Callable[[Chaos], None]]] = {
        "job killed": _kill_job,
        "job frozen": _freeze_job,
        "build killed": _kill_build,
        "candidate's job killed": _kill_candidate_job,
        "broker killed": _kill_broker,
        "broker frozen": _freeze_broker,
        "store killed": _kill_store,
        "store frozen": _freeze_store,
        "store's errors": _break_store,
        "store's answers lost": _lose_answers,
        "connections cut": _cut,
        "bytes swallowed": _swallow,
        "network slow": _delay,
    }

    def _keep_running(self) -> None:
        """What has ended, by a harm or by itself, is started again, as a supervisor would."""
        if self._live is None or not self._live.running:
            if self._live is not None:
                for finished in self._live.events("job_finished"):
                    self._count(finished)
            self._live = self.it.job("--standby")
            self.report.restarts["job"] += 1
        if self._build is not None and not self._build.running:
            self._built = self._build.returncode == 0
        if self._build is None or (not self._build.running and not self._built):
            self._build = self.at.build()
            self.report.restarts["build"] += 1

    def _settle(self) -> None:
        """Everything is mended, and what runs comes to its end."""
        self.network.mend()
        self.store.clear_faults()
        self._keep_running()
        assert self._live is not None
        # A build that ended well is run once more: it starts the candidate's job where it is gone.
        wait_until(lambda: not self._build.running, 240, what="the build has ended")
        if self._build.returncode != 0 or not self.at.candidate_caught_up():
            again = ["--again"] if self.at.rollout.state is RolloutState.VERIFYING else []
            self._build = self.at.build(*again)
            self.report.restarts["build"] += 1
            wait_until(lambda: not self._build.running, 240, what="the build has ended")
        assert self._build.returncode == 0, self._build.log_tail()
        wait_until(self.at.candidate_caught_up, 120, what="the candidate's job has caught up")
        if not self._live.running:
            self._keep_running()
        self.it.wait_caught_up(self._live, 180)
        self._live.terminate()
        self._count(self._live.done(60))

    def _count(self, finished: dict[str, Any]) -> None:
        self.report.embedded += int(finished.get("embedded", 0))

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() >= until, seconds + 5, interval_seconds=0.02)

    def _end(self) -> None:
        for process in (self._live, self._build):
            if process is not None:
                process.kill()


@contextmanager
def _frozen(process: Any) -> Iterator[None]:
    process.pause()
    try:
        yield
    finally:
        process.resume()
