"""Promote, roll back, retire and abort on the embedded engine: every state, and what is refused."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.core import faults
from pipelines.core.backfill_progress import BACKFILL
from pipelines.core.control import Control
from pipelines.core.errors import (
    CanaryMismatchError,
    GateError,
    IndexMissingError,
    LeaseHeldError,
    PlumblineError,
    RolloutConflictError,
    RolloutStateError,
    SettingsError,
    StoreConflictError,
)
from pipelines.core.lag import PartitionLag
from pipelines.core.lease import LEASE, Lease, end_message
from pipelines.core.process import ProcessIdentity
from pipelines.core.rollout import OPEN, Rollout, RolloutState
from pipelines.core.settings import KafkaSettings, Settings
from pipelines.core.versions import Version, live_version_name, open_version, set_alias
from pipelines.core.worker_reports import CANARY_REPORT, WorkerReporter
from pipelines.rollout import switch as switch_module
from pipelines.rollout.context import RolloutContext, command_lease
from pipelines.rollout.retire import abort, retire
from pipelines.rollout.switch import finish_intent, promote, rollback
from tests.support.probing import Seeded
from tests.support.processes import wait_until
from tests.support.two_versions import INDEX, TwoVersions, documents

REASON = "because we must"
S = RolloutState


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoVersions]:
    """Twenty documents under two encoders that cost nothing; the alias names the first version."""
    made = (Seeded(16), Seeded(24, model_name="other"))
    encoders = {encoder.contract.fingerprint: encoder for encoder in made}

    def encoder_for(version: Version, _: Settings) -> Any:
        return encoders[version.fingerprint]

    monkeypatch.setattr(switch_module, "encoder_for", encoder_for)
    with TwoVersions(tmp_path, {}, {}, documents(20), encoders=made) as two:
        two.encoders = encoders  # type: ignore[attr-defined]
        yield two


def alias(two: TwoVersions) -> str | None:
    return live_version_name(two.qdrant, INDEX)


def names(two: TwoVersions) -> tuple[str, str]:
    return two.live.version.name, two.candidate.version.name


def at(two: TwoVersions, state: RolloutState) -> Rollout:
    """A rollout in any state, by the commands where there are some."""
    context = RolloutContext.open(two.settings)
    if state in (S.PLANNED, S.FAILED, S.ABORTED):
        rollout = two.rollout(S.BUILDING)
        if state is S.PLANNED:
            rollout = replace(rollout, state=S.PLANNED, history=rollout.history[:1])
            return context.store.update(rollout)
        if state is S.FAILED:
            return context.store.move(rollout, S.FAILED, "no disk")
        return abort(two.settings)
    if state in (S.BUILDING, S.VERIFYING, S.READY):
        return two.rollout(state)
    two.rollout(S.READY)
    rollout = promote(two.settings)
    if state is S.COMPLETED:
        return retire(two.settings, now=two.live.version.name)
    return rollback(two.settings) if state is S.ROLLED_BACK else rollout


def lagging(*records: int) -> Callable[[Version], Sequence[PartitionLag]]:
    """A reader that answers these lags in turn, the last one for ever."""
    left = list(records)

    def read(_: Version) -> Sequence[PartitionLag]:
        return [PartitionLag("t", 0, left.pop(0) if len(left) > 1 else left[0], None)]

    return read


def test_promote_is_one_operation_and_takes_less_than_100_ms(
    two: TwoVersions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias is never without a target, and the record says how long it took."""
    two.rollout(S.READY)
    operations: list[list[Any]] = []
    real = type(two.qdrant).call

    def call(self: Any, method: str, /, *args: Any, **kwargs: Any) -> Any:
        if method == "update_collection_aliases":
            operations.append(kwargs["change_aliases_operations"])
        return real(self, method, *args, **kwargs)

    monkeypatch.setattr(type(two.qdrant), "call", call)
    seconds = []
    for _ in range(10):
        rollout = promote(two.settings, reason="better")
        seconds.append(rollout.note("promotion")["alias_seconds"])
        assert alias(two) == names(two)[1]
        assert (rollout.state, rollout.intent) == (S.SOAKING, None)
        assert rollout.history[-1].reason == "better"
        set_alias(two.qdrant, INDEX, names(two)[0])
        context = RolloutContext.open(two.settings)
        context.store.update(replace(rollout, state=S.READY))
    assert all(len(changes) == 2 for changes in operations)
    print(f"\npromotion: alias moved in {1000 * max(seconds):.1f} ms at most, of {len(seconds)}")
    assert max(seconds) < 0.1


@pytest.mark.parametrize("state", [s for s in S if s not in (S.READY, S.VERIFYING)])
def test_promote_only_from_ready(two: TwoVersions, state: RolloutState) -> None:
    """Every other state is refused with its name and the next command; nothing moves."""
    before = at(two, state)
    pointed = alias(two)
    with pytest.raises(RolloutStateError, match=rf"is {state}.*Next: `plumbline rollout"):
        promote(two.settings, force=True, reason=REASON)
    assert two.stored() == before
    assert alias(two) == pointed


def test_promote_without_verification_wants_force_and_a_written_reason(two: TwoVersions) -> None:
    """The reason stays in the record; words that say nothing are refused."""
    rollout = two.rollout(S.VERIFYING)
    with pytest.raises(RolloutStateError, match="not verified yet"):
        promote(two.settings)
    RolloutContext.open(two.settings).store.update(rollout, gate={"outcome": "refuse"})
    with pytest.raises(GateError, match="did not pass"):
        promote(two.settings, reason=REASON)
    for reason in (None, "", "now", "do it"):
        with pytest.raises(SettingsError, match="3 words"):
            promote(two.settings, force=True, reason=reason)
    assert alias(two) == names(two)[0]
    rollout = promote(two.settings, force=True, reason=REASON)
    note = rollout.note("promotion")
    assert (note["forced"], note["reason"]) == (True, REASON)
    assert rollout.history[-1].before is S.VERIFYING


def test_promote_checks_the_candidate_again(two: TwoVersions) -> None:
    """Canaries, lag, incarnation, existence: each refuses, and leaves neither intent nor switch."""
    before = two.rollout(S.READY)
    live, candidate = names(two)
    encoders: dict[str, Any] = two.encoders  # type: ignore[attr-defined]
    good = encoders[before.candidate.fingerprint]
    encoders[before.candidate.fingerprint] = Seeded(24, model_name="other", noise=0.3)
    with pytest.raises(CanaryMismatchError):
        promote(two.settings)
    encoders[before.candidate.fingerprint] = good
    with pytest.raises(RolloutStateError, match=r"1,001 records behind, allowed are 1,000"):
        promote(two.settings, reader=lagging(1001))
    with pytest.raises(RolloutStateError, match="records behind"):
        promote(
            two.settings,
            reader=lambda _: [PartitionLag("t", 0, 0, None, committed=3, expired=2000)],
        )
    context = RolloutContext.open(two.settings)
    other = replace(before.candidate, incarnation="00000000")
    changed = context.store.update(before, candidate=other)
    with pytest.raises(StoreConflictError, match="is not the collection that the rollout knows"):
        promote(two.settings)
    before = context.store.update(changed, candidate=before.candidate)
    two.qdrant.call("delete_collection", candidate)
    with pytest.raises(IndexMissingError, match="its collection is gone"):
        promote(two.settings)
    assert two.stored() == before
    assert alias(two) == live


def test_lag_is_not_asked_without_a_topic_and_the_record_says_so(two: TwoVersions) -> None:
    """The embedded demo has no broker left when it promotes."""
    two.rollout(S.READY)
    note = promote(two.settings).note("promotion")
    assert note["lag_records"] is None
    assert "name no topic" in note["lag_skipped"]
    assert promote_with_lag(two) == 1000


def promote_with_lag(two: TwoVersions) -> int:
    rollback(two.settings, reader=lagging(0))
    context = RolloutContext.open(two.settings)
    context.store.update(replace(two.stored(), state=S.READY))
    lag = promote(two.settings, reader=lagging(1000)).note("promotion")["lag_records"]
    assert isinstance(lag, int)
    return lag


@pytest.mark.parametrize("command", ["promote", "rollback", "retire"])
def test_an_alias_moved_by_hand_is_left_alone(two: TwoVersions, command: str) -> None:
    """A clear error names where it is and where it should be; nothing is overwritten or dropped."""
    before = at(two, S.READY if command == "promote" else S.SOAKING)
    live, candidate = names(two)
    moved = candidate if command == "promote" else live
    set_alias(two.qdrant, INDEX, moved)
    run: Callable[[], Rollout] = {
        "promote": lambda: promote(two.settings),
        "rollback": lambda: rollback(two.settings),
        "retire": lambda: retire(two.settings, now=live),
    }[command]
    with pytest.raises(RolloutConflictError, match="by hand"):
        run()
    assert alias(two) == moved
    assert two.stored() == before
    assert open_version(two.qdrant, live)
    set_alias(two.qdrant, INDEX, candidate if moved == live else live)
    assert run().state in (S.SOAKING, S.ROLLED_BACK, S.COMPLETED)


def test_two_promotions_at_once_are_one(two: TwoVersions) -> None:
    """One switches; the others are told that a command is running, or that it is done."""
    two.rollout(S.READY)
    barrier = threading.Barrier(4)
    ended: list[Rollout | PlumblineError] = []

    def run() -> None:
        barrier.wait()
        try:
            ended.append(promote(two.settings))
        except PlumblineError as error:
            ended.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(isinstance(end, Rollout) for end in ended) == 1
    refused = [end for end in ended if not isinstance(end, Rollout)]
    assert all(isinstance(end, LeaseHeldError | RolloutStateError) for end in refused), refused
    assert two.stored().state is S.SOAKING
    assert len(two.stored().history) == 5


@pytest.mark.parametrize("state", [s for s in S if s is not S.SOAKING])
def test_rollback_only_while_soaking(two: TwoVersions, state: RolloutState) -> None:
    """Every other state is refused by name; nothing moves."""
    before = at(two, state)
    pointed = alias(two)
    with pytest.raises(RolloutStateError, match=f"is {state}"):
        rollback(two.settings)
    assert two.stored() == before
    assert alias(two) == pointed


def test_rollback_waits_for_a_version_that_lags_or_refuses(two: TwoVersions) -> None:
    """A switch to a version that lags would lose writes from sight."""
    at(two, S.SOAKING)
    with pytest.raises(RolloutStateError, match=r"5,000 records behind.*--wait"):
        rollback(two.settings, reader=lagging(5000))
    with pytest.raises(RolloutStateError, match="records behind"):
        rollback(two.settings, reader=lagging(5000), wait=True, timeout=0.01)
    assert alias(two) == names(two)[1]
    rollout = rollback(two.settings, reader=lagging(5000, 4000, 7), wait=True, reason="worse")
    assert rollout.state is S.ROLLED_BACK
    assert rollout.note("rollback")["lag_records"] == 7
    assert rollout.note("rollback")["automatic"] is False
    assert alias(two) == names(two)[0]


def test_rollback_refuses_a_version_that_is_gone_or_another(two: TwoVersions) -> None:
    """The searches stay where they are."""
    rollout = at(two, S.SOAKING)
    context = RolloutContext.open(two.settings)
    wrong = replace(rollout, live=replace(rollout.live, incarnation="00000000"))
    changed = context.store.update(wrong)
    with pytest.raises(StoreConflictError, match="dropped and made anew"):
        rollback(two.settings)
    context.store.update(replace(changed, live=rollout.live))
    two.qdrant.call("delete_collection", names(two)[0])
    with pytest.raises(IndexMissingError, match="cannot become live: its collection is gone"):
        rollback(two.settings)
    assert alias(two) == names(two)[1]
    assert two.stored().intent is None


def test_retire_keeps_to_soak_and_tombstone_horizon_unless_the_version_is_named(
    two: TwoVersions,
) -> None:
    """Whichever is later; and a wrong name drops nothing."""
    rollout = at(two, S.SOAKING)
    live, candidate = names(two)
    soon = rollout.entered_at + timedelta(hours=169)
    with pytest.raises(RolloutStateError, match=rf"30 days.*--now {live}"):
        retire(two.settings, clock=soon)
    for wrong in (candidate, INDEX, ""):
        with pytest.raises(SettingsError, match="what would be dropped is"):
            retire(two.settings, now=wrong)
    assert open_version(two.qdrant, live)
    rollout = retire(two.settings, clock=rollout.entered_at + timedelta(days=30, seconds=1))
    assert rollout.state is S.COMPLETED
    assert rollout.note("retirement")["outcome"] == "dropped"
    assert not two.qdrant.call("collection_exists", live)
    assert alias(two) == candidate


def test_retire_after_a_rollback_drops_the_candidate_once(two: TwoVersions) -> None:
    """At once: nobody goes back to it."""
    at(two, S.ROLLED_BACK)
    live, candidate = names(two)
    rollout = retire(two.settings, reason="worse")
    assert (rollout.state, rollout.note("retirement")["version"]) == (S.ROLLED_BACK, candidate)
    assert not two.qdrant.call("collection_exists", candidate)
    assert alias(two) == live
    with pytest.raises(RolloutStateError, match="retired already"):
        retire(two.settings)


@pytest.mark.parametrize("state", [s for s in S if s not in (S.SOAKING, S.ROLLED_BACK)])
def test_retire_only_when_something_has_lost(two: TwoVersions, state: RolloutState) -> None:
    """Every other state is refused by name; nothing is dropped."""
    before = at(two, state)
    with pytest.raises(RolloutStateError, match=f"is {state}"):
        retire(two.settings)
    assert two.stored() == before


@pytest.mark.parametrize("state", sorted(OPEN - {S.SOAKING}))
def test_abort_at_any_state_before_the_switch(two: TwoVersions, state: RolloutState) -> None:
    """Collection, lease, reports and ranges of the candidate are gone; live's are there."""
    rollout = at(two, state)
    live, candidate = names(two)
    control = Control(two.qdrant)
    for name in (live, candidate):
        reporter = WorkerReporter(two.qdrant, name, 60, identity=elsewhere(len(name)))
        reporter.report(None)
        dead = Lease(control, f"ingest:{name}", 15, identity=ended())
        assert dead.acquire(heartbeat=False)
    for name in ("", "/0", "/1"):
        control.swap(BACKFILL, f"{rollout.rollout_id}{name}", seen=None, fields={"n": 1})
    control.swap(BACKFILL, "ffffffff/0", seen=None, fields={"n": 1})
    aborted = abort(two.settings, reason="wrong model")
    assert (aborted.state, aborted.history[-1].reason) == (S.ABORTED, "wrong model")
    assert not two.qdrant.call("collection_exists", candidate)
    assert alias(two) == live
    assert [record.fields["version"] for record in control.list(CANARY_REPORT)] == [live]
    assert [record.name for record in control.list(LEASE) if "ingest" in record.name] == [
        f"ingest:{live}"
    ]
    assert [record.name for record in control.list(BACKFILL)] == ["ffffffff/0"]
    assert two.qdrant.call("count", live).count == 20


@pytest.mark.parametrize("state", [s for s in S if s not in OPEN - {S.SOAKING}])
def test_abort_after_the_switch_is_refused(two: TwoVersions, state: RolloutState) -> None:
    """And a rollout that has ended has nothing to abort."""
    before = at(two, state)
    with pytest.raises(RolloutStateError, match=f"is {state}"):
        abort(two.settings)
    assert two.stored() == before


def test_abort_leaves_what_the_rollout_did_not_make(two: TwoVersions) -> None:
    """A version that was there before the plan, and one that somebody made under its name."""
    rollout = two.rollout(S.READY)
    context = RolloutContext.open(two.settings)
    context.store.update(rollout, plan={"existing": True})
    assert abort(two.settings).note("retirement")["outcome"].startswith("kept")
    assert two.qdrant.call("collection_exists", names(two)[1])
    rollout = two.rollout(S.READY)
    context.store.update(rollout, candidate=replace(rollout.candidate, incarnation="00000000"))
    assert "another collection" in abort(two.settings).note("retirement")["outcome"]
    assert two.qdrant.call("collection_exists", names(two)[1])


def test_abort_ends_a_build_that_runs_elsewhere(two: TwoVersions) -> None:
    """It finds the intent between two ranges, also while it writes its record all the time."""
    two.rollout(S.BUILDING)
    context = RolloutContext.open(two.settings)
    started = threading.Event()
    seen: list[str] = []

    def build() -> None:
        with command_lease(context):
            rollout = context.rollout()
            while True:
                started.set()
                try:
                    rollout = context.store.update(rollout, progress={"n": len(seen)})
                except RolloutConflictError:
                    rollout = context.store.refresh(rollout)
                if rollout.intent is not None:
                    seen.append(rollout.intent.action)
                    return

    thread = threading.Thread(target=build)
    thread.start()
    started.wait(10)
    assert abort(two.settings).state is S.ABORTED
    thread.join(10)
    assert seen == ["abort"]


def test_an_abort_that_cannot_wait_longer_is_finished_by_the_next_command(
    two: TwoVersions,
) -> None:
    """The intent stays, so that nothing goes on from there."""
    two.rollout(S.READY)
    context = RolloutContext.open(two.settings)
    with command_lease(context), pytest.raises(LeaseHeldError, match="did not end in time"):
        abort(two.settings, timeout=0.1)
    assert two.stored().state is S.READY
    with pytest.raises(RolloutStateError, match="is aborted"):
        promote(two.settings)
    assert two.stored().state is S.ABORTED
    assert not two.qdrant.call("collection_exists", names(two)[1])


class Killed(BaseException):
    """What a SIGKILL is to a test that wants to go on in the same process."""


COMMANDS: dict[str, tuple[RolloutState, Callable[[TwoVersions], Rollout]]] = {
    "promote": (S.READY, lambda two: promote(two.settings, reason="better")),
    "rollback": (S.SOAKING, lambda two: rollback(two.settings, reason="worse")),
    "retire": (S.SOAKING, lambda two: retire(two.settings, now=two.live.version.name)),
    "abort": (S.READY, lambda two: abort(two.settings)),
}
AFTER = {
    "promote": S.SOAKING,
    "rollback": S.ROLLED_BACK,
    "retire": S.COMPLETED,
    "abort": S.ABORTED,
}
POINTS = [
    (command, name)
    for command in COMMANDS
    for name in sorted(faults.POINTS)
    if name.startswith(f"rollout.{command}.")
    or (name.startswith("rollout.drop.") and command in ("retire", "abort"))
]


@pytest.mark.parametrize(("command", "name"), POINTS)
@pytest.mark.parametrize("next_command", ["same", "other"])
def test_what_a_kill_leaves_is_finished_by_any_next_command(
    two: TwoVersions, monkeypatch: pytest.MonkeyPatch, command: str, name: str, next_command: str
) -> None:
    """A switch that happened counts, one that did not is withdrawn, what was to go is gone."""
    before, run = COMMANDS[command]
    at(two, before)
    live, candidate = names(two)

    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        raise Killed

    monkeypatch.setattr(faults.os, "kill", kill)
    monkeypatch.setenv(faults.VARIABLE, name)
    monkeypatch.setattr(faults, "_passed", {})
    with pytest.raises(Killed):
        run(two)
    monkeypatch.delenv(faults.VARIABLE)
    left = two.stored()
    context = RolloutContext.open(two.settings)
    switched = name.endswith(("after_alias", "after_move"))
    if next_command == "same":
        if left.state is AFTER[command]:
            with pytest.raises(RolloutStateError):
                run(two)
        else:
            run(two)
        expected = AFTER[command]
    else:
        with command_lease(context):
            finish_intent(context, context.rollout())
        drops = command in ("retire", "abort") and not name.endswith("before_intent")
        expected = AFTER[command] if switched or drops else before
    now = two.stored()
    assert (now.state, now.intent) == (expected, None)
    assert alias(two) == (candidate if expected in (S.SOAKING, S.COMPLETED) else live)
    there = {n for n in (live, candidate) if two.qdrant.call("collection_exists", n)}
    gone = {S.COMPLETED: {live}, S.ABORTED: {candidate}}.get(expected, set())
    assert there == {live, candidate} - gone


def test_retire_does_not_follow_a_rollback_that_was_cut_short(
    two: TwoVersions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wanted to go back must not lose what to go back to."""
    at(two, S.SOAKING)
    context = RolloutContext.open(two.settings)
    context.store.intend(two.stored(), "rollback", "worse")
    with pytest.raises(RolloutStateError, match="a rollback, begun at"):
        retire(two.settings, now=names(two)[0])
    assert open_version(two.qdrant, names(two)[0])
    assert two.stored().intent is None


def test_a_switch_that_qdrant_refuses_leaves_no_intent(
    two: TwoVersions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known not to have happened needs no finishing."""
    two.rollout(S.READY)

    def refuse(*_: object) -> None:
        raise StoreConflictError("no")

    monkeypatch.setattr(switch_module, "set_alias", refuse)
    with pytest.raises(StoreConflictError, match="no"):
        promote(two.settings)
    assert (two.stored().state, two.stored().intent) == (S.READY, None)


def test_fault_points_are_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt one is an error that lists the others; without the variable nothing happens."""
    faults.point("rollout.promote.after_alias")
    with pytest.raises(ValueError, match="no fault point"):
        faults.point("rollout.promote.nowhere")
    monkeypatch.setenv(faults.VARIABLE, "rollout.promote.nowhere")
    with pytest.raises(SettingsError, match=r"valid are backfill\.after_plan"):
        faults.point("rollout.promote.after_alias")


def test_the_job_of_a_retired_version_loses_its_lease_and_is_told_why(two: TwoVersions) -> None:
    """Also an idle one, within a heartbeat; the record goes when nobody can make it anew."""
    at(two, S.SOAKING)
    live, _ = names(two)
    control = Control(two.qdrant)
    lost: list[PlumblineError] = []
    job = Lease(
        control, f"ingest:{live}", 0.6, on_lost=lost.append, identity=ProcessIdentity.current()
    )
    assert job.acquire()
    rollout = retire(two.settings, now=live)
    wait_until(lambda: lost, 10)
    assert isinstance(lost[0], LeaseHeldError)
    assert f"{live} was retired by the rollout {rollout.rollout_id}" in str(lost[0])
    assert "was retired by" in end_message(control, f"ingest:{live}")
    job.release()
    # A version built anew under this name gets its job.
    again = Lease(control, f"ingest:{live}", 0.6)
    assert again.acquire()
    assert end_message(control, f"ingest:{live}") == ""
    again.release()


def test_settings_with_a_topic_ask_kafka(two: TwoVersions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default reader is Kafka's."""
    import pipelines.io.kafka.lag as lag_module

    two.rollout(S.READY)
    settings = two.settings.model_copy(update={"kafka": KafkaSettings(topics=["t"])})
    monkeypatch.setattr(lag_module, "lag_reader", lambda _: lagging(4321))
    with pytest.raises(RolloutStateError, match="4,321 records behind"):
        promote(settings)


def elsewhere(number: int) -> ProcessIdentity:
    return ProcessIdentity(f"host-{number}", f"boot-{number}", "pid:[1]", 100 + number, 5)


def ended() -> ProcessIdentity:
    """A process of this machine that runs no longer."""
    return replace(ProcessIdentity.current(), pid=2**22 - 1, started=1)
