"""Faults put into the product on purpose, to try the tests that must find them.

    python -m tests.support.mutations NAME ingest --config plumbline.yaml --until-caught-up

runs `plumbline` with one of them. They live in this process alone: the product has no
switch for any.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam

__all__ = ["MUTATIONS", "command"]


def command(name: str) -> tuple[str, ...]:
    """In place of `plumbline`: the same with a mutation; `none` changes nothing."""
    return (sys.executable, "-m", __name__, name)


def _none() -> None:
    """Nothing is changed."""


class _Reshuffled(beam.PTransform):
    def __init__(self, read: beam.PTransform) -> None:
        super().__init__()
        self._read = read

    def expand(self, begin: Any) -> Any:
        return begin | self._read | beam.Reshuffle()


def _reshuffle() -> None:
    """A Reshuffle between the reader and the rest: the reader's stage ends before the writes."""
    from pipelines import ingest

    read = ingest.ReadFromKafka

    def reshuffled(*arguments: Any, **options: Any) -> beam.PTransform:
        return _Reshuffled(read(*arguments, **options))

    ingest.ReadFromKafka = reshuffled  # type: ignore[assignment, misc]


def _no_update_filter() -> None:
    """Upserts without their condition: whoever comes last wins."""
    from pipelines.core.qdrant import Qdrant

    call = Qdrant.call

    def unconditional(self: Qdrant, method: str, /, *args: Any, **kwargs: Any) -> Any:
        if method == "upsert":
            kwargs.pop("update_filter", None)
        return call(self, method, *args, **kwargs)

    Qdrant.call = unconditional  # type: ignore[method-assign]


def _commit_before_write() -> None:
    """The sink lets the bundle end while its writes are still under way."""
    from pipelines.io.qdrant import WriteToQdrantFn

    def go_on(self: Any) -> None:
        """Keeps what is in flight for the next bundle."""

    def end_at_once(self: Any) -> Iterator[Any]:
        return iter(())

    WriteToQdrantFn.start_bundle = go_on  # type: ignore[method-assign]
    WriteToQdrantFn.finish_bundle = end_at_once  # type: ignore[method-assign]


def _no_clean_up() -> None:
    """The deletion of older chunks after the heads' read-back is skipped."""
    from pipelines.core.writing import DocumentWriter

    def skip(self: Any, batch: Any) -> Iterator[str]:
        return iter(())

    DocumentWriter._clean_up = skip  # type: ignore[assignment, method-assign]


def _commit_at_poll() -> None:
    """Offsets are committed as soon as their records have been fetched."""
    from kafka import TopicPartition

    from pipelines.io.kafka.committer import commit
    from pipelines.io.kafka.cursor import Cursor

    fetch = Cursor.fetch

    def committing(self: Any, wait_seconds: float) -> Any:
        fetched = fetch(self, wait_seconds)
        places = {}
        for one in fetched:
            partition = TopicPartition(one.record.topic, one.record.partition)
            places[partition] = one.track.place._replace(position=one.after)
        if places:
            commit(self.feed, places)
        return fetched

    Cursor.fetch = committing  # type: ignore[method-assign]


def _pooling_on_signal() -> None:
    """From SIGUSR1 on, every encoder of the process takes the first token for the whole text."""
    from dataclasses import replace

    from sentence_transformers.sentence_transformer.modules import Pooling

    from pipelines.core import job

    def change(*_: object) -> None:
        for one in job._jobs.values():
            encoder: Any = one.encoder
            loaded = encoder._loaded
            modules = [loaded.modules[0], Pooling(loaded.dimension, "cls")]
            encoder._loaded = replace(loaded, modules=modules)

    signal.signal(signal.SIGUSR1, change)


def _slow_encoder() -> None:
    """A batch takes a fifth of a second to encode; from SIGUSR1 on what it really takes."""
    from tests.support.slow_encoder import slow_until_signal

    slow_until_signal()


MUTATIONS: dict[str, Callable[[], None]] = {
    "none": _none,
    "reshuffle": _reshuffle,
    "no-update-filter": _no_update_filter,
    "commit-before-write": _commit_before_write,
    "no-clean-up": _no_clean_up,
    "commit-at-poll": _commit_at_poll,
    "pooling-on-signal": _pooling_on_signal,
    "slow-encoder": _slow_encoder,
}


def main() -> int:
    """Run the command with the mutation that the first argument names."""
    from pipelines.cli.app import run

    MUTATIONS[sys.argv[1]]()
    return run(sys.argv[2:])


if __name__ == "__main__":
    # Beam pickles what is defined in `__main__`; the mutations are looked up in the module.
    from tests.support.mutations import main as run_main

    sys.exit(run_main())
