"""Vectors of the golden queries, encoded once by each encoder, and at leisure."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from monitors.golden.run import encode_golden

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from monitors.golden.golden_set import GoldenQuery
    from monitors.golden.run import Watch
    from pipelines.core.encoder import Encoder

__all__ = ["GoldenVectors"]

_ENCODERS = 2
"""Of the live version, and of a candidate beside it."""

_SLICE = 16
_SHARE = 0.25
"""Share of the time that is spent on encoding: a thousand queries take some seconds of all cores,
which a store on the same machine lacks meanwhile."""

Vectors = Mapping[str, "npt.NDArray[np.float32]"]
Texts = tuple[tuple[str, str], ...]


class GoldenVectors:
    """Encodes the queries again only when they, or the encoder, are others than before.

    An encoder in memory gives the same vectors again; that it is the right one is what the canary
    probe asks. Safe to share between threads.

    Parameters
    ----------
    clock, sleep
        Injected by tests.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._kept: list[tuple[weakref.ref[Encoder], Texts, Vectors]] = []

    def of(self, encoder: Encoder, queries: Sequence[GoldenQuery], watch: Watch) -> Vectors:
        """Query to its vector, without those that the model gives none for.

        Raises
        ------
        ProbeTimeoutError
            The time is up. What has been encoded by then is lost.
        """
        texts = tuple((query.id, query.text) for query in queries)
        with self._lock:
            for reference, known, vectors in self._kept:
                if reference() is encoder and known == texts:
                    return vectors
        vectors = self._encode(encoder, queries, watch)
        try:
            kept = (weakref.ref(encoder), texts, vectors)
        except TypeError:
            return vectors  # it cannot be told when this encoder is gone: it is asked again
        with self._lock:
            others = [one for one in self._kept if one[0]() not in (None, encoder)]
            self._kept = [kept, *others][:_ENCODERS]
        return vectors

    def _encode(self, encoder: Encoder, queries: Sequence[GoldenQuery], watch: Watch) -> Vectors:
        found: dict[str, npt.NDArray[np.float32]] = {}
        for start in range(0, len(queries), _SLICE):
            begun = self._clock()
            found |= encode_golden(encoder, queries[start : start + _SLICE], watch)
            if start + _SLICE < len(queries):
                self._sleep((self._clock() - begun) * (1 / _SHARE - 1))
        return found
