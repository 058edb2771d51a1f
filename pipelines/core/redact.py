"""What may be shown: no secret, and no text of a document.

Secrets are recognised twice over: by the name of the field that holds them, and by their value,
once `remember` knows it, wherever a library's message carries it along.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["MASK", "is_secret_name", "redact", "redact_text", "remember", "remember_settings"]

MASK = "**********"

_SECRET_NAME = re.compile(
    r"passw(?:or)?d|passphrase|api[-_]?key|secret|credential|authorization|(?:^|[-_.])token$",
    re.IGNORECASE,
)
_DOCUMENT_NAMES = frozenset({"text", "title", "value", "document", "body", "query"})
_WORDS = r"[\w.-]*(?:passw(?:or)?d|passphrase|api[-_]?key|secret|authorization)[\w.-]*(?<!_file)"
_VALUE = r"(?:\"[^\"]*\"|'[^']*'|[^\s,;)}\]]+)"
_INLINE = re.compile(
    # `password=…`, `"password": "…"` and `Authorization: Bearer …`. A colon after a bare name is
    # most often our own `kafka.sasl_password: what is wrong with it`.
    rf"(?P<name>{_WORDS}=|[\"']{_WORDS}[\"']\s*[=:]\s*|authorization:\s*(?:bearer|basic)\s+)"
    rf"{_VALUE}",
    re.IGNORECASE,
)
_URL_LOGIN = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE)
_SHORTEST = 4
"""Shorter secrets would mask parts of ordinary words."""
_DEPTH = 8

_lock = threading.Lock()
_values: tuple[str, ...] = ()


def remember(secrets: Iterable[str]) -> None:
    """Masks these values from now on, in whatever `redact` and `redact_text` are given."""
    global _values  # noqa: PLW0603 - one set of secrets a process
    with _lock:
        known = {*_values, *(secret for secret in secrets if len(secret) >= _SHORTEST)}
        # The longest first: one secret may be part of another.
        _values = tuple(sorted(known, key=len, reverse=True))


def remember_settings(settings: Any) -> None:
    """`remember` for every secret the settings carry; those in files are read.

    Parameters
    ----------
    settings
        `pipelines.core.settings.Settings`. A secret file that cannot be read is passed over here:
        whoever needs it says so.
    """
    from pydantic import BaseModel, SecretStr

    def walk(model: BaseModel) -> Iterable[str]:
        for name in type(model).model_fields:
            value = getattr(model, name)
            if isinstance(value, BaseModel):
                yield from walk(value)
            elif isinstance(value, SecretStr):
                yield value.get_secret_value()
            elif value is not None and name.endswith("_file") and is_secret_name(name[:-5]):
                try:
                    yield value.read_text(encoding="utf-8").strip()
                except (OSError, UnicodeDecodeError):
                    continue

    remember(walk(settings))


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret. `tokens` and `max_tokens` do not."""
    return _SECRET_NAME.search(name) is not None


def redact_text(text: str) -> str:
    """The text without known secrets, logins in URLs and `password=…`."""
    for value in _values:
        if value in text:
            text = text.replace(value, MASK)
    text = _URL_LOGIN.sub(rf"\g<scheme>{MASK}@", text)
    return _INLINE.sub(rf"\g<name>{MASK}", text)


def redact(value: Any, name: str = "", depth: int = 0) -> Any:
    """The value, with mappings and lists copied, without secrets and without document text.

    Parameters
    ----------
    name
        Field that holds it. Text under a secret's name, or under one that documents use (`text`,
        `title`, `value`, …), is masked; numbers are not.
    """
    if isinstance(value, bool | int | float) or value is None:
        return value
    if depth > _DEPTH or is_secret_name(name) or name in _DOCUMENT_NAMES:
        return MASK
    if isinstance(value, Mapping):
        return {str(key): redact(item, str(key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, name, depth + 1) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    return redact_text(str(value))
