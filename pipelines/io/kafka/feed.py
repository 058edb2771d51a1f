"""What a source reads and for whom: plain values that travel to workers, no secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from kafka import TopicPartition

from pipelines.core.position import topic_rank
from pipelines.core.settings import KafkaSettings, RetrySettings, Settings
from pipelines.io.kafka.secrets import without_secrets

__all__ = ["Feed"]


@dataclass(frozen=True)
class Feed:
    """Broker, topics and consumer group of a job.

    Parameters
    ----------
    kafka
        Settings of the connection and the topics, without secrets.
    retry
        Backoff of commits.
    index
        Name of the index, for the client id.
    group_id
        Consumer group whose offsets are read and committed.
    replay_topic, dead_letter_topic
        The one is always read, the other never.
    """

    kafka: KafkaSettings
    retry: RetrySettings
    index: str
    group_id: str
    replay_topic: str
    dead_letter_topic: str

    @classmethod
    def of(cls, settings: Settings, group_id: str) -> Feed:
        """The feed that the settings describe."""
        return cls(
            kafka=without_secrets(settings.kafka),
            retry=settings.retry,
            index=settings.index,
            group_id=group_id,
            replay_topic=settings.replay_topic,
            dead_letter_topic=settings.dead_letter_topic,
        )

    @cached_property
    def listed_topics(self) -> tuple[str, ...]:
        """Topics that the settings name, sorted; empty when they give a pattern."""
        return tuple(sorted(set(self.kafka.topics) - {self.dead_letter_topic, self.replay_topic}))

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return re.compile(self.kafka.pattern) if self.kafka.pattern else None

    @property
    def has_pattern(self) -> bool:
        """Whether topics are chosen by pattern, so that all of the cluster's must be looked at."""
        return self._pattern is not None

    def topics(self, existing: Iterable[str]) -> list[str]:
        """Which of the existing topics are read, sorted; the dead-letter topic never is."""
        pattern = self._pattern
        wanted = {*self.listed_topics, self.replay_topic}
        return sorted(
            topic
            for topic in set(existing)
            if topic != self.dead_letter_topic
            and (topic in wanted or (pattern is not None and pattern.fullmatch(topic)))
        )

    def split_of(self, partition: TopicPartition) -> int:
        """Which split owns a partition, 0 to `kafka.splits` - 1, the same in every process.

        A topic's partitions go round the splits, from one that the topic's name decides.
        """
        number: int = partition.partition
        return (topic_rank(partition.topic) + number) % self.kafka.splits

    def to_json(self) -> str:
        """Canonical JSON: equal feeds give equal text."""
        return json.dumps(
            {
                "kafka": self.kafka.model_dump(mode="json", exclude_defaults=True),
                "retry": self.retry.model_dump(mode="json", exclude_defaults=True),
                "index": self.index,
                "group_id": self.group_id,
                "replay_topic": self.replay_topic,
                "dead_letter_topic": self.dead_letter_topic,
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Feed:
        """What `to_json` wrote."""
        values = json.loads(text)
        return cls(
            kafka=KafkaSettings.model_validate(values.pop("kafka")),
            retry=RetrySettings.model_validate(values.pop("retry")),
            **values,
        )
