"""Checks of the broker before a job starts, and the topics that the job owns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from pipelines.core.errors import SettingsError, UnknownNameError
from pipelines.core.purge.conditions import Role, TopicRetention
from pipelines.core.settings import Settings
from pipelines.io.kafka.connection import admin_client
from pipelines.io.kafka.errors import translate
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.topology import unknown_topics

__all__ = ["BrokerReport", "TopicReport", "check_broker", "ensure_topics", "topic_retentions"]

_log = structlog.get_logger()


@dataclass(frozen=True)
class TopicReport:
    """One topic that the job reads, as its broker describes it.

    Parameters
    ----------
    partitions
        How many.
    timestamp_type
        `CreateTime` (the producers' clocks) or `LogAppendTime`; `None` where the broker does not
        tell.
    retention_ms
        Milliseconds that records are kept; -1 for ever, `None` where the broker does not tell.
    cleanup_policy
        `delete`, `compact` or both; `None` where the broker does not tell.
    segment_ms
        Milliseconds until a segment is closed; `None` where the broker does not tell.
    """

    partitions: int
    timestamp_type: str | None = None
    retention_ms: int | None = None
    cleanup_policy: str | None = None
    segment_ms: int | None = None


@dataclass(frozen=True)
class BrokerReport:
    """What `check_broker` found.

    Parameters
    ----------
    brokers
        How many the cluster has.
    topics
        Topics that are read, by name, the replay topic among them when it exists.
    dead_letter_topic
        `None` when it does not exist yet.
    """

    brokers: int
    topics: dict[str, TopicReport]
    dead_letter_topic: TopicReport | None


def check_broker(settings: Settings, timeout_seconds: float = 10.0) -> BrokerReport:
    """Connect, log in and look at the topics, once and within a bound.

    Raises
    ------
    TransientError
        No broker answers within the time.
    ServiceRefusedError
        Login, TLS or permission.
    UnknownNameError
        A topic does not exist, or the pattern matches none.
    SettingsError
        No topics are named, or the dead-letter topic is among them.
    """
    feed = Feed.of(settings, "")
    _check_names(settings, feed)
    admin = admin_client(settings, timeout_seconds)
    try:
        brokers = len(admin.describe_cluster()["brokers"])
        existing = set(admin.list_topics())
        read = feed.topics(topic for topic in existing if not topic.startswith("__"))
        missing = set(feed.listed_topics) - existing
        _check_hidden(admin, missing)
        _check_topics(settings, feed, missing, set(read), existing)
        wanted = [*read, *({feed.dead_letter_topic} & existing)]
        reports = _describe(admin, wanted)
    except Exception as error:
        raise translate(error, "checking the broker") from error
    finally:
        admin.close()
    return BrokerReport(
        brokers=brokers,
        topics={topic: reports[topic] for topic in read},
        dead_letter_topic=reports.get(feed.dead_letter_topic),
    )


def topic_retentions(settings: Settings) -> list[TopicRetention]:
    """How long each topic can give an event back: source topics, replay topic and dead letters.

    The two that the job makes count with `kafka.dead_letter_retention_seconds` while they do not
    exist. Raises as `check_broker`.
    """
    report = check_broker(settings)
    made_with = settings.kafka.dead_letter_retention_seconds * 1000

    def of(topic: str, role: Role, found: TopicReport | None) -> TopicRetention:
        if found is None:
            return TopicRetention(topic, role, "delete", made_with)
        return TopicRetention(
            topic, role, found.cleanup_policy, found.retention_ms, found.segment_ms
        )

    replays = settings.replay_topic
    return [
        *(of(name, "source", found) for name, found in report.topics.items() if name != replays),
        of(replays, "replay", report.topics.get(replays)),
        of(settings.dead_letter_topic, "dead letters", report.dead_letter_topic),
    ]


def ensure_topics(settings: Settings) -> list[str]:
    """Create the dead-letter and the replay topic where they are missing; returns what it made.

    The dead-letter topic keeps records for `kafka.dead_letter_retention_seconds`: the originals
    are documents, and documents are not kept for ever in a place nobody looks at. Their stamps are
    the broker's: it refuses those of a job whose clock is an hour ahead. Nothing is made when
    `kafka.create_topics` is off. Raises as `check_broker`.
    """
    if not settings.kafka.create_topics:
        return []
    retention_ms = str(settings.kafka.dead_letter_retention_seconds * 1000)
    configs = {
        "cleanup.policy": "delete",
        "retention.ms": retention_ms,
        "message.timestamp.type": "LogAppendTime",
    }
    admin = admin_client(settings)
    made = []
    try:
        existing = set(admin.list_topics())
        for topic in (settings.dead_letter_topic, settings.replay_topic):
            if topic in existing:
                continue
            try:
                admin.create_topics([_new_topic(admin, topic, configs)])
            except TopicAlreadyExistsError:
                continue  # another process was faster
            made.append(topic)
            _log.info("kafka_topic_created", topic=topic)
    except Exception as error:
        raise translate(error, "creating the dead-letter and replay topics") from error
    finally:
        admin.close()
    return made


def _new_topic(admin: KafkaAdminClient, topic: str, configs: dict[str, str]) -> NewTopic:
    # Brokers before 2.4 have no defaults to leave these to.
    old = admin._manager.broker_version < (2, 4)
    return NewTopic(topic, 1 if old else -1, 1 if old else -1, topic_configs=configs)


def _check_names(settings: Settings, feed: Feed) -> None:
    if not settings.kafka.topics and not feed.has_pattern:
        raise SettingsError("kafka.topics: name at least one topic, or give `kafka.pattern`")
    if feed.dead_letter_topic in settings.kafka.topics:
        raise SettingsError(
            f"kafka.topics: {feed.dead_letter_topic} is the dead-letter topic, which the job "
            "writes and never reads; use `dead-letters replay`, or name another "
            "`kafka.dead_letter_topic`"
        )


def _check_topics(
    settings: Settings, feed: Feed, missing: set[str], read: set[str], existing: set[str]
) -> None:
    if missing:
        raise unknown_topics(missing, existing)
    if feed.has_pattern and not read - {feed.replay_topic}:
        shown = ", ".join(sorted(existing)[:20]) or "no topics this user may see"
        raise UnknownNameError(
            f"kafka.pattern {settings.kafka.pattern!r} matches no topic; Kafka has {shown}"
        )


def _check_hidden(admin: KafkaAdminClient, missing: set[str]) -> None:
    """A listing leaves out what this user may not see; asked for by name, the broker says so."""
    if not missing:
        return
    for topic in admin.describe_topics(sorted(missing)):
        error = for_code(topic["error_code"])
        if error is TopicAuthorizationFailedError:
            raise error({topic["name"]})


def _describe(admin: KafkaAdminClient, topics: Iterable[str]) -> dict[str, TopicReport]:
    names = list(topics)
    if not names:
        return {}
    configs = _configs(admin, names)
    reports = {}
    for topic in admin.describe_topics(names):
        error = for_code(topic["error_code"])
        if topic["error_code"]:
            raise error({topic["name"]})
        values = configs.get(topic["name"], {})
        retention, segment = values.get("retention.ms"), values.get("segment.ms")
        reports[topic["name"]] = TopicReport(
            partitions=len(topic["partitions"]),
            timestamp_type=values.get("message.timestamp.type"),
            retention_ms=int(retention) if retention else None,
            cleanup_policy=values.get("cleanup.policy"),
            segment_ms=int(segment) if segment else None,
        )
    return reports


def _configs(admin: KafkaAdminClient, topics: list[str]) -> dict[str, dict[str, Any]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    try:
        found = admin.describe_configs(resources, config_filter="all")
    except (KafkaError, KeyError, TypeError, ValueError):
        # A right of its own, and unknown to some brokers: what it says is advice, not needed.
        return {}
    return {
        topic: {name: entry.get("value") for name, entry in values.items()}
        for topic, values in found.get("topic", {}).items()
    }
