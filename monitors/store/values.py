"""JSON that every database takes: no NaN, no infinity, no NumPy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["dumps", "plain", "storable"]


def dumps(value: Any) -> str:
    """The value as JSON.

    Raises
    ------
    ValueError
        It holds NaN or infinity, which JSON does not have.
    """
    return json.dumps(value, allow_nan=False, default=_known)


def _known(value: Any) -> Any:
    """NumPy's scalars and arrays, sets and mappings as what JSON has."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")


def plain(value: Any) -> Any:
    """The value as JSON would give it back, numbers that are not finite as `None`.

    For what people read: what a probe is given again goes through `dumps`, which refuses.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def storable(value: Mapping[str, Any] | None) -> Any:
    """The value as it will come back; raises what `dumps` raises, before anything is written."""
    return None if value is None else json.loads(dumps(value))
