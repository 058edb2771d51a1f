"""The soak: a version that gets worse goes back, and one that does not stays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from monitors.golden.run import unhurried
from pipelines.core.errors import RolloutStateError, ServiceUnavailableError, SettingsError
from pipelines.core.lag import PartitionLag
from pipelines.core.rollout import RolloutState
from pipelines.core.rollout_settings import RolloutSettings
from pipelines.core.settings import Settings
from pipelines.core.versions import Version, live_version_name
from pipelines.rollout import auto_rollback as soak_module
from pipelines.rollout import switch as switch_module
from pipelines.rollout.auto_rollback import SoakRun, soak
from pipelines.rollout.context import RolloutContext, command_lease
from pipelines.rollout.evidence import PATTERNS, SoakTest, pattern_statistics
from pipelines.rollout.switch import promote
from tests.support.probing import Seeded
from tests.support.two_versions import INDEX, TwoVersions, documents, golden_folder

HOURS = timedelta(hours=1)
COUNT = 120


class Hours:
    """A clock, and a stop event whose waiting is what makes time pass; `at` acts on the way."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.waits = 0
        self.at: dict[int, Any] = {}

    def clock(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += timedelta(seconds=seconds)
        return False

    def is_set(self) -> bool:
        self.waits += 1
        if self.waits in self.at:
            self.at.pop(self.waits)()
        return False


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoVersions]:
    """A promoted candidate; every document is the answer to its own text in both versions."""
    made = (Seeded(16), Seeded(24, model_name="other"))
    encoders = {encoder.contract.fingerprint: encoder for encoder in made}

    def encoder_for(version: Version, _: Settings) -> Any:
        return encoders[version.fingerprint]

    monkeypatch.setattr(switch_module, "encoder_for", encoder_for)
    monkeypatch.setattr(soak_module, "encoder_for", encoder_for)
    monkeypatch.setattr(soak_module, "unhurried", lambda *_: None)
    settings = {"rollout": {"soak_hours": 24}}
    with TwoVersions(tmp_path, {}, {}, documents(COUNT), encoders=made, settings=settings) as two:
        two.rollout(RolloutState.READY)
        promote(two.settings)
        two.encoders = encoders  # type: ignore[attr-defined]
        yield two


def watch(two: TwoVersions, hours: Hours | None = None, **arguments: Any) -> Any:
    hours = hours or Hours()
    runs: list[SoakRun] = []
    values: dict[str, Any] = {
        "golden": two.golden(),
        "auto_rollback": True,
        "stop_event": hours,
        "clock": hours.clock,
        "on_run": runs.append,
        **arguments,
    }
    return soak(two.settings, **values), runs


def lose(two: TwoVersions, count: int) -> None:
    """Documents vanish from the new version alone."""
    for document in [d for n, d in enumerate(two.held) if n % 10][:count]:
        two.drop(document.id)


def test_a_version_that_is_as_good_soaks_to_the_end(two: TwoVersions) -> None:
    """A look an hour; the record says what was seen, and what comes next."""
    report, runs = watch(two)
    assert (report.rolled_back, report.rollout.state) == (False, RolloutState.SOAKING)
    assert [run.number for run in runs] == list(range(1, 25))
    assert {run.decision for run in runs} == {"ok"}
    assert {(run.recall_before, run.recall_after, run.loss) for run in runs} == {(1.0, 1.0, 0.0)}
    assert two.stored().note("soak")["last"]["number"] == 24
    assert "plumbline rollout retire" in report.words()[-1]
    assert live_version_name(two.qdrant, INDEX) == two.candidate.version.name


def test_documents_lost_from_the_new_version_send_it_back(two: TwoVersions) -> None:
    """Within two looks of the damage; the reason names points, queries and the level."""
    hours = Hours()
    hours.at[6] = lambda: lose(two, 15)
    report, runs = watch(two, hours)
    assert report.rolled_back
    assert 6 <= runs[-1].number <= 8
    assert runs[-1].decision == "worse"
    assert report.rollout.state is RolloutState.ROLLED_BACK
    assert live_version_name(two.qdrant, INDEX) == two.live.version.name
    assert "13.9 points below the previous version's over 108 queries, 13.9 of" in report.reason
    assert report.rollout.history[-1].reason == report.reason
    assert report.words() == [f"{two.candidate.version.name} was rolled back: {report.reason}"]


def test_losses_in_both_versions_are_nobody_s_fault(two: TwoVersions) -> None:
    """Documents that were deleted everywhere change no difference."""
    hours = Hours()

    def delete() -> None:
        ids = [d.id for n, d in enumerate(two.held) if n % 10][:30]
        two.live.delete(ids)
        two.candidate.delete(ids)

    hours.at[6] = delete
    report, runs = watch(two, hours)
    assert not report.rolled_back
    assert runs[-1].recall_after == runs[-1].recall_before < 0.8


def test_a_canary_that_does_not_hold_sends_it_back_at_once(two: TwoVersions) -> None:
    """Unless the previous version's do not hold either: then it is this machine."""
    encoders: dict[str, Any] = two.encoders  # type: ignore[attr-defined]
    old, new = (w.version.fingerprint for w in (two.live, two.candidate))
    good = dict(encoders)
    encoders[new] = Seeded(24, model_name="other", noise=0.3)
    encoders[old] = Seeded(16, noise=0.3)
    report, runs = watch(two, until=datetime.now(UTC) + HOURS)
    assert not report.rolled_back
    assert runs[-1].decision != "canary"
    encoders[old] = good[old]
    hours = Hours()
    hours.now += 2 * HOURS
    report, runs = watch(two, hours)
    assert report.rolled_back
    assert len(runs) == 1
    assert report.reason.startswith("auto-rollback: the new version's canaries are")
    assert report.rollout.note("rollback")["automatic"] is True


def test_without_auto_rollback_it_only_tells(two: TwoVersions) -> None:
    """The same looks, no switch."""
    lose(two, 40)
    report, runs = watch(two, auto_rollback=False)
    assert not report.rolled_back
    assert {run.decision for run in runs} == {"worse"}
    assert "over all looks worse; worse, by 37.0 points" not in runs[0].words()
    assert "over all looks worse, by 37.0 points" in runs[0].words()
    assert live_version_name(two.qdrant, INDEX) == two.candidate.version.name


def test_a_rollback_that_is_refused_is_tried_again(two: TwoVersions) -> None:
    """The previous version lags: it is told, and goes back once it has caught up."""
    lose(two, 40)
    lags = [5000, 5000, 5000, 0]

    def reader(_: Version) -> list[PartitionLag]:
        return [PartitionLag("t", 0, lags.pop(0) if len(lags) > 1 else lags[0], None)]

    class Impatient(Hours):
        def wait(self, seconds: float) -> bool:
            self.now += timedelta(seconds=seconds)
            return seconds == 1.0  # the wait for the lag, not for the next look

    report, runs = watch(two, Impatient(), reader=reader)
    assert report.rolled_back
    assert [bool(run.problem) for run in runs] == [True, True, True, False]
    assert "5,000 records behind" in runs[0].problem


def test_another_process_goes_on_where_one_ended(two: TwoVersions) -> None:
    """Numbers, first look, what was spent and the pace are in the record."""
    hours = Hours()
    watch(two, hours, until=hours.now + 5 * HOURS)
    first = two.stored().note("soak")
    assert first["test"]["run"] == 5
    hours.now -= HOURS / 2
    before = hours.now
    lose(two, 15)
    report, runs = watch(two, hours)
    assert runs[0].number == 6
    assert runs[0].at - before >= timedelta(minutes=29)
    assert report.rolled_back
    spent = SoakTest.from_json(two.stored().note("soak")["test"])
    assert spent.spent <= 0.01


def test_a_look_that_fails_is_no_look(two: TwoVersions, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage ends no soak, and counts for nothing."""
    real = soak_module.encode_golden
    calls = iter(range(1000))

    def broken(*arguments: Any) -> Any:
        if next(calls) in (2, 3):
            raise ServiceUnavailableError("Qdrant did not answer")
        return real(*arguments)

    monkeypatch.setattr(soak_module, "encode_golden", broken)
    _, runs = watch(two)
    assert [run.decision for run in runs][:4] == ["ok", "failed", "failed", "ok"]
    assert [run.number for run in runs][:4] == [1, 2, 2, 2]
    assert "could not look: Qdrant did not answer" in runs[1].words()


def test_a_record_that_another_command_holds_is_written_after_the_next_look(
    two: TwoVersions,
) -> None:
    """A soak never gets in the way of a command."""
    context = RolloutContext.open(two.settings)
    hours = Hours()
    with command_lease(context):
        watch(two, hours, until=hours.now + 2 * HOURS)
    assert two.stored().note("soak") == {}
    assert two.stored().intent is None


def test_what_cannot_be_watched_is_refused(two: TwoVersions, tmp_path: Path) -> None:
    """No golden set, one of another index, nothing that soaks."""
    with pytest.raises(SettingsError, match="--golden"):
        watch(two, golden=None)
    other = golden_folder(tmp_path / "other", [("q", "what", ["somewhere/else"])])
    with pytest.raises(SettingsError, match="belongs to another index"):
        watch(two, golden=other)
    switch_module.rollback(two.settings)
    with pytest.raises(RolloutStateError, match="nothing is soaking"):
        watch(two)


def test_it_ends_when_it_is_stopped_or_somebody_else_rolls_back(two: TwoVersions) -> None:
    """Between two looks."""
    stop = threading.Event()
    stop.set()
    report, runs = watch(two, stop_event=stop)
    assert (runs, report.runs) == ([], 0)
    hours = Hours()
    hours.at[4] = lambda: switch_module.rollback(two.settings)
    report, runs = watch(two, hours)
    assert (report.rolled_back, report.rollout.state) == (False, RolloutState.ROLLED_BACK)
    assert len(runs) == 3


def test_it_is_stopped_in_the_midst_of_a_look(
    two: TwoVersions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes its time; half of one counts for nothing, and nobody waits for the rest."""
    rates = []

    def noted(queries: int, seconds: float, most: float) -> float:
        rates.append(unhurried(queries, seconds, most))
        return rates[-1]

    monkeypatch.setattr(soak_module, "unhurried", noted)
    stop = threading.Event()
    timer = threading.Timer(1.5, stop.set)
    timer.start()
    began = time.monotonic()
    report, runs = watch(two, stop_event=stop, clock=lambda: datetime.now(UTC))
    assert time.monotonic() - began < 6
    assert (runs, report.runs, report.rolled_back) == ([], 0, False)
    assert rates == [1.0], f"{COUNT} queries in a quarter of an hour"
    assert not two.stored().note("soak")


def _course(seed: int, size: int = 200, hours: int = 40) -> np.ndarray:
    """Differences of queries that are slow to change, of either sign alike."""
    random = np.random.default_rng(seed)
    now = random.choice([-1.0, -0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0], size)
    rows = [now]
    for _ in range(hours - 1):
        changed = random.random(size) < 0.02
        now = np.where(changed, random.choice([-1.0, 0.0, 0.0, 1.0], size), now)
        rows.append(now)
    return np.stack(rows)


def test_the_test_holds_its_level_over_all_looks_together() -> None:
    """150 soaks of 40 dependent looks at level .05: within the 99.8 % binomial range."""
    names = [f"q{number}" for number in range(200)]
    soaks, wrong = 150, 0
    for seed in range(soaks):
        course = _course(20_260_801 + seed)
        test = SoakTest(40, 0.05)
        for statistics in pattern_statistics(names, course, course[0]):
            test = test.take(statistics)
        assert test.spent <= 0.05
        wrong += test.worse
    low, high = binom.ppf([0.001, 0.999], soaks, 0.05)
    assert low <= wrong <= high


def test_a_soak_that_outlasts_its_plan_spends_no_more() -> None:
    """Of runs that nobody planned, too."""
    course = _course(3, hours=120)
    test = SoakTest(20, 0.05)
    for differences in course:
        test = test.add([f"q{number}" for number in range(200)], differences, course[0])
    assert 0.045 < test.spent <= 0.05


def test_the_state_of_the_test_survives_as_json() -> None:
    """Bit by bit; a process draws the same signs."""
    course = _course(5)
    names = [f"q{number}" for number in range(200)]
    test = SoakTest(40, 0.05).add(names, course[0], course[0])
    again = SoakTest.from_json(test.to_json())
    assert (again.run, again.planned, again.p_value) == (test.run, test.planned, test.p_value)
    assert np.array_equal(again.out, test.out)
    assert len(again.out) == PATTERNS
    after = [t.add(names, course[1], course[0]).out for t in (test, again)]
    assert np.array_equal(*after)


def test_settings_of_the_rollback_have_the_stated_level() -> None:
    """One false rollback in a hundred soaks."""
    assert RolloutSettings().false_rollback == 0.01
