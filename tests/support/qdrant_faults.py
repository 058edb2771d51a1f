"""Faults that a test asks the stand-in Qdrant server for: errors, delays, lost connections."""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Fault", "Faults"]


@dataclass
class Fault:
    """One rule: which requests it hits, how many of them, and what happens to those.

    Parameters
    ----------
    path
        Regular expression searched for in the request's path (`/points$`, `^/collections/a/`).
    method
        HTTP method; `None` for any.
    times
        How many matching requests it hits; `None` for all.
    skip
        How many matching requests pass unharmed first.
    when
        `before`: the request is not applied. `after`: it is applied and its answer lost, the case
        in which a writer must not take its write for failed.
    status
        Answer with this HTTP status.
    message
        The error in that answer.
    retry_after
        Seconds, as the header of that answer.
    delay_seconds
        Wait this long first.
    drop
        `close` ends the connection without an answer, `reset` with a TCP reset.
    """

    path: str = ""
    method: str | None = None
    times: int | None = 1
    skip: int = 0
    when: Literal["before", "after"] = "before"
    status: int | None = None
    message: str = "injected fault"
    retry_after: float | None = None
    delay_seconds: float = 0.0
    drop: Literal["close", "reset"] | None = None
    matched: int = field(default=0, kw_only=True)
    hits: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        re.compile(self.path)
        if self.when not in ("before", "after") or self.drop not in (None, "close", "reset"):
            raise ValueError("when is before or after; drop is close or reset")

    def take(self, method: str, path: str) -> bool:
        """Whether the rule hits this request; counts it."""
        if self.method not in (None, method) or not re.search(self.path, path):
            return False
        self.matched += 1
        if self.matched <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


class Faults:
    """The rules in force, and how many requests came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Fault] = []
        self._requests: Counter[str] = Counter()

    def add(self, settings: dict[str, Any]) -> None:
        """Put a rule in force, behind those that are."""
        rule = Fault(**settings)
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        """Forget all rules and counts."""
        with self._lock:
            self._rules.clear()
            self._requests.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The first rule that hits this request; counts the request."""
        with self._lock:
            self._requests[f"{method} {path}"] += 1
            return next((rule for rule in self._rules if rule.take(method, path)), None)

    def report(self) -> dict[str, Any]:
        """The rules with their hits, and requests by method and path since the last `clear`."""
        with self._lock:
            return {
                "rules": [vars(rule) for rule in self._rules],
                "requests": dict(self._requests),
            }
