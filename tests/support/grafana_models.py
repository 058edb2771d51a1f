"""Dashboards against the SDK's models, which are generated from Grafana's own schema."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

__all__ = ["problems"]


def problems(content: dict[str, Any]) -> list[str]:
    """What the models object to.

    They read what they know and drop the rest without a word. So what they read is written again,
    and must hold everything that came; and each value must be of the type that its field has.
    """
    register_default_plugins()
    return list(_read(content, Dashboard, "dashboard"))


def _read(content: dict[str, Any], model: Any, path: str) -> Iterator[str]:
    try:
        read = model.from_json(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield f"{path} cannot be read: {error!r}"
        return
    yield from _lost(content, json.loads(JSONEncoder().encode(read)), path)
    yield from _mistyped(read, model, path)


def _lost(given: Any, kept: Any, path: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from _lost(value, kept[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is no field"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for place, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{path}[{place}]")
    elif given != kept:
        yield f"{path} is {given!r} and is read as {kept!r}"


def _mistyped(value: Any, hint: Any, path: str) -> Iterator[str]:
    origin = typing.get_origin(hint)
    if hint in (Any, object) or (hint is type(None) and value is None):
        # Options of a panel are of its kind's own model, where the hint says nothing.
        yield from _fields(value, path)
        return
    if origin in (typing.Union, types.UnionType):
        found = [list(_mistyped(value, option, path)) for option in typing.get_args(hint)]
        if all(found):
            # What is wrong deep inside says more than that the whole is wrong.
            yield from max(found, key=lambda one: len(one[0].split(" ")[0]))
    elif origin is typing.Literal:
        if value not in typing.get_args(hint):
            yield f"{path} is {value!r}; valid are {typing.get_args(hint)}"
    elif origin is list and isinstance(value, list):
        for place, one in enumerate(value):
            yield from _mistyped(one, typing.get_args(hint)[0], f"{path}[{place}]")
    elif origin is dict and isinstance(value, dict):
        for key, one in value.items():
            yield from _mistyped(one, typing.get_args(hint)[1], f"{path}.{key}")
    elif isinstance(hint, type) and issubclass(hint, Enum):
        if value not in [member.value for member in hint] and value not in list(hint):
            yield f"{path} is {value!r}; valid are {[member.value for member in hint]}"
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{path} is {value!r}, no number"
    elif isinstance(value, dict) and callable(getattr(hint, "from_json", None)):
        # Deep down the models leave some as they came.
        yield from _read(value, hint, path)
    elif not _is(value, hint, origin):
        yield f"{path} is {value!r}, no {getattr(hint, '__name__', hint)}"
    else:
        yield from _fields(value, path)


def _is(value: Any, hint: Any, origin: Any) -> bool:
    wanted = origin or hint
    if isinstance(value, bool) and wanted is int:
        return False
    return isinstance(wanted, type) and isinstance(value, wanted)


def _fields(value: Any, path: str) -> Iterator[str]:
    kind = type(value)
    if callable(getattr(value, "to_json", None)):
        for name, hint in typing.get_type_hints(kind).items():
            yield from _mistyped(getattr(value, name), hint, f"{path}.{name}")
