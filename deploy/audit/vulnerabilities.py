"""Is anything known against a release that the lock pins?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.audit.exceptions import Exceptions
from deploy.audit.findings import Finding, Verdict
from deploy.audit.pins import read_lock

__all__ = ["SERVICE", "check_vulnerabilities"]

SERVICE = "https://api.osv.dev/v1/query"
"""The OSV database: the advisories of the Python Packaging Authority and GitHub's."""

_SECONDS = 900


def check_vulnerabilities(
    lock: Path, exceptions: Exceptions, *, service: str = SERVICE
) -> Iterator[Finding]:
    """Asks the service about every pin, with pip-audit; nothing is downloaded or installed.

    A package that the service was not asked about, or did not answer for, makes the whole check
    `NOT_DONE`: silence is no clean bill of health.
    """
    command = [
        *(sys.executable, "-m", "pip_audit", "--requirement", str(lock)),
        *("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"),
        *("--vulnerability-service", "osv", "--osv-url", service, "--timeout", "10"),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - our own tool
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield _not_done(service, type(error).__name__)
        return
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1].strip()
        yield _not_done(service, last[:300])
        return
    skipped = [str(one["name"]) for one in packages if "skip_reason" in one]
    wanted = len(read_lock(lock))
    if skipped or not packages:
        yield _not_done(service, f"no answer for {', '.join(skipped[:5]) or 'any package'}")
        return
    failed = False
    excused = 0
    for package in packages:
        for found in package["vulns"]:
            names = [str(found["id"]), *(str(alias) for alias in found.get("aliases", ()))]
            if exceptions.excuse("vulnerabilities", *names) is not None:
                excused += 1
                continue
            failed = True
            fixed = ", ".join(found.get("fix_versions") or ()) or "no release yet"
            yield Finding(
                "vulnerabilities",
                Verdict.FAILED,
                f"{package['name']} {package['version']}: {' = '.join(names)}; mended in {fixed}: "
                "run `make lock`, or write an exception that says why it does no harm here",
            )
    if not failed:
        yield Finding(
            "vulnerabilities",
            Verdict.OK,
            f"nothing known against {len(packages)} of {wanted} pinned packages (the others are "
            f"for other platforms); {excused} excused by an exception",
        )


def _not_done(service: str, why: str) -> Finding:
    return Finding(
        "vulnerabilities", Verdict.NOT_DONE, f"{service} did not answer for all packages: {why}"
    )
