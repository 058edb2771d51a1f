"""Is the candidate fit to go live? One file a check, and `verify`, which runs them in order."""

from pipelines.rollout.verify.base import Check, CheckResult, Outcome, VerifyContext
from pipelines.rollout.verify.verify import CHECKS, VerifyReport, run_checks, verify

__all__ = [
    "CHECKS",
    "Check",
    "CheckResult",
    "Outcome",
    "VerifyContext",
    "VerifyReport",
    "run_checks",
    "verify",
]
