"""The canary probe on the real model: every change of an encoder shows in the first run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monitors.probes.base import Level
from monitors.probes.canary import CanaryProbe
from pipelines.core import job as job_module
from pipelines.core.errors import CanaryMismatchError
from pipelines.core.job import JobSpec, forget_jobs
from tests.support.damage import damaged
from tests.support.probing import Watched, values_of


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("store")) as index:
        yield index


@pytest.mark.parametrize(
    ("kind", "level", "reason"),
    [
        ("wrong_pooling", Level.ALARM, "encoder_changed"),
        ("wrong_query_prompt", Level.ALARM, "encoder_changed"),
        ("missing_normalization", Level.ALARM, "normalization_changed"),
        ("int8_weights", Level.ALARM, "encoder_changed"),
        ("truncated_tokens", Level.ALARM, "encoder_changed"),
        # Between the bounds: its rounding is 1e-4 on short texts.
        ("bfloat16", Level.WARNING, "encoder_near_bound"),
        ("float16", Level.OK, "reproduced"),
    ],
)
def test_a_changed_encoder_shows_and_float16_does_not(watched: Watched, kind, level, reason):
    result = watched.run(CanaryProbe(), encoder=damaged(kind))
    assert (result.level, result.reason) == (level, reason), result.words


def test_the_versions_own_encoder_is_ok_again_and_again(watched: Watched) -> None:
    for _ in range(3):
        result = watched.run(CanaryProbe())
        assert result.level is Level.OK
        assert max(values_of(result, "plumbline_canary_encoder_distance").values()) < 1e-6


def test_a_job_that_refuses_has_said_so_before(watched: Watched, monkeypatch) -> None:
    """Through the job's own start: the monitor alarms although its own encoder is as it was."""
    assert watched.run(CanaryProbe()).level is Level.OK
    forget_jobs()
    monkeypatch.setattr(job_module, "load_encoder", lambda *_: damaged("int8_weights"))
    with pytest.raises(CanaryMismatchError):
        JobSpec(watched.settings, watched.version.name).open()
    result = watched.run(CanaryProbe())
    assert (result.level, result.reason) == (Level.ALARM, "worker_changed")
    assert values_of(result, "plumbline_canary_worker_distance")[("document",)] > 1e-3
    assert "does not reproduce" in result.details["workers"][0]["message"]
    # It is mended and starts again, in the same process here.
    monkeypatch.undo()
    job = JobSpec(watched.settings, watched.version.name).open()
    forget_jobs()
    result = watched.run(CanaryProbe())
    assert result.level is Level.OK
    assert values_of(result, "plumbline_canary_workers")[("ok",)] == 1
    # And goes wrong while it runs.
    job.encoder = damaged("wrong_pooling")
    job.check_canaries()  # not due yet
    assert watched.run(CanaryProbe()).level is Level.OK
    job._checked_at = float("-inf")
    with pytest.raises(CanaryMismatchError):
        job.check_canaries()
    assert watched.run(CanaryProbe()).reason == "worker_changed"
