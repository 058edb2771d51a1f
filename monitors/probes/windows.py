"""Windows of event time, cut so that what is stored is tested once.

A window begins where the last tested one ended, and no earlier than `window_seconds` before it
ends: windows never overlap, so their results may be counted as separate evidence. It ends behind
the newest event that is stored, not at the present: what is still on its way comes with the next
one. A window that is too small is not tested and goes on growing until it is large enough, or until
its oldest part is older than `window_seconds`.

Not tested is what is stored late, with an event time before the end of a window that was tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["ACCEPTED", "Window", "milliseconds", "next_window"]

ACCEPTED = "accepted_until"
"""Field of a kind's state: what is older was taken as it is by somebody, and is not tested."""

_DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Window:
    """Event times, milliseconds since the epoch: at least `since`, below `until`."""

    since: int
    until: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.until - self.since) / 1000

    @property
    def end(self) -> datetime:
        """As a time, UTC."""
        return datetime.fromtimestamp(self.until / 1000, UTC)

    @property
    def season(self) -> str:
        """What windows it is like: working day or weekend and, below half a day, the hour."""
        middle = datetime.fromtimestamp((self.since + self.until) / 2000, UTC)
        day = "weekend" if middle.weekday() >= 5 else "working day"
        return day if self.seconds > _DAY_SECONDS / 2 else f"{day} {middle.hour}"


def milliseconds(moment: datetime) -> int:
    """Since the epoch."""
    return round(moment.timestamp() * 1000)


def next_window(
    state: Mapping[str, Any] | None, *, newest: int, now: int, window_seconds: float
) -> Window:
    """The window that comes after the last one that was tested.

    Parameters
    ----------
    state
        Of the kind of vectors; its `end` is where the last tested window ended.
    newest
        Event time of the newest vector there is, at most `now`.
    now
        Milliseconds since the epoch.
    """
    until = min(newest + 1, now)
    earliest = until - round(window_seconds * 1000)
    end = (state or {}).get("end")
    # An end in the future was written under a clock that has been set back since.
    since = max(earliest, end) if isinstance(end, int) and end <= until else earliest
    return Window(min(since, until), until)
