"""`make up` on the real servers: everything starts in order, is found again, and ends alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.support.processes import REPOSITORY, ServerProcess, free_port, listening, wait_until
from tests.support.stack import INSTALL_HINT, Stack, stack_available

# All of it may start while other tests work the machine.
pytestmark = pytest.mark.timeout(900)

SERVICES = {"kafka", "qdrant", "alertmanager", "ingest", "monitor", "prometheus"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Stack]:
    """A stack of this module, started by the first test that needs it."""
    require(stack_available(), INSTALL_HINT)
    made = Stack(tmp_path_factory.mktemp("stack"), model)
    yield made
    made.down()


@pytest.fixture
def running(stack: Stack) -> Stack:
    """The stack, with all of it up."""
    done = stack.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(stack.pids()) == SERVICES
    return stack


def runs(pid: int) -> bool:
    """Whether the process has not ended; one that nobody has asked for its status has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def query(stack: Stack, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers to an instant query."""
    url = f"http://127.0.0.1:{stack.ports['prometheus']}/api/v1/query?" + urllib.parse.urlencode(
        {"query": expression}
    )
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def test_a_document_sent_to_kafka_is_found_by_search(running: Stack) -> None:
    """What is sent to the topic can be searched for, with no step between but waiting."""
    running.send(
        {"id": "kb/42", "text": "A parcel can be returned within thirty days."},
        {"id": "kb/43", "text": "The office is closed on public holidays."},
    )
    text = "A parcel can be returned within thirty days."
    hits = wait_until(
        lambda: len(found := running.search(text)) == 2 and found, 90, what="both are found"
    )
    assert hits[0]["document_id"] == "kb/42"


def test_prometheus_scrapes_the_job_and_the_monitor(running: Stack) -> None:
    """Both are up in Prometheus, under the names and the index that the rules select by."""

    def up() -> dict[str, str]:
        return {one["metric"]["job"]: one["value"][1] for one in query(running, "up")}

    wanted = {"plumbline-ingest": "1", "plumbline-monitor": "1"}
    wait_until(lambda: wanted.items() <= up().items(), 90, what="both are scraped")
    (info,) = wait_until(lambda: query(running, "plumbline_encoder_info"), 60)
    assert info["metric"]["index"] == "docs"


def test_prometheus_has_the_rules_and_knows_alertmanager(running: Stack) -> None:
    """The committed rules are loaded and healthy, and alerts have somewhere to go."""

    def api(path: str) -> Any:
        url = f"http://127.0.0.1:{running.ports['prometheus']}/api/v1/{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    loaded = {Path(group["file"]) for group in api("rules")["groups"]}
    committed = set((REPOSITORY / "deploy" / "prometheus").glob("plumbline.*.yml"))
    assert {path.name for path in loaded} == {path.name for path in committed}

    def healthy() -> bool:
        return all(
            rule["health"] == "ok" for group in api("rules")["groups"] for rule in group["rules"]
        )

    wait_until(healthy, 120, what="every rule was evaluated")
    managers = wait_until(lambda: api("alertmanagers")["activeAlertmanagers"], 60)
    assert [str(running.ports["alertmanager"]) in one["url"] for one in managers] == [True]


def test_all_of_it_listens_on_loopback_alone(running: Stack) -> None:
    """No port can be reached from another machine."""
    pids = set(running.pids().values())
    inodes = {}
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes[str(descriptor.readlink())] = pid
            except FileNotFoundError:
                continue
    listeners = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                listeners.append(fields[1].partition(":")[0])
    # 127.0.0.1 as the kernel prints it: plain, and for IPv6 sockets.
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert len(listeners) >= len(running.ports)
    assert set(listeners) <= loopback


def test_a_second_up_starts_nothing(running: Stack) -> None:
    """`up` again says that all of it runs, and every process is the one it was."""
    before = running.pids()
    done = running.up()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs already") == len(SERVICES)
    assert "earlier settings" not in done.stdout
    assert running.pids() == before


def test_a_killed_service_is_started_by_the_next_up(running: Stack) -> None:
    """Only what is missing is started."""
    before = running.pids()
    os.kill(before["monitor"], signal.SIGKILL)
    wait_until(lambda: not runs(before["monitor"]), 30, what="the monitor is gone")
    status = running.run("status")
    assert status.returncode == 1
    assert "has ended" in status.stdout
    done = running.up()
    assert done.returncode == 0, done.stdout + done.stderr
    after = running.pids()
    assert after.pop("monitor") != before.pop("monitor")
    assert after == before
    assert running.run("status").returncode == 0


def test_other_settings_are_said_to_need_a_new_start(running: Stack) -> None:
    """Settings that a running service does not have are not passed over in silence."""
    running.values["ingest"] = {"batch_events": 17}
    try:
        done = running.up()
    finally:
        del running.values["ingest"]
    assert done.returncode == 0
    assert "earlier settings" in done.stdout


def test_down_stops_what_up_has_started_and_nothing_else(running: Stack, tmp_path: Path) -> None:
    """A process of the same program, and one that has taken over a number, live on."""
    bystander = ServerProcess(
        [
            *(sys.executable, "-m", "deploy.local.trial_qdrant"),
            *("--port", str(free_port()), "--path", str(tmp_path / "other")),
        ],
        tmp_path / "bystander.log",
        working_directory=REPOSITORY,
    )
    try:
        wait_until(lambda: "serving" in bystander.log(), 60, what="the bystander serves")
        # As if the alertmanager had ended, and its number had been given to the bystander.
        pids = running.pids()
        record = running.state / "run" / "alertmanager.json"
        content = json.loads(record.read_text())
        os.kill(pids.pop("alertmanager"), signal.SIGKILL)
        content["process"]["pid"] = bystander.pid
        record.write_text(json.dumps(content))

        done = running.down()

        assert done.returncode == 0, done.stderr
        assert [pid for pid in pids.values() if runs(pid)] == []
        assert done.stdout.count("stopped") == len(SERVICES) - 1
        assert "killed" not in done.stdout
        assert bystander.running
        assert running.pids() == {}
        assert running.down().returncode == 0
    finally:
        bystander.kill()


def test_documents_outlive_down_and_up(running: Stack) -> None:
    """Data stays: what was searchable is searchable after a new start."""
    running.send({"id": "kb/stays", "text": "Bees dance to tell where the flowers are."})
    text = "Bees dance to tell where the flowers are."

    def first() -> str:
        hits = running.search(text)
        return hits[0]["document_id"] if hits else ""

    wait_until(lambda: first() == "kb/stays", 90, what="it is found")
    assert running.down().returncode == 0
    done = running.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert first() == "kb/stays"


@pytest.mark.parametrize(
    ("port", "named"),
    [
        ("kafka", "`kafka.bootstrap_servers`"),
        ("controller", "--kafka-controller-port"),
        ("qdrant", "--qdrant-port"),
        ("prometheus", "--prometheus-port"),
        ("alertmanager", "--alertmanager-port"),
        ("ingest", "`metrics.port`"),
        ("monitor", "`monitor.port`"),
    ],
)
def test_a_taken_port_is_named_with_its_setting(
    port: str, named: str, tmp_path: Path, model: Path
) -> None:
    """Before anything is started: which port, who has it, and how to choose another."""
    require(stack_available(), INSTALL_HINT)
    stack = Stack(tmp_path, model)
    with socket.create_server(("127.0.0.1", stack.ports[port])):
        done = stack.up()
    assert done.returncode == 2
    assert f"port {stack.ports[port]} " in done.stderr
    assert named in done.stderr
    assert f"process {os.getpid()} " in done.stderr
    assert stack.pids() == {}
    assert not any(listening(number) for number in stack.ports.values())


def test_a_service_that_does_not_come_up_is_shown_with_its_log(tmp_path: Path, model: Path) -> None:
    """The message has the end of the log; what had started runs on, and `down` ends it."""
    require(stack_available(), INSTALL_HINT)
    stack = Stack(tmp_path, model, {"contract": {"model": str(tmp_path / "no-such-model")}})
    try:
        done = stack.up()
        assert done.returncode == 3
        assert "ingest ended with status" in done.stderr
        assert "no such folder" in done.stderr
        assert set(stack.pids()) == {"kafka", "qdrant", "alertmanager"}
    finally:
        ended = stack.down()
    assert ended.returncode == 0
    assert ended.stdout.count("stopped") == 3


def test_a_qdrant_that_the_settings_name_is_used_and_not_started(
    tmp_path: Path, model: Path
) -> None:
    """One that does not answer is said so, with the way out, before anything is started."""
    require(stack_available(), INSTALL_HINT)
    url = f"http://127.0.0.1:{free_port()}"
    stack = Stack(tmp_path, model, {"qdrant": {"url": url}})
    done = stack.up()
    assert done.returncode == 3
    assert url in done.stderr
    assert "`qdrant.url`" in done.stderr
    assert stack.pids() == {}


def test_make_has_the_targets() -> None:
    """`make up`, `make down`, `make status` and `make send` run the stack's commands."""
    for target, words in {
        "up": "deploy.local.stack up",
        "down": "deploy.local.stack down",
        "status": "deploy.local.stack status",
        "send": "deploy.local.stack send",
    }.items():
        done = subprocess.run(
            ["make", "--dry-run", target],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        assert words in done.stdout
