"""`python -m deploy.audit`: every check, one line each.

Exit code 0 when all were carried out and none objects, 1 when one objects, 3 when a service did
not answer. `--where-reachable` turns the 3 into 0 and says what was not done: for machines that
reach no such service by design.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from deploy.audit.exceptions import AuditError, Exceptions, load_exceptions
from deploy.audit.findings import Finding, Verdict
from deploy.audit.licences import check_licences, installed_licences
from deploy.audit.pins import check_pins
from deploy.audit.vulnerabilities import SERVICE, check_vulnerabilities
from deploy.audit.yanked import check_yanked

REPOSITORY = Path(__file__).resolve().parents[2]
EXCEPTIONS = Path(__file__).with_name("exceptions.yaml")


def audit(lock: Path, exceptions: Exceptions, service: str) -> Iterator[Finding]:
    """All findings, in the order of what they cost."""
    done = []
    for check, findings in (
        ("pins", check_pins(REPOSITORY / "pyproject.toml", lock)),
        ("licences", check_licences(installed_licences(), exceptions)),
        ("yanked", check_yanked(lock, exceptions)),
        ("vulnerabilities", check_vulnerabilities(lock, exceptions, service=service)),
    ):
        carried_out = True
        for finding in findings:
            carried_out = carried_out and finding.verdict is not Verdict.NOT_DONE
            yield finding
        if carried_out:
            done.append(check)
    # A licence's package may be one that another platform installs.
    for excuse in exceptions.unused(set(done) - {"licences"}):
        yield Finding(
            "exceptions",
            Verdict.FAILED,
            f"{excuse.what} ({excuse.check}) excuses nothing any more: take it out",
        )


def main(arguments: list[str] | None = None) -> int:
    """Runs the audit and prints it; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.audit", description=__doc__)
    parser.add_argument("--lock", type=Path, default=REPOSITORY / "requirements.lock")
    parser.add_argument("--exceptions", type=Path, default=EXCEPTIONS)
    parser.add_argument("--service", default=SERVICE, help="An OSV API.")
    parser.add_argument(
        "--where-reachable",
        action="store_true",
        help="A service that does not answer is said, and no failure.",
    )
    given = parser.parse_args(arguments)
    verdicts = set()
    try:
        exceptions = load_exceptions(given.exceptions, datetime.now(UTC).date())
        for finding in audit(given.lock, exceptions, given.service):
            verdicts.add(finding.verdict)
            sys.stdout.write(f"{finding.verdict:<9} {finding.check:<16} {finding.message}\n")
            sys.stdout.flush()
    except AuditError as error:
        sys.stdout.write(f"{Verdict.FAILED:<9} {'exceptions':<16} {error}\n")
        return 1
    if Verdict.FAILED in verdicts:
        return 1
    if Verdict.NOT_DONE not in verdicts:
        return 0
    sys.stdout.write("The audit is not complete: see what was not done.\n")
    return 0 if given.where_reachable else 3


if __name__ == "__main__":
    sys.exit(main())
