"""What a check of the audit says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Verdict"]


class Verdict(StrEnum):
    """How a check went."""

    OK = "ok"
    FAILED = "failed"
    NOT_DONE = "not done"
    """What it would have asked did not answer."""


@dataclass(frozen=True)
class Finding:
    """One line of the audit.

    Parameters
    ----------
    check
        `pins`, `yanked`, `licences`, `vulnerabilities` or `exceptions`.
    message
        What came, what is valid, what to do.
    """

    check: str
    verdict: Verdict
    message: str
