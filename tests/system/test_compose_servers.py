"""What deploy/compose.yaml gives to the servers works on the real ones, as far as they run here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from deploy.local.kafka import java_command, server_command
from tests.conftest import require
from tests.support.kafka_server import INSTALL_HINT, kafka_available
from tests.support.processes import (
    REPOSITORY,
    ServerProcess,
    free_port,
    free_ports,
    listening,
    servers_dir,
)
from tests.support.qdrant_server import QdrantServer
from tests.support.stack import INSTALL_HINT as STACK_HINT
from tests.support.stack import stack_available

DEPLOY = REPOSITORY / "deploy"
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
CONFIGS: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["configs"]

LOGGING = """
Configuration:
  Appenders: {}
  Loggers:
    Root: {level: WARN, AppenderRef: []}
    Logger: []
"""


class Broker:
    """The broker of the file on loopback: its addresses and folder are all that is different."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = free_ports(3)
        names = ("kafka:19092", "localhost:9092", "kafka:29093")
        self.addresses = {
            name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)
        }

    def here(self, text: str) -> str:
        """A value of the file with this machine's addresses in place."""
        for name, address in self.addresses.items():
            text = text.replace(f"://:{name.partition(':')[2]}", f"://{address}")
            text = text.replace(name, address)
        return text.replace("/var/lib/kafka/data", str(self.folder / "data"))

    @property
    def inside(self) -> str:
        """The address that containers use."""
        return self.addresses["kafka:19092"]

    def java(self, main: str, *arguments: str) -> list[str]:
        """One of Kafka's programs."""
        return java_command(servers_dir(), main, arguments, logs=self.folder, heap_mb=256)

    def run(self, command: list[str], environment: Mapping[str, str] | None = None) -> str:
        """What a program prints; it must end with 0."""
        done = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Set up by the program that the image runs, from the variables of the file."""
    require(kafka_available(), INSTALL_HINT)
    made = Broker(tmp_path_factory.mktemp("broker"))
    defaults, mounted, final = (made.folder / name for name in ("default", "mounted", "final"))
    for folder in (defaults, mounted, final):
        folder.mkdir()
    # The image has its own, which the variables replace as a whole.
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (defaults / name).write_text(LOGGING if name.endswith("yaml") else "")
    environment = {
        name: made.here(value) for name, value in SERVICES["kafka"]["environment"].items()
    }
    made.run(
        made.java(
            "kafka.docker.KafkaDockerWrapper",
            *("setup", "-D", str(defaults), "-M", str(mounted), "-F", str(final)),
        ),
        environment,
    )
    process = ServerProcess(
        server_command(servers_dir(), final / "server.properties", logs=made.folder, heap_mb=384),
        made.folder / "kafka.log",
        working_directory=made.folder,
    )
    try:
        port = int(made.inside.rpartition(":")[2])
        process.wait_ready(lambda: listening(port), 90)
        check = [made.here(word) for word in SERVICES["kafka"]["healthcheck"]["test"][1:]]
        assert check.pop(0).endswith("/kafka-broker-api-versions.sh")
        process.wait_ready(
            lambda: made.run(made.java("org.apache.kafka.tools.BrokerApiVersionsCommand", *check)),
            90,
            what="the health check passes",
        )
        yield made
    finally:
        process.stop()


def test_the_broker_is_reached_from_containers_and_from_the_machine(broker: Broker) -> None:
    """Both listeners hand out the address that their clients can use."""
    for name, address in broker.addresses.items():
        if name == "kafka:29093":
            continue
        admin = KafkaAdminClient(bootstrap_servers=address)
        try:
            (found,) = admin.describe_cluster()["brokers"]
        finally:
            admin.close()
        assert f"{found['host']}:{found['port']}" == address


def test_the_topic_is_made_once_and_compacted(broker: Broker) -> None:
    """The command makes it, and does nothing to one that is there."""
    program, *arguments = SERVICES["topics"]["command"]
    assert program.endswith("/kafka-topics.sh")
    command = broker.java(
        "org.apache.kafka.tools.TopicCommand", *(broker.here(word) for word in arguments)
    )
    broker.run(command)
    broker.run(command)
    admin = KafkaAdminClient(bootstrap_servers=broker.inside)
    try:
        (topic,) = admin.describe_topics(["documents"])
        resource = ConfigResource(ConfigResourceType.TOPIC, "documents")
        configs = admin.describe_configs([resource])
    finally:
        admin.close()
    assert len(topic["partitions"]) == 3
    assert "compact" in str(configs)


def test_qdrant_s_health_check_tells_a_server_from_none() -> None:
    """The check speaks HTTP without a curl: yes where `/readyz` says so, no without a server."""
    kind, *words = SERVICES["qdrant"]["healthcheck"]["test"]
    assert kind == "CMD"
    with QdrantServer() as server:
        for port, healthy in ((server.port, True), (free_port(), False)):
            command = [re.sub(r"/6333\b", f"/{port}", word) for word in words]
            done = subprocess.run(command, capture_output=True, timeout=30, check=False)
            assert (done.returncode == 0) == healthy


def test_prometheus_and_alertmanager_accept_what_is_mounted(tmp_path: Path) -> None:
    """Laid out as the containers see it, promtool and amtool find nothing wrong."""
    require(stack_available(), STACK_HINT)
    tools = {
        "prometheus": [
            servers_dir() / "prometheus" / "usr" / "bin" / "promtool",
            "check",
            "config",
        ],
        "alertmanager": [servers_dir() / "alertmanager" / "usr" / "bin" / "amtool", "check-config"],
    }
    for name, tool in tools.items():
        for config in SERVICES[name]["configs"]:
            target = tmp_path / config["target"].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(DEPLOY / CONFIGS[config["source"]]["file"], target)
        (flag,) = [w for w in SERVICES[name]["command"] if w.startswith("--config.file=")]
        path = tmp_path / flag.partition("=")[2].lstrip("/")
        done = subprocess.run([*tool, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["prometheus", "alertmanager"])
def test_the_servers_know_their_flags(name: str) -> None:
    """Every flag of the file is one that the program has."""
    require(stack_available(), STACK_HINT)
    program = {
        "prometheus": servers_dir() / "prometheus" / "usr" / "bin" / "prometheus",
        "alertmanager": servers_dir() / "alertmanager" / "bin" / "alertmanager",
    }[name]
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    known = set(re.findall(r"--[a-z][a-z.\-]+", done.stdout + done.stderr))
    assert {word.partition("=")[0] for word in SERVICES[name]["command"]} <= known
