"""Searches that arrive by themselves, as users' do, and how long each waits for its answer."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from pipelines.core.index import Index
from pipelines.core.settings import Settings

__all__ = ["BLOCK_SECONDS", "Latencies", "Search", "searcher"]

BLOCK_SECONDS = 5.0
"""Latencies of one block wait for the same things, so they are resampled together."""

_LIMIT = 10
_THREADS = 16

Floats = npt.NDArray[Any]


@dataclass
class Latencies:
    """Seconds by the time of arrival, seconds since the measurement began."""

    arrivals: Floats
    seconds: Floats

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def p99(self) -> float:
        return float(np.quantile(self.seconds, 0.99))

    def blocks(self) -> list[Floats]:
        numbers = (self.arrivals // BLOCK_SECONDS).astype(int)
        return [self.seconds[numbers == number] for number in np.unique(numbers)]


Search = Callable[..., Latencies]


@contextmanager
def searcher(settings: Settings, vectors: Floats, *, shared: bool) -> Iterator[Search]:
    """Searches at a rate for some seconds, here or in a process of its own."""
    if shared:
        yield _Load(settings, vectors)
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    values = settings.model_dump(mode="json", include={"index", "qdrant", "contract", "runtime"})
    process = context.Process(target=_serve, args=(theirs, values, vectors))
    process.start()
    try:

        def search(rate: float, seconds: float, *, alone: bool = False) -> Latencies:
            ours.send((rate, seconds, alone))
            found: Latencies = ours.recv()
            return found

        yield search
        ours.send(None)
        process.join()
    finally:
        process.kill()


def _serve(pipe: Any, values: dict[str, Any], vectors: Floats) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    load = _Load(Settings(**values), vectors)
    while (asked := pipe.recv()) is not None:
        rate, seconds, alone = asked
        pipe.send(load(rate, seconds, alone=alone))


class _Load:
    """Searches of a user's process; the queries come encoded."""

    def __init__(self, settings: Settings, vectors: Floats) -> None:
        self._index = Index(settings)
        self._vectors = vectors
        self._random = np.random.default_rng(1)
        self._pool = ThreadPoolExecutor(_THREADS)
        self._fingerprint = self._index.version().fingerprint
        self._search(vectors[0])

    def _search(self, vector: Floats) -> None:
        self._index.search_vector(vector, _LIMIT, fingerprint=self._fingerprint)

    def __call__(self, rate: float, seconds: float, *, alone: bool = False) -> Latencies:
        """Latencies of searches that arrive at a rate; `alone` makes each wait for the last."""
        gaps = self._random.exponential(1 / rate, size=max(20, round(rate * seconds)))
        arrivals = np.cumsum(gaps)
        begun = time.perf_counter()
        latencies = np.zeros(len(arrivals))

        def one(number: int) -> None:
            due = time.perf_counter() if alone else begun + arrivals[number]
            vector = self._vectors[number % len(self._vectors)]
            self._search(vector)
            latencies[number] = time.perf_counter() - due

        waiting = []
        for number, arrival in enumerate(arrivals):
            if alone:
                one(number)
                if time.perf_counter() - begun > seconds:
                    return Latencies(arrivals[: number + 1], latencies[: number + 1])
                continue
            time.sleep(max(0.0, begun + arrival - time.perf_counter()))
            waiting.append(self._pool.submit(one, number))
        for one_of_them in waiting:
            one_of_them.result()
        return Latencies(arrivals, latencies)
