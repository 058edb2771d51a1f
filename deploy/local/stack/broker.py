"""Apache Kafka as a service of the stack, and the topics of documents."""

from __future__ import annotations

import base64
import uuid

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from deploy.local.install import servers_dir
from deploy.local.kafka import format_command, server_command, single_node
from deploy.local.stack.errors import StackError
from deploy.local.stack.options import Options
from deploy.local.stack.ports import Port
from deploy.local.stack.service import Service
from pipelines.core.settings import Settings

__all__ = ["broker", "make_topics"]

PARTITIONS = 3
_HEAP_MB = 512


def broker(options: Options, port: int) -> Service:
    """One node on loopback; its properties are written."""
    folder = options.data("kafka").resolve()
    address = f"127.0.0.1:{port}"
    properties = single_node(
        {"PLAINTEXT": address},
        {"PLAINTEXT": "PLAINTEXT"},
        f"127.0.0.1:{options.kafka_controller_port}",
        folder / "data",
    )
    text = "".join(f"{key}={value}\n" for key, value in properties.items())
    file = folder / "server.properties"
    file.write_text(text, encoding="utf-8")
    formatted = (folder / "data" / "meta.properties").exists()
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return Service(
        name="kafka",
        stage=1,
        command=server_command(servers_dir(), file, logs=folder, heap_mb=_HEAP_MB),
        folder=folder,
        ports=[
            Port(port, "`kafka.bootstrap_servers` in the settings file"),
            Port(options.kafka_controller_port, "--kafka-controller-port"),
        ],
        address=address,
        health=f"kafka://{address}",
        grace_seconds=20.0,
        configuration=text,
        prepare=[]
        if formatted
        else format_command(servers_dir(), file, cluster, logs=folder, heap_mb=_HEAP_MB),
        server="kafka",
    )


def make_topics(settings: Settings, port: int) -> list[str]:
    """Make the topics of documents that do not exist; gives the names of those it made.

    Compacted, so that the topic holds the newest event of every document for ever, and an index can
    be built anew from it. Those of dead letters and of replays are the job's own to make.

    Raises
    ------
    StackError
        The broker refuses.
    """
    admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}")
    try:
        existing = set(admin.list_topics())
        missing = [name for name in settings.kafka.topics if name not in existing]
        if missing:
            admin.create_topics(
                [
                    NewTopic(name, PARTITIONS, 1, topic_configs={"cleanup.policy": "compact"})
                    for name in missing
                ]
            )
        return missing
    except TopicAlreadyExistsError:
        return []
    except KafkaError as error:
        raise StackError(f"Kafka did not make the topics: {error}") from None
    finally:
        admin.close()
