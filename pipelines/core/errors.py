"""Every error Plumbline raises on purpose, and what the job does with each.

::

    PlumblineError
    ├── BadRecordError            terminal: the event goes to the dead letters with its reason
    ├── TransientError            retried with jittered backoff, then ServiceUnavailableError
    └── SystemicError             stops the job loudly, nothing is committed
        ├── SettingsError             exit code 2
        │   └── UnknownNameError          names the valid ones
        ├── ContractMismatchError     names the differing fields with both values
        ├── CanaryMismatchError       this process does not reproduce the stored vectors
        ├── ModelError                the model cannot be loaded or used as the contract says
        ├── LeaseHeldError            another job writes this version
        ├── IndexMissingError         no such index, version or alias
        ├── StoreConflictError        the store holds something we must not overwrite
        ├── RequestRefusedError       the store answered that a request is not valid
        ├── CommitError               offsets could not be committed
        ├── DataLossError             the topic dropped records that this job has not read
        ├── RolloutStateError         the rollout's state does not allow this step
        ├── RolloutConflictError      another process moved the rollout, or one is under way
        ├── GateError                 the candidate was not shown to be good enough
        └── ServiceUnavailableError   exit code 3: Kafka, Qdrant or the model is out of reach
            └── ServiceRefusedError       it answers, and says no: login, permission, TLS

One function per client library translates its exceptions into this tree:
`pipelines.core.qdrant.translate` and `pipelines.io.kafka.errors.translate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

__all__ = [
    "BadRecordError",
    "CanaryMismatchError",
    "CommitError",
    "ContractMismatchError",
    "DataLossError",
    "ExitCode",
    "GateError",
    "IndexMissingError",
    "LeaseHeldError",
    "ModelError",
    "PlumblineError",
    "Reason",
    "RequestRefusedError",
    "RolloutConflictError",
    "RolloutStateError",
    "ServiceRefusedError",
    "ServiceUnavailableError",
    "SettingsError",
    "StoreConflictError",
    "SystemicError",
    "TransientError",
    "UnknownNameError",
]


class ExitCode:
    """What the `plumbline` command returns to the shell."""

    OK = 0
    NO = 1
    USAGE = 2
    UNAVAILABLE = 3
    UNANSWERED = 4
    """A check failed itself, so that nobody knows the answer: neither yes nor no."""


class Reason(StrEnum):
    """Why an event became a dead letter. Values are stable: dashboards and filters use them."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    DUPLICATE_KEYS = "duplicate_keys"
    LONE_SURROGATE = "lone_surrogate"
    NUL_CHARACTER = "nul_character"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    MISSING_ID = "missing_id"
    INVALID_ID = "invalid_id"
    KEY_MISMATCH = "key_mismatch"
    MISSING_TEXT = "missing_text"
    INVALID_TEXT = "invalid_text"
    INVALID_TITLE = "invalid_title"
    EMPTY_DOCUMENT = "empty_document"
    TEXT_TOO_LARGE = "text_too_large"
    INVALID_METADATA = "invalid_metadata"
    METADATA_TOO_DEEP = "metadata_too_deep"
    METADATA_TOO_LARGE = "metadata_too_large"
    RESERVED_METADATA_KEY = "reserved_metadata_key"
    MISSING_VERSION = "missing_version"
    INVALID_VERSION = "invalid_version"
    UNVERSIONED_DELETE = "unversioned_delete"
    INVALID_DELETED = "invalid_deleted"
    INVALID_TIMESTAMP = "invalid_timestamp"
    INVALID_ORIGIN = "invalid_origin"
    BEHIND_PURGE = "behind_purge"
    UNKNOWN_FIELD = "unknown_field"
    UNKNOWN_ENVELOPE = "unknown_envelope"
    TRUNCATE = "truncate"
    INVALID_VECTOR = "invalid_vector"
    REFUSED_BY_MODEL = "refused_by_model"
    REFUSED_BY_STORE = "refused_by_store"


class PlumblineError(Exception):
    """Base of every error raised on purpose. `exit_code` is what the command returns."""

    exit_code = ExitCode.NO


class BadRecordError(PlumblineError):
    """The event cannot be applied, now or later, unless the code or the settings change.

    Operator action: `plumbline dead-letters list --reason …`; mend the producer or the settings,
    then `plumbline dead-letters replay`. The message never quotes the document's text.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.message)


class TransientError(PlumblineError):
    """A service did not answer as it should, and may the next time.

    Raised by a translator, retried by `pipelines.core.retry.retrying`.
    """

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class SystemicError(PlumblineError):
    """Nothing the job could do next would be right: it stops, and commits nothing."""


class SettingsError(SystemicError):
    """The settings cannot be used. Operator action: the message names the key and what is valid."""

    exit_code = ExitCode.USAGE


class UnknownNameError(SettingsError):
    """A name that does not exist. Operator action: use one of the names listed."""


class ContractMismatchError(SystemicError):
    """The version was written under another contract.

    Operator action: mend the settings, or build a new version (`plumbline rollout plan`).

    Parameters
    ----------
    differences
        Field name to the pair (value of the version, value of this process).
    """

    def __init__(self, version: str, differences: Mapping[str, tuple[object, object]]) -> None:
        self.version = version
        self.differences = dict(differences)
        lines = "; ".join(
            f"{field}: the version has {theirs!r}, this process has {ours!r}"
            for field, (theirs, ours) in sorted(self.differences.items())
        )
        super().__init__(
            f"the contract of {version} does not match: {lines}. Use the settings the version was "
            "written under, or create a new version for the new contract."
        )


class CanaryMismatchError(SystemicError):
    """This process does not reproduce the vectors stored with the version.

    Operator action: same contract, other vectors: look at the runtime (device, dtype, backend,
    library versions) or at the model's files.
    """


class ModelError(SystemicError):
    """The model cannot be loaded, or contradicts the contract. Operator action: see the message."""

    exit_code = ExitCode.USAGE


class LeaseHeldError(SystemicError):
    """Another job writes this version. Operator action: stop it, or start with `--standby`."""


class IndexMissingError(SystemicError):
    """No such index, version or alias. Operator action: `plumbline index create`."""


class StoreConflictError(SystemicError):
    """The store holds something by this name that Plumbline did not write, or in another shape."""


class RequestRefusedError(SystemicError):
    """The store refused a request as not valid.

    The writer looks for the record that it is about, which is then a dead letter; a refusal that
    is about none stops the job.
    """


class CommitError(SystemicError):
    """Offsets could not be committed. Nothing is lost: the records come again."""

    exit_code = ExitCode.UNAVAILABLE


class DataLossError(SystemicError):
    """The topic dropped records that this job has not read.

    Operator action: decide with `kafka.on_data_loss: continue` (and re-publish what is missing),
    or build the version anew.
    """


class RolloutStateError(SystemicError):
    """The rollout's state does not allow this step. Operator action: the message names the next."""


class RolloutConflictError(SystemicError):
    """Another process moved the rollout, or one is under way.

    Operator action: `plumbline rollout status`, then the command that it names.
    """


class GateError(SystemicError):
    """The candidate was refused, or there was not enough to tell.

    Operator action: mend the candidate, enlarge the golden set, or force the promotion with a
    written reason.
    """


class ServiceUnavailableError(SystemicError):
    """A service stayed out of reach for as long as the settings allow."""

    exit_code = ExitCode.UNAVAILABLE


class ServiceRefusedError(ServiceUnavailableError):
    """A service answered and refused: login, permission or TLS. Retrying would not help."""
