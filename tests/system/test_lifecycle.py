"""One job a version: who may start, who takes over, and how a job ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipelines.core.errors import (
    CanaryMismatchError,
    ContractMismatchError,
    IndexMissingError,
    UnknownNameError,
)
from pipelines.core.settings import Settings
from pipelines.core.versions import METADATA_KEY
from pipelines.ingest import run_ingest
from tests.support.processes import wait_until
from tests.support.scenario import Scenario, merged
from tests.support.stream import Stream
from tests.support.trials import zombie_wakes_up

SEED = 20_260_317


def stream() -> Stream:
    return Stream(SEED, 60, sentences=3, unchanged_share=0.35)


@pytest.mark.timeout(240)
def test_one_job_a_version(scenario: Callable[..., Scenario]) -> None:
    """A second job refuses, one on standby waits, and takes over when the first is killed."""
    it = scenario(partitions=2, settings={"ingest": {"lease_seconds": 5}})
    events = stream()
    it.topic.produce(events.take(150))
    with it.job() as first:
        it.wait_caught_up(first)
        with it.job("--standby") as standby, it.job() as second:
            assert second.wait(90) == 1
            assert "plumbline ingest" in second.log() or "--standby" in second.log()
            standby._process.wait_ready(
                lambda: it.settings.index in standby.log(), 60, what="the standby waits"
            )
            assert not standby.events("kafka_reader_finished")
            first.require_running()
            first.kill()
            it.topic.produce(events.take(150))
            it.wait_caught_up(standby)
            standby.terminate()
            standby.done(60)
    problems = it.problems()
    assert not problems, problems[:10]


@pytest.mark.timeout(240)
def test_a_frozen_job_that_lost_its_lease_does_no_harm(
    scenario: Callable[..., Scenario], store: Any
) -> None:
    """A zombie wakes in the middle of a write after another has written newer events."""
    it = scenario(settings={"ingest": {"lease_seconds": 1}})
    problems = zombie_wakes_up(it, store)
    assert not problems, problems[:10]


@pytest.mark.timeout(240)
def test_sigterm_drains(scenario: Callable[..., Scenario]) -> None:
    """SIGTERM in the middle of a stream: what was consumed is written, committed and counted."""
    it = scenario(partitions=3)
    it.topic.produce(stream().take(1500))
    with it.job(fresh=True) as job:
        it.wait_committed(job, 200)
        job.terminate()
        first = job.done(60)
    assert 0 < first["consumed"] < 1500
    assert sum(it.committed().values()) == first["consumed"]
    assert not it.durability_problems()
    with it.job("--until-caught-up") as job:
        rest = job.done()
    assert first["consumed"] + rest["consumed"] == 1500
    problems = it.problems()
    assert not problems, problems[:10]
    assert it.duplicates() == 0


@pytest.mark.timeout(240)
def test_another_contract_is_refused(scenario: Callable[..., Scenario]) -> None:
    """A job whose contract or order differs does not start, and names both values."""
    it = scenario()
    it.topic.produce(stream().take(20))
    assert run_ingest(it.settings, until_caught_up=True, create=True).exit_code == 0
    before = it.committed()
    for change, field, theirs, ours in [
        ({"contract": {"max_tokens": 64}}, "max_tokens", 128, 64),
        ({"contract": {"chunk": {"size": 24}}}, "chunk.size", 16, 24),
        ({"contract": {"document_prompt": "passage: "}}, "document_prompt", "", "passage: "),
        ({"kafka": {"order_by": "version"}}, "order_by", "timestamp", "version"),
    ]:
        with pytest.raises(ContractMismatchError) as refused:
            run_ingest(Settings(**merged(it.values, change)), until_caught_up=True, create=True)
        assert (theirs, ours) == refused.value.differences[field]
        assert repr(theirs) in str(refused.value)
        assert repr(ours) in str(refused.value)
    assert it.committed() == before


@pytest.mark.timeout(240)
def test_other_vectors_are_refused(scenario: Callable[..., Scenario]) -> None:
    """Canaries that this process does not reproduce stop it before it reads."""
    it = scenario()
    it.topic.produce(stream().take(20))
    assert run_ingest(it.settings, until_caught_up=True, create=True).exit_code == 0
    version = it.version
    assert version is not None
    kept = it.qdrant.call("get_collection", version.name).config.metadata[METADATA_KEY]
    vectors = version.canaries.document.copy()
    vectors[3] = -vectors[3]
    other = replace(version.canaries, document=vectors)
    it.qdrant.call(
        "update_collection",
        version.name,
        metadata={METADATA_KEY: {**kept, "canaries": other.to_json()}},
    )
    before = it.committed()
    it.topic.produce(stream().take(5))
    with pytest.raises(CanaryMismatchError):
        run_ingest(it.settings, until_caught_up=True)
    assert it.committed() == before


@pytest.mark.timeout(240)
def test_what_does_not_exist_is_named(scenario: Callable[..., Scenario]) -> None:
    """A missing index or topic ends the job with a message at once, not with a wait."""
    it = scenario()
    with pytest.raises(IndexMissingError, match="index create"):
        run_ingest(it.settings, until_caught_up=True)
    unknown = Settings(**merged(it.values, {"kafka": {"topics": ["documants"]}}))
    with pytest.raises(UnknownNameError, match="documants"):
        run_ingest(unknown, until_caught_up=True, create=True)
    wait_until(lambda: it.version is None, 5, what="nothing was created")
