"""Durations as Prometheus writes them: `90s`, `5m`, `1h30m`, `3d`."""

from __future__ import annotations

import re

__all__ = ["format_duration", "parse_duration"]

_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PATTERN = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?")


def parse_duration(value: object) -> float:
    """Seconds of a duration, or of a number of seconds.

    Raises
    ------
    ValueError
        It is none; the message says what one looks like.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = _PATTERN.fullmatch(value) if isinstance(value, str) and value else None
    if value == "0":
        return 0.0
    if found is None:
        raise ValueError(
            f"{value!r} is no duration: write numbers with the units w, d, h, m, s or ms, the "
            "largest first, such as 90s, 5m or 1h30m"
        )
    parts = zip(found.groups(), _UNITS.values(), strict=True)
    return sum(float(number) * unit for number, unit in parts if number)


def format_duration(seconds: float) -> str:
    """As Prometheus reads it, to the millisecond; the largest units first.

    >>> format_duration(5400), format_duration(0.25), format_duration(0)
    ('1h30m', '250ms', '0s')
    """
    left = round(1000 * seconds)
    parts = []
    for name, unit in _UNITS.items():
        if name == "w":
            continue  # 14d reads better than 2w
        count, left = divmod(left, round(1000 * unit))
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts) or "0s"
