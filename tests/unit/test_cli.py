"""The command line: instant help, exit codes, messages without secrets."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import typer.main

from pipelines.cli import flags
from pipelines.cli.app import app, run
from pipelines.cli.output import report_error
from pipelines.cli.progress import show_progress
from pipelines.cli.search import parse_filters
from pipelines.core.errors import (
    ContractMismatchError,
    ExitCode,
    LeaseHeldError,
    ServiceRefusedError,
    SettingsError,
    TransientError,
)
from pipelines.core.log import configure_logging
from pipelines.core.redact import MASK
from tests.support.own_folder import own_folder
from tests.support.tiny_model import make_tiny_model

PASSWORD, API_KEY = "sasl-hunter2", "key-of-the-kingdom"
HEAVY = ("apache_beam", "torch", "sentence_transformers", "qdrant_client", "kafka", "pydantic")


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path) -> Iterator[None]:
    """No file and no variable of the machine's reaches a test, and logging is put back."""
    with own_folder(tmp_path, monkeypatch):
        yield


def commands() -> list[tuple[str, ...]]:
    """Every command there is, as its words."""
    found: list[tuple[str, ...]] = []

    def walk(command, words: tuple[str, ...]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            # `ingest` is a command with commands below it.
            if getattr(child, "invoke_without_command", not getattr(child, "commands", None)):
                found.append((*words, name))
            walk(child, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def out_of_reach(tmp_path: Path) -> list[str]:
    """Flags for services that nobody offers."""
    return [
        "--bootstrap-servers",
        f"127.0.0.1:{free_port()}",
        "--topic",
        "documents",
        "--qdrant-url",
        f"http://127.0.0.1:{free_port()}",
    ]


def test_help_loads_nothing_heavy():
    """`plumbline --help` neither imports the engines nor the settings, so that it is instant."""
    program = (
        "import sys; from pipelines.cli.app import run; code = run(['--help']);"
        f"print([m for m in {HEAVY!r} if m in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "[] 0"
    assert "doctor" in done.stdout


def test_help_is_instant():
    """Help takes less than 0.3 s of processor time beyond the start of Python."""

    def seconds(program: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        return (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )

    ask = "from pipelines.cli.app import run; run(['--help'])"
    # The best of three: the first fills the file system's cache and byte code.
    best = min(seconds(ask) for _ in range(3)) - min(seconds("pass") for _ in range(3))
    assert best < 0.3


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_shows_an_example(words, capsys):
    """`--help` of every command gives an example and says what the settings file is."""
    assert run([*words, "--help"]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert f"Example: plumbline {' '.join(words)}" in shown
    assert words == ("demo",) or "--config" in shown


def test_the_commands_of_this_release_are_there():
    """The interface the documentation names."""
    assert sorted(" ".join(words) for words in commands()) == [
        "backfill",
        "dead-letters list",
        "dead-letters replay",
        "demo",
        "doctor",
        "golden check",
        "golden convert",
        "golden evaluate",
        "index adopt",
        "index alias",
        "index create",
        "index list",
        "index purge-tombstones",
        "index show",
        "index sweep",
        "ingest",
        "ingest resume",
        "ingest status",
        "ingest stop",
        "monitor history",
        "monitor once",
        "monitor reference set",
        "monitor reference show",
        "monitor reset",
        "monitor run",
        "rollout abort",
        "rollout build",
        "rollout plan",
        "rollout promote",
        "rollout retire",
        "rollout rollback",
        "rollout soak",
        "rollout status",
        "rollout verify",
        "search",
        "worker-pool",
    ]


def test_version(capsys):
    """`--version` prints the release."""
    from pipelines import __version__

    assert run(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out == f"plumbline {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["serch"], ["search"], ["search", "x", "--limit", "0"], ["ingest", "--nope"]]
)
def test_wrong_usage_exits_2(arguments, capsys):
    """Mistakes on the command line are exit code 2, said on standard error."""
    assert run(arguments) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def test_an_unknown_key_exits_2_and_names_the_nearest(capsys):
    """A typo in the file stops every command before it does anything."""
    Path("plumbline.yaml").write_text("kafka: {topcs: [a]}\n", encoding="utf-8")
    assert run(["index", "list"]) == ExitCode.USAGE
    assert "did you mean topics?" in capsys.readouterr().err
    assert run(["--config", "nowhere.yaml", "index", "list"]) == ExitCode.USAGE
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [["--margin", "1.5"], ["--level", "0"], ["--k", "0"]])
def test_a_gate_s_figure_out_of_range_exits_2_and_names_the_setting(flag, capsys):
    """`rollout verify` holds its flags to the ranges of the settings that they stand in for."""
    assert run(["rollout", "verify", *flag]) == ExitCode.USAGE
    assert f"rollout.{flag[0][2:]}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["index", "list"], ["index", "show"], ["search", "x"]])
def test_qdrant_out_of_reach_exits_3_within_a_bound(command, monkeypatch, capsys):
    """A command somebody waits for does not sit an outage out, and says so in one line."""
    monkeypatch.setattr(flags, "_IMPATIENT_SECONDS", 0.5)
    code = run([*command, "--qdrant-url", f"http://127.0.0.1:{free_port()}"])
    assert code == ExitCode.UNAVAILABLE
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("out of reach")]
    assert "127.0.0.1" in line
    assert "0.5 s" in line
    assert "Traceback" not in captured.err


def test_ingest_without_a_broker_exits_3(monkeypatch, capsys, tmp_path):
    """The job says that Kafka is out of reach before it loads a model."""
    monkeypatch.setenv("PLUMBLINE_KAFKA__OUTAGE_TIMEOUT_SECONDS", "1")
    assert run(["ingest", *out_of_reach(tmp_path)]) == ExitCode.UNAVAILABLE
    assert "127.0.0.1" in capsys.readouterr().err


def test_doctor_runs_every_check_and_exits_3(monkeypatch, capsys, tmp_path):
    """With both services out of reach every check still has its line, and no secret is in any."""
    monkeypatch.setenv("PLUMBLINE_KAFKA__SASL_PASSWORD", PASSWORD)
    monkeypatch.setenv("PLUMBLINE_KAFKA__SASL_USERNAME", "ingest")
    monkeypatch.setenv("PLUMBLINE_KAFKA__SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("PLUMBLINE_KAFKA__SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("PLUMBLINE_QDRANT__API_KEY", API_KEY)
    monkeypatch.setenv("PLUMBLINE_METRICS__PORT", "0")
    model = make_tiny_model(tmp_path / "made")
    monkeypatch.setenv("PLUMBLINE_CONTRACT__MODEL", str(model))
    monkeypatch.setattr(flags, "_IMPATIENT_SECONDS", 2.0)
    code = run(["doctor", "--json", *out_of_reach(tmp_path)])
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert code == answer["exit_code"] == ExitCode.UNAVAILABLE
    by_check = {finding["check"]: finding for finding in answer["findings"]}
    assert {name: finding["status"] for name, finding in by_check.items()} == {
        "settings": "ok",
        "broker": "failed",
        "qdrant": "failed",
        "model": "ok",
        "contract": "ok",
        "version": "skipped",
        "metrics": "ok",
    }
    assert all(by_check[name]["fix"] for name in ("broker", "qdrant"))
    assert answer["settings"]["qdrant"]["api_key"] == MASK
    for secret in (PASSWORD, API_KEY):
        assert secret not in captured.out + captured.err


def test_doctor_says_what_is_wrong_with_the_settings(capsys):
    """Settings that cannot be read are a finding, with exit code 2."""
    Path("plumbline.yaml").write_text("indx: a\n", encoding="utf-8")
    assert run(["doctor"]) == ExitCode.USAGE
    assert "did you mean index?" in capsys.readouterr().out
    assert run(["doctor", "--json"]) == ExitCode.USAGE
    assert json.loads(capsys.readouterr().out)["findings"][0]["status"] == "failed"


@pytest.mark.parametrize(
    ("error", "code", "label"),
    [
        (SettingsError("no"), 2, "settings: no"),
        (LeaseHeldError("held"), 1, "error: held"),
        (ServiceRefusedError("login"), 3, "out of reach: login"),
        (TransientError("gone"), 3, "out of reach: gone"),
        (
            ContractMismatchError("docs--m--1", {"max_tokens": (256, 128)}),
            1,
            "max_tokens: the version has 256, this process has 128",
        ),
    ],
)
def test_our_errors_are_their_message(error, code, label, capsys):
    """An expected error is one message on standard error, and its exit code."""
    assert report_error(error) == code
    shown = capsys.readouterr().err
    assert label in shown
    assert "Traceback" not in shown


def test_a_fault_of_ours_shows_no_data(monkeypatch, capsys):
    """An unexpected error names its kind and place; its message, which may quote, only in debug."""

    def fail() -> None:
        raise ValueError(f"text of a document, password={PASSWORD}")

    def report() -> str:
        with pytest.raises(ValueError, match="text of") as caught:
            fail()
        assert report_error(caught.value) == ExitCode.NO
        return capsys.readouterr().err

    shown = report()
    assert "ValueError in" in shown
    assert "document" not in shown
    monkeypatch.setenv("PLUMBLINE_LOG_LEVEL", "debug")
    shown = report()
    assert "Traceback" in shown
    assert PASSWORD not in shown


def test_filters_keep_their_types():
    """`--filter` reads numbers and truth values as such; one key given twice takes either value."""
    assert parse_filters(["lang=en", "lang=de", "n=3", "ok=true", 'id="42"', "e=a=b", "x="]) == {
        "lang": ["en", "de"],
        "n": 3,
        "ok": True,
        "id": "42",
        "e": "a=b",
        "x": "",
    }
    with pytest.raises(SettingsError, match="KEY=VALUE"):
        parse_filters(["lang"])


def test_flink_needs_its_endpoint(capsys):
    """Runner options that do not go together are a mistake of usage."""
    assert run(["ingest", "--runner", "flink"]) == ExitCode.USAGE
    assert "--job-endpoint" in capsys.readouterr().err
    assert run(["ingest", "--job-endpoint", "x:1"]) == ExitCode.USAGE
    assert run(["ingest", "--parallelism", "2"]) == ExitCode.USAGE


def test_logs_are_json_lines_without_secrets_or_text():
    """Where a program reads them: one JSON object a line, UTC, masked, libraries included."""
    import logging

    stream = io.StringIO()
    configure_logging("info", "auto", stream)
    structlog.get_logger().info("batch_written", documents=3, text="a document", api_key="k")
    structlog.get_logger().debug("not_shown")
    logging.getLogger("httpx").info("not shown: GET http://…")
    logging.getLogger("anything").warning("login with password=%s failed", "hunter2")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["timestamp"].endswith("Z")
    del first["timestamp"]
    assert first == {
        "event": "batch_written",
        "level": "info",
        "documents": 3,
        "text": MASK,
        "api_key": MASK,
    }
    assert second["event"] == f"login with password={MASK} failed"
    assert (second["logger"], second["level"]) == ("anything", "warning")


def test_no_progress_line_without_a_terminal():
    """In a pipe the log's lines say how far the job is; no control codes are written."""
    stream = io.StringIO()
    with show_progress(stream) as progress:
        progress.start("docs--m--1")
    assert stream.getvalue() == ""


DRAIN = """
import signal, sys, time
from pipelines.cli.signals import draining
from pipelines.io.kafka.stop import STOP
with draining(float(sys.argv[1]), in_process=True):
    print("ready", flush=True)
    if sys.argv[2] == "obeys":
        assert STOP.wait(60)
    else:
        time.sleep(60)
print("drained", flush=True)
"""


@pytest.mark.parametrize(
    ("bound", "job", "signals", "code", "said"),
    [
        ("60", "obeys", 1, 0, "draining"),
        ("0.2", "hangs", 1, 1, "gave up"),
        ("60", "hangs", 2, 128 + 15, "left at once"),
    ],
)
def test_signals_drain_give_up_and_leave(bound, job, signals, code, said):
    """The first SIGTERM drains, within its bound; the second one ends the process."""
    child = subprocess.Popen(
        [sys.executable, "-c", DRAIN, bound, job],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == "ready\n"
    child.terminate()
    spoken = ""
    if signals == 2:
        # The first one has been heard; libraries may have spoken before.
        assert any("draining" in line for line in iter(child.stderr.readline, ""))
        child.terminate()
    out, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert said in spoken + err
    assert out == ("drained\n" if code == 0 else "")
