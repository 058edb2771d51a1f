"""The lease of a job on a cluster: held by all of its processes, by none of them alone."""

from __future__ import annotations

import dataclasses

import pytest
from qdrant_client import QdrantClient

from pipelines.core.control import Control
from pipelines.core.errors import LeaseHeldError
from pipelines.core.lease import LEASE, Lease, end_lease, free_lease
from pipelines.core.process import ProcessIdentity
from pipelines.core.qdrant import Qdrant
from pipelines.core.settings import QdrantSettings, RetrySettings

TTL = 1.0
NAME = "ingest:docs--minilm--0123456789ab"


@pytest.fixture
def control() -> Control:
    """On an engine that passes for a server which several processes share."""
    store = Qdrant(QdrantClient(":memory:"), "memory", QdrantSettings(), RetrySettings())
    store.local = False
    return Control(store)


def claim(control: Control, run: str | None, number: int = 1) -> Lease:
    """A claim of a process on some host."""
    identity = dataclasses.replace(ProcessIdentity.current(), host=f"host-{number}", pid=number)
    owner = "the Flink job plumbline-docs" if run else ""
    return Lease(control, NAME, TTL, run=run, owner=owner, identity=identity)


def holder(control: Control) -> str:
    """Who has it."""
    record = control.read(LEASE, NAME)
    assert record is not None
    return str(record.fields["holder"])


def test_processes_of_a_run_hold_it_together(control):
    """Each claims and renews it, in any order; another job is refused with the run's name."""
    one, other = claim(control, "run", 1), claim(control, "run", 2)
    assert one.acquire(heartbeat=False)
    assert other.acquire(heartbeat=False)
    for lease in (one, other, other, one):
        assert lease.renew()
    other._start()
    with pytest.raises(LeaseHeldError, match="the Flink job plumbline-docs"):
        claim(control, None, 3).acquire()
    other.release()


def test_the_submitter_leaves_it_to_the_workers(control):
    """What ends is the submitting process, not the claim."""
    submitter = claim(control, "run", 1)
    assert submitter.acquire()
    submitter.leave()
    assert holder(control) == "run"
    assert claim(control, "run", 2).acquire(heartbeat=False)


def test_the_end_of_one_process_says_nothing(control):
    """A worker that was killed on this very machine does not free what its siblings hold."""
    dead = Lease(
        control,
        NAME,
        TTL,
        run="run",
        identity=dataclasses.replace(ProcessIdentity.current(), pid=2**22 - 1),
    )
    assert dead.acquire(heartbeat=False)
    sibling = claim(control, "run", 2)
    assert sibling.acquire()
    with pytest.raises(LeaseHeldError):
        claim(control, None, 3).acquire()
    sibling.release()


def test_it_runs_out_when_the_last_has_gone(control):
    """A job that was cancelled by hand on Flink's page blocks the next one for its ttl, no more."""
    assert claim(control, "run", 1).acquire(heartbeat=False)
    following = claim(control, None, 2)
    assert following.acquire(heartbeat=False)
    assert following.holder == holder(control)


def test_a_run_that_was_taken_over_finds_out(control):
    """Its workers lose the lease at their next renewal, and get it back from no living job."""
    worker = claim(control, "run", 1)
    assert worker.acquire(heartbeat=False)
    following = claim(control, None, 2)
    assert following.acquire()
    assert not worker.renew()
    with pytest.raises(LeaseHeldError):
        claim(control, "run", 3).acquire()
    following.release()


def test_a_stop_frees_it_at_once_and_for_its_own_run_only(control):
    """Whoever stops the job frees the version for the next one, and never that next one's claim."""
    worker = claim(control, "run", 1)
    assert worker.acquire(heartbeat=False)
    assert free_lease(control, NAME, "run")
    assert not worker.renew()
    assert claim(control, "next", 2).acquire(heartbeat=False)
    assert not free_lease(control, NAME, "run")
    assert holder(control) == "next"


def test_the_end_of_the_version_reaches_the_workers(control):
    """A version that is dropped takes the lease from a run as from a single process."""
    worker = claim(control, "run", 1)
    assert worker.acquire(heartbeat=False)
    assert end_lease(control, NAME, "the version was retired")
    assert not worker.renew()
    with pytest.raises(LeaseHeldError, match="retired"):
        worker.check()
