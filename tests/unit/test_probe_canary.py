"""The canary probe: what it says of encoders, and of reports whose age nobody's clock decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from monitors.probes.base import Level
from monitors.probes.canary import CanaryProbe
from monitors.probes.worker_ages import WorkerAges
from pipelines.core.canaries import CanaryReport
from pipelines.core.control import Control, ControlRecord
from pipelines.core.errors import CanaryMismatchError, ContractMismatchError
from pipelines.core.process import ProcessIdentity
from pipelines.core.worker_reports import (
    CANARY_REPORT,
    MAX_REPORTS,
    WorkerReport,
    WorkerReporter,
    read_reports,
)
from tests.support.probing import Seeded, Watched, values_of

BAD = CanaryReport(0.02, 0.03, 4, "query")
GOOD = CanaryReport(1e-7, 1e-7, 0, "document")
NEAR = CanaryReport(2e-4, 1e-7, 0, "document")


def _identity(pid: int = 17, host: str = "worker-1") -> ProcessIdentity:
    return ProcessIdentity(host, "another boot", "another namespace", pid, 1000 + pid)


@pytest.fixture
def watched(tmp_path) -> Iterator[Watched]:
    with Watched(tmp_path, encoder=Seeded()) as index:
        index.now = datetime.now(UTC)
        yield index


def _worker(watched: Watched, **identity) -> WorkerReporter:
    return WorkerReporter(watched.qdrant, watched.version.name, 300.0, _identity(**identity))


def _reports(watched: Watched) -> list[WorkerReport]:
    return read_reports(Control(watched.qdrant), watched.version.name)


def test_an_encoder_that_gives_what_is_stored_is_ok(watched: Watched) -> None:
    """Also where nobody has ever reported, and on a version without a document."""
    result = watched.run(CanaryProbe())
    assert result.level is Level.OK
    assert result.reason == "reproduced"
    assert values_of(result, "plumbline_canary_encoder_distance") == {
        ("document",): 0.0,
        ("query",): 0.0,
    }
    assert values_of(result, "plumbline_canary_workers")[("ok",)] == 0


@pytest.mark.parametrize(
    ("noise", "level", "reason"),
    [
        (0.001, Level.OK, "reproduced"),
        (0.02, Level.WARNING, "encoder_near_bound"),
        (0.06, Level.ALARM, "encoder_changed"),
    ],
)
def test_the_bounds_are_those_of_the_jobs(watched: Watched, noise, level, reason) -> None:
    """A turn by `noise` is a cosine distance of about its square and a half."""
    result = watched.run(CanaryProbe(), encoder=Seeded(noise=noise))
    assert (result.level, result.reason) == (level, reason)
    worst = max(values_of(result, "plumbline_canary_encoder_distance").values())
    assert worst == pytest.approx(noise**2 / 2, rel=0.3)


def test_another_prompt_for_queries_shows_as_query_alone(watched: Watched) -> None:
    """Documents come out as they were."""
    result = watched.run(CanaryProbe(), encoder=Seeded(query_prompt="search: "))
    assert (result.level, result.reason) == (Level.ALARM, "encoder_changed")
    found = values_of(result, "plumbline_canary_encoder_distance")
    assert found["document",] == 0.0
    assert found["query",] > 0.1
    assert "as query" in result.words


def test_a_missing_normalization_is_named(watched: Watched) -> None:
    """Directions are the same, lengths are not."""
    result = watched.run(CanaryProbe(), encoder=Seeded(length=5.0))
    assert (result.level, result.reason) == (Level.ALARM, "normalization_changed")
    assert values_of(result, "plumbline_canary_encoder_norm_deviation_ratio")[
        ("document",)
    ] == pytest.approx(4.0, rel=1e-5)


def test_another_direction_is_more_than_a_missing_normalization(watched: Watched) -> None:
    """Lengths are off too, and nobody should look there first."""
    result = watched.run(CanaryProbe(), encoder=Seeded(length=5.0, noise=0.5))
    assert (result.level, result.reason) == (Level.ALARM, "encoder_changed")


def test_lengths_off_by_little_are_no_matter_of_normalization(watched: Watched) -> None:
    """Rounding of bfloat16 changes them by 0.4 %."""
    result = watched.run(CanaryProbe(), encoder=Seeded(length=1.004))
    assert result.level is Level.OK


def test_another_dimension_is_an_alarm_with_finite_figures(watched: Watched) -> None:
    """The store of runs and JSON have no infinity."""
    result = watched.run(CanaryProbe(), encoder=Seeded(dimension=24))
    assert result.level is Level.ALARM
    assert all(np.isfinite(figure.value) for figure in result.figures)
    assert result.evidence is not None
    assert json.dumps(result.evidence.statistic, allow_nan=False)


def test_a_model_of_another_contract_is_an_alarm_and_workers_are_still_read(watched) -> None:
    """Its files were changed under the same name."""
    _worker(watched).report(BAD, CanaryMismatchError("no"))

    def mismatched():
        raise ContractMismatchError(watched.version.name, {"model_hash": ("a", "b")})

    from dataclasses import replace

    context = replace(watched.context("canary"), unchecked_encoder=mismatched)
    result = CanaryProbe().run(context)
    watched.check(CanaryProbe(), result)
    assert (result.level, result.reason) == (Level.ALARM, "contract_mismatch")
    assert "model_hash" in result.words
    assert "worker-1, process 17" in result.words


def test_a_bad_report_alarms_with_host_and_process(watched: Watched) -> None:
    """Although the monitor's own encoder is as it was."""
    assert watched.run(CanaryProbe()).level is Level.OK
    _worker(watched, pid=18, host="worker-2").report(GOOD)
    _worker(watched).report(BAD, CanaryMismatchError("text 4 is far"))
    result = watched.run(CanaryProbe())
    assert (result.level, result.reason) == (Level.ALARM, "worker_changed")
    assert "worker-1, process 17" in result.words
    assert result.details["workers"] == [
        {
            "host": "worker-1",
            "pid": 17,
            "level": "refusal",
            "document_distance": 0.02,
            "query_distance": 0.03,
            "message": "text 4 is far",
        }
    ]
    assert values_of(result, "plumbline_canary_workers") == {
        ("ok",): 1,
        ("warning",): 0,
        ("refusal",): 1,
        ("gone",): 0,
    }
    assert values_of(result, "plumbline_canary_worker_distance")["query",] == 0.03


def test_a_report_near_the_bound_warns(watched: Watched) -> None:
    _worker(watched).report(NEAR)
    result = watched.run(CanaryProbe())
    assert (result.level, result.reason) == (Level.WARNING, "worker_near_bound")


def test_a_refusal_over_the_contract_has_no_distance(watched: Watched) -> None:
    """It never came to a comparison."""
    _worker(watched).report(None, ContractMismatchError("v", {"max_tokens": (256, 128)}))
    result = watched.run(CanaryProbe())
    assert result.reason == "worker_changed"
    assert values_of(result, "plumbline_canary_worker_distance") == {}
    assert "max_tokens" in result.details["workers"][0]["message"]


def test_a_report_that_stands_still_is_gone_and_later_removed(watched: Watched) -> None:
    """No alarm for a worker that has stopped; and nothing piles up in the store."""
    _worker(watched).report(BAD)
    assert watched.run(CanaryProbe()).level is Level.ALARM
    for _ in range(4):
        watched.now += timedelta(seconds=300)
        result = watched.run(CanaryProbe())
    assert result.level is Level.OK
    assert values_of(result, "plumbline_canary_workers")[("gone",)] == 1
    assert len(_reports(watched)) == 1
    for _ in range(31):
        watched.now += timedelta(seconds=300)
        watched.run(CanaryProbe())
    assert _reports(watched) == []
    assert values_of(watched.run(CanaryProbe()), "plumbline_canary_workers")[("gone",)] == 0


def test_a_worker_that_writes_again_is_back(watched: Watched) -> None:
    """By the change alone: its clock, a year behind, is not asked."""
    worker = _worker(watched)
    worker.report(GOOD)
    for _ in range(5):
        watched.run(CanaryProbe())
        watched.now += timedelta(seconds=300)
    worker.report(BAD)  # another level is written at once
    result = watched.run(CanaryProbe())
    assert result.reason == "worker_changed"


def test_reports_are_throttled_to_the_interval_of_the_checks(watched: Watched) -> None:
    """The same again within it is not written; another level is."""
    worker = _worker(watched)
    worker.report(GOOD)
    worker.report(GOOD)
    assert _reports(watched)[0].record.epoch == 1
    worker.report(BAD)
    assert _reports(watched)[0].record.epoch == 2


def test_a_store_that_fails_stops_no_worker(watched: Watched) -> None:
    """A report is worth no job."""

    class Broken:
        local = True

        def try_call(self, *_, **__):
            raise OSError("no")

    WorkerReporter(Broken(), watched.version.name, 300.0, _identity()).report(GOOD)


def test_what_ended_processes_of_this_host_left_goes_at_the_next_start(watched: Watched) -> None:
    """A crash loop leaves one record, not one for each try."""
    here = ProcessIdentity.current()
    for pid in (2**22 + 1, 2**22 + 2):  # above any process number
        ended = ProcessIdentity(here.host, here.boot_id, here.pid_namespace, pid, 1)
        WorkerReporter(watched.qdrant, watched.version.name, 300.0, ended).report(BAD)
    WorkerReporter(watched.qdrant, watched.version.name, 300.0, here).report(GOOD)
    assert [report.pid for report in _reports(watched)] == [here.pid]


def test_a_version_never_has_more_reports_than_the_bound(watched: Watched) -> None:
    """Hosts that come and go under new names; the ones that were first go first."""
    for number in range(MAX_REPORTS + 5):
        _worker(watched, pid=number + 1, host=f"pod-{number}").report(GOOD)
    hosts = {report.host for report in _reports(watched)}
    assert len(hosts) == MAX_REPORTS
    assert "pod-0" not in hosts
    assert f"pod-{MAX_REPORTS + 4}" in hosts


def test_another_versions_workers_do_not_count(watched: Watched) -> None:
    other = WorkerReporter(watched.qdrant, "watched--other--000000000000", 300.0, _identity())
    other.report(BAD)
    assert watched.run(CanaryProbe()).level is Level.OK


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _report(write: str, written_at: datetime | None) -> WorkerReport:
    record = ControlRecord(CANARY_REPORT, "v/h/1-1", 1, {"write": write})
    return WorkerReport(record, "h", 1, "refusal", 0.1, 0.1, written_at)


def _look(write: str, clock: timedelta | None, state=None, now=NOW) -> WorkerAges:
    written = None if clock is None else now + clock
    return WorkerAges.of([_report(write, written)], state=state, now=now, bound_seconds=900.0)


@pytest.mark.parametrize(
    ("clock", "counts"),
    [
        (timedelta(0), True),
        (timedelta(seconds=-800), True),
        (timedelta(seconds=-1000), False),
        (timedelta(days=-30), False),
        # A clock ahead of ours proves nothing: the report may be of any age.
        (timedelta(seconds=120), False),
        (None, False),
    ],
)
def test_at_the_first_look_a_report_that_may_be_old_does_not_count(clock, counts) -> None:
    """It counts as gone until its worker writes again."""
    ages = _look("a", clock)
    assert bool(ages.current) is counts
    assert bool(ages.gone) is not counts
    again = _look("b", clock, ages.state, NOW + timedelta(seconds=60))
    assert again.current


def test_a_clock_that_is_wrong_makes_no_report_younger_or_older() -> None:
    """What has changed since the last look is new, and what stands still ages on our clock."""
    for skew in (timedelta(days=-400), timedelta(days=400)):
        ages = WorkerAges.of([], state=None, now=NOW, bound_seconds=900.0)
        moment = NOW
        seen = []
        for _ in range(5):
            moment += timedelta(seconds=300)
            ages = _look("a", skew, ages.state, moment)
            seen.append(bool(ages.current))
        assert seen == [True, True, True, True, False]


def test_after_an_absence_a_change_proves_nothing() -> None:
    """It may have been made at any time in between."""
    first = _look("a", timedelta(0))
    later = NOW + timedelta(days=3)
    assert _look("b", timedelta(days=-2), first.state, later).gone
    assert _look("b", timedelta(0), first.state, later).current


def test_our_own_clock_set_back_makes_no_age() -> None:
    """Ages start again rather than run on."""
    first = _look("a", timedelta(0))
    earlier = NOW - timedelta(days=1)
    ages = _look("a", timedelta(0), first.state, earlier)
    assert ages.current
    assert ages.state["reports"]["v/h/1-1"]["since"] == earlier.timestamp()
