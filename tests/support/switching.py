"""Two versions of an index on one store, and searchers that prove which encoder asked which."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import index as index_module
from pipelines.core.encoder import Encoded, Encoder
from pipelines.core.index import Index
from pipelines.core.qdrant import Qdrant
from pipelines.core.settings import Settings
from tests.support.probing import Seeded

__all__ = ["Searcher", "Tagging", "Witness", "percentile", "two_encoders"]


def two_encoders() -> dict[str, Seeded]:
    """Encoders of two contracts, of different dimension, by fingerprint; they cost nothing."""
    made = (Seeded(16), Seeded(24, model_hash="1" * 64))
    return {encoder.contract.fingerprint: encoder for encoder in made}


class Tagging:
    """An encoder whose every query vector is remembered, with the contract that made it."""

    def __init__(self, encoder: Encoder, made: dict[bytes, str]) -> None:
        self._encoder = encoder
        self._made = made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        encoded = self._encoder.encode_queries(texts)
        for vector in encoded.vectors:
            self._made[_key(vector)] = self._encoder.contract.fingerprint
        return encoded


class Witness:
    """Watches an `Index`: every query that reaches a collection of another contract is kept.

    Parameters
    ----------
    index
        Its encoders are wrapped as they are opened, so it must be new.
    """

    def __init__(self, index: Index) -> None:
        self.made: dict[bytes, str] = {}
        self.mixed: list[tuple[str, str]] = []
        self.asked: dict[str, int] = {}
        index._qdrant = _Watching(index._qdrant, self)  # type: ignore[assignment]

    def wrap(self, encoder: Encoder) -> Encoder:
        """The encoder, remembered."""
        wrapped: Any = Tagging(encoder, self.made)
        return wrapped

    def seen(self, collection: str, vector: Sequence[float]) -> None:
        """A query is about to reach a collection."""
        maker = self.made.get(_key(np.asarray(vector, np.float32)), "nobody")
        self.asked[collection] = self.asked.get(collection, 0) + 1
        if not collection.endswith(f"--{maker}"):
            self.mixed.append((collection, maker))


class _Watching:
    """A `Qdrant` that tells the witness what is asked."""

    def __init__(self, qdrant: Qdrant, witness: Witness) -> None:
        self._qdrant = qdrant
        self._witness = witness

    def __getattr__(self, name: str) -> Any:
        return getattr(self._qdrant, name)

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        if method in ("query_points", "query_points_groups"):
            self._witness.seen(kwargs["collection_name"], kwargs["query"])
        return self._qdrant.call(method, *args, **kwargs)


@dataclass
class Searcher:
    """Searches in a loop, on a thread of its own, and keeps what went wrong and how long it took.

    Parameters
    ----------
    texts
        Asked in turn.
    """

    index: Index
    texts: Sequence[str]
    seconds: list[tuple[float, float]] = field(default_factory=list)
    """When each search began, by `time.monotonic`, and how long it took."""
    errors: list[str] = field(default_factory=list)
    empty: int = 0
    pause_seconds: float = 0.0
    """Between two searches: a machine that is busy to the brim measures its scheduler."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a search hangs"

    def run(self, stop: Any) -> None:
        """In the caller's thread, until `stop()` is true."""
        while not stop():
            self._once()
            if self.pause_seconds:
                self._stop.wait(self.pause_seconds)

    def _loop(self) -> None:
        self.run(self._stop.is_set)

    def _once(self) -> None:
        began = time.monotonic()
        try:
            if not self.index.search(self.texts[len(self.seconds) % len(self.texts)], limit=3):
                self.empty += 1
        except Exception as error:  # noqa: BLE001 - every one is a failure of the promise
            self.errors.append(f"{type(error).__name__}: {error}")
        self.seconds.append((began, time.monotonic() - began))


def percentile(seconds: Sequence[float], share: float) -> float:
    """By rank; NaN without any."""
    return float(np.quantile(seconds, share)) if len(seconds) else float("nan")


def _key(vector: Any) -> bytes:
    return np.asarray(vector, np.float32).tobytes()


def main() -> None:
    """One process that searches until a file appears, then prints what it saw as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settings", required=True, help="JSON")
    parser.add_argument("--stop", required=True, help="file whose appearing ends it")
    parser.add_argument("--ready", required=True, help="file it makes after its first search")
    arguments = parser.parse_args()
    index = Index(Settings(**json.loads(arguments.settings)), alias_seconds=0.05)
    witness = Witness(index)
    encoders: dict[str, Any] = dict(two_encoders())
    index_module.encoder_for = lambda version, _: witness.wrap(encoders[version.fingerprint])
    texts = [f"question {number}" for number in range(50)]
    searcher = Searcher(index, texts, pause_seconds=0.005)
    searcher._once()
    Path(arguments.ready).touch()
    searcher.run(Path(arguments.stop).exists)
    json.dump(
        {
            "searches": len(searcher.seconds),
            "errors": searcher.errors[:10],
            "empty": searcher.empty,
            "mixed": witness.mixed[:10],
            "asked": witness.asked,
            "seconds": searcher.seconds,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
