"""Ends a job on a cluster when what it had to read is committed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Self

import structlog
from kafka import TopicPartition

from pipelines.core.errors import PlumblineError
from pipelines.core.failures import FAILURES
from pipelines.core.settings import Settings
from pipelines.io.kafka.committer import committed
from pipelines.io.kafka.feed import Feed

__all__ = ["CancelWhenCommitted"]

_POLL_SECONDS = 1.0

_log = structlog.get_logger()


class CancelWhenCommitted:
    """While the block runs, watches a consumer group and cancels the job at the right moment.

    What the job has read beyond these offsets and not committed is read again by the next one.

    Parameters
    ----------
    ends
        Offset that each partition's committed one must reach.
    cancel
        Cancels the job; called once, from a thread of this class.
    """

    def __init__(
        self,
        settings: Settings,
        group_id: str,
        ends: Mapping[TopicPartition, int],
        cancel: Callable[[], object],
    ) -> None:
        self.cancelled = False
        """True once the offsets were reached, whatever the runner says of its end."""
        self._feed = Feed.of(settings, group_id)
        self._ends = ends
        self._cancel = cancel
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="plumbline-ends", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            while not self._reached():
                if self._done.wait(_POLL_SECONDS):
                    return
        except PlumblineError as error:
            FAILURES.record(error)
        else:
            self.cancelled = True
            _log.info("caught_up", group=self._feed.group_id, partitions=len(self._ends))
        self._cancel()

    def _reached(self) -> bool:
        places = committed(self._feed, self._ends)
        return all(
            partition in places and places[partition].position >= end
            for partition, end in self._ends.items()
        )
