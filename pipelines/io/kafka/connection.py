"""Clients of Kafka from the settings, and what each says of its broker's health."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.protocol.consumer import FetchRequest

from pipelines.core.errors import ServiceRefusedError, SettingsError, TransientError
from pipelines.core.settings import KafkaSettings, Settings, secret
from pipelines.io.kafka.errors import translate
from pipelines.io.kafka.headers import accept_any_header_key
from pipelines.io.kafka.logs import tame_kafka_logging
from pipelines.io.kafka.secrets import recall

__all__ = ["WatchedClient", "admin_client", "client_config", "connect_consumer", "watched"]

CONNECT_SECONDS = 5.0
"""How long one try to reach a broker may hold up its caller."""

FETCH_WAIT_MS = 500
"""How long a broker holds a fetch that finds nothing; an idle reader asks twice a second."""

METADATA_PACE_MS = 500
"""How often metadata is asked for while a topic is missing; kafka-python's default is 100."""

_RECONNECT_MAX_MS = 2000
"""kafka-python waits up to 30 s between tries, which would be the delay after every restart."""


class _Masked(str):
    """A string whose `repr` hides it: kafka-python logs whole configurations by their `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


class WatchedManager(KafkaConnectionManager):
    """Connections that remember when the brokers last answered, and why a connection failed.

    `KafkaConsumer.poll` returns the same nothing for a quiet topic and for a broker that is gone;
    the time of the last answer tells one from the other.
    """

    def __init__(self, net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        self.answered_at = time.monotonic()
        self.fetched_at: dict[Any, float] = {}
        self.last_failure: BaseException | None = None
        self.refused: BaseException | None = None
        self.metadata_version = 0
        # A listener would do, were it not skipped when another one raises, as the consumer's own
        # does for a topic that is not permitted.
        update = self.cluster.update_metadata

        def update_and_count(metadata: Any) -> None:
            try:
                update(metadata)
            finally:
                self.metadata_version += 1

        self.cluster.update_metadata = update_and_count
        # A topic that was deleted must not come back because somebody asked for it; kafka-python
        # offers no setting that reaches this far.
        self.cluster.config["allow_auto_create_topics"] = False
        self.cluster.config["retry_backoff_ms"] = METADATA_PACE_MS

    def get_connection(self, node_id: Any, *args: Any, **kwargs: Any) -> Any:
        """The connection, watched for the reason of its failure."""
        if self.refused is not None:
            # kafka-python would log in again for ever, which may lock the account.
            raise self.refused
        known = node_id in self._conns
        connection = super().get_connection(node_id, *args, **kwargs)
        if not known:
            connection.init_future.add_errback(self._failed)
        return connection

    def send(self, request: Any, node_id: Any = None, request_timeout_ms: Any = None) -> Any:
        """Send it, and note the time of the answer."""
        node_id = node_id if node_id is not None else self.least_loaded_node()
        future = super().send(request, node_id=node_id, request_timeout_ms=request_timeout_ms)
        fetch = isinstance(request, FetchRequest)

        def answered(response: Any) -> None:
            self.answered_at = time.monotonic()
            self.last_failure = None
            if fetch and not getattr(response, "error_code", 0):
                self.fetched_at[node_id] = self.answered_at

        future.add_callback(answered)
        return future

    def _failed(self, error: BaseException) -> None:
        self.last_failure = error
        if isinstance(translate(error, ""), ServiceRefusedError):
            self.refused = error

    async def _build_transport(self, node: Any, timeout_at: Any = None) -> Any:
        transport = await super()._build_transport(node, timeout_at=timeout_at)
        receive = transport._sock_recv

        def receive_last_words() -> tuple[bytes, Any]:
            # A broker that refuses a login says so and hangs up. kafka-python drops what it said
            # when both arrive together; the end of the stream is still there to be read next.
            data, error = receive()
            return data, None if data else error

        transport._sock_recv = receive_last_words
        return transport


class WatchedClient(KafkaNetClient):
    """kafka-python's client on a `WatchedManager`."""

    def __init__(self, **configs: Any) -> None:
        net = NetworkSelector(**configs)
        super().__init__(net=net, manager=WatchedManager(net, **configs), **configs)


def watched(client: Any) -> WatchedManager:
    """The `WatchedManager` of a consumer or an admin client made here."""
    manager: WatchedManager = client._manager
    return manager


def client_config(settings: Settings) -> dict[str, Any]:
    """What every kafka-python client of this job is made with: addresses, login, TLS.

    Parameters
    ----------
    settings
        Whole settings; the client id is `plumbline-<index>`.

    Raises
    ------
    SettingsError
        A password, certificate or key cannot be read, or the login is incomplete.
    """
    return kafka_config(settings.kafka, settings.index)


def kafka_config(kafka: KafkaSettings, index: str) -> dict[str, Any]:
    """`client_config` from its parts; see there."""
    tame_kafka_logging()
    accept_any_header_key()
    config: dict[str, Any] = {
        "bootstrap_servers": [part.strip() for part in kafka.bootstrap_servers.split(",")],
        "client_id": f"plumbline-{index}",
        "security_protocol": kafka.security_protocol.value,
        "request_timeout_ms": int(kafka.request_timeout_seconds * 1000),
        "connections_max_idle_ms": int(max(kafka.request_timeout_seconds * 2, 540) * 1000),
        "reconnect_backoff_max_ms": _RECONNECT_MAX_MS,
    }
    if kafka.api_version is not None:
        config["api_version"] = kafka.api_version
    if "SSL" in kafka.security_protocol.value:
        config["ssl_context"] = _ssl_context(kafka)
    if kafka.security_protocol.value.startswith("SASL"):
        config["sasl_mechanism"] = kafka.sasl_mechanism
        if kafka.sasl_mechanism == "OAUTHBEARER":
            raise SettingsError(
                "kafka.sasl_mechanism: OAUTHBEARER needs a token provider, which settings cannot "
                "name; use PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or GSSAPI"
            )
        if kafka.sasl_mechanism != "GSSAPI":
            password = secret(
                recall(kafka, "sasl_password"), kafka.sasl_password_file, "kafka.sasl_password"
            )
            if not kafka.sasl_username or not password:
                raise SettingsError(
                    f"kafka.sasl_mechanism {kafka.sasl_mechanism} needs `sasl_username` and "
                    "`sasl_password` (PLUMBLINE_KAFKA__SASL_PASSWORD) or `sasl_password_file`"
                )
            config["sasl_plain_username"] = kafka.sasl_username
            config["sasl_plain_password"] = _Masked(password)
    return config


def _ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    # Ours rather than kafka-python's, so that the key's password never enters its configuration
    # and a file that cannot be read is an error of the settings instead of a connection that fails.
    context = ssl.create_default_context()
    context.check_hostname = kafka.ssl_check_hostname
    try:
        if kafka.ssl_cafile is not None:
            context.load_verify_locations(str(kafka.ssl_cafile))
        if kafka.ssl_certfile is not None:
            password = secret(
                recall(kafka, "ssl_key_password"),
                kafka.ssl_key_password_file,
                "kafka.ssl_key_password",
            )
            context.load_cert_chain(
                str(kafka.ssl_certfile),
                str(kafka.ssl_keyfile) if kafka.ssl_keyfile else None,
                # A callback keeps OpenSSL from asking on the terminal when there is none.
                password=lambda: password or "",
            )
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            "kafka.ssl_cafile, ssl_certfile, ssl_keyfile: cannot be used: "
            f"{getattr(error, 'strerror', None) or type(error).__name__}"
        ) from None
    return context


def consumer_config(kafka: KafkaSettings, index: str) -> dict[str, Any]:
    """`client_config` and what a consumer reads with.

    A consumer holds at most two fetches a broker: one being parsed, one on its way. With 1,000
    partitions on B brokers that is ``2 * B * fetch_max_bytes`` (Kafka sends one whole batch more
    when it alone is larger), not a thousand times `max_partition_fetch_bytes`.
    """
    return {
        **kafka_config(kafka, index),
        "enable_auto_commit": False,
        # Nothing is ever skipped on kafka-python's own account: an offset that is gone raises.
        "auto_offset_reset": "none",
        "isolation_level": kafka.isolation_level,
        "fetch_max_bytes": kafka.fetch_max_bytes,
        "max_partition_fetch_bytes": min(kafka.max_partition_fetch_bytes, kafka.fetch_max_bytes),
        "max_poll_records": kafka.max_poll_records,
        "fetch_max_wait_ms": min(FETCH_WAIT_MS, int(kafka.request_timeout_seconds * 500)),
        "metadata_max_age_ms": max(int(kafka.metadata_refresh_seconds * 1000), 100),
        # The lag and the answers are measured here; kafka-python's own sensors cost a tenth of
        # the time of a poll.
        "metrics_enabled": False,
    }


def connect_consumer(
    kafka: KafkaSettings,
    index: str,
    group_id: str | None = None,
    timeout_seconds: float = CONNECT_SECONDS,
) -> KafkaConsumer:
    """A consumer that has reached a broker.

    Parameters
    ----------
    kafka, index
        Where to, and the client id.
    group_id
        Group for committing; `None` for a consumer that only reads.
    timeout_seconds
        How long to try.

    Raises
    ------
    TransientError
        No broker answered in time.
    ServiceRefusedError
        Login or TLS was refused.
    SettingsError
        The settings cannot be used.
    """
    config = consumer_config(kafka, index) | {"group_id": group_id}
    with _closing_on_error(config, timeout_seconds) as keep:
        consumer = KafkaConsumer(**config)
        keep(consumer)
        return consumer


def admin_client(settings: Settings, timeout_seconds: float = CONNECT_SECONDS) -> KafkaAdminClient:
    """An admin client that has reached a broker; raises as `connect_consumer`. Close it."""
    config = client_config(settings)
    with _closing_on_error(config, timeout_seconds) as keep:
        admin = KafkaAdminClient(**config)
        keep(admin)
        return admin


@contextlib.contextmanager
def _closing_on_error(
    config: dict[str, Any], timeout_seconds: float
) -> Iterator[Callable[[Any], None]]:
    """Bound the time, translate the error, and leave no thread of a client that never came up."""
    made: list[WatchedClient] = []

    def factory(**configs: Any) -> WatchedClient:
        client = WatchedClient(**configs)
        made.append(client)
        return client

    config["kafka_client"] = factory
    config["bootstrap_timeout_ms"] = int(timeout_seconds * 1000)

    def wait_for_broker(client: Any) -> None:
        # With `api_version` given kafka-python does not wait for a broker by itself, and its
        # public way to wait ignores the timeout while another wait is under way.
        manager = watched(client)
        future = manager.bootstrap_async(refresh=False)
        manager.run(manager.wait_for, future, timeout_seconds * 1000)

    where = f"connecting to {','.join(config['bootstrap_servers'])}"
    try:
        yield wait_for_broker
    except Exception as error:
        cause: BaseException = error
        for client in made:
            manager = watched(client)
            cause = manager.refused or manager.last_failure or cause
            with contextlib.suppress(Exception):
                client.close()
        translated = translate(error, where)
        if isinstance(translated, TransientError) and cause is not error:
            translated = translate(cause, where)
        raise translated from error
