"""Apache Kafka for tests: one KRaft node on loopback, from the jars that install.py put there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from deploy.local.kafka import format_command, server_command, single_node
from tests.support.processes import (
    Server,
    ServerProcess,
    free_ports,
    installed,
    listening,
    servers_dir,
    wait_until,
)

__all__ = ["KafkaServer", "kafka_available"]

INSTALL_HINT = "Apache Kafka is not installed: python deploy/local/install.py kafka"

# Any 16 bytes in URL-safe base64 name a cluster; all of these are one node wide.
CLUSTER_ID = "cGx1bWJsaW5lLXRlc3Q"

# A test does not wait for what a broker does every few minutes.
HASTE: dict[str, str] = {
    "log.retention.check.interval.ms": "2000",
    "file.delete.delay.ms": "1000",
}


def kafka_available() -> bool:
    """Whether the jars and a Java are there."""
    return installed("kafka")


class KafkaServer(Server):
    """A Kafka broker of its own for a test or a session; use it as a context manager.

    Parameters
    ----------
    configs
        Added to server.properties, or in place of what is there.
    extra_listeners
        Listener name to security protocol (`{"SECURE": "SASL_SSL"}`), each on a port of its own,
        beside the plain one that `bootstrap` names; `address` gives theirs. Key stores and
        mechanisms go in `configs` (`listener.name.secure....`).
    data_dir
        Kept when given; else a temporary one, removed by `close`.
    heap_mb
        Of the Java process.
    """

    def __init__(
        self,
        configs: Mapping[str, Any] | None = None,
        *,
        extra_listeners: Mapping[str, str] | None = None,
        data_dir: Path | None = None,
        heap_mb: int = 384,
    ) -> None:
        self.configs = dict(configs or {})
        self._protocols = {"PLAINTEXT": "PLAINTEXT", **(extra_listeners or {})}
        ports = free_ports(len(self._protocols) + 1)
        self._ports = dict(zip(self._protocols, ports, strict=False))
        self._controller_port = ports[-1]
        self._temporary = data_dir is None
        self.data_dir = data_dir or Path(tempfile.mkdtemp(prefix="plumbline-kafka-"))
        self._heap_mb = heap_mb

    @property
    def port(self) -> int:
        """The port of the plain listener."""
        return self._ports["PLAINTEXT"]

    @property
    def bootstrap(self) -> str:
        """Address of the plain listener, for `bootstrap_servers`."""
        return self.address("PLAINTEXT")

    @property
    def controller(self) -> str:
        """Address of the controller's listener, for brokers that join."""
        return f"127.0.0.1:{self._controller_port}"

    @property
    def log_path(self) -> Path:
        """Where the broker writes its log."""
        return self.data_dir / "kafka.log"

    def address(self, listener: str) -> str:
        """`host:port` of one listener by its name."""
        return f"127.0.0.1:{self._ports[listener]}"

    def start(self, timeout_seconds: float = 90.0) -> Self:
        """Start the broker and wait until it answers requests."""
        if not kafka_available():
            raise RuntimeError(INSTALL_HINT)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        properties = self.data_dir / "server.properties"
        properties.write_text("".join(f"{k}={v}\n" for k, v in self._properties().items()))
        if not (self.data_dir / "data" / "meta.properties").exists():
            self._format(properties)
        self._process = ServerProcess(
            server_command(servers_dir(), properties, logs=self.data_dir, heap_mb=self._heap_mb),
            self.log_path,
            working_directory=self.data_dir,
        )
        self._process.wait_ready(self._answers, timeout_seconds)
        return self

    def stop(self) -> None:
        """End the broker in order; data and ports stay for `restart`."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End the broker with SIGKILL, as a crash would; data and ports stay for `restart`."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> Self:
        """Stop it if it runs, and start it again on the same ports and data."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop it and remove its temporary data."""
        # What it would flush in an orderly end is deleted here.
        if self._temporary:
            self.kill()
            shutil.rmtree(self.data_dir, ignore_errors=True)
        else:
            self.stop()

    def create_topic(self, name: str, partitions: int = 1, **config: Any) -> None:
        """Make a topic and wait until it can be written to.

        Parameters
        ----------
        name, partitions
            Of the topic.
        config
            Topic settings with underscores for dots: `cleanup_policy="compact"`.
        """
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        admin = self._admin()
        try:
            admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])

            def led() -> bool:
                (topic,) = admin.describe_topics([name])
                found = topic["partitions"]
                return len(found) == partitions and all(
                    partition.get("leader_id", -1) >= 0 for partition in found
                )

            wait_until(led, 15, what=f"every partition of {name} has a leader")
        finally:
            admin.close()

    def delete_topic(self, name: str) -> None:
        """Delete a topic and wait until it is gone; one that is not there is no error."""
        admin = self._admin()
        try:
            try:
                admin.delete_topics([name])
            except UnknownTopicOrPartitionError:
                return
            wait_until(lambda: name not in admin.list_topics(), 15, what=f"{name} is deleted")
        finally:
            admin.close()

    def _admin(self) -> Any:
        return KafkaAdminClient(bootstrap_servers=self.bootstrap)

    def _properties(self) -> dict[str, str]:
        return single_node(
            {name: self.address(name) for name in self._protocols},
            self._protocols,
            self.controller,
            self.data_dir / "data",
            HASTE | {key: str(value) for key, value in self.configs.items()},
        )

    def _format_command(self, properties: Path) -> list[str]:
        return format_command(
            servers_dir(), properties, CLUSTER_ID, logs=self.data_dir, heap_mb=self._heap_mb
        )

    def _format(self, properties: Path) -> None:
        process = ServerProcess(self._format_command(properties), self.data_dir / "format.log")
        wait_until(lambda: not process.running, 60, what="the storage is formatted")
        if process.returncode != 0:
            raise RuntimeError(f"the storage could not be formatted:\n{process.log_tail()}")

    def _answers(self) -> bool:
        # The port opens before the broker is unfenced; a request for topics tells.
        if not listening(self.port):
            return False
        try:
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=1000)
        except KafkaError:
            return False
        try:
            return bool(admin.describe_cluster()["brokers"])
        except KafkaError:
            return False
        finally:
            admin.close()
