"""Kafka: the source of the documents' events, its checks, and the dead letters' sink.

`ReadFromKafka` is the transform; `check_broker`, `ensure_topics` and `resolve_start` come before
it, `STOP` ends it, `position_report` and `commit_failure` say afterwards whether all that was
read is committed.
"""

from pipelines.io.kafka.admin import BrokerReport, TopicReport, check_broker, ensure_topics
from pipelines.io.kafka.committer import close_committer
from pipelines.io.kafka.connection import admin_client, client_config, connect_consumer
from pipelines.io.kafka.dead_letters import WriteDeadLetters
from pipelines.io.kafka.errors import translate
from pipelines.io.kafka.pool import close_consumers, open_consumers
from pipelines.io.kafka.positions import commit_failure, position_report
from pipelines.io.kafka.source import KafkaSource, ReadFromKafka
from pipelines.io.kafka.start import (
    end_offsets,
    resolve_start,
    start_at_beginning,
    start_like,
    unread_ends,
)
from pipelines.io.kafka.stop import STOP, StopSignal

__all__ = [
    "STOP",
    "BrokerReport",
    "KafkaSource",
    "ReadFromKafka",
    "StopSignal",
    "TopicReport",
    "WriteDeadLetters",
    "admin_client",
    "check_broker",
    "client_config",
    "close_committer",
    "close_consumers",
    "commit_failure",
    "connect_consumer",
    "end_offsets",
    "ensure_topics",
    "open_consumers",
    "position_report",
    "resolve_start",
    "start_at_beginning",
    "start_like",
    "translate",
    "unread_ends",
]
