"""An index filled without Kafka, and what a probe is given to look at it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from monitors.probes.base import Deadline, LagReader, Probe, ProbeContext, ProbeResult, Reference
from pipelines.core.canaries import check
from pipelines.core.chunker import chunker_for
from pipelines.core.contract import EmbeddingContract
from pipelines.core.encoder import PACKAGED_MODEL, Encoded, Encoder, load_encoder
from pipelines.core.planning import Planner
from pipelines.core.points import OURS
from pipelines.core.position import Position
from pipelines.core.qdrant import Qdrant, connect, disconnect
from pipelines.core.records import Event
from pipelines.core.settings import Settings
from pipelines.core.versions import Version, create_version
from pipelines.core.writing import DocumentWriter, Written
from tests.support.corpora import Document

__all__ = ["FIRST_TIMESTAMP", "Remembering", "Seeded", "Watched", "values_of"]

FIRST_TIMESTAMP = 1_750_000_000_000
"""Event time of the first document, unless a test says otherwise; milliseconds."""

_BATCH = 256


class Remembering:
    """An encoder that encodes a text once: tests over many seeds write the same texts again."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._kept: dict[tuple[str, str], tuple[Any, str | None, int, bool]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        return self._encode("document", self._encoder.encode_documents, texts)

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        return self._encode("query", self._encoder.encode_queries, texts)

    def _encode(
        self, role: str, encode: Callable[[Sequence[str]], Encoded], texts: Sequence[str]
    ) -> Encoded:
        new = [text for text in dict.fromkeys(texts) if (role, text) not in self._kept]
        if new:
            encoded = encode(new)
            for row, text in enumerate(new):
                self._kept[role, text] = (
                    encoded.vectors[row],
                    encoded.refused.get(row),
                    encoded.tokens[row] if encoded.tokens else 1,
                    bool(encoded.truncated[row]) if encoded.truncated else False,
                )
        found = [self._kept[role, text] for text in texts]
        if not found:
            return encode([])
        return Encoded(
            np.stack([vector for vector, *_ in found]),
            refused={row: why for row, (_, why, *_) in enumerate(found) if why is not None},
            tokens=[tokens for _, _, tokens, _ in found],
            truncated=[cut for *_, cut in found],
        )


class Seeded:
    """An encoder that costs nothing: a vector of random direction from each text's hash.

    Parameters
    ----------
    dimension
        Of the vectors.
    noise
        How far each vector is turned, as the length of a random vector added to a unit one.
    length
        Of the vectors; 1 is what the contract says where it normalises.
    contract
        Fields of the contract beside the dimension.
    """

    symmetric = False
    tokenizer = None
    special_tokens = 2

    def __init__(
        self, dimension: int = 16, *, noise: float = 0.0, length: float = 1.0, **contract: Any
    ) -> None:
        self.contract = EmbeddingContract(
            **{
                "model_hash": "0" * 64,
                "dimension": dimension,
                "max_tokens": 256,
                "model_name": "seeded",
                **contract,
            }
        )
        self.noise = noise
        self.length = length

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        return self._encode(self.contract.document_prompt, texts)

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        return self._encode(self.contract.query_prompt, texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def _encode(self, prompt: str, texts: Sequence[str]) -> Encoded:
        rows = [self._vector(prompt + text) for text in texts]
        dimension = self.contract.dimension
        vectors = np.stack(rows) if rows else np.zeros((0, dimension), np.float32)
        return Encoded(
            vectors,
            tokens=[len(text.split()) + 2 for text in texts],
            truncated=[False] * len(texts),
        )

    def _vector(self, text: str) -> Any:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        generator = np.random.default_rng(seed)
        vector = generator.standard_normal(self.contract.dimension)
        vector /= np.linalg.norm(vector)
        if self.noise:
            turn = generator.standard_normal(self.contract.dimension)
            vector += self.noise * turn / np.linalg.norm(turn)
            vector /= np.linalg.norm(vector)
        return (self.length * vector).astype(np.float32)


class Watched(AbstractContextManager["Watched"]):
    """One version of one index on an embedded store, or on a server.

    Parameters
    ----------
    directory
        Of the embedded store; `None` with `url`.
    url
        Of a server instead.
    model
        Of the contract, where no `encoder` is given.
    encoder
        Writes the version and is what the probes get; default: the packaged model's.
    settings
        Nested, beside `index`, `qdrant` and `contract.model`: `monitor`, `contract`, `ingest`, …
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        url: str | None = None,
        index: str = "watched",
        model: Path | str = PACKAGED_MODEL,
        encoder: Encoder | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        values: dict[str, Any] = {
            "index": index,
            "qdrant": {"path": str(directory)} if url is None else {"url": url},
            "contract": {"model": str(model)},
            "runtime": {"device": "cpu", "threads": 1},
            "metrics": {"port": None},
        }
        for key, value in (settings or {}).items():
            known = values.get(key)
            values[key] = {**known, **value} if isinstance(known, dict) else value
        self.settings = Settings(**values)
        self.qdrant: Qdrant = connect(self.settings)
        self.encoder: Any = encoder or load_encoder(self.settings.contract, self.settings.runtime)
        self.version: Version = create_version(self.qdrant, self.settings, self.encoder)
        self.references: dict[str, Reference] = {}
        self.state: dict[str, Mapping[str, Any] | None] = {}
        self.baseline: dict[str, Mapping[str, Any] | None] = {}
        self.now = datetime.fromtimestamp(FIRST_TIMESTAMP / 1000, UTC)
        """The probes' clock; `write` moves it behind the newest event."""
        self._offset = 0
        self._runs = 0

    def __exit__(self, *_: object) -> None:
        disconnect(self.settings)

    def __enter__(self) -> Self:
        return self

    @property
    def now_ms(self) -> int:
        """The probes' clock in milliseconds since the epoch."""
        return round(self.now.timestamp() * 1000)

    def write(
        self,
        documents: Iterable[Document],
        *,
        at: int | None = None,
        step_ms: int = 1,
        encoder: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[Written]:
        """Writes documents as the job does, and moves the clock behind them.

        Parameters
        ----------
        at
            Event time of the first one, milliseconds; default: now.
        step_ms
            Between the events.
        encoder
            In place of the version's own: a worker that is damaged.
        """
        first = self.now_ms if at is None else at
        events = [
            Event(
                document.id,
                self._position(first + number * step_ms),
                title=document.title,
                text=document.text,
                metadata=dict(metadata or {}),
            )
            for number, document in enumerate(documents)
        ]
        return self._write(events, encoder or self.encoder)

    def delete(self, document_ids: Iterable[str], *, at: int | None = None) -> list[Written]:
        """Deletes documents as the job does."""
        first = self.now_ms if at is None else at
        events = [
            Event(document_id, self._position(first + number), deleted=True)
            for number, document_id in enumerate(document_ids)
        ]
        return self._write(events, self.encoder)

    def _position(self, timestamp: int) -> Position:
        self._offset += 1
        newest = datetime.fromtimestamp((timestamp + 1) / 1000, UTC)
        self.now = max(self.now, newest)
        return Position("documents", 0, self._offset, timestamp)

    def _write(self, events: Sequence[Event], encoder: Any) -> list[Written]:
        contract = self.version.contract
        planner = Planner(self.qdrant, self.version, encoder, chunker_for(contract, encoder))
        writer = DocumentWriter(
            self.qdrant,
            self.version.name,
            index=self.version.index,
            fingerprint=self.version.fingerprint,
            order_by=self.version.order_by,
            chunked=contract.chunk is not None,
            store_text=self.settings.ingest.store_text,
        )
        written: list[Written] = []
        for start in range(0, len(events), _BATCH):
            plans, _ = planner.reconcile(events[start : start + _BATCH])
            planner.cut(plans)
            planner.encode(plans)
            written.extend(writer.write(plans))
        return written

    def context(
        self,
        probe: str = "",
        *,
        seed: int | None = None,
        seconds: float = 300.0,
        encoder: Any = None,
        lag: LagReader | None = None,
        version: Version | None = None,
    ) -> ProbeContext:
        """What the service would give a probe.

        Parameters
        ----------
        probe
            Its name: state and baseline of its earlier runs travel along.
        seed
            Of the random choices; default: another one for each run.
        seconds
            Until the deadline.
        encoder
            In place of the version's own: a process of the monitor that is damaged.
        """
        self._runs += 1
        chosen = version or self.version
        given = encoder or self.encoder

        def checked() -> Any:
            check(chosen.canaries, given)
            return given

        return ProbeContext(
            settings=self.settings,
            qdrant=self.qdrant,
            version=chosen,
            encoder=checked,
            unchecked_encoder=lambda: given,
            state=self.state.get(probe),
            baseline=self.baseline.get(probe),
            reference=self.references.get,
            keep_reference=self.keep_reference,
            now=self.now,
            deadline=Deadline.after(seconds),
            random=np.random.default_rng(self._runs if seed is None else seed),
            lag=lag,
        )

    def keep_reference(
        self, kind: str, vectors: Any, document_ids: Sequence[str], reason: str
    ) -> Reference:
        """As the store does, in memory."""
        self.references[kind] = Reference(
            f"{kind}-{len(self.references) + 1}",
            vectors,
            list(document_ids),
            self.now,
            "test",
            reason,
        )
        return self.references[kind]

    def run(self, probe: Probe, **arguments: Any) -> ProbeResult:
        """Runs a probe once, checks what it promises, and keeps what it wants kept."""
        context = self.context(probe.NAME, **arguments)
        result = probe.run(context)
        self.check(probe, result)
        if result.state is not None:
            # Through JSON, as the store keeps it.
            self.state[probe.NAME] = json.loads(json.dumps(dict(result.state), allow_nan=False))
        if result.baseline is not None:
            self.baseline[probe.NAME] = json.loads(
                json.dumps(dict(result.baseline), allow_nan=False)
            )
        return result

    @staticmethod
    def check(probe: Probe, result: ProbeResult) -> None:
        """What holds for every result of every probe."""
        assert result.reason in probe.REASONS, result.reason
        assert result.words
        seen = set()
        for figure in result.figures:
            assert figure.family in probe.FAMILIES, figure.family.name
            assert len(figure.labels) == len(figure.family.labels), figure
            assert (figure.family.name, figure.labels) not in seen, figure
            seen.add((figure.family.name, figure.labels))
        json.dumps(dict(result.details), allow_nan=False)

    def points(self) -> list[Any]:
        """Every stored point with payload and vector; for tests to look at."""
        found, _ = self.qdrant.call(
            "scroll", self.version.name, limit=100_000, with_payload=True, with_vectors=True
        )
        return list(found)

    def documents(self) -> dict[str, Any]:
        """The heads that are not deleted, by document id."""
        return {
            point.payload[OURS]["document_id"]: point
            for point in self.points()
            if point.payload[OURS]["chunk"] == 0 and not point.payload[OURS].get("deleted")
        }

    def set_settings(self, **monitor: Any) -> None:
        """Changes sections of `monitor`: `set_settings(drift={"window": 600})`."""
        sections = {
            name: getattr(self.settings.monitor, name).model_copy(update=values)
            for name, values in monitor.items()
        }
        self.settings = self.settings.model_copy(
            update={"monitor": self.settings.monitor.model_copy(update=sections)}
        )

    def with_contract(self, **changes: Any) -> Version:
        """The version, as if its contract said something else."""
        return replace(self.version, contract=replace(self.version.contract, **changes))


def values_of(result: ProbeResult, name: str) -> dict[tuple[str, ...], float]:
    """Labels to value of one family."""
    return {figure.labels: figure.value for figure in result.figures if figure.family.name == name}
