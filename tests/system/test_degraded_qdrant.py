"""A Qdrant that is read-only, full, or not what it was: the job waits or says what to do.

The stand-in answers with the words of Qdrant 1.18.3. On a real server, whose disk a test fills:
see `tests.support.qdrant_degraded.degraded_qdrant`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from pipelines.core.control import CONTROL_COLLECTION
from pipelines.core.errors import ExitCode, RolloutConflictError
from pipelines.core.points import DENSE
from pipelines.core.settings import QdrantSettings
from pipelines.core.versions import (
    create_version,
    live_version_name,
    open_version,
    set_alias,
    version_name,
)
from pipelines.rollout.alias import point_alias, show_alias
from pipelines.rollout.context import RolloutContext
from pipelines.rollout.retire import abort
from pipelines.rollout.switch import promote
from tests.support.kafka_server import KafkaServer
from tests.support.monitor_process import MonitorProcess
from tests.support.probing import Seeded
from tests.support.processes import free_port, wait_until
from tests.support.qdrant_degraded import NO_SPACE, DegradedQdrant, degraded_qdrant
from tests.support.recorded_rollout import recorded_rollout
from tests.support.scenario import Scenario, merged
from tests.support.scraping import samples
from tests.support.stream import Stream

SEED = 20_261_204

_numbers = count(1)


@dataclass
class Case:
    """An index in a store that can be degraded, with a key of its own in a file."""

    it: Scenario
    store: DegradedQdrant
    folder: Path
    events: Stream
    port: int
    key: str = ""

    def give(self, key: str) -> None:
        """Puts a key into the file that job and monitor read, and lets it do everything."""
        self.key = key
        self.store.allow(key)
        self.key_file.write_text(f"{key}\n")

    @property
    def key_file(self) -> Path:
        """What `qdrant.api_key_file` names."""
        return self.folder / "key"

    def job_value(self, name: str, **labels: str) -> float:
        """What the job counts under a name; 0 before the first time."""
        return sum(samples(f"127.0.0.1:{self.port}", name, **labels))

    def finish(self) -> None:
        """Mends everything, works off what is left, and compares index, letters and offsets."""
        self.store.mend()
        self.it._version = None
        with self.it.job("--until-caught-up") as job:
            job.done()
        problems = self.it.problems()
        assert not problems, problems[:10]

    def check_nothing_lost(self) -> None:
        """What is committed is durable, and no good event is a dead letter."""
        assert not self.it.durability_problems()
        self.check_no_good_letter()

    def check_no_good_letter(self) -> None:
        """No good event is a dead letter."""
        assert not [one for one in self.it.dead_letter_problems() if one.startswith("good")]

    def check_silence(self) -> None:
        """No log holds a key."""
        logs = [path.read_text("utf-8", "replace") for path in self.folder.glob("*.log")]
        assert logs
        assert not [key for key in self.store.secrets if any(key in log for log in logs)]


def made(
    store: DegradedQdrant, kafka: KafkaServer, folder: Path, model: Path, **qdrant: Any
) -> Case:
    name = f"degraded-{os.getpid()}-{next(_numbers)}"
    port = free_port()
    settings = {
        "qdrant": {"api_key_file": str(folder / "key"), **qdrant},
        "metrics": {"port": port},
    }
    it = Scenario(kafka, store.url, folder, name, model=model, partitions=2, settings=settings)
    # The test looks from behind, whatever the job may do.
    behind = QdrantSettings(url=store.upstream, api_key=store.full)
    it.settings = it.settings.model_copy(update={"qdrant": behind})
    case = Case(it, store, folder, Stream(SEED, 60, sentences=3, unchanged_share=0.35), port)
    case.give(f"key-of-{name}")
    return case


@pytest.fixture(scope="module")
def store() -> Iterator[DegradedQdrant]:
    """One server for the file: each test has an index and a key of its own, and mends it."""
    with degraded_qdrant() as server:
        yield server


@pytest.fixture
def case(
    store: DegradedQdrant, kafka_server: KafkaServer, tmp_path: Path, model: Path
) -> Iterator[Callable[..., Case]]:
    """Makes cases with further settings of `qdrant`; checks that none has shown a key."""
    cases = []

    def make(**qdrant: Any) -> Case:
        cases.append(made(store, kafka_server, tmp_path, model, **qdrant))
        return cases[-1]

    yield make
    store.mend()
    for one in cases:
        one.check_silence()


def said(log: str, label: str) -> str:
    """The message that the job ended with."""
    (message,) = [line for line in log.splitlines() if line.startswith(f"{label}: ")]
    return message


def missing(message: str, *words: str) -> list[str]:
    return [word for word in words if word not in message]


@pytest.mark.timeout(240)
def test_a_full_disk_is_waited_for(case: Callable[..., Case]) -> None:
    """Writes are repeated, the job's metrics show it, and with room it goes on by itself."""
    full = case()
    it = full.it
    it.topic.produce(full.events.take(200))
    with it.job() as job:
        it.wait_committed(job, 50)
        before = full.job_value("plumbline_retries_total", service="qdrant")
        full.store.fill_disk()
        it.topic.produce(full.events.take(100))
        job._process.wait_ready(lambda: NO_SPACE in job.log(), 60, what="a write was refused")
        assert full.job_value("plumbline_retries_total", service="qdrant") > before
        full.check_nothing_lost()
        assert not it.caught_up()
        full.store.mend()
        it.wait_caught_up(job)
        job.terminate()
        job.done(60)
    problems = it.problems()
    assert not problems, problems[:10]


@pytest.mark.timeout(240)
def test_a_disk_that_stays_full_ends_the_job(case: Callable[..., Case]) -> None:
    """After `outage_timeout_seconds`, with 3 and the server's words; the next one completes it."""
    full = case(outage_timeout_seconds=2)
    it = full.it
    it.topic.produce(full.events.take(200))
    with it.job() as job:
        it.wait_committed(job, 50)
        full.store.fill_disk()
        it.topic.produce(full.events.take(100))
        assert job.wait(90) == ExitCode.UNAVAILABLE, job.log()[-3000:]
        message = said(job.log(), "out of reach")
    assert not missing(message, NO_SPACE, "for 2 s"), message
    full.check_nothing_lost()
    full.finish()


@pytest.mark.timeout(240)
def test_a_key_that_only_reads_any_longer_ends_the_job(case: Callable[..., Case]) -> None:
    """At the next write, with 3 and what the key must be allowed; nothing is lost or poisoned."""
    barred = case()
    it = barred.it
    it.topic.produce(barred.events.take(200))
    with it.job() as job:
        it.wait_committed(job, 50)
        barred.store.make_read_only(barred.key)
        it.topic.produce(barred.events.take(100))
        assert job.wait(90) == ExitCode.UNAVAILABLE, job.log()[-3000:]
        message = said(job.log(), "out of reach")
    assert not missing(message, "403", "is required", "need one that writes"), message
    barred.check_nothing_lost()
    barred.store.allow(barred.key)
    barred.finish()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_a_revoked_key_ends_the_job(case: Callable[..., Case], busy: bool) -> None:
    """With 3 and where the key is set; one that is idle ends once its lease cannot be renewed."""
    revoked = case(outage_timeout_seconds=60 if busy else 2)
    it = revoked.it
    it.topic.produce(revoked.events.take(100))
    with it.job() as job:
        it.wait_caught_up(job)
        revoked.store.revoke(revoked.key)
        if busy:
            it.topic.produce(revoked.events.take(50))
        assert job.wait(90) == ExitCode.UNAVAILABLE, job.log()[-3000:]
        message = said(job.log(), "out of reach")
    assert not missing(message, "401", "PLUMBLINE_QDRANT__API_KEY", "api_key_file"), message
    assert ("could not be renewed" in message) is not busy
    revoked.check_nothing_lost()
    if busy:
        revoked.give(f"{revoked.key}-again")
        revoked.finish()


@pytest.mark.timeout(240)
def test_a_key_is_replaced_under_the_job(case: Callable[..., Case]) -> None:
    """Where the file holds another key by the time the old one is refused, the job goes on."""
    replaced = case()
    it = replaced.it
    it.topic.produce(replaced.events.take(200))
    with it.job() as job:
        it.wait_committed(job, 50)
        old = replaced.key
        replaced.give(f"{old}-new")
        replaced.store.revoke(old)
        it.topic.produce(replaced.events.take(100))
        it.wait_caught_up(job)
        job.terminate()
        job.done(60)
        assert len(job.events("qdrant_key_renewed")) == 1
    problems = it.problems()
    assert not problems, problems[:10]


@pytest.mark.timeout(240)
def test_a_limit_of_the_collection_is_no_dead_letter(case: Callable[..., Case]) -> None:
    """Qdrant's strict mode refuses every write as not valid: the one document is not to blame."""
    limited = case()
    it = limited.it
    it.topic.produce(limited.events.take(100))
    with it.job() as job:
        it.wait_caught_up(job)
        before = it.committed()
        limited.store.refuse_writes(
            f"{it.settings.index}--.*", "Bad request: Max points count limit of 3 reached!"
        )
        # Alone in its batch: nothing else tells a bad document from a store that refuses all.
        it.topic.produce(Stream(SEED + 1, 1, hostile_share=0).take(1))
        assert job.wait(90) == ExitCode.NO, job.log()[-3000:]
        message = said(job.log(), "error")
    assert not missing(message, "limit of 3 reached", "strict_mode_config", "start the job")
    assert it.committed() == before
    limited.check_nothing_lost()
    limited.finish()


@pytest.mark.timeout(240)
def test_a_dropped_collection_ends_the_job(case: Callable[..., Case]) -> None:
    """It says so; started again, it makes the version anew and fills it from the topic."""
    dropped = case()
    it = dropped.it
    it.topic.produce(dropped.events.take(100))
    with it.job() as job:
        it.wait_caught_up(job)
        version, before = it.version, it.committed()
        assert version is not None
        job.pause()
        it.qdrant.call("delete_collection", version.name)
        it.topic.produce(dropped.events.take(60))
        job.resume()
        assert job.wait(90) == ExitCode.NO, job.log()[-3000:]
        message = said(job.log(), "error")
    assert not missing(message, version.name, "is gone", "snapshot", "`--create`"), message
    assert it.committed() == before
    dropped.check_no_good_letter()
    dropped.finish()
    assert it.version is not None
    assert it.version.incarnation != version.incarnation
    assert live_version_name(it.qdrant, it.settings.index) == it.version.name


@pytest.mark.timeout(240)
def test_a_dropped_control_collection_ends_the_job(case: Callable[..., Case]) -> None:
    """It says what was in there and what to do; the next job makes it anew, and nothing is lost."""
    bare = case()
    it = bare.it
    it.topic.produce(bare.events.take(100))
    with it.job() as job:
        it.wait_caught_up(job)
        it.topic.produce(bare.events.take(60))
        it.qdrant.call("delete_collection", CONTROL_COLLECTION)
        assert job.wait(90) == ExitCode.NO, job.log()[-3000:]
        message = said(job.log(), "error")
    assert not missing(message, CONTROL_COLLECTION, "is gone", "Restore its snapshot"), message
    assert not missing(message, "leases", "rollout", "purged", "no documents"), message
    bare.check_nothing_lost()
    bare.finish()
    assert it.qdrant.call("collection_exists", CONTROL_COLLECTION)


def vector_of(size: int) -> models.VectorParams:
    return models.VectorParams(size=size, distance=models.Distance.COSINE)


ANEW: dict[str, Callable[[int], Any]] = {
    "other-dimension": lambda size: {DENSE: vector_of(size + 1)},
    "without-a-contract": lambda size: {DENSE: vector_of(size)},
    "without-a-name": vector_of,
}
"""Vectors of a collection that somebody makes by hand, by the size of ours."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ANEW)
def test_a_collection_made_anew_under_the_job(case: Callable[..., Case], how: str) -> None:
    """Whatever its shape, also one that takes every write: the job stops, nothing is committed."""
    anew = case()
    it = anew.it
    it.topic.produce(anew.events.take(100))
    with it.job() as job:
        it.wait_caught_up(job)
        version, before = it.version, it.committed()
        assert version is not None
        name, vectors = version.name, ANEW[how](version.contract.dimension)
        job.pause()
        it.qdrant.call("delete_collection", name)
        it.qdrant.call("create_collection", name, vectors_config=vectors)
        it.topic.produce(anew.events.take(60))
        job.resume()
        assert job.wait(90) == ExitCode.NO, job.log()[-3000:]
        message = said(job.log(), "error")
    assert not missing(message, name, "made", "anew", "hand", "Nothing was committed"), message
    if how == "other-dimension":
        assert f"dimension {version.contract.dimension}" in message
        assert f"dimension {version.contract.dimension + 1}" in message
    assert it.committed() == before
    anew.check_no_good_letter()
    if how == "without-a-contract":
        with it.job() as job:
            assert job.wait(60) == ExitCode.NO
            assert "was not written by Plumbline" in said(job.log(), "error")
        it.qdrant.call("delete_collection", name)
        anew.finish()


@pytest.mark.timeout(240)
def test_a_foreign_collection_under_our_name_is_refused_at_the_start(
    case: Callable[..., Case],
) -> None:
    """Before anything is read, and left as it is."""
    foreign = case()
    it = foreign.it
    name = version_name(it.settings.index, it.encoder.contract)
    it.qdrant.call("create_collection", name, vectors_config={DENSE: vector_of(3)})
    it.topic.produce(foreign.events.take(50))
    with it.job() as job:
        assert job.wait(90) == ExitCode.NO, job.log()[-3000:]
        message = said(job.log(), "error")
    assert not missing(message, name, "was not written by Plumbline", "Choose another"), message
    info = it.qdrant.call("get_collection", name)
    assert (info.points_count, info.payload_schema) == (0, {})
    assert not list(it.dead_letters.read())
    it.qdrant.call("delete_collection", name)
    foreign.finish()


@pytest.fixture(scope="module")
def watched(
    store: DegradedQdrant,
    kafka_server: KafkaServer,
    tmp_path_factory: pytest.TempPathFactory,
    model: Path,
) -> Iterator[tuple[Case, MonitorProcess]]:
    """An index that a monitor watches; each test leaves it as it found it."""
    folder = tmp_path_factory.mktemp("watched")
    one = made(store, kafka_server, folder, model)
    one.it.topic.produce(one.events.take(100))
    one.finish()
    values = merged(
        one.it.values,
        {
            "monitor": {"database_url": f"sqlite:///{folder / 'monitor.db'}", "lease_seconds": 3},
            "metrics": {"port": None},
        },
    )
    with MonitorProcess(folder, "monitor", values) as monitor:
        monitor.process.wait_ready(
            lambda: (
                monitor.value("plumbline_monitor_qdrant_writable") == 1
                and monitor.value("plumbline_monitor_qdrant_up") == 1
            ),
            90,
            what="it leads",
        )
        yield one, monitor
        monitor.process.require_running()
    one.check_silence()


def becomes(monitor: MonitorProcess, name: str, value: float, **labels: str) -> None:
    """Waits for a sample of the monitor's."""
    monitor.process.wait_ready(
        lambda: monitor.value(f"plumbline_{name}", **labels) == value,
        60,
        what=f"{name} {labels} is {value:g}",
    )


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_the_monitor_tells_a_store_that_takes_no_writes(
    watched: tuple[Case, MonitorProcess], how: str
) -> None:
    """It goes on leading and looking: reads are answered."""
    one, monitor = watched
    if how == "full":
        one.store.fill_disk()
    else:
        one.store.make_read_only(one.key)
    becomes(monitor, "monitor_qdrant_writable", 0)
    assert monitor.value("plumbline_monitor_qdrant_up") == 1
    assert monitor.value("plumbline_monitor_leader") == 1
    one.store.mend()
    one.store.allow(one.key)
    becomes(monitor, "monitor_qdrant_writable", 1)


@pytest.mark.timeout(240)
def test_the_monitor_goes_on_with_the_next_key(watched: tuple[Case, MonitorProcess]) -> None:
    """A revoked key is told as Qdrant that does not answer, until the file holds another one."""
    one, monitor = watched
    one.store.revoke(one.key)
    becomes(monitor, "monitor_qdrant_up", 0)
    assert monitor.value("plumbline_monitor_leader") == 1
    one.give(f"{one.key}-next")
    becomes(monitor, "monitor_qdrant_up", 1)
    becomes(monitor, "monitor_qdrant_writable", 1)


@pytest.mark.timeout(240)
def test_an_alias_that_is_moved_by_hand(watched: tuple[Case, MonitorProcess]) -> None:
    """The job goes on with its version, the monitor says so, the rollout's step refuses."""
    one, monitor = watched
    it, index = one.it, one.it.settings.index
    live = it.version
    assert live is not None
    context = RolloutContext.open(it.settings)
    candidate = create_version(it.qdrant, it.settings, Seeded(24), make_live=False)
    recorded_rollout(context, live, candidate)
    becomes(monitor, "rollout_alias_moved", 0)
    set_alias(it.qdrant, index, candidate.name)
    becomes(monitor, "rollout_alias_moved", 1)
    it.topic.produce(one.events.take(50))
    with it.job("--until-caught-up") as job:
        job.done()
    problems = it.problems()
    assert not problems, problems[:10]
    assert live_version_name(it.qdrant, index) == candidate.name
    with pytest.raises(RolloutConflictError, match=f"`plumbline index alias {live.name}` puts it"):
        promote(it.settings)
    shown = show_alias(it.settings)
    assert (shown.version, shown.recorded) == (candidate.name, live.name)
    point_alias(it.settings, live.name)
    becomes(monitor, "rollout_alias_moved", 0)
    assert live_version_name(it.qdrant, index) == live.name
    abort(it.settings, reason="the test is over")


@pytest.mark.timeout(240)
def test_the_monitor_waits_for_the_control_collection(watched: tuple[Case, MonitorProcess]) -> None:
    """Dropped, it gives no lease: said, and not made anew by who has seen it; then it leads on."""
    one, monitor = watched
    one.it.qdrant.call("delete_collection", CONTROL_COLLECTION)
    becomes(monitor, "monitor_leader", 0)
    waiting = wait_until(lambda: monitor.checks() if "is gone" in str(monitor.checks()) else None)
    assert CONTROL_COLLECTION in str(waiting)
    assert not one.it.qdrant.call("collection_exists", CONTROL_COLLECTION)
    one.finish()
    becomes(monitor, "monitor_leader", 1)
    becomes(monitor, "monitor_qdrant_writable", 1)


@pytest.mark.timeout(240)
def test_the_monitor_tells_a_version_that_is_gone(watched: tuple[Case, MonitorProcess]) -> None:
    """The alias went with the collection; made anew, the version is watched again."""
    one, monitor = watched
    it = one.it
    assert it.version is not None
    name = it.version.name
    it.qdrant.call("delete_collection", name)
    becomes(monitor, "monitor_version_readable", 0, version="")
    assert "no index" in monitor.checks()["version"]
    it.qdrant.call("create_collection", name, vectors_config={DENSE: vector_of(3)})
    set_alias(it.qdrant, it.settings.index, name)
    becomes(monitor, "monitor_version_readable", 0, version=name)
    wait_until(lambda: "not written by Plumbline" in monitor.checks()["version"], 30)
    it.qdrant.call("delete_collection", name)
    one.finish()
    becomes(monitor, "monitor_version_readable", 1, version=open_version(it.qdrant, name).name)
