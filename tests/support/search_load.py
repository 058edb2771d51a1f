"""Searches that arrive by themselves, as users' do, and how long each waits for its answer."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from pipelines.core.index import Index
from pipelines.core.settings import Settings

__all__ = ["Search", "searcher"]

_LIMIT = 10
_THREADS = 16

Floats = npt.NDArray[Any]


Search = Callable[..., Floats]
"""Given a rate, seconds and a seed: what each search took, in seconds."""


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

        def search(rate: float, seconds: float, seed: int, *, alone: bool = False) -> Floats:
            ours.send((rate, seconds, seed, alone))
            found: Floats = ours.recv()
            return found

        yield search
        ours.send(None)
        process.join()
    finally:
        process.kill()


def _serve(pipe: Any, values: dict[str, Any], vectors: Floats) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    load = _Load(Settings(**values), vectors)
    # A collection stops every search for as long as it takes, which is no matter of the store's.
    gc.collect()
    gc.disable()
    while (asked := pipe.recv()) is not None:
        rate, seconds, seed, alone = asked
        pipe.send(load(rate, seconds, seed, alone=alone))
        gc.collect()


class _Load:
    """Searches of a user's process; the queries come encoded."""

    def __init__(self, settings: Settings, vectors: Floats) -> None:
        self._index = Index(settings)
        self._vectors = vectors
        self._pool = ThreadPoolExecutor(_THREADS)
        self._fingerprint = self._index.version().fingerprint
        self._search(vectors[0])

    def _search(self, vector: Floats) -> None:
        self._index.search_vector(vector, _LIMIT, fingerprint=self._fingerprint)

    def __call__(self, rate: float, seconds: float, seed: int, *, alone: bool = False) -> Floats:
        """What searches take that arrive at a rate; `alone` makes each wait for the last.

        The same seed gives the same searches at the same moments.
        """
        random = np.random.default_rng(seed)
        arrivals = np.cumsum(random.exponential(1 / rate, size=max(20, round(rate * seconds))))
        chosen = random.integers(len(self._vectors), size=len(arrivals))
        latencies = np.zeros(len(arrivals))
        begun = time.perf_counter()

        def one(number: int) -> None:
            due = time.perf_counter() if alone else begun + arrivals[number]
            self._search(self._vectors[chosen[number]])
            latencies[number] = time.perf_counter() - due

        waiting = []
        for number, arrival in enumerate(arrivals):
            if alone:
                one(number)
                if time.perf_counter() - begun > seconds:
                    return latencies[: number + 1]
                continue
            time.sleep(max(0.0, begun + arrival - time.perf_counter()))
            waiting.append(self._pool.submit(one, number))
        for one_of_them in waiting:
            one_of_them.result()
        return latencies
