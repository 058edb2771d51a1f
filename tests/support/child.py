"""What tests change in a process of the product that they do not start themselves.

The candidate's job is started by the build, as any other program. Its environment is inherited, and
Python looks there for what to import first: `child_site`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.support.encodings import VARIABLE as ENCODINGS
from tests.support.encodings import record_encodings
from tests.support.faketime import SLEEP, sleep_by_select
from tests.support.processes import REPOSITORY

__all__ = ["CHILD_ENVIRONMENT", "prepare"]

CHILD_ENVIRONMENT: Mapping[str, str] = {
    "PYTHONPATH": f"{Path(__file__).with_name('child_site')}{os.pathsep}{REPOSITORY}"
}
"""Of a process whose children call `prepare` as well."""


def prepare() -> None:
    """Does what variables ask for."""
    if SLEEP in os.environ:
        sleep_by_select()
    if file := os.environ.get(ENCODINGS):
        record_encodings(Path(file))
