"""Chaos: a live job, a rollout's build and their services, harmed at random while events flow.

What holds at the end is compared document by document with a replay of the topic; a seed decides
which harm comes when, though not what it hits.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from pipelines.core.control import Control
from pipelines.core.lease import LEASE, ingest_lease
from pipelines.core.rollout import RolloutState
from tests.support.chaos_report import (
    CANDIDATE_CLOCK,
    CLOCKS_SET,
    DISK_FULL,
    LIVE_CLOCK,
    REFUSED,
    Report,
)
from tests.support.child import CHILD_ENVIRONMENT
from tests.support.encodings import Encodings
from tests.support.faketime import INSTALL_HINT as FAKETIME_HINT
from tests.support.faketime import FakeClock, faketime_available
from tests.support.jobs import IngestProcess
from tests.support.kafka_server import KafkaServer
from tests.support.processes import free_ports, wait_until
from tests.support.qdrant_server import QdrantServer
from tests.support.rollouts import FAST_BUILDS, RolloutScenario
from tests.support.scenario import Scenario, merged, updates
from tests.support.small_disk import SmallDisk, why_no_small_disk
from tests.support.stream import Stream
from tests.support.toxiproxy import Toxiproxy

__all__ = ["Chaos"]

_PROXIED = "PROXIED"
_DISK_MEGABYTES = 128
"""For the store and the candidate's job: some times what two hundred harms leave there."""

_JUMPS_SECONDS = (-86_400, -7200, -60, 60, 7200, 86_400)
_NO_SPACE = "database or disk is full", "No space left on device"
"""What the stand-in's log says when it refuses a write, of a point and of anything else."""


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
        self._encodings = Encodings(folder / "encodings.jsonl")
        self._environment: Mapping[str, str] = {
            **CHILD_ENVIRONMENT,
            **self._encodings.environment,
        }
        self._clock: FakeClock | None = None
        self._live_has_clock = False
        if faketime_available():
            self._clock = FakeClock(folder / "clock")
        else:
            self.report.left_out[CLOCKS_SET] = FAKETIME_HINT
        self._disk: SmallDisk | None = None
        if reason := why_no_small_disk(folder):
            self.report.left_out[DISK_FULL] = reason
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
        disk = self._folder / "disk"
        if DISK_FULL not in self.report.left_out:
            self._disk = stack.enter_context(SmallDisk(disk, megabytes=_DISK_MEGABYTES))
        store_folder = disk / "store"
        stack.callback(shutil.rmtree, store_folder, ignore_errors=True)
        self.store = stack.enter_context(QdrantServer(store_folder))
        self.network = stack.enter_context(Toxiproxy())
        self.network.proxy("kafka", kafka_port, proxied)
        self.network.proxy("store", store_port, self.store.port)
        services = {
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
            "rollout": {"job_directory": str(disk / "jobs")},
        }
        self.it = Scenario(
            self.kafka,
            f"http://127.0.0.1:{store_port}",
            self._folder,
            "chaos",
            model=self._model,
            partitions=3,
            settings=merged(merged(FAST_BUILDS, services), self._runner_settings()),
        )
        self.at = RolloutScenario(self.it, self._folder, chunk={"size": 24, "overlap": 4})
        stack.callback(FakeClock.sweep)
        stack.callback(self.at.close)
        stack.callback(self._end)

    def run(self, harms: int, first_events: int) -> None:
        """Fills an index, begins a rollout, does so many harms, mends all, compares, reports."""
        started = time.monotonic()
        self.it.topic.produce(self._stream.take(first_events))
        with self._job("--until-caught-up") as job:
            job.done(180)
        self.at.plan()
        names = [name for name in self._harms if name not in self.report.left_out]
        with updates(self.it, self._stream, size=15, every_seconds=0.4, beside=self._producing):
            for number in range(harms):
                self._keep_running()
                if number % len(names) == 0:
                    names = self._order(names)
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
        encodings = self._encodings.counts()
        self.report.encoded = encodings.total()
        self.report.duplicates = encodings.total() - len(encodings)
        self.report.seconds = time.monotonic() - started

    def _order(self, names: list[str]) -> list[str]:
        """Each kind once, before any comes again."""
        self._dice.shuffle(names)
        return names

    # Harms. Each ends by itself, and leaves its service answering.

    def _kill_job(self) -> None:
        assert self._live is not None
        self._live.kill()

    def _freeze_job(self) -> None:
        """Longer than its lease: another may write meanwhile, and it must notice."""
        assert self._live is not None
        self._live.pause()
        if self._dice.random() < 0.5:
            with self._job("--standby"):
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

    def _fill_disk(self) -> None:
        """The store's, which is also where the candidate's job writes its log."""
        assert self._disk is not None
        with self._disk.full():
            before = self._refused()
            # Events come all the time; only a job that has just ended does not write them.
            wait_until(lambda: self._refused() > before or not self._live_runs(), 60)
            self._pause(self._dice.uniform(0.5, 5.0))
            self.report.seen[REFUSED] += self._refused() - before

    def _refused(self) -> int:
        log = self.store.process.log()
        return sum(log.count(words) for words in _NO_SPACE)

    def _set_clocks(self) -> None:
        """Of the live job and the candidate's, ahead or behind by up to a day, and right again."""
        assert self._clock is not None
        assert self._live is not None
        if not self._live_has_clock:
            self._live.kill()
            self._start_live(clock=self._clock)
        for _ in range(2):
            self._set_clock(self._clock, self._dice.choice(_JUMPS_SECONDS))
        self._clock.set(0)

    def _set_clock(self, clock: FakeClock, ahead_seconds: int) -> None:
        clock.set(ahead_seconds)
        # No version is written without a lease, and whoever holds it says the time every second.
        wait_until(
            lambda: self._runs_ahead(ahead_seconds, self.at.live.name),
            90,
            what=f"live's lease is beaten {ahead_seconds} s ahead",
        )
        self.report.seen[LIVE_CLOCK] += 1
        self._pause(self._dice.uniform(0.5, 3.0))
        if self._runs_ahead(ahead_seconds, self.at.candidate.name):
            self.report.seen[CANDIDATE_CLOCK] += 1

    def _runs_ahead(self, seconds: int, version: str) -> bool:
        """Whether the clock of who holds a version's lease is as wrong as that."""
        lease = Control(self.it.qdrant).read(LEASE, ingest_lease(version))
        if lease is None or not lease.fields.get("holder"):
            return False
        beat_at = datetime.fromisoformat(lease.fields["beat_at"])
        return abs((beat_at - datetime.now(UTC)).total_seconds() - seconds) < 20

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
        DISK_FULL: _fill_disk,
        CLOCKS_SET: _set_clocks,
    }

    # What runs beside the harms.

    def _keep_running(self) -> None:
        """What has ended, by a harm or by itself, is started again, as a supervisor would."""
        if not self._live_runs():
            self._start_live()
        if self._build is not None and not self._build.running:
            self._built = self._build.returncode == 0
        if self._build is None or (not self._build.running and not self._built):
            self._build = self._start_build()

    def _settle(self) -> None:
        """Everything is mended, and what runs comes to its end."""
        self.network.mend()
        self.store.clear_faults()
        self._keep_running()
        # A build that ended well is run once more: it starts the candidate's job where it is gone.
        wait_until(lambda: not self._build.running, 240, what="the build has ended")
        if self._build.returncode != 0 or not self.at.candidate_caught_up():
            again = ["--again"] if self.at.rollout.state is RolloutState.VERIFYING else []
            self._build = self._start_build(*again)
            wait_until(lambda: not self._build.running, 240, what="the build has ended")
        assert self._build.returncode == 0, self._build.log_tail()
        wait_until(self.at.candidate_caught_up, 120, what="the candidate's job has caught up")
        if not self._live_runs():
            self._start_live()
        self._end_live()

    def _runner_settings(self) -> Mapping[str, Any]:
        """Of the runner of live's job, beside what all have."""
        return {}

    def _live_runs(self) -> bool:
        return self._live is not None and self._live.running

    def _start_live(self, clock: FakeClock | None = None) -> None:
        FakeClock.sweep()
        self._live = self._job("--standby", clock=clock)
        self._live_has_clock = clock is not None
        self.report.restarts["job"] += 1

    def _end_live(self) -> None:
        """In order, once it has caught up."""
        assert self._live is not None
        self.it.wait_caught_up(self._live, 180)
        self._live.terminate()
        self._live.done(60)

    def _job(self, *arguments: str, clock: FakeClock | None = None) -> IngestProcess:
        environment = {**self._environment, **(clock.environment if clock else {})}
        return self.it.job(*arguments, fresh=clock is not None, environment=environment)

    def _start_build(self, *arguments: str) -> Any:
        """The candidate's job, which it starts, is under the clock; the build itself is not."""
        FakeClock.sweep()
        self.report.restarts["build"] += 1
        clock = self._clock.environment if self._clock else {}
        return self.at.build(*arguments, environment={**self._environment, **clock})

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
