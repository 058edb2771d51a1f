"""End to end against the bare encoder: what everything around the model costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from pipelines.core.encoder import Encoder, load_encoder
from pipelines.core.encoder.source import find_model
from pipelines.core.settings import ContractSettings, RuntimeSettings, Settings
from tests.benchmarks.bench import CONTRACT, Bench, Store, corpus_documents, stores
from tests.benchmarks.table import Table
from tests.support.brokers import Broker, any_broker
from tests.support.corpora import messages

NEEDS = ("banking77", "scifact", "arxiv-2025")

_SIZES = {"banking77": 4096, "scifact": 512, "mix": 768}
_ROUNDS = 3
_BATCH_SIZE = 32


def run() -> Table:
    """Documents per second and ratios, medians over rounds in which all take their turn."""
    table = Table(
        "End to end against the bare encoder (documents/s; ratio to the bare encoder)",
        ["corpus", "what", "documents/s", "ratio", "ratio to our encoder"],
        notes=[
            f"bare: SentenceTransformer.encode of all texts at once, batch_size={_BATCH_SIZE},",
            "sorted by length over all of them, as the library does by itself. Ours: the job's own",
            "encoder on the job's own batches. Start of the process and load of the model",
            "are in none of the figures; the job counts from the first record to the last commit.",
        ],
    )
    bare, ours = bare_and_ours()
    with any_broker() as broker, stores() as places:
        table.notes.append(f"Events come from {broker.name}; float32, all cores.")
        for name, size in _SIZES.items():
            documents = corpus_documents(name, size)
            texts = [document.rendered for document in documents]
            broker.create_topic(name)
            broker.send(name, messages(documents))
            measures: dict[str, Callable[[], float]] = {
                "bare encoder": lambda texts=texts: _rate(bare, texts),
                "our encoder": lambda texts=texts: _rate(ours, texts),
            }
            for place in places:
                measures[f"job into the {place.name}"] = lambda name=name, place=place: _job(
                    broker, name, place
                )
            _rounds(table, name, measures)
    return table


def _rounds(table: Table, name: str, measures: dict[str, Callable[[], float]]) -> None:
    taken: dict[str, list[float]] = {what: [] for what in measures}
    for _ in range(_ROUNDS):
        for what, measure in measures.items():
            taken[what].append(measure())
    for what, rates in taken.items():
        ratios = [
            statistics.median(a / b for a, b in zip(rates, taken[base], strict=True))
            for base in ("bare encoder", "our encoder")
        ]
        cells = [f"{statistics.median(rates):.0f}", *(f"{ratio:.2f}" for ratio in ratios)]
        table.rows.append([name, what, *cells])


def _job(broker: Broker, topic: str, place: Store) -> float:
    bench = Bench(broker, topic, place)
    try:
        return bench.run().rate
    finally:
        bench.drop()


def _rate(encode: Callable[[list[str]], object], texts: list[str]) -> float:
    started = time.perf_counter()
    encode(texts)
    return len(texts) / (time.perf_counter() - started)


def bare_and_ours() -> tuple[Callable[[list[str]], object], Callable[[list[str]], object]]:
    """The library's encoder and the job's, warm: each takes texts."""
    from sentence_transformers import SentenceTransformer

    contract = ContractSettings(**CONTRACT)
    encoder: Encoder = load_encoder(contract, RuntimeSettings(device="cpu"))
    model = SentenceTransformer(find_model(contract.model, None).place, device="cpu")
    model.max_seq_length = contract.max_tokens

    def bare(texts: list[str]) -> object:
        return model.encode(texts, batch_size=_BATCH_SIZE, show_progress_bar=False)

    ours = in_batches(encoder, Settings().ingest.batch_events)

    for encode in (bare, ours):
        encode(["warm"] * _BATCH_SIZE)
    return bare, ours


def in_batches(encoder: Encoder, batch: int) -> Callable[[list[str]], object]:
    """The job's encoder as the job uses it: so many texts a call."""

    def encode(texts: list[str]) -> object:
        return [
            encoder.encode_documents(texts[start : start + batch])
            for start in range(0, len(texts), batch)
        ]

    return encode
