"""How messages name what came, without quoting what it says."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["json_type", "nearest", "shown"]

_SHOWN = 60
"""Characters of a name that a message repeats: enough to find it, too few to leak a text."""


def shown(name: str) -> str:
    """A name (field, column, id) in quotes, shortened, escaped where it cannot be printed."""
    return repr(name) if len(name) <= _SHOWN else repr(name[:_SHOWN]) + "…"


def json_type(value: object) -> str:
    """What JSON calls the type of a parsed value, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def nearest(name: str, valid: Iterable[str]) -> str:
    """End of a message that names the valid name nearest to one that is not, or all of them."""
    names = list(valid)[:50]
    # Matching is quadratic in the length, and names come from strangers.
    close = difflib.get_close_matches(name[:_SHOWN].lower(), [n[:_SHOWN] for n in names], n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid are {', '.join(shown(n) for n in names[:12])}"
