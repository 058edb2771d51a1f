"""One place where kafka-python's exceptions become ours."""

from __future__ import annotations

import ssl

from kafka import errors as kafka_errors

from pipelines.core.errors import (
    PlumblineError,
    ServiceRefusedError,
    SettingsError,
    SystemicError,
    TransientError,
)

__all__ = ["translate"]

_REFUSED: tuple[type[Exception], ...] = (
    kafka_errors.AuthorizationError,
    kafka_errors.IllegalSaslStateError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.SecurityDisabledError,
    kafka_errors.UnacceptableCredentialError,
    kafka_errors.UnsupportedSaslMechanismError,
    ssl.SSLCertVerificationError,
)

_SETTINGS: tuple[type[Exception], ...] = (
    kafka_errors.KafkaConfigurationError,
    kafka_errors.InvalidGroupIdError,
    kafka_errors.InvalidTopicError,
)

# kafka-python calls these final, but another try, or another broker, may do better: a broker that
# is starting, a leader that has just moved, metadata that has not caught up.
_TRANSIENT: tuple[type[Exception], ...] = (
    kafka_errors.RetriableError,
    kafka_errors.BrokerNotAvailableError,
    kafka_errors.NewLeaderElectedError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.StaleBrokerEpochError,
    kafka_errors.StaleControllerEpochError,
    kafka_errors.UnknownBrokerIdError,
    kafka_errors.UnknownError,
    OSError,
)


def translate(error: BaseException, what: str) -> PlumblineError:
    """The error of our tree for one of kafka-python's.

    Parameters
    ----------
    error
        What kafka-python (or the socket below it) raised. One of ours is returned as it is.
    what
        What was being done, for the message: "reading documents/3".

    Returns
    -------
    PlumblineError
        `TransientError` where another try may succeed, `ServiceRefusedError` for login,
        permission and TLS, `SettingsError` for what the settings must mend, else `SystemicError`.
        Never quotes a record: kafka-python's own message is kept only where it cannot hold one.
    """
    if isinstance(error, PlumblineError):
        return error
    name = type(error).__name__
    if isinstance(error, kafka_errors.TopicAuthorizationFailedError):
        return ServiceRefusedError(
            f"{what}: Kafka permits this user no access to {_names(error)}. Grant Read and "
            "Describe on the topics (and Write on the dead-letter topic)."
        )
    if isinstance(error, kafka_errors.GroupAuthorizationFailedError):
        return ServiceRefusedError(
            f"{what}: Kafka permits this user no use of the consumer group {_names(error)}. "
            "Grant Read on the group."
        )
    if isinstance(error, _REFUSED) or _is_tls_refusal(error):
        return ServiceRefusedError(
            f"{what}: Kafka refused: {name}: {_detail(error)}. Check `kafka.security_protocol`, "
            "`sasl_mechanism`, `sasl_username`, the password and the `ssl_…` files."
        )
    if isinstance(error, _SETTINGS):
        return SettingsError(f"{what}: {name}: {_detail(error)}")
    if isinstance(error, _TRANSIENT):
        return TransientError(f"{what}: {name}: {_detail(error)}")
    if isinstance(error, kafka_errors.KafkaError):
        return SystemicError(f"{what}: {name}: {_detail(error)}")
    # A codec's or a parser's own exception may quote the bytes it failed on.
    return SystemicError(f"{what}: {name}")


def _is_tls_refusal(error: BaseException) -> bool:
    # kafka-python wraps every failed handshake alike, that of a broker going down too; only
    # OpenSSL's own reasons (certificate, protocol version, alert) are refusals.
    text = str(error)
    return "Handshake failed: [SSL: " in text and "UNEXPECTED_EOF" not in text


def _names(error: BaseException) -> str:
    names = error.args[0] if error.args else ""
    if isinstance(names, set | frozenset | list | tuple):
        return ", ".join(sorted(str(name) for name in names))
    return str(names)


def _detail(error: BaseException) -> str:
    if isinstance(error, kafka_errors.CorruptRecordError):
        return "the record batch is damaged"
    if isinstance(error, kafka_errors.BrokerResponseError):
        own = " ".join(str(part) for part in error.args)
        return own or str(getattr(error, "description", "") or "no details")
    return str(error) or "no details"
