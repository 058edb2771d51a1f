"""The encoder and the job on a GPU: speed, what they agree on with the CPU, and little memory."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from prometheus_client import REGISTRY

from pipelines.core import canaries
from pipelines.core.encoder import Encoder, load_encoder
from pipelines.core.encoder.source import find_model
from pipelines.core.settings import ContractSettings, RuntimeSettings, Settings
from tests.benchmarks.bench import CONTRACT, Bench, corpus_documents, stores
from tests.benchmarks.table import Table
from tests.benchmarks.throughput import in_batches
from tests.support.brokers import any_broker
from tests.support.corpora import messages

NEEDS = ("banking77", "scifact")
BY_NAME_ONLY = True
"""It needs a GPU."""

_SIZES = {"banking77": 10_000, "scifact": 5_000}
_ROUNDS = 3
_DTYPES = ("float32", "float16", "bfloat16")
_LIBRARY_BATCHES = (32, 256)
_TOKENS = (4_096, 16_384, 65_536, 262_144)
_MEMORY = 0.004
"""Share of the card: less than a forward pass of the default size takes."""

_PARTS = ("agreement", "encoder", "tokens", "job", "memory")


def run() -> str:
    """The tables that PLUMBLINE_TEST_PARTS names, by default all."""
    import torch

    if not torch.cuda.is_available():
        return "gpu: not measured, torch sees no CUDA device here"
    wanted = [part for part in os.environ.get("PLUMBLINE_TEST_PARTS", "").split(",") if part]
    known: dict[str, Callable[[], Table]] = {
        "agreement": _agreement,
        "encoder": _encoder_speed,
        "tokens": _tokens,
        "job": _jobs,
        "memory": _little_memory,
    }
    card = torch.cuda.get_device_name(0)
    tables = []
    for part in wanted or _PARTS:
        table = known[part]()
        table.notes.insert(0, f"On one {card}, torch {torch.__version__}.")
        tables.append(str(table))
    return "\n\n".join(tables)


def _load(device: str, **runtime: object) -> Encoder:
    settings = RuntimeSettings.model_validate({"device": device, **runtime})
    return load_encoder(ContractSettings(**CONTRACT), settings)


def _texts(name: str) -> list[str]:
    return [document.rendered for document in corpus_documents(name, _SIZES[name])]


def _agreement() -> Table:
    """Whether vectors of the GPU may go into a version that the CPU made."""
    table = Table(
        "Vectors of the GPU against the CPU's in float32",
        ["on the GPU", "fingerprint", "canaries, largest", "documents, largest", "component"],
        notes=[
            "Cosine distances; documents: 512 of each corpus; component: the largest difference.",
            f"Workers warn at {canaries.WARN_DISTANCE:g} and refuse {canaries.REFUSE_DISTANCE:g}.",
        ],
    )
    texts = [text for name in _SIZES for text in _texts(name)[:512]]
    cpu = _load("cpu")
    expected = cpu.encode_documents(texts).vectors
    kept = canaries.compute(cpu)
    for dtype in _DTYPES:
        encoder = _load("cuda", dtype=dtype)
        vectors = encoder.encode_documents(texts).vectors
        report = canaries.compare(kept, encoder)
        same = encoder.contract.fingerprint == cpu.contract.fingerprint
        table.rows.append(
            [
                dtype,
                "the same" if same else "ANOTHER",
                f"{max(report.document_distance, report.query_distance):.1e}",
                f"{canaries.distances(expected, vectors).max():.1e}",
                f"{np.abs(expected - vectors).max():.1e}",
            ]
        )
    return table


def _encoder_speed() -> Table:
    """The library's own loop against ours, by the type of number."""
    table = Table(
        "Encoders on the GPU (documents/s, medians)",
        ["corpus", "dtype", *(f"library, {size}" for size in _LIBRARY_BATCHES), "ours", "ratio"],
        notes=[
            "library: SentenceTransformer.encode of all texts at once with that batch_size. ours:",
            "the job's encoder on the job's batches of 256. ratio: ours to the better of the two.",
        ],
    )
    for name in _SIZES:
        texts = _texts(name)
        for dtype in _DTYPES:
            ours = in_batches(_load("cuda", dtype=dtype), Settings().ingest.batch_events)
            encoders = [_library(dtype, size) for size in _LIBRARY_BATCHES]
            rates = _in_turn([*encoders, ours], texts)
            ratio = rates[-1] / max(rates[:-1])
            table.rows.append([name, dtype, *(f"{rate:,.0f}" for rate in rates), f"{ratio:.2f}"])
    return table


def _tokens() -> Table:
    """Padded tokens of a forward pass: where the default comes from."""
    table = Table(
        "Documents/s on the GPU by runtime.tokens_per_batch, 1,024 documents a call (medians)",
        ["corpus", "dtype", *(f"{tokens:,}" for tokens in _TOKENS)],
    )
    for name in _SIZES:
        texts = _texts(name)
        for dtype in ("float32", "bfloat16"):
            encoders = [
                in_batches(_load("cuda", dtype=dtype, tokens_per_batch=tokens), 1024)
                for tokens in _TOKENS
            ]
            rates = _in_turn(encoders, texts)
            table.rows.append([name, dtype, *(f"{rate:,.0f}" for rate in rates)])
    return table


def _jobs() -> Table:
    """The whole job: what is around the encoder is what is left to wait for."""
    table = Table(
        "The job on the GPU (documents/s, medians; seconds of 1,000 documents)",
        ["corpus", "dtype", "store", "job", "encoder alone", "ratio", "encode", "write"],
        notes=[
            "encoder alone: ours on the job's batches. encode and write are the job's own metrics,",
            "plumbline_encode_seconds and plumbline_write_seconds; they overlap.",
        ],
    )
    with any_broker() as broker, stores() as places:
        table.notes.append(f"Events come from {broker.name}.")
        for name, size in _SIZES.items():
            documents = corpus_documents(name, size)
            broker.create_topic(name)
            broker.send(name, messages(documents))
            for dtype in ("float32", "bfloat16"):
                encoder = in_batches(_load("cuda", dtype=dtype), Settings().ingest.batch_events)
                (alone,) = _in_turn([encoder], _texts(name))
                for place in places:
                    rates, encode, write = [], [], []
                    for _ in range(_ROUNDS):
                        runtime = {"device": "cuda", "dtype": dtype}
                        bench = Bench(broker, name, place, runtime=runtime)
                        before = _seconds("encode"), _seconds("write")
                        rates.append(bench.run().rate)
                        encode.append(_seconds("encode") - before[0])
                        write.append(_seconds("write") - before[1])
                        bench.drop()
                    rate = statistics.median(rates)
                    table.rows.append(
                        [
                            *(name, dtype, place.name, f"{rate:,.0f}", f"{alone:,.0f}"),
                            f"{rate / alone:.2f}",
                            f"{1000 * statistics.median(encode) / size:.3f}",
                            f"{1000 * statistics.median(write) / size:.3f}",
                        ]
                    )
    return table


def _little_memory() -> Table:
    """A card with too little memory for the default batch: smaller ones, the same vectors."""
    import torch

    texts = _texts("scifact")[:2048]
    roomy = _load("cuda").encode_documents(texts).vectors
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(_MEMORY)
    torch.cuda.reset_peak_memory_stats()
    try:
        # Another key than the one above, so that its own size of a batch is what shrinks.
        encoder = _load("cuda", tokens_per_batch=1_048_576)
        found = encoder.encode_documents(texts)
        again = encoder.encode_documents(texts)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return Table(
        "2,048 documents of scifact in one call, asked for 1,048,576 tokens a pass",
        ["allowed (MiB)", "peak (MiB)", "refused", "distance, largest", "the second time"],
        rows=[
            [
                f"{_MEMORY * torch.cuda.get_device_properties(0).total_memory / 2**20:,.0f}",
                f"{torch.cuda.max_memory_allocated() / 2**20:,.0f}",
                str(len(found.refused) + len(again.refused)),
                f"{canaries.distances(roomy, found.vectors).max():.1e}",
                f"{canaries.distances(roomy, again.vectors).max():.1e}",
            ]
        ],
    )


def _seconds(of: str) -> float:
    """Of all batches so far, by the job's own metric."""
    return REGISTRY.get_sample_value(f"plumbline_{of}_seconds_sum") or 0.0


def _library(dtype: str, batch: int) -> Callable[[list[str]], object]:
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(find_model(CONTRACT["model"], None).place, device="cuda")
    model = model.to(getattr(torch, dtype))
    model.max_seq_length = CONTRACT["max_tokens"]

    def encode(texts: list[str]) -> object:
        return model.encode(texts, batch_size=batch, show_progress_bar=False)

    return encode


def _in_turn(encoders: Sequence[Callable[[list[str]], object]], texts: list[str]) -> list[float]:
    """Documents a second of each, medians of rounds in which all take their turn, warm."""
    for encode in encoders:
        encode(texts[:2048])
    taken: list[list[float]] = [[] for _ in encoders]
    for _ in range(_ROUNDS):
        for seconds, encode in zip(taken, encoders, strict=True):
            started = time.perf_counter()
            encode(texts)
            seconds.append(time.perf_counter() - started)
    return [len(texts) / statistics.median(seconds) for seconds in taken]
