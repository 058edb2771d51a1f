"""Has an index withdrawn a release that the lock pins?"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.audit.exceptions import Exceptions
from deploy.audit.findings import Finding, Verdict

__all__ = ["check_yanked"]

_SAID = re.compile(r"`([A-Za-z0-9._-]+)==([^`]+)` is yanked(?: \(reason: \"(.*)\"\))?")
_SECONDS = 300


def check_yanked(
    lock: Path, exceptions: Exceptions, *, options: Sequence[str] = ()
) -> Iterator[Finding]:
    """Asks uv what an installation of the lock would bring; nothing is installed.

    Parameters
    ----------
    options
        Of `uv pip install`, such as another index.
    """
    command = [
        *(str(Path(sys.executable).with_name("uv")), "pip", "install", "--color=never"),
        *("--python", sys.executable, "--dry-run", "--no-deps", "--reinstall", "--refresh"),
        *("-r", str(lock), *options),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - our own tool
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("yanked", Verdict.NOT_DONE, f"uv did not answer: {type(error).__name__}")
        return
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1].strip()
        yield Finding("yanked", Verdict.NOT_DONE, f"the index could not be asked: {last}")
        return
    failed = False
    for name, version, reason in _SAID.findall(done.stderr):
        if exceptions.excuse("yanked", name) is None:
            failed = True
            yield Finding(
                "yanked",
                Verdict.FAILED,
                f"{name} {version} was withdrawn by its authors: {reason or 'no reason given'}; "
                "run `make lock`",
            )
    if not failed:
        yield Finding("yanked", Verdict.OK, "no pinned release was withdrawn")
