"""What `plumbline doctor` looks at: each check gives its findings and never raises.

No topic, folder, collection or record is made or changed: the checks read, and ask Qdrant for one
write that changes nothing, in the control collection.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import (
    ExitCode,
    PlumblineError,
    ServiceUnavailableError,
    StoreConflictError,
    TransientError,
)

if TYPE_CHECKING:
    from pipelines.core.encoder import Encoder
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import Settings
    from pipelines.core.versions import Version
    from pipelines.io.kafka import TopicReport

__all__ = ["CHECKS", "Finding", "Patient", "Status", "settings_finding"]

_DAY_MS = 86_400_000


class Status(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Parameters
    ----------
    exit_code
        What a failure makes of the command's exit code; 0 for anything but a failure.
    """

    check: str
    status: Status
    message: str
    fix: str = ""
    exit_code: int = ExitCode.OK


@dataclass
class Patient:
    """The settings under examination, and what earlier checks found for later ones."""

    settings: Settings
    qdrant: Qdrant | None = None
    encoder: Encoder | None = None
    version: Version | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def _ok(check: str, message: str) -> Finding:
    return Finding(check, Status.OK, message)


def _warning(check: str, message: str, fix: str) -> Finding:
    return Finding(check, Status.WARNING, message, fix)


def _skipped(check: str, message: str) -> Finding:
    return Finding(check, Status.SKIPPED, message)


def _failed(check: str, error: PlumblineError, fix: str = "") -> Finding:
    unreachable = isinstance(error, ServiceUnavailableError | TransientError)
    code = ExitCode.UNAVAILABLE if unreachable else error.exit_code
    return Finding(check, Status.FAILED, str(error), fix, code)


def settings_finding(settings: Settings, source: str) -> Finding:
    """The settings could be read; says what they amount to, secrets left out."""
    topics = ", ".join(settings.kafka.topics) or settings.kafka.pattern or "no topic"
    store = settings.qdrant.url or f"embedded at {settings.qdrant.path}"
    return _ok(
        "settings",
        f"{source}: index {settings.index}, Kafka {settings.kafka.bootstrap_servers} ({topics}), "
        f"Qdrant {store}, model {settings.contract.model}",
    )


def check_kafka(patient: Patient) -> Iterator[Finding]:
    """Broker, topics, dead-letter topic and replay topic."""
    from pipelines.io.kafka import check_broker

    settings = patient.settings
    servers = settings.kafka.bootstrap_servers
    try:
        report = check_broker(settings, timeout_seconds=settings.kafka.outage_timeout_seconds)
    except (TransientError, ServiceUnavailableError) as error:
        yield _failed(
            "broker", error, "Start Kafka, or mend kafka.bootstrap_servers and the login settings."
        )
        return
    except PlumblineError as error:
        yield _failed("topics", error)
        return
    yield _ok("broker", f"{servers} answers, {report.brokers} in the cluster")
    for name, topic in report.topics.items():
        if name != settings.replay_topic:
            yield _topic(settings, name, topic)
    yield _own_topic(settings, "dead letters", settings.dead_letter_topic, report.dead_letter_topic)
    yield _own_topic(
        settings, "replay", settings.replay_topic, report.topics.get(settings.replay_topic)
    )


def _topic(settings: Settings, name: str, topic: TopicReport) -> Finding:
    from pipelines.core.position import OrderBy

    message = f"{name}: {_described(topic)}"
    if topic.timestamp_type == "CreateTime" and settings.kafka.order_by is OrderBy.TIMESTAMP:
        return _warning(
            "topic",
            f"{message}: the producers' clocks decide which event of a document is newer",
            "Keep their clocks in step, or set the topic's message.timestamp.type to "
            "LogAppendTime, or order by a version of their own (kafka.order_by: version).",
        )
    return _ok("topic", message)


def _described(topic: TopicReport) -> str:
    parts = [f"{topic.partitions} partition{'s' if topic.partitions != 1 else ''}"]
    if topic.timestamp_type:
        parts.append(topic.timestamp_type)
    if topic.cleanup_policy:
        parts.append(f"cleanup {topic.cleanup_policy}")
    if topic.retention_ms is not None and "delete" in (topic.cleanup_policy or "delete"):
        days = topic.retention_ms / _DAY_MS
        parts.append("kept for ever" if topic.retention_ms < 0 else f"kept {days:g} days")
    return ", ".join(parts)


def _own_topic(settings: Settings, check: str, name: str, topic: TopicReport | None) -> Finding:
    if topic is not None:
        return _ok(check, f"{name}: {_described(topic)}")
    if settings.kafka.create_topics:
        return _ok(check, f"{name} does not exist yet; the first `plumbline ingest` makes it")
    return Finding(
        check,
        Status.FAILED,
        f"{name} does not exist, and kafka.create_topics is off",
        f"Create the topic {name}, or turn kafka.create_topics on.",
        ExitCode.NO,
    )


def check_store(patient: Patient) -> Iterator[Finding]:
    """Qdrant answers, is new enough, and is free when embedded."""
    from pipelines.core.qdrant import connect

    store = patient.settings.qdrant
    if store.url is None and store.path is not None and not store.path.exists():
        yield _ok("qdrant", f"embedded at {store.path}, which does not exist yet and will be made")
        return
    try:
        qdrant = connect(patient.settings)
        collections = len(qdrant.call("get_collections").collections)
        release = qdrant.check_release()
    except StoreConflictError as error:
        yield _failed("qdrant", error)
        return
    except PlumblineError as error:
        fix = (
            "Stop the process that uses it, or use a Qdrant server (qdrant.url)."
            if store.url is None
            else "Start Qdrant, or mend qdrant.url, qdrant.api_key and qdrant.ca_file."
        )
        yield _failed("qdrant", error, fix)
        return
    patient.qdrant = qdrant
    kind = f"embedded at {store.path}, free" if qdrant.local else f"{store.url}, Qdrant {release}"
    yield _ok("qdrant", f"{kind}, {collections} collections")
    if not qdrant.local:
        yield from _writes(qdrant)


def _writes(qdrant: Qdrant) -> Iterator[Finding]:
    """A server that is out of disk, or whose key only reads, answers all the same."""
    from pipelines.core.control import CONTROL_COLLECTION, Control

    try:
        written = Control(qdrant).try_write()
    except TransientError as error:
        yield _failed("writes", error, "Where it is out of disk: it wants 64 MiB more than it has.")
    except PlumblineError as error:
        yield _failed("writes", error)
    else:
        if written:
            yield _ok("writes", f"taken, by one that changes nothing in {CONTROL_COLLECTION}")
        else:
            yield _skipped("writes", f"shows with the first job: there is no {CONTROL_COLLECTION}")


def check_model(patient: Patient) -> Iterator[Finding]:
    """The model loads and agrees with the contract's settings."""
    from pipelines.core.encoder import load_encoder

    settings = patient.settings
    try:
        encoder = load_encoder(settings.contract, settings.runtime)
    except PlumblineError as error:
        yield _failed("model", error)
        return
    patient.encoder = encoder
    contract = encoder.contract
    device = getattr(encoder, "device", settings.runtime.device)
    revision = f", revision {contract.model_revision}" if contract.model_revision else ""
    yield _ok(
        "model",
        f"{contract.model_name}{revision}: {contract.dimension} dimensions, "
        f"{contract.max_tokens} tokens, on {device}",
    )
    cut = contract.chunk
    chunks = f"chunks of {cut.size} tokens" if cut else "one vector a document"
    yield _ok("contract", f"fingerprint {contract.fingerprint}, {contract.distance}, {chunks}")


def check_version(patient: Patient) -> Iterator[Finding]:
    """The version of this contract exists, and this process reproduces its canaries."""
    from pipelines.core.versions import (
        check_process,
        find_version,
        list_versions,
        live_version_name,
        open_version,
    )

    settings, qdrant, encoder = patient.settings, patient.qdrant, patient.encoder
    if qdrant is None or encoder is None:
        yield _skipped("version", "needs Qdrant and the model")
        return
    try:
        name = find_version(qdrant, settings.index, encoder.contract.fingerprint)
        live = live_version_name(qdrant, settings.index)
        if name is None:
            others = list_versions(qdrant, settings.index)
            if not others:
                yield _warning(
                    "version",
                    f"the index {settings.index} does not exist yet",
                    "`plumbline index create`, or `plumbline ingest --create`.",
                )
                return
            other = next((version for version in others if version.name == live), others[0])
            check_process(other, encoder, settings.kafka.order_by)  # names what differs
        assert name is not None, "another fingerprint is another contract"
        patient.version = version = open_version(qdrant, name)
        report = check_process(version, encoder, settings.kafka.order_by)
    except PlumblineError as error:
        yield _failed("version", error)
        return
    if live == name:
        yield _ok("version", f"{name}, live")
    else:
        yield _warning(
            "version",
            f"{name} is not live: searches go to {live}",
            "Nothing to do while a rollout is under way.",
        )
    distance = max(report.document_distance, report.query_distance)
    if report.level == "ok":
        yield _ok("canaries", f"reproduced, greatest cosine distance {distance:.1e}")
    else:
        yield _warning(
            "canaries",
            f"reproduced with a cosine distance of {distance:.1e}",
            "Compare device, dtype, backend and library versions with those of the other jobs.",
        )


def check_job(patient: Patient) -> Iterator[Finding]:
    """Whether a job writes the version, and whether its metrics port can be had."""
    yield from _lease(patient)
    port, host = patient.settings.metrics.port, patient.settings.metrics.host
    from pipelines.core.endpoint import Protection

    try:
        protection = Protection(patient.settings.metrics)
    except PlumblineError as error:
        yield _failed("metrics", error)
        return
    if port is None:
        yield _ok("metrics", "turned off")
        return
    how = f"{protection.scheme}, {'a' if protection.has_login else 'no'} login"
    with socket.socket() as probe:
        # As the server that will ask for it: a port of a job that has just ended counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            yield _warning(
                "metrics",
                f"port {port} on {host} cannot be had: {error.strerror}",
                "Right while a job of these settings runs here; else set metrics.port, 0 for any.",
            )
            return
    yield _ok("metrics", f"port {port} on {host} is free ({how})")


def _lease(patient: Patient) -> Iterator[Finding]:
    from pipelines.core.control import Control
    from pipelines.core.lease import LEASE, holder_of, ingest_lease

    if patient.qdrant is None or patient.version is None:
        return
    try:
        record = Control(patient.qdrant).read(LEASE, ingest_lease(patient.version.name))
    except PlumblineError as error:
        yield _failed("job", error)
        return
    if record is None or not record.fields.get("holder"):
        yield _ok("job", "none is writing this version")
        return
    fields = record.fields
    yield _ok(
        "job",
        f"{holder_of(fields)} writes this version since "
        f"{fields.get('acquired_at')}, last seen {fields.get('beat_at')}",
    )


CHECKS: tuple[tuple[str, Callable[[Patient], Iterator[Finding]]], ...] = (
    ("broker", check_kafka),
    ("qdrant", check_store),
    ("model", check_model),
    ("version", check_version),
    ("job", check_job),
)
"""In the order in which they run; later ones use what earlier ones found."""
