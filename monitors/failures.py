"""Why a run failed: one word for metrics, a sentence for people."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping

from monitors.probes.base import ProbeTimeoutError
from pipelines.core.errors import (
    CanaryMismatchError,
    ContractMismatchError,
    IndexMissingError,
    ModelError,
    PlumblineError,
    RequestRefusedError,
    ServiceRefusedError,
    ServiceUnavailableError,
    SettingsError,
    StoreConflictError,
    TransientError,
)
from pipelines.core.redact import redact_text

__all__ = ["FAILURES", "UnreadableVersionError", "describe", "reason_of"]

FAILURES: Mapping[str, str] = {
    "timeout": "The run took longer than the probe's `timeout_seconds`.",
    "still_running": "An earlier run of the probe has not ended; no second one is started.",
    "unavailable": "A service (Qdrant, Kafka) did not answer.",
    "service_refused": "A service answered and said no: login, permission or TLS.",
    "index_missing": "There is no such index, or its version has been dropped.",
    "version_unreadable": "The live version's contract cannot be read by this release.",
    "contract_mismatch": "No model here has the version's fingerprint.",
    "canary_mismatch": "This process does not reproduce the version's canaries.",
    "model": "The version's model cannot be loaded here.",
    "settings": "The settings cannot be used.",
    "store_conflict": "Qdrant or the store holds something that is not ours.",
    "request_refused": "Qdrant refused a request as not valid.",
    "history": "The monitor's own store did not answer or refused the result.",
    "error": "Another error that Plumbline raises on purpose; the log has its message.",
    "fault": "A fault of Plumbline's; the log has its kind and place.",
}
"""Every reason of a failed run; the values of the label `reason`."""

_MESSAGE_LENGTH = 1000


class UnreadableVersionError(StoreConflictError):
    """The live version's metadata cannot be read. Operator action: see the message."""


# The first that fits counts: derived classes before their bases.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (ProbeTimeoutError, "timeout"),
    (ServiceRefusedError, "service_refused"),
    (TransientError, "unavailable"),
    (ServiceUnavailableError, "unavailable"),
    (UnreadableVersionError, "version_unreadable"),
    (IndexMissingError, "index_missing"),
    (ContractMismatchError, "contract_mismatch"),
    (CanaryMismatchError, "canary_mismatch"),
    (ModelError, "model"),
    (SettingsError, "settings"),
    (StoreConflictError, "store_conflict"),
    (RequestRefusedError, "request_refused"),
    (PlumblineError, "error"),
)


def reason_of(error: BaseException) -> str:
    """The reason in one word, of `FAILURES`."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    return "fault"


def describe(error: BaseException) -> str:
    """The reason in words, without secrets.

    A message that is not ours may quote a document: of those only kind and place are given.
    """
    if isinstance(error, PlumblineError):
        return redact_text(str(error))[:_MESSAGE_LENGTH]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame
        for frame in frames
        if f"{os.sep}monitors{os.sep}" in frame.filename
        or f"{os.sep}pipelines{os.sep}" in frame.filename
    ]
    place = ""
    if ours or frames:
        frame = (ours or list(frames))[-1]
        place = f" in {os.path.basename(frame.filename)}:{frame.lineno}"  # noqa: PTH119
    return f"{type(error).__name__}{place}. This is a fault of Plumbline's: please report it."
