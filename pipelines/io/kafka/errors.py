"""One place where kafka-python's exceptions become ours."""

from __future__ import annotations

import re
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
    kafka_errors.SecurityDisabledError,
    kafka_errors.UnacceptableCredentialError,
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
    refusal = _refusal(error)
    if refusal is not None:
        return ServiceRefusedError(f"{what}: {refusal}")
    if isinstance(error, kafka_errors.TopicAuthorizationFailedError):
        return ServiceRefusedError(
            f"{what}: Kafka permits this user no access to the topic {_names(error)}. Grant Read "
            "and Describe on the topics that are read, and Describe, Read and Write (and Create, "
            "while they do not exist and kafka.create_topics is on) on the dead-letter topic and "
            "the replay topic."
        )
    if isinstance(error, kafka_errors.GroupAuthorizationFailedError):
        return ServiceRefusedError(
            f"{what}: Kafka permits this user no use of the consumer group {_names(error)}. "
            "Grant Read on the group."
        )
    if isinstance(error, kafka_errors.InvalidTimestampError):
        return SystemicError(
            f"{what}: Kafka refuses the time of this machine's clock ({_detail(error)}). Set the "
            "clock, or give the topic message.timestamp.type=LogAppendTime, as Plumbline does "
            "where it makes it itself"
        )
    if isinstance(error, _REFUSED):
        return ServiceRefusedError(
            f"{what}: Kafka refused: {name}: {_detail(error)}. Check `kafka.security_protocol`, "
            "`kafka.sasl_mechanism`, `kafka.sasl_username` and the password, and what the user "
            "may do."
        )
    if isinstance(error, _SETTINGS):
        return SettingsError(f"{what}: {name}: {_detail(error)}")
    if "UNEXPECTED_EOF" in str(error):
        return TransientError(
            f"{what}: the broker hung up during the TLS handshake. It is going down, or does not "
            "speak TLS on this port: check `kafka.security_protocol` and the port in "
            "kafka.bootstrap_servers."
        )
    if isinstance(error, _TRANSIENT):
        return TransientError(f"{what}: {name}: {_detail(error)}")
    if isinstance(error, kafka_errors.KafkaError):
        return SystemicError(f"{what}: {name}: {_detail(error)}")
    # A codec's or a parser's own exception may quote the bytes it failed on.
    return SystemicError(f"{what}: {name}")


def _refusal(error: BaseException) -> str | None:
    """What a broker, or this side, refused of login and TLS, with the remedy; else `None`."""
    if isinstance(error, kafka_errors.UnsupportedSaslMechanismError):
        return (
            "the broker does not offer this `kafka.sasl_mechanism`; valid is one of its "
            "`sasl.enabled.mechanisms` that this job speaks too: PLAIN, SCRAM-SHA-256, "
            "SCRAM-SHA-512, GSSAPI"
        )
    if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
        return (
            f"Kafka refused the login: {_detail(error)}. Check kafka.sasl_username, its password "
            "(`kafka.sasl_password` or `kafka.sasl_password_file`), and that the broker knows "
            "this user for this `kafka.sasl_mechanism`."
        )
    if isinstance(error, kafka_errors.InvalidReceiveError):
        # The first bytes of a TLS alert, or of a web server's answer, read as a length.
        return (
            f"what answers does not speak Kafka's protocol in the open ({_detail(error)}). Where "
            "the broker speaks TLS on this port, `kafka.security_protocol` is SSL or SASL_SSL; "
            "else check the port in kafka.bootstrap_servers."
        )
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error.verify_message or text)
    # kafka-python wraps every failed handshake alike, that of a broker going down too; only
    # OpenSSL's own reasons (certificate, protocol version, alert) are refusals.
    found = _HANDSHAKE.search(text)
    if found is None or "UNEXPECTED_EOF" in text:
        return None
    reason, detail = found.groups()
    if reason == "CERTIFICATE_VERIFY_FAILED":
        return _certificate(detail.removeprefix("certificate verify failed: "))
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return (
            f"the broker does not speak TLS on this port ({detail}). Check "
            "`kafka.security_protocol` and the port in kafka.bootstrap_servers."
        )
    if "ALERT" in reason:
        return (
            f"the broker refused the TLS connection: {detail}. Where it asks for a certificate of "
            "the client's, check `kafka.ssl_certfile` and `kafka.ssl_keyfile`: that they are "
            "set, have not expired, and are of an authority that the broker trusts."
        )
    return (
        f"the TLS connection failed: {detail}. Check `kafka.security_protocol` and the "
        "`kafka.ssl_…` files."
    )


_HANDSHAKE = re.compile(r"\[SSL: (\w+)\] (.*?)(?: \(_ssl\.c:\d+\))?$", re.DOTALL)


def _certificate(detail: str) -> str:
    """What is wrong with the broker's certificate, and what to do."""
    if "expired" in detail or "not yet valid" in detail:
        remedy = "Have it renewed on the broker; if it is valid, check this machine's clock."
    elif "is not valid for" in detail or "mismatch" in detail.lower():
        remedy = (
            "Put a name into kafka.bootstrap_servers that the certificate holds (the broker's "
            "advertised.listeners count too), or have one issued that holds this one."
        )
    else:
        remedy = (
            "Name the authority that issued it: the PEM file of its certificate is "
            "`kafka.ssl_cafile`; without one the system's authorities count."
        )
    return f"the broker's certificate was not accepted: {detail.rstrip('.')}. {remedy}"


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
    # kafka-python's errors begin with their own name.
    return str(error).removeprefix(f"{type(error).__name__}: ") or "no details"
