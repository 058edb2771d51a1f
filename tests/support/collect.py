"""What a pipeline under test gave out, kept by name where the test can look."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import apache_beam as beam

__all__ = ["Collect", "collected"]

_lock = threading.Lock()
_values: dict[str, list[Any]] = {}
_hooks: dict[str, Callable[[Any], None]] = {}


def collected(name: str, hook: Callable[[Any], None] | None = None) -> list[Any]:
    """The list that `Collect(name)` appends to; the hook is called with each element first."""
    with _lock:
        if hook is not None:
            _hooks[name] = hook
        return _values.setdefault(name, [])


class Collect(beam.DoFn):
    """Appends every element to a list of this process."""

    def __init__(self, name: str) -> None:
        self._name = name

    def process(self, element: Any) -> None:
        """Keep it."""
        hook = _hooks.get(self._name)
        if hook is not None:
            hook(element)
        collected(self._name).append(element)
