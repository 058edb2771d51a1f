"""Which state of which document has been encoded, and how often, by all lives of all processes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

__all__ = ["VARIABLE", "Encodings", "record_encodings"]

VARIABLE = "PLUMBLINE_TEST_ENCODINGS"
"""Names the file in the environment of a process that is to record."""


def record_encodings(path: Path) -> None:
    """From now on this process appends to a file what it has encoded, once it has been.

    The line is with the kernel before the vectors are used: a kill later on does not take it back.
    """
    from pipelines.core.planning import Planner

    encode_once = Planner._encode_once
    assert encode_once.__name__ != "recording", "all would count twice"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def recording(self: Any, plans: Any) -> Any:
        refused = encode_once(self, plans)
        lines = [
            json.dumps([self._version.name, plan.event.document_id, astuple(plan.event.position)])
            for plan in plans
        ]
        # What a killed process has left half written is a line by itself.
        os.write(file, "\n".join(["", *lines, ""]).encode())
        return refused

    Planner._encode_once = recording  # type: ignore[method-assign]


class Encodings:
    """Those of all processes that were started with `environment`.

    Parameters
    ----------
    path
        Of the file that they append to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the processes."""
        return {VARIABLE: str(self._path)}

    def counts(self) -> Counter[str]:
        """How often each version, document and position was encoded."""
        found: Counter[str] = Counter()
        if not self._path.exists():
            return found
        for line in self._path.read_text().splitlines():
            try:
                json.loads(line)
            except json.JSONDecodeError:
                continue
            found[line] += 1
        return found
