"""Three Kafka brokers for tests: one that stays, and two between which records can be lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from tests.support.kafka_server import KafkaServer
from tests.support.processes import wait_until

__all__ = ["KafkaCluster"]


class _Follower(KafkaServer):
    """A broker that is no controller."""

    def __init__(self, number: int, first: KafkaServer, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.configs |= {
            "process.roles": "broker",
            "node.id": number,
            "listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.bootstrap.servers": first.controller,
        }
        self._number = number

    def _format_command(self, properties: Path) -> list[str]:
        # Only a controller makes a quorum of its own.
        return [part for part in super()._format_command(properties) if part != "--standalone"]

    def _answers(self) -> bool:
        return super()._answers() and self._number in {
            broker["broker_id"] for broker in _described(self)["brokers"]
        }


def _described(server: KafkaServer) -> dict[str, Any]:
    with _admin(server.bootstrap) as admin:
        found: dict[str, Any] = admin.describe_cluster()
    return found


class KafkaCluster:
    """Broker 1, which is the controller and keeps the groups' offsets, and brokers 2 and 3.

    Use it as a context manager. Kill, start and pause single ones through `node`; the first must
    live, or nobody elects a leader.
    """

    def __init__(self) -> None:
        # A busy machine must not look like a dead broker.
        self._first = KafkaServer({"broker.session.timeout.ms": 4000}, heap_mb=256)
        self._others = [_Follower(number, self._first, heap_mb=192) for number in (2, 3)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._first)
            # Made now, they lie on the first.
            with _admin(self._first.bootstrap) as admin:
                wait_until(lambda: admin.list_group_offsets("nobody") is not None, 30)
            for node in self._others:
                stack.enter_context(node)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def bootstrap(self) -> str:
        """Addresses of all three."""
        return ",".join(node.bootstrap for node in (self._first, *self._others))

    def node(self, number: int) -> KafkaServer:
        """One broker by its number, 1 to 3."""
        return (self._first, *self._others)[number - 1]

    def create_topic(
        self, name: str, partitions: int = 1, *, on: Sequence[int] = (2, 3), **config: Any
    ) -> None:
        """Make a topic whose replicas lie on these brokers, the first of them its leader.

        Whichever of them lives may lead, however far it is behind, unless `config` says otherwise.
        """
        settings = {
            "unclean.leader.election.enable": "true",
            "min.insync.replicas": "1",
            **{key.replace("_", "."): str(value) for key, value in config.items()},
        }
        places = {number: list(on) for number in range(partitions)}
        with _admin(self._first.bootstrap) as admin:
            admin.create_topics(
                [NewTopic(name, replica_assignments=places, topic_configs=settings)]
            )
        self.wait_for(name, leader=on[0], in_sync=set(on))

    def wait_for(self, name: str, *, leader: int, in_sync: set[int] | None = None) -> None:
        """Wait until a broker leads all partitions, and these replicas are in sync with it."""

        def so() -> bool:
            with _admin(self._first.bootstrap) as admin:
                (topic,) = admin.describe_topics([name])
            return bool(topic["partitions"]) and all(
                partition["leader_id"] == leader
                and (in_sync is None or set(partition["isr_nodes"]) == in_sync)
                for partition in topic["partitions"]
            )

        wait_until(so, 60, what=f"broker {leader} leads {name}", interval_seconds=0.3)


@contextmanager
def _admin(bootstrap: str) -> Iterator[Any]:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        yield admin
    finally:
        admin.close()
