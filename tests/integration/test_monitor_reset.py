"""`plumbline monitor reset`: an accepted change ends its alarm, and the next one is seen."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitors import reset as reset_module
from monitors.drift import SequentialControl
from monitors.drift.pool import Pool, Window
from monitors.forgetting import FORGETTING, forgetting_of
from monitors.probes import PROBES
from monitors.probes.base import Level, ProbeContext, ProbeResult
from monitors.probes.windows import ACCEPTED, milliseconds
from monitors.reset import reset_probe
from monitors.store import Memory, Outcome, Run, Store, VersionKey, open_store
from pipelines.cli import app
from pipelines.core.errors import ExitCode, ModelError, UnknownNameError
from pipelines.core.points import point_id
from pipelines.core.qdrant import disconnect
from pipelines.core.settings import Settings, load_settings
from tests.support.monitor_probes import (
    FakeProbe,
    fill_version,
    make_settings,
    make_version,
    result,
)
from tests.support.monitor_replica import Replica
from tests.support.own_folder import own_folder
from tests.support.processes import wait_until
from tests.support.tiny_model import make_tiny_model

DOCUMENTS = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def settings(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A folder with a `plumbline.yaml`, a golden set, an embedded store and 120 documents."""
    with own_folder(tmp_path, monkeypatch):
        queries = [
            {"id": f"q{number}", "text": f"document {number} of many", "judged": {f"d{number}": 1}}
            for number in range(DOCUMENTS)
        ]
        golden = {"version": 1, "queries": queries}
        Path("golden.yaml").write_text(yaml.safe_dump(golden), encoding="utf-8")
        values = {
            "qdrant": {"path": "store"},
            "contract": {"model": str(model)},
            "monitor": {
                "lease_seconds": 1,
                "golden": {"file": "golden.yaml", "queries_per_second": 10_000},
                "drift": {"minimum_reference": 100, "minimum_window": 50, "window": 50},
                "integrity": {"sample": 100},
            },
        }
        Path("plumbline.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        loaded = load_settings(None, {})
        fill_version(loaded, make_version(loaded)[1], DOCUMENTS)
        yield loaded
        disconnect()


def lose(settings: Settings, numbers: range) -> None:
    """Removes points behind everybody's back, as a retention script would."""
    qdrant, version = make_version(settings)
    ids = [point_id("docs", f"d{number}", 0) for number in numbers]
    qdrant.call("delete", version.name, points_selector=ids, wait=True)


def run(*arguments: str) -> int:
    disconnect()
    return app.run(["monitor", *arguments])


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Exit code and JSON."""
    capsys.readouterr()
    code = run(*arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


def once(capsys: pytest.CaptureFixture[str], probe: str) -> tuple[int, dict[str, Any]]:
    code, answer = asked(capsys, "once", "--probe", probe)
    return code, answer["probes"][0]


def memory_of(settings: Settings, probe: str) -> Memory:
    version = make_version(settings)[1]
    store = open_store(settings.monitor)
    try:
        return store.memory(VersionKey.of(version), probe)
    finally:
        store.close()


WHY = ("--reason", "the archive was dropped on purpose", "--by", "ann")


def test_a_loss_that_is_accepted_ends_the_alarm(settings, capsys) -> None:
    """Shown first, taken back with a name and a reason; the next loss is counted from there."""
    assert once(capsys, "integrity")[0] == ExitCode.OK
    lose(settings, range(20))
    for _ in range(2):
        code, found = once(capsys, "integrity")
        assert (code, found["reason"]) == (ExitCode.NO, "lost_documents")
    before = memory_of(settings, "integrity")
    code, shown = asked(capsys, "reset", "integrity", "--dry-run")
    assert (code, shown["taken_back"], shown["run"]) == (ExitCode.OK, False, None)
    assert shown["last"]["words"].startswith("20 documents or more are lost")
    assert shown["remembered"]["documents_and_tombstones"] == DOCUMENTS
    assert memory_of(settings, "integrity") == before

    code, taken = asked(capsys, "reset", "integrity", *WHY)
    assert (code, taken["taken_back"]) == (ExitCode.OK, True)
    assert taken["run"]["reason"] == "first_run"
    code, found = once(capsys, "integrity")
    assert (code, found["reason"]) == (ExitCode.OK, "sound")
    lose(settings, range(20, 25))
    code, found = once(capsys, "integrity")
    assert code == ExitCode.NO
    assert found["words"].startswith("5 documents or more are lost")

    code, resets = asked(capsys, "history", "--resets")
    (line,) = resets
    assert (code, line["probe"], line["by"], line["level"]) == (0, "integrity", "ann", "alarm")
    assert line["reason"] == WHY[1]
    assert line["words"].startswith("20 documents or more are lost")
    assert asked(capsys, "history", "--resets", "--probe", "golden") == (ExitCode.OK, [])
    assert run("history", "--resets") == ExitCode.OK
    assert WHY[1] in capsys.readouterr().out


def test_a_golden_baseline_is_taken_anew(settings, capsys) -> None:
    """What search finds after the loss is what later runs are compared with."""
    assert once(capsys, "golden")[1]["reason"] == "baseline_taken"
    lose(settings, range(6))
    code, found = once(capsys, "golden")
    assert (code, found["reason"]) == (ExitCode.NO, "documents_lost")
    code, taken = asked(capsys, "reset", "golden", *WHY)
    assert (code, taken["taken_back"]) == (ExitCode.OK, True)
    assert taken["remembered"]["judged_documents"] == DOCUMENTS
    assert taken["run"]["reason"] == "baseline_taken"
    code, found = once(capsys, "golden")
    assert (code, found["level"], found["reason"]) == (ExitCode.OK, "ok", "unchanged")
    lose(settings, range(6, 12))
    assert once(capsys, "golden")[1]["reason"] == "documents_lost"


def alarmed(settings: Settings) -> SequentialControl:
    """Lets the drift probe's documents stand in an alarm over twenty known-good windows."""
    memory = memory_of(settings, "drift")
    assert memory.state is not None
    control = SequentialControl()
    control._pool = Pool()
    for number in range(20):
        control._pool.add(Window(86_400.0 * number, number / 20, 0.0, ""))
    control._alarm, control._evidence = True, [5000.0] * len(control._evidence)
    # As if nothing had been tested yet: all there is would be in the next window.
    documents = {**memory.state["documents"], "control": control.to_json(), "end": None}
    version = make_version(settings)[1]
    store = open_store(settings.monitor)
    store.record(
        Run(
            key=VersionKey.of(version),
            probe="drift",
            started_at=datetime.now(UTC),
            seconds=1.0,
            outcome=Outcome.COMPLETED,
            level=Level.ALARM,
            reason="drifted",
            words="A flood of cats.",
            state={**memory.state, "documents": documents},
        ),
        memory.runs,
    )
    store.close()
    return control


def test_a_drift_that_is_over_is_taken_back(settings, capsys) -> None:
    """Known-good windows and reference stay, and what was written before is not tested again."""
    assert once(capsys, "drift")[1]["reason"] == "reference_taken"
    control = alarmed(settings)
    reference = memory_of(settings, "drift").state["documents"]["reference"]
    code, shown = asked(capsys, "reset", "drift", "--dry-run")
    assert shown["remembered"]["documents"] == {
        "reference": reference,
        "alarm": True,
        "known_good_windows": 20,
    }
    code, taken = asked(capsys, "reset", "drift", *WHY)
    assert (code, taken["taken_back"]) == (ExitCode.OK, True)
    assert taken["run"]["reason"] == "small_window", taken["run"]["words"]
    assert once(capsys, "drift")[1]["reason"] == "small_window"
    kept = memory_of(settings, "drift").state["documents"]
    assert kept["reference"] == reference
    assert kept["control"]["alarm"] is False
    assert max(kept["control"]["evidence"]) == 0
    assert kept["control"]["pool"] == control.to_json()["pool"]


def test_a_state_that_cannot_be_read_is_given_up() -> None:
    """As the error about it says."""
    now = datetime.now(UTC)
    state = {"documents": {"reference": "r", "end": 1, "control": {"format": 1}}}
    left = FORGETTING["drift"].forget(Memory(3, state), now)
    assert left.runs == 3
    assert left.state == {
        "documents": {"reference": "r", "end": 1, "control": None, ACCEPTED: milliseconds(now)}
    }
    assert FORGETTING["drift"].remembered(Memory(3, state))["documents"]["alarm"] is False


def test_what_cannot_be_reset_is_refused(settings, capsys) -> None:
    """With the valid names, and before anything is read."""
    assert run("reset", "integrity") == ExitCode.USAGE
    assert "--reason" in capsys.readouterr().err
    assert run("reset", "integrity", "--reason", " ") == ExitCode.USAGE
    assert "--dry-run" in capsys.readouterr().err
    assert run("reset", "integrty", *WHY) == ExitCode.USAGE
    assert "Did you mean integrity? Valid are integrity, golden, drift." in capsys.readouterr().err
    assert run("reset", "canary", *WHY) == ExitCode.USAGE
    assert "Valid are integrity, golden, drift." in capsys.readouterr().err
    assert run("reset", "integrity", *WHY) == ExitCode.NO
    assert "remembers nothing of docs--model--" in capsys.readouterr().err
    assert run("reset", "integrity", "--version", "docs--none--0", *WHY) == ExitCode.NO
    assert "docs--none--0" in capsys.readouterr().err
    for probe in set(PROBES) - set(FORGETTING):
        with pytest.raises(UnknownNameError, match="ends with the cause"):
            forgetting_of(probe)


def test_an_alarm_for_another_reason_stays(settings, capsys) -> None:
    """Only what the probe remembers is taken back; what is wrong now is said, with 1."""
    once(capsys, "integrity")
    lose(settings, range(20))
    qdrant, version = make_version(settings)
    qdrant.call(
        "set_payload",
        version.name,
        payload={"_plumbline": {"fingerprint": "somebody"}},
        points=[point_id("docs", "d30", 0)],
        wait=True,
    )
    assert once(capsys, "integrity")[0] == ExitCode.NO
    code, taken = asked(capsys, "reset", "integrity", *WHY)
    assert (code, taken["taken_back"]) == (ExitCode.NO, True)
    assert taken["run"]["level"] == "alarm"
    assert "lost" not in taken["run"]["words"]


def test_nothing_is_taken_back_where_the_probe_cannot_look(settings, monkeypatch, capsys) -> None:
    """A memory is given up for another one, not for none."""
    once(capsys, "integrity")
    before = memory_of(settings, "integrity")

    def act(_context: ProbeContext) -> ProbeResult:
        raise ModelError("no such model")

    monkeypatch.setattr(reset_module, "PROBES", {"integrity": FakeProbe("integrity", act)})
    assert run("reset", "integrity", *WHY) == ExitCode.UNANSWERED
    shown = capsys.readouterr()
    assert "nothing was taken back: no such model" in shown.err
    assert memory_of(settings, "integrity") == before
    assert asked(capsys, "history", "--resets") == (ExitCode.OK, [])


def test_a_version_by_name_has_its_own(settings, capsys) -> None:
    """Of a rollout's candidate, beside live's memory."""
    other = make_version(settings, document_prompt="passage: ")[1]
    once(capsys, "integrity")
    fill_version(settings, other, 30)
    asked(capsys, "once", "--probe", "integrity", "--version", other.name)
    live = memory_of(settings, "integrity")
    code, taken = asked(capsys, "reset", "integrity", "--version", other.name, *WHY)
    assert (code, taken["version"], taken["taken_back"]) == (ExitCode.OK, other.name, True)
    assert memory_of(settings, "integrity") == live


class Remembering:
    """A probe whose alarm stands on what it remembers: it alarms while it was born before."""

    def __init__(self, born: int) -> None:
        self.born = born
        self.seen: list[Any] = []
        self.hold = threading.Event()
        self.held = threading.Event()
        self.go = threading.Event()

    def act(self, context: ProbeContext) -> ProbeResult:
        state = context.state
        self.seen.append(state)
        if self.hold.is_set():
            self.held.set()
            assert self.go.wait(30)
        if state is None:
            return result(state={"born": self.born}, baseline={"of": self.born})
        return result(Level.ALARM if state["born"] == 1 else Level.OK, state=dict(state))


def test_a_service_that_runs_goes_on_from_the_reset(tmp_path: Path, model: Path) -> None:
    """A run of its that began before is dropped, later ones remember nothing older, no restart."""
    every = {"interval_seconds": 1, "timeout_seconds": 60}
    settings = make_settings(tmp_path, model, monitor={"integrity": every})
    version = make_version(settings)[1]
    theirs, ours = Remembering(1), Remembering(2)
    replica = Replica(settings, {"integrity": FakeProbe("integrity", theirs.act)})
    store: Store = open_store(settings.monitor)
    key = VersionKey.of(version)
    alarm = ("plumbline_probe_alarm", version.name, "integrity")
    try:
        wait_until(lambda: replica.values().get(alarm) == 1, 30)
        theirs.hold.set()
        assert theirs.held.wait(30)
        standing = reset_probe(
            settings,
            "integrity",
            reason="as agreed",
            by="ann",
            probes={"integrity": FakeProbe("integrity", ours.act)},
        )
        assert standing.taken_back
        assert standing.last is not None
        assert standing.last.level is Level.ALARM
        # While its own run still hangs, the service shows what the reset found.
        wait_until(lambda: replica.values().get(alarm) == 0, 30)
        theirs.hold.clear()
        theirs.go.set()
        superseded = ("integrity", "superseded", "")
        wait_until(lambda: store.counts("docs").get(superseded) == 1, 30)
        after = store.memory(key, "integrity").runs
        wait_until(lambda: store.memory(key, "integrity").runs >= after + 2, 30)
        memory = store.memory(key, "integrity")
        assert (memory.state, memory.baseline) == ({"born": 2}, {"of": 2})
        assert theirs.seen[-1] == {"born": 2}
        assert replica.values()[alarm] == 0
        assert [event.by for event in store.resets("docs")] == ["ann"]
    finally:
        theirs.go.set()
        replica.end()
        store.close()
        disconnect()


def test_a_reset_tries_again_when_a_run_was_quicker(tmp_path: Path, model: Path) -> None:
    """The service may write while the reset's own look is under way."""
    settings = make_settings(tmp_path, model)
    version = make_version(settings)[1]
    key, store = VersionKey.of(version), open_store(settings.monitor)
    ran = Run(key, "integrity", datetime.now(UTC), 1.0, Outcome.COMPLETED, state={"born": 1})
    store.record(ran, 0)
    collisions = [2]

    def act(context: ProbeContext) -> ProbeResult:
        assert context.state is None
        if collisions[0]:
            collisions[0] -= 1
            store.record(replace(ran), store.memory(key, "integrity").runs)
        return result(state={"born": 2})

    probes = {"integrity": FakeProbe("integrity", act)}
    taken = reset_probe(settings, "integrity", reason="as agreed", by="ann", probes=probes)
    assert taken.taken_back
    assert store.memory(key, "integrity").state == {"born": 2}
    collisions[0] = 100
    again = reset_probe(settings, "integrity", reason="as agreed", by="ann", probes=probes)
    assert not again.taken_back
    assert len(store.resets("docs")) == 1
    store.close()
    disconnect()
