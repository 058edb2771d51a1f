"""Is the candidate fit to go live? One file a check, and `verify`, which runs them in order."""

from pipelines.rollout.verify.base import Check, CheckResult, Outcome, VerifyContext
from pipelines.rollout.verify.verify import CHECKS, Row, VerifyReport, run_checks, verify

__all__ = [
    "CHECKS",
    "Check",
    "CheckResult",
    "Outcome",
    "Row",
    "VerifyContext",
    "VerifyReport",
    "run_checks",
    "verify",
]
