"""What an event costs that needs no embedding: delivered again, or with other metadata."""

from __future__ import annotations

import statistics

from tests.benchmarks.bench import Bench, corpus_documents, stores
from tests.benchmarks.table import Table
from tests.support.brokers import any_broker
from tests.support.corpora import messages

NEEDS = ("banking77", "scifact")

_SIZES = {"banking77": 4096, "scifact": 512}
_ROUNDS = 3
_LATER_MS = 1_000_000


def run() -> Table:
    """Events per second of each kind, and how many times faster than embedding they are."""
    table = Table(
        "Redelivery and metadata against embedding (events/s; times faster)",
        ["corpus", "store", "embed", "same again", "faster", "metadata", "faster "],
        notes=[
            "Same again: the group's offsets set back, every event found as it stands. Metadata:",
            "every document's metadata changed, its text not. Medians over rounds of all three.",
        ],
    )
    with any_broker() as broker, stores() as places:
        table.notes.append(f"Events come from {broker.name}.")
        for name, size in _SIZES.items():
            documents = corpus_documents(name, size)
            for place in places:
                rates: dict[str, list[float]] = {"embed": [], "same": [], "metadata": []}
                for number in range(_ROUNDS):
                    topic = f"{name}-{place.name.replace(' ', '-')}-{number}"
                    broker.create_topic(topic)
                    broker.send(topic, messages(documents))
                    bench = Bench(broker, topic, place)
                    try:
                        _add(rates["embed"], bench, "embedded", size)
                        bench.rewind()
                        _add(rates["same"], bench, "unchanged", size)
                        changed = messages(documents, {"round": number}, later_by=_LATER_MS)
                        broker.send(topic, changed)
                        _add(rates["metadata"], bench, "payload_only", size)
                    finally:
                        bench.drop()
                table.rows.append([name, place.name, *_cells(rates)])
    return table


def _add(rates: list[float], bench: Bench, outcome: str, size: int) -> None:
    timed = bench.run()
    assert timed.result.counts.outcomes[outcome] == size, timed.result.counts
    rates.append(timed.rate)


def _cells(rates: dict[str, list[float]]) -> list[str]:
    cells = [f"{statistics.median(rates['embed']):.0f}"]
    for kind in ("same", "metadata"):
        faster = (a / b for a, b in zip(rates[kind], rates["embed"], strict=True))
        cells += [f"{statistics.median(rates[kind]):.0f}", f"{statistics.median(faster):.1f}"]
    return cells
