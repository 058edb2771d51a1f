"""Control records and leases, on the embedded engine."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient, models

from pipelines.core.control import CONTROL_COLLECTION, Control
from pipelines.core.errors import (
    LeaseHeldError,
    PlumblineError,
    ServiceUnavailableError,
    StoreConflictError,
    TransientError,
)
from pipelines.core.lease import LEASE, Lease, LeaseTimes
from pipelines.core.process import ProcessIdentity
from pipelines.core.qdrant import Qdrant
from pipelines.core.settings import QdrantSettings, RetrySettings

TTL = 15.0


class SharedStore(Qdrant):
    """An engine in this process that passes for a server several processes share."""

    def __init__(self, *, outage_timeout_seconds: float = 60.0) -> None:
        super().__init__(
            QdrantClient(":memory:"),
            "memory",
            QdrantSettings(outage_timeout_seconds=outage_timeout_seconds),
            RetrySettings(first_seconds=0.001, max_seconds=0.001),
        )
        self.local = False
        self.down = False
        self.lose_answers = False
        self.before: Callable[[str], None] = lambda method: None

    def try_call(self, method, /, *args, **kwargs):
        self.before(method)
        if self.down:
            raise TransientError("down")
        result = super().try_call(method, *args, **kwargs)
        if self.lose_answers and method == "upsert":
            raise TransientError("the answer was lost")
        return result


class FakeTime:
    """Time that passes when somebody waits; `during` runs in every wait."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.during: Callable[[], None] = lambda: None

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.now += seconds
        self.during()
        return event.is_set()

    def times(self) -> LeaseTimes:
        return LeaseTimes(monotonic=lambda: self.now, wait=self.wait)


@pytest.fixture
def store() -> Iterator[SharedStore]:
    shared = SharedStore()
    yield shared
    shared.close()


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def elsewhere(number: int) -> ProcessIdentity:
    """A process of another machine."""
    return ProcessIdentity(f"host-{number}", f"boot-{number}", "pid:[1]", 100 + number, 5)


def lease(store: SharedStore, time: FakeTime, number: int, **kwargs) -> Lease:
    return Lease(
        Control(store),
        "ingest:docs",
        ttl_seconds=TTL,
        identity=kwargs.pop("identity", elsewhere(number)),
        times=time.times(),
        **kwargs,
    )


def test_swap_takes_the_first_write_of_two_decided_on_the_same_record(store):
    """Of two writers that saw the same epoch, exactly one is told that it wrote."""
    control = Control(store)
    first = control.swap("rollout", "docs", seen=None, fields={"state": "planned"})
    assert first is not None
    assert first.epoch == 1
    assert control.swap("rollout", "docs", seen=None, fields={"state": "other"}) is None
    second = control.swap("rollout", "docs", seen=first, fields={"state": "building"})
    assert second is not None
    assert control.swap("rollout", "docs", seen=first, fields={"state": "aborted"}) is None
    stored = control.read("rollout", "docs")
    assert stored is not None
    assert (stored.epoch, stored.fields["state"]) == (2, "building")


def test_records_of_a_kind_are_listed_past_one_page(store):
    """`list` gives every record of its kind and none of another."""
    control = Control(store)
    for number in range(300):
        control.swap("rollout", f"{number:03}", seen=None, fields={})
    control.swap("lease", "x", seen=None, fields={})
    assert [record.name for record in control.list("rollout")] == [f"{n:03}" for n in range(300)]


def test_a_collection_of_somebody_else_is_left_alone(store):
    """A collection with vectors under our name is refused, not written into."""
    store.call(
        "create_collection",
        CONTROL_COLLECTION,
        vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE),
    )
    with pytest.raises(StoreConflictError, match="Plumbline did not make it"):
        Control(store).swap("lease", "x", seen=None, fields={})


def test_two_threads_that_create_the_collection_both_go_on(store):
    """Losing the race for the collection is no error."""
    barrier = threading.Barrier(2)
    met = threading.local()

    def meet(method: str) -> None:
        if method == "create_collection" and not getattr(met, "done", False):
            met.done = True
            barrier.wait(10)

    store.before = meet
    names: list[str] = []

    def work(name: str) -> None:
        if Control(store).swap("lease", name, seen=None, fields={}):
            names.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(names) == ["a", "b"]


def test_a_free_lease_is_taken_and_a_held_one_refused(store, time):
    """A second job refuses as soon as it sees the first one renew, naming it."""
    holder, contender = lease(store, time, 1), lease(store, time, 2)
    assert holder.acquire(heartbeat=False)
    time.during = holder.renew
    begun = time.now
    with pytest.raises(LeaseHeldError, match="process 101 on host-1") as caught:
        contender.acquire()
    assert "--standby" in str(caught.value)
    assert time.now - begun < TTL


def test_a_released_lease_is_taken_at_once(store, time):
    """The next job does not wait for a lease that was given back."""
    holder, contender = lease(store, time, 1), lease(store, time, 2)
    holder.acquire(heartbeat=False)
    holder.release()
    begun = time.now
    assert contender.acquire(heartbeat=False)
    assert time.now == begun


def test_a_silent_holder_elsewhere_is_replaced_after_its_own_ttl(store, time):
    """A crash on another machine blocks for the holder's ttl, and no less."""
    holder, contender = lease(store, time, 1), lease(store, time, 2)
    holder.acquire(heartbeat=False)
    begun = time.now
    contender.ttl_seconds = 1.0
    assert contender.acquire(heartbeat=False)
    assert TTL < time.now - begun < TTL + 2


def test_wrong_wall_clocks_change_nothing(store, time, monkeypatch):
    """Times in the record are for people: a holder from the year 2001 is as alive as any."""
    holder, contender = lease(store, time, 1), lease(store, time, 2)
    fields = holder._fields
    monkeypatch.setattr(
        holder,
        "_fields",
        lambda name: fields(name) | {"beat_at": "2001-01-01T00:00:00+00:00"},
    )
    holder.acquire(heartbeat=False)
    time.during = holder.renew
    with pytest.raises(LeaseHeldError, match="2001"):
        contender.acquire()


def test_the_replaced_holder_finds_out_and_stops(store, time):
    """A holder that slept through its ttl loses the lease at its next renewal."""
    told: list[PlumblineError] = []
    holder = lease(store, time, 1, on_lost=told.append)
    contender = lease(store, time, 2)
    holder.acquire(heartbeat=False)
    contender.acquire(heartbeat=False)
    holder.check()
    assert not holder.renew()
    assert holder.lost.is_set()
    with pytest.raises(LeaseHeldError, match="process 102 on host-2 has taken over"):
        holder.check()
    assert [type(error) for error in told] == [LeaseHeldError]
    holder.release()
    assert contender.renew()


def test_a_renewal_in_the_last_moment_beats_the_takeover(store, time):
    """The takeover is conditional on the very record that stood still."""
    holder, contender = lease(store, time, 1), lease(store, time, 2)
    holder.acquire(heartbeat=False)
    renewed = False

    def renew_before_the_claim(method: str) -> None:
        nonlocal renewed
        if method == "upsert" and not renewed:
            renewed = True
            assert holder.renew()

    stop = threading.Event()

    def step() -> None:
        if time.now > 1000 + TTL - 1:
            store.before = renew_before_the_claim
        if renewed:
            stop.set()

    time.during = step
    assert not contender.acquire(standby=True, stop=stop)
    assert renewed
    assert holder.renew()


def test_two_contenders_for_a_free_lease_get_one_holder(store, time):
    """Both saw nobody and both wrote: the read-back tells them apart."""
    first, second = lease(store, time, 1), lease(store, time, 2)
    order: list[str] = []

    def let_the_other_in(method: str) -> None:
        if method == "upsert" and not order:
            order.append("second")
            assert second.acquire(heartbeat=False)

    store.before = let_the_other_in
    time.during = second.renew
    with pytest.raises(LeaseHeldError, match="host-2"):
        first.acquire()


def test_standby_waits_and_takes_over(store, time):
    """A standby waits for as long as the holder renews, and takes over when it releases."""
    holder, contender = lease(store, time, 1), lease(store, time, 2)
    holder.acquire(heartbeat=False)
    said: list[str] = []

    def live() -> None:
        if time.now < 1000 + 10 * TTL:
            assert holder.renew()
        else:
            holder.release()

    time.during = live
    assert contender.acquire(standby=True, on_wait=said.append, heartbeat=False)
    assert time.now >= 1000 + 10 * TTL
    assert len(said) == 1


def test_standby_ends_when_it_is_told_to_stop(store, time):
    """SIGTERM ends a standby, and it holds nothing."""
    holder, contender = lease(store, time, 1), lease(store, time, 2)
    holder.acquire(heartbeat=False)
    stop = threading.Event()
    time.during = stop.set
    assert not contender.acquire(standby=True, stop=stop)
    assert holder.renew()


def test_an_outage_proves_nothing_about_the_holder(store, time):
    """After an outage of the store the contender starts to watch anew."""
    holder, contender = lease(store, time, 1), lease(store, time, 2)
    holder.acquire(heartbeat=False)
    outages = 0

    def outage(method: str) -> None:
        nonlocal outages
        if method == "retrieve" and time.now > 1005 and not outages:
            outages += 1
            time.now += 10 * TTL  # the call waits the outage out

    store.before = outage
    looked: list[float] = []
    time.during = lambda: looked.append(time.now)
    assert contender.acquire(heartbeat=False)
    assert time.now - 1005 > 11 * TTL


def test_an_outage_of_the_store_does_not_cost_the_lease(time):
    """Renewals that fail for longer than the ttl are no loss while nobody took over."""
    store = SharedStore(outage_timeout_seconds=100.0)
    holder = lease(store, time, 1)
    holder.acquire(heartbeat=False)
    store.down = True
    time.now += 5 * TTL
    assert holder.renew()
    assert not holder.taken
    store.down = False
    assert holder.renew()
    assert holder.taken
    store.down = True
    time.now += 101
    assert not holder.renew()
    with pytest.raises(ServiceUnavailableError, match="could not be renewed for 100 s"):
        holder.check()


def test_a_renewal_whose_answer_was_lost_counts(store, time):
    """The store moved the epoch on and the answer never came: still the holder."""
    holder = lease(store, time, 1)
    holder.acquire(heartbeat=False)
    store.lose_answers = True
    assert holder.renew()
    store.lose_answers = False
    assert holder.renew()
    store.lose_answers = True
    assert holder.renew()
    store.lose_answers = False
    holder.release()
    stored = Control(store).read(LEASE, "ingest:docs")
    assert stored is not None
    assert stored.fields["holder"] == ""


def test_a_removed_lease_is_a_lost_one(store, time):
    """A lease that was deleted by hand and taken by another job is not written over."""
    holder, contender = lease(store, time, 1), lease(another_process(store), time, 2)
    holder.acquire(heartbeat=False)
    store.call("delete_collection", CONTROL_COLLECTION)
    contender.acquire(heartbeat=False)
    assert not holder.renew()


def another_process(store: SharedStore) -> SharedStore:
    """The same engine by a connection that has seen nothing yet."""
    return copy.copy(store)


def test_a_collection_that_is_dropped_is_not_taken_for_an_empty_one(store):
    """Every request says so and what to do, by this object and by another one of the process."""
    control = Control(store)
    seen = control.swap("rollout", "docs", seen=None, fields={"state": "planned"})
    store.call("delete_collection", CONTROL_COLLECTION)
    requests: list[Callable[[Control], object]] = [
        lambda one: one.read("rollout", "docs"),
        lambda one: one.list("rollout"),
        lambda one: one.swap("rollout", "docs", seen=seen, fields={"state": "building"}),
        lambda one: one.swap("rollout", "cats", seen=None, fields={"state": "planned"}),
        lambda one: one.remove("rollout", ["docs"]),
    ]
    for request in requests:
        for one in (control, control.impatient(), Control(store)):
            with pytest.raises(StoreConflictError) as caught:
                request(one)
            said = str(caught.value)
            for words in (CONTROL_COLLECTION, "is gone", "memory", "Restore its snapshot"):
                assert words in said
            assert "not found" not in said
    assert not store.call("collection_exists", CONTROL_COLLECTION)


def test_a_process_that_starts_makes_it_anew_for_all(store):
    """Those that have seen the one before go on with it."""
    control = Control(store)
    control.swap("rollout", "docs", seen=None, fields={"state": "planned"})
    store.call("delete_collection", CONTROL_COLLECTION)
    assert Control(another_process(store)).read("rollout", "docs") is None
    assert Control(another_process(store)).swap("rollout", "docs", seen=None, fields={})
    assert control.read("rollout", "docs") is not None


def test_a_holder_whose_collection_is_dropped_stops(store, time):
    """With the words of the collection, not with those of another holder."""
    lost: list[PlumblineError] = []
    holder = lease(store, time, 1, on_lost=lost.append)
    holder.acquire(heartbeat=False)
    store.call("delete_collection", CONTROL_COLLECTION)
    assert not holder.renew()
    with pytest.raises(StoreConflictError, match="is gone"):
        holder.check()
    assert [type(error) for error in lost] == [StoreConflictError]
    holder.release()
    assert not store.call("collection_exists", CONTROL_COLLECTION)


def test_a_dead_process_of_this_machine_is_replaced_at_once(store, time):
    """A killed job's restart does not wait, also while its parent has not collected it."""
    program = (
        "from pipelines.core.process import ProcessIdentity as P; import json, sys;"
        "print(json.dumps(P.current().to_payload()), flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    identity = ProcessIdentity.from_payload(json.loads(child.stdout.readline()))
    me = ProcessIdentity.current()
    if not me.boot_id or me.started < 0:
        pytest.skip("this system does not say when a process started")
    assert not identity.has_ended(seen_by=me)
    holder = lease(store, time, 1, identity=identity)
    contender = lease(store, time, 2, identity=me)
    holder.acquire(heartbeat=False)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    begun = time.now
    assert contender.acquire(heartbeat=False)
    assert time.now == begun
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert identity.has_ended(seen_by=me)


@pytest.mark.parametrize(
    "change",
    [{"boot_id": "another"}, {"host": "another"}, {"pid_namespace": "pid:[7]"}, {"boot_id": ""}],
)
def test_a_process_of_another_machine_is_never_called_dead(change):
    """Process numbers mean nothing across machines, boots and containers."""
    me = ProcessIdentity.current()
    there = dataclasses.replace(me, pid=2**22 - 1, **change)
    assert not there.has_ended(seen_by=me)


def test_a_reused_process_number_is_another_process():
    """The start time tells the dead user of a number from the living one."""
    me = ProcessIdentity.current()
    if me.started < 0 or not me.boot_id or not me.pid_namespace:
        pytest.skip("this system does not say when a process started")
    assert dataclasses.replace(me, started=me.started - 1).has_ended(seen_by=me)
    assert not me.has_ended(seen_by=me)


def test_the_heartbeat_keeps_the_lease(store):
    """With real time: the holder outlives several ttls, then frees the lease."""
    holder = Lease(Control(store), "ingest:docs", ttl_seconds=0.3, identity=elsewhere(1))
    contender = Lease(Control(store), "ingest:docs", ttl_seconds=0.3, identity=elsewhere(2))
    assert holder.acquire()
    with pytest.raises(LeaseHeldError):
        contender.acquire()
    epochs = threading.Event()
    store.before = lambda method: epochs.set() if _epoch(store) > 6 else None
    assert epochs.wait(30)
    holder.check()
    holder.release()
    assert contender.acquire()
    contender.release()


def _epoch(store: SharedStore) -> int:
    points = store._client.retrieve(
        CONTROL_COLLECTION, ids=[p.id for p in store._client.scroll(CONTROL_COLLECTION)[0]]
    )
    return points[0].payload["epoch"] if points else 0


def test_reopening_the_embedded_store_needs_no_wait(tmp_path: Path, time):
    """The engine's own lock proves that the last holder has gone, whatever the record says."""
    settings, retry = QdrantSettings(path=tmp_path), RetrySettings()
    first = Qdrant(QdrantClient(path=str(tmp_path)), "x", settings, retry)
    holder = Lease(Control(first), "a", ttl_seconds=TTL, identity=elsewhere(1))
    holder.acquire(heartbeat=False)
    first.close()
    second = Qdrant(QdrantClient(path=str(tmp_path)), "x", settings, retry)
    contender = Lease(
        Control(second), "a", ttl_seconds=TTL, identity=elsewhere(2), times=time.times()
    )
    begun = time.now
    assert contender.acquire(heartbeat=False)
    assert time.now == begun
    second.close()
