"""Secrets stay in the process: what travels to workers names where they come from."""

from __future__ import annotations

import os
import threading

from pydantic import SecretStr

from pipelines.core.settings import ENV_PREFIX, KafkaSettings

__all__ = ["recall", "without_secrets"]

_FIELDS = ("sasl_password", "ssl_key_password")

_lock = threading.Lock()
_known: dict[tuple[str, str | None, str], SecretStr] = {}


def _key(kafka: KafkaSettings, field: str) -> tuple[str, str | None, str]:
    return kafka.bootstrap_servers, kafka.sasl_username, field


def without_secrets(kafka: KafkaSettings) -> KafkaSettings:
    """The settings with no secret in them, which this process can still `recall`.

    A source is pickled into the pipeline, which runners store and show. Workers in other
    processes read the secret from the file that the settings name, or from their environment.
    """
    with _lock:
        for field in _FIELDS:
            value = getattr(kafka, field)
            if value is not None:
                _known[_key(kafka, field)] = value
    return kafka.model_copy(update=dict.fromkeys(_FIELDS))


def recall(kafka: KafkaSettings, field: str) -> SecretStr | None:
    """The secret of that field: from the settings, this process's memory, or its environment."""
    value: SecretStr | None = getattr(kafka, field)
    if value is not None:
        return value
    if getattr(kafka, f"{field}_file") is not None:
        return None
    with _lock:
        known = _known.get(_key(kafka, field))
    if known is not None:
        return known
    from_environment = os.environ.get(f"{ENV_PREFIX}KAFKA__{field.upper()}")
    return SecretStr(from_environment) if from_environment else None
