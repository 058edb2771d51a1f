"""Apache Kafka as one KRaft node, from the jars that install.py puts into the cache.

What `make up` and the tests start; each adds its own to the properties.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["format_command", "java_command", "server_command", "single_node"]

# Java starts in half the time with the first compiler alone, and one node on one machine never
# needs the second.
_JAVA = ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")

_ONE_NODE: dict[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    # One node can hold one replica of anything.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Fewer files and threads: it starts and stops faster.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": str(4 * 1024 * 1024),
    # A name with a typing error must not become a topic.
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    # After a kill the controller takes the dead broker for alive until its session ends, and
    # refuses the new one.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "2000",
    # Nobody else leads: waiting to hand over partitions gains nothing.
    "controlled.shutdown.enable": "false",
}


def single_node(
    listeners: Mapping[str, str],
    protocols: Mapping[str, str],
    controller: str,
    data: Path,
    more: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The broker's properties.

    Parameters
    ----------
    listeners
        Listener name to `host:port`; one is called PLAINTEXT.
    protocols
        Listener name to security protocol.
    controller
        `host:port` of the controller's own listener.
    data
        Folder of the logs.
    more
        Added, or in place of what is there.
    """
    advertised = ",".join(f"{name}://{address}" for name, address in listeners.items())
    mapped = ",".join(f"{name}:{protocol}" for name, protocol in protocols.items())
    return {
        **_ONE_NODE,
        "listeners": f"{advertised},CONTROLLER://{controller}",
        "advertised.listeners": advertised,
        "listener.security.protocol.map": f"{mapped},CONTROLLER:PLAINTEXT",
        "controller.quorum.bootstrap.servers": controller,
        "log.dirs": str(data),
        **(more or {}),
    }


def java_command(
    servers: Path, main: str, arguments: Sequence[str], *, logs: Path, heap_mb: int
) -> list[str]:
    """The command line of one of Kafka's programs.

    Parameters
    ----------
    servers
        The cache of installed servers.
    main
        The class.
    logs
        Folder that the program may write logs of its own to.
    heap_mb
        Of the Java process.
    """
    return [
        *_JAVA,
        f"-Xmx{heap_mb}m",
        f"-Dkafka.logs.dir={logs}",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-cp",
        f"{servers / 'kafka' / 'jars'}{os.sep}*",
        main,
        *arguments,
    ]


def format_command(
    servers: Path, properties: Path, cluster_id: str, *, logs: Path, heap_mb: int
) -> list[str]:
    """Prepares the data folder that the properties name; does nothing to one that is prepared.

    Parameters
    ----------
    cluster_id
        16 bytes in URL-safe base64, without padding.
    """
    arguments = ("format", "--standalone", "--ignore-formatted", "-t", cluster_id)
    return java_command(
        servers,
        "kafka.tools.StorageTool",
        [*arguments, "-c", str(properties)],
        logs=logs,
        heap_mb=heap_mb,
    )


def server_command(servers: Path, properties: Path, *, logs: Path, heap_mb: int) -> list[str]:
    """Runs the broker."""
    return java_command(servers, "kafka.Kafka", [str(properties)], logs=logs, heap_mb=heap_mb)
