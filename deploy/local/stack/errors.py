"""What can go wrong, in words for the person who typed `make up`."""

from __future__ import annotations

__all__ = ["NotReadyError", "PortTakenError", "StackError"]


class StackError(Exception):
    """Something a person must put right; the message says what.

    `exit_code` is what the command ends with: 2 for usage and settings, as `plumbline` has it.
    """

    exit_code = 2


class PortTakenError(StackError):
    """Another program listens where one of ours should."""


class NotReadyError(StackError):
    """A service ended, or did not answer in time; the message has the end of its log."""

    exit_code = 3
