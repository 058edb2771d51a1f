"""A Kafka that asks who comes: TLS listeners good and bad, SCRAM users, and who may do what."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.support.certificates import Authority, Issued
from tests.support.kafka_server import KafkaServer
from tests.support.processes import wait_until

__all__ = ["Grant", "SecureKafka"]

SCRAM = "SCRAM-SHA-512"

Grant = tuple[str, str, str]
"""Operation, kind of resource (`topic`, `group`, `cluster`), and the prefix of its names."""


class SecureKafka:
    """A broker with SASL over TLS; use it as a context manager.

    `address(...)` of `good`, `expired`, `foreign` and `misnamed` are listeners of one broker that
    differ in the certificate they show; `mutual` asks for the client's own instead of a login.
    The plain listener, which tests of other things use, is the superuser's.

    Parameters
    ----------
    folder
        For certificates.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        (folder / "foreign").mkdir()
        stranger = Authority(folder / "foreign", "stranger")
        good = self.authority.issue("good")
        shown: dict[str, Issued] = {
            "GOOD": good,
            "EXPIRED": self.authority.issue("expired", expired=True),
            "FOREIGN": stranger.issue("stranger-server"),
            "MISNAMED": self.authority.issue("misnamed", "kafka.example"),
            "MUTUAL": good,
        }
        self.client = self.authority.issue("client", "client.example")
        self.old_client = self.authority.issue("old-client", "client.example", expired=True)
        self.foreign_client = stranger.issue("foreign-client", "client.example")
        configs = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": f"{SCRAM},PLAIN",
            "connection.failed.authentication.delay.ms": "100",
        }
        for listener, issued in shown.items():
            of = f"listener.name.{listener.lower()}"
            configs |= {
                f"{of}.ssl.keystore.type": "PEM",
                f"{of}.ssl.keystore.location": issued.both,
                f"{of}.ssl.truststore.type": "PEM",
                f"{of}.ssl.truststore.location": self.authority.certificate,
            }
            if listener == "MUTUAL":
                configs[f"{of}.ssl.client.auth"] = "required"
                continue
            login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            configs |= {
                f"{of}.sasl.enabled.mechanisms": SCRAM,
                f"{of}.{SCRAM.lower()}.sasl.jaas.config": login,
            }
        protocols = {name: "SSL" if name == "MUTUAL" else "SASL_SSL" for name in shown}
        self.server = KafkaServer(configs, extra_listeners=protocols)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    def address(self, listener: str) -> str:
        """`host:port` of a listener by its name in small letters."""
        return self.server.address(listener.upper())

    def add_user(self, name: str, password: str, grants: Iterable[Grant]) -> None:
        """A SCRAM user with rights, once the broker knows of both."""
        admin = KafkaAdminClient(bootstrap_servers=self.server.bootstrap)
        try:
            wanted = [UserScramCredentialUpsertion(name, ScramMechanism.SCRAM_SHA_512, password)]
            problems = admin.alter_user_scram_credentials(wanted)
            assert not any(problems.values()), problems
            made = [_acl(f"User:{name}", grant) for grant in grants]
            if made:
                admin.create_acls(made)
            wait_until(
                lambda: name in admin.describe_user_scram_credentials(), what=f"{name} is known"
            )
        finally:
            admin.close()

    def allow(self, principal: str, grants: Iterable[Grant]) -> None:
        """Rights of a principal such as `User:CN=client`."""
        admin = KafkaAdminClient(bootstrap_servers=self.server.bootstrap)
        try:
            admin.create_acls([_acl(principal, grant) for grant in grants])
        finally:
            admin.close()


def _acl(principal: str, grant: Grant) -> ACL:
    operation, kind, prefix = grant
    literal = kind == "cluster"
    pattern = ResourcePattern(
        ResourceType[kind.upper()],
        "kafka-cluster" if literal else prefix,
        ACLResourcePatternType.LITERAL if literal else ACLResourcePatternType.PREFIXED,
    )
    return ACL(principal, "*", ACLOperation[operation.upper()], ACLPermissionType.ALLOW, pattern)
