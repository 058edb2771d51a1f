"""Which topics and partitions there are, and which of them a split owns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, TopicAuthorizationFailedError

from pipelines.core.errors import UnknownNameError
from pipelines.io.kafka.connection import CONNECT_SECONDS, METADATA_PACE_MS, WatchedManager
from pipelines.io.kafka.errors import translate
from pipelines.io.kafka.feed import Feed

__all__ = ["Topology", "load_topics", "look", "unknown_topics"]

_TRIES = 3
"""A topic made a moment ago is not known to every broker yet."""


@dataclass(frozen=True)
class Topology:
    """The partitions of a split at one moment.

    Parameters
    ----------
    topic_ids
        Every topic that is read and exists: its id in 32 hex digits, empty where the broker tells
        none.
    leaders
        The split's partitions and the node that leads each; `None` while none does.
    """

    topic_ids: dict[str, str]
    leaders: dict[TopicPartition, Any]


def load_topics(manager: WatchedManager, feed: Feed, known: set[str]) -> None:
    """Wait for metadata of the topics.

    Parameters
    ----------
    manager
        Of a connected client that has been told which topics to ask for.
    feed
        Whose topics.
    known
        Topics that existed before: for these a job waits, they may be created again.

    Raises
    ------
    UnknownNameError
        A topic that the settings name does not exist; the nearest that do are named.
    ServiceRefusedError
        A topic is not permitted.
    TransientError
        No answer in time.
    """
    cluster = manager.cluster
    missing: set[str] = set()
    for attempt in range(_TRIES):
        # The first answer is wanted now, the next may take the pace of a topic that is missing.
        cluster.config["retry_backoff_ms"] = METADATA_PACE_MS if attempt else 20
        before = manager.metadata_version
        try:
            manager.run(manager.wait_for, cluster.request_update(), CONNECT_SECONDS * 1000)
        except KafkaError as error:
            # A topic that is missing or forbidden fails the wait as well, with an answer.
            if manager.metadata_version == before:
                raise translate(error, "asking for topics") from error
        _check_permission(cluster, feed)
        cluster.config["retry_backoff_ms"] = METADATA_PACE_MS
        missing = set(feed.listed_topics) - set(cluster.topics()) - known
        if not missing:
            return
    raise unknown_topics(missing, _all_topics(manager))


def look(manager: WatchedManager, feed: Feed, split: int | None) -> Topology:
    """What the metadata says now; raises `ServiceRefusedError` for a topic not permitted."""
    cluster = manager.cluster
    _check_permission(cluster, feed)
    topic_ids = {}
    leaders: dict[TopicPartition, Any] = {}
    for topic in feed.topics(cluster.topics()):
        topic_id = cluster.topic_id(topic)
        topic_ids[topic] = topic_id.hex if topic_id is not None and topic_id.int else ""
        for number in sorted(cluster.partitions_for_topic(topic) or ()):
            partition = TopicPartition(topic, number)
            if split is None or feed.split_of(partition) == split:
                leader = cluster.leader_for_partition(partition)
                leaders[partition] = None if leader == -1 else leader
    return Topology(topic_ids, leaders)


def unknown_topics(missing: Iterable[str], existing: Iterable[str]) -> UnknownNameError:
    """The error that names topics that do not exist and the nearest that do."""
    names = sorted(existing)
    parts = []
    for topic in sorted(missing):
        near = difflib.get_close_matches(topic, names, n=3, cutoff=0.5)
        parts.append(f"{topic!r}" + (f" (did you mean {', '.join(near)}?)" if near else ""))
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return UnknownNameError(
        f"Kafka has no topic {', '.join(parts)}; it has {shown or 'no topics this user may see'}. "
        "Create the topic, or mend `kafka.topics`."
    )


def _check_permission(cluster: Any, feed: Feed) -> None:
    forbidden = set(cluster.unauthorized_topics) & {*feed.listed_topics, feed.replay_topic}
    if forbidden:
        raise translate(TopicAuthorizationFailedError(forbidden), "asking for topics")


def _all_topics(manager: WatchedManager) -> set[str]:
    cluster = manager.cluster
    before = cluster.need_all_topic_metadata
    cluster.need_all_topic_metadata = True
    try:
        manager.run(manager.wait_for, cluster.request_update(), CONNECT_SECONDS * 1000)
    except KafkaError:
        return set()
    finally:
        cluster.need_all_topic_metadata = before
    topics: set[str] = cluster.topics()
    return topics
