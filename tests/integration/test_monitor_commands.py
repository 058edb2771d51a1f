"""`plumbline monitor` on an embedded index: once, reference, history, and bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from monitors import once as once_module
from monitors.once import run_once
from monitors.probes.base import Level, ProbeContext, ProbeResult
from monitors.service import lease_name
from monitors.store import open_store
from pipelines.cli import app
from pipelines.cli.monitor_output import exit_code_of
from pipelines.core.control import Control
from pipelines.core.errors import ExitCode, ModelError, ServiceUnavailableError
from pipelines.core.lease import Lease
from pipelines.core.qdrant import disconnect
from pipelines.core.settings import Settings, load_settings
from tests.support.monitor_probes import FakeProbe, fill_version, make_version, result
from tests.support.own_folder import own_folder
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def settings(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A folder with a `plumbline.yaml`, an embedded store and 60 documents."""
    with own_folder(tmp_path, monkeypatch):
        values = {
            "qdrant": {"path": "store"},
            "contract": {"model": str(model)},
            "monitor": {
                "lease_seconds": 1,
                "drift": {"minimum_reference": 100, "minimum_window": 50, "window": 50},
                "integrity": {"sample": 100},
            },
        }
        Path("plumbline.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        loaded = load_settings(None, {})
        fill(loaded, 60)
        yield loaded
        disconnect()


def fill(settings: Settings, count: int) -> None:
    """Documents in the live version."""
    fill_version(settings, make_version(settings)[1], count)


def use(monkeypatch: pytest.MonkeyPatch, *probes: FakeProbe) -> None:
    """The command finds these probes instead of ours."""
    made = {probe.NAME: probe for probe in probes}
    monkeypatch.setattr(once_module, "PROBES", made)
    monkeypatch.setattr(once_module, "enabled_probes", lambda _settings: made)


def run(*arguments: str) -> int:
    disconnect()
    return app.run(["monitor", *arguments])


def fail(error: Exception) -> FakeProbe:
    def act(_context: ProbeContext) -> ProbeResult:
        raise error

    return FakeProbe("drift", act)


@pytest.mark.parametrize(
    ("probe", "code"),
    [
        (FakeProbe("drift"), ExitCode.OK),
        (FakeProbe("drift", lambda _: result(Level.WARNING)), ExitCode.OK),
        (FakeProbe("drift", lambda _: result(Level.UNDECIDED)), ExitCode.OK),
        (FakeProbe("drift", lambda _: result(Level.ALARM)), ExitCode.NO),
        (fail(ServiceUnavailableError("Kafka is away")), ExitCode.UNAVAILABLE),
        (fail(ModelError("no such model")), ExitCode.UNANSWERED),
        (fail(ValueError("odd")), ExitCode.UNANSWERED),
    ],
)
def test_exit_codes(settings, monkeypatch, capsys, probe: FakeProbe, code: int) -> None:
    """1 on an alarm, 3 where a service is out of reach, 4 where a probe failed, else 0."""
    use(monkeypatch, FakeProbe("canary"), probe)
    assert run("once", "--json") == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == code
    assert [one["probe"] for one in answer["probes"]] == ["canary", "drift"]
    assert answer["recorded"] is True


def test_an_alarm_counts_more_than_what_could_not_be_looked_at(settings) -> None:
    """Somebody has to act, whatever else is out of reach or has failed."""
    probes = {
        "drift": FakeProbe("drift", lambda _: result(Level.ALARM)),
        "canary": fail(ServiceUnavailableError("Kafka is away")),
        "ann": fail(ModelError("no such model")),
    }
    assert exit_code_of(run_once(settings, probes=probes).runs) == ExitCode.NO
    del probes["drift"]
    assert exit_code_of(run_once(settings, probes=probes).runs) == ExitCode.UNAVAILABLE


def test_a_look_that_never_began_is_no_alarm(settings, monkeypatch, capsys) -> None:
    """1 is for alarms alone, so that CI can tell them from a command that could not look."""
    for arguments in (("--index", "dogs"), ("--version", "docs--none--0")):
        assert run("once", *arguments) == ExitCode.UNANSWERED
        assert "error: " in capsys.readouterr().err

    def fault(*_arguments: object, **_options: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(once_module, "run_once", fault)
    assert run("once") == ExitCode.UNANSWERED
    assert "a fault of Plumbline's" in capsys.readouterr().err


def test_a_switch_of_the_version_is_no_alarm(settings, monkeypatch, capsys) -> None:
    """The alias moved while the probe ran: said, and not a failure."""
    from pipelines.core.versions import set_alias

    other = make_version(settings, document_prompt="passage: ")[1].name

    def act(context: ProbeContext) -> ProbeResult:
        set_alias(context.qdrant, "docs", other)
        return result(Level.ALARM)

    use(monkeypatch, FakeProbe("drift", act))
    capsys.readouterr()
    assert run("once", "--json") == ExitCode.OK
    (shown,) = json.loads(capsys.readouterr().out)["probes"]
    assert shown["outcome"] == "version_switched"


def test_kafka_is_asked_where_topics_are_set(settings) -> None:
    """And nobody imports it where none are."""
    from pipelines.cli.monitor import _lag

    assert _lag(settings) is None
    kafka = settings.kafka.model_copy(update={"topics": ["documents"]})
    assert callable(_lag(settings.model_copy(update={"kafka": kafka})))


def test_the_table_says_what_was_found(settings, monkeypatch, capsys) -> None:
    """Probe, level, words, figures; nothing else on standard output."""
    use(monkeypatch, FakeProbe("drift", lambda _: result(Level.ALARM, words="A flood of cats.")))
    assert run("once") == ExitCode.NO
    shown = capsys.readouterr().out
    for part in ("docs--model--", "drift", "alarm", "A flood of cats.", "p 0.5", "current 7"):
        assert part in shown


def test_once_is_a_round_like_those_of_the_service(settings, monkeypatch, capsys) -> None:
    """Its memory goes on, unless it only looks."""
    seen = []

    def act(context: ProbeContext) -> ProbeResult:
        seen.append(context.state)
        return result(state={"runs": len(seen)})

    use(monkeypatch, FakeProbe("drift", act))
    for arguments in ([], ["--dry-run"], []):
        assert run("once", *arguments) == ExitCode.OK
    assert seen == [None, {"runs": 1}, {"runs": 1}]
    capsys.readouterr()
    assert run("history", "--json") == ExitCode.OK
    assert [one["level"] for one in json.loads(capsys.readouterr().out)] == ["ok", "ok"]
    assert run("history", "--probe", "drift") == ExitCode.OK
    assert capsys.readouterr().out.count("As it was told.") == 2


def test_once_on_another_version(settings, monkeypatch, capsys) -> None:
    """By name: with its own memory, and without a trace in what is said of live."""
    other = make_version(settings, document_prompt="passage: ")[1].name
    seen = []

    def act(context: ProbeContext) -> ProbeResult:
        seen.append((context.version.name, context.state))
        return result(state={"of": context.version.name})

    use(monkeypatch, FakeProbe("drift", act))
    capsys.readouterr()
    for _ in range(2):
        assert run("once", "--version", other, "--json") == ExitCode.OK
        answer = json.loads(capsys.readouterr().out)
        assert (answer["version"], answer["recorded"]) == (other, True)
    store = open_store(settings.monitor)
    assert store.live("docs") is None, "this version is not live"
    assert store.counts("docs") == {}
    store.close()
    assert run("once", "--json") == ExitCode.OK
    live = json.loads(capsys.readouterr().out)["version"]
    assert seen == [(other, None), (other, {"of": other}), (live, None)]
    assert run("once", "--version", "docs--none--0") == ExitCode.UNANSWERED
    assert "there is no version docs--none--0" in capsys.readouterr().err


def test_beside_a_running_monitor_once_only_looks(settings) -> None:
    """One process at a time runs probes that are recorded."""
    qdrant, _ = make_version(settings)
    lease = Lease(Control(qdrant), lease_name("docs"), 1)
    lease.acquire()
    try:
        found = run_once(settings, probes={"drift": FakeProbe("drift")})
    finally:
        lease.release()
    assert (found.recorded, found.runs[0].recorded) == (False, False)
    assert "a monitor is running" in found.note
    store = open_store(settings.monitor)
    assert store.history("docs") == []
    store.close()


def test_names_that_do_not_exist(settings, capsys) -> None:
    """The message names those that do."""
    assert run("once", "--probe", "canari") == ExitCode.USAGE
    assert "Did you mean canary?" in capsys.readouterr().err
    assert run("history", "--probe", "canari") == ExitCode.USAGE
    assert "Valid are" in capsys.readouterr().err
    assert run("once", "--index", "dogs") == ExitCode.UNANSWERED
    assert "there are docs" in capsys.readouterr().err
    assert run("reference", "set", "--reason", "x", "--kind", "cats") == ExitCode.USAGE
    assert "documents, queries" in capsys.readouterr().err
    assert run("reference", "set", "--reason", " ") == ExitCode.USAGE
    assert "--reason is empty" in capsys.readouterr().err


def test_references_are_taken_knowingly(settings, capsys) -> None:
    """Who, what, when and why; too few vectors and a name that is taken are refused."""
    assert run("reference", "set", "--reason", "early") == ExitCode.NO
    assert "there are 60 documents" in capsys.readouterr().err
    assert run("reference", "set", "--kind", "queries", "--reason", "early") == ExitCode.NO
    assert "there are 0 queries" in capsys.readouterr().err
    fill(settings, 150)
    assert run("reference", "show") == ExitCode.OK
    assert "no reference yet" in capsys.readouterr().out
    named = ("reference", "set", "--name", "spring", "--by", "ann")
    assert run(*named, "--reason", "spring is in", "--json") == ExitCode.OK
    taken = json.loads(capsys.readouterr().out)
    assert (taken["rows"], taken["dimension"], taken["created_by"]) == (150, 32, "ann")
    assert run(*named, "--reason", "again") == ExitCode.NO
    assert "another name" in capsys.readouterr().err
    assert run("reference", "set", "--reason", "summer") == ExitCode.OK
    capsys.readouterr()
    assert run("reference", "show", "--json") == ExitCode.OK
    shown = json.loads(capsys.readouterr().out)
    assert [(one["reason"], one["in_force"]) for one in shown["references"]] == [
        ("summer", True),
        ("spring is in", False),
    ]
    assert [line["reason"] for line in shown["history"]] == ["summer", "spring is in"]
    assert run("reference", "show") == ExitCode.OK
    assert "spring is in" in capsys.readouterr().out


def test_every_real_probe_runs_once(settings, capsys) -> None:
    """On a healthy index of 60 documents none alarms and none fails; each says something."""
    code = run("once", "--json")
    answer = json.loads(capsys.readouterr().out)
    shown = {one["probe"]: (one["outcome"], one.get("level"), one) for one in answer["probes"]}
    assert len(shown) == 8
    assert {name for name, (outcome, *_) in shown.items() if outcome != "completed"} == set()
    assert {name for name, (_, level, _) in shown.items() if level == "alarm"} == set(), shown
    assert code == ExitCode.OK
    assert all(one["words"] for one in answer["probes"])
