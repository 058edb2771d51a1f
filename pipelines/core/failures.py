"""What stopped the job: runners turn exceptions into text, the command needs the error itself."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pipelines.core.errors import LeaseHeldError, PlumblineError

__all__ = ["FAILURES", "Failures", "guarded"]

C = TypeVar("C", bound=type)

_METHODS = ("setup", "start_bundle", "process", "finish_bundle", "create_reader", "advance")


class Failures:
    """The first error of ours that a step of this process raised."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: PlumblineError | None = None
        self._fenced = False

    def record(self, error: PlumblineError) -> None:
        """Keeps the error when it is the first."""
        with self._lock:
            if self._first is None:
                self._first = error
            self._fenced = self._fenced or isinstance(error, LeaseHeldError)

    def fence(self, error: PlumblineError) -> None:
        """Keeps what a lease was lost to: from here on nothing is read or committed."""
        self.record(error)
        with self._lock:
            self._fenced = True

    @property
    def first(self) -> PlumblineError | None:
        """The first error, or `None`."""
        with self._lock:
            return self._first

    @property
    def fenced(self) -> bool:
        """Whether another job has taken over, or may have."""
        with self._lock:
            return self._fenced

    def raise_if_fenced(self) -> None:
        """Raises the first error, once the lease is lost."""
        if self.fenced:
            assert self.first is not None
            raise self.first

    def clear(self) -> None:
        """Forgets it, at the start of a run."""
        with self._lock:
            self._first = None
            self._fenced = False


FAILURES = Failures()
"""The failures of this process."""


def guarded(step: C) -> C:
    """Class decorator for a `DoFn`, source or reader: our errors are recorded on their way out."""
    for name in _METHODS:
        method = step.__dict__.get(name)
        if method is not None:
            setattr(step, name, _recording(method))
    return step


def _recording(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(method):

        @functools.wraps(method)
        def generating(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from method(*args, **kwargs)
            except PlumblineError as error:
                FAILURES.record(error)
                raise

        return generating

    @functools.wraps(method)
    def calling(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except PlumblineError as error:
            FAILURES.record(error)
            raise

    return calling
