"""How `plumbline golden evaluate` scores its systems, and how it shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from monitors.golden.evaluate import Row, System, side_by_side
from monitors.golden.exact import encode_documents, read_sample, stored_vectors
from monitors.golden.measures import score
from monitors.golden.power import ENOUGH_QUERIES
from monitors.golden.run import Pace, VersionStore, encode_golden
from pipelines.cli.output import print_table, say
from pipelines.core.encoder import load_encoder
from pipelines.core.errors import SettingsError
from pipelines.core.index import Index, encoder_for
from pipelines.core.qdrant import connect

if TYPE_CHECKING:
    from monitors.golden.exact import DocumentMatrix
    from monitors.golden.golden_set import GoldenSet
    from pipelines.core.settings import ContractSettings, Settings

__all__ = ["Evaluation", "evaluate_candidates", "evaluate_versions"]


@dataclass(frozen=True)
class Evaluation:
    """What the command answers.

    Parameters
    ----------
    search
        How the systems were searched, in words.
    documents, total
        Documents that every system searched, and documents of the first version; `None` where each
        version was searched as a whole.
    """

    file: str
    search: str
    queries: int
    documents: int | None
    total: int | None
    rows: Sequence[Row] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "file": self.file,
            "search": self.search,
            "queries": self.queries,
            "documents": self.documents,
            "total_documents": self.total,
            "systems": [
                {
                    "system": row.system,
                    "k": row.k,
                    "verdict": row.verdict() or None,
                    "measures": {
                        name: {"mean": mean, "low": low, "high": high}
                        for name, (mean, low, high) in row.means.items()
                    },
                    "against_first": {
                        name: {**asdict(test), "measure": name, "change": test.change}
                        for name, test in row.tests.items()
                    },
                }
                for row in self.rows
            ],
        }

    def show(self) -> None:
        """For people."""
        say(f"{self.file}: {self.queries:,} queries. {self.search}")
        for k in dict.fromkeys(row.k for row in self.rows):
            print_table(
                [
                    "system",
                    f"recall@{k}",
                    f"nDCG@{k}",
                    f"MRR@{k}",
                    f"change of recall@{k}",
                    "p",
                    "recall is",
                ],
                [_cells(row) for row in self.rows if row.k == k],
                right=["p"],
            )
        say("in brackets: 95 % intervals over queries; p: paired, two-sided, Holm over the table")
        if self.queries < ENOUGH_QUERIES:
            say(f"fewer than {ENOUGH_QUERIES} queries: differences of a few points stay undecided")


def _cells(row: Row) -> list[str]:
    cells = [row.system]
    cells += [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in row.means.values()]
    test = row.tests.get("recall")
    if test is None:
        return [*cells, "", "", "the first"]
    low, high = test.interval
    return [
        *cells,
        f"{test.change:+.3f} [{low:+.3f}, {high:+.3f}]",
        f"{test.adjusted_p:.2g}",
        row.verdict(),
    ]


def evaluate_versions(
    settings: Settings,
    golden: GoldenSet,
    depths: Sequence[int],
    names: Sequence[str | None],
) -> Evaluation:
    """Versions as users search them; `None` is the live one."""
    _check_judged(golden)
    index, qdrant = Index(settings), connect(settings)
    systems = []
    for name in names:
        version = index.version(name)
        vectors = encode_golden(encoder_for(version, settings), golden.scored)
        store = VersionStore(qdrant, version, Pace(None))
        with _progress(f"searching {version.name}") as watch:
            rankings = {}
            for number, (query, vector) in enumerate(vectors.items(), start=1):
                found = store.search(vector, max(depths))
                rankings[query] = [item.document_id for item in found]
                watch(number, len(vectors))
        systems.append(System(version.name, score(golden.qrels, rankings, depths)))
    return _evaluation(
        golden, systems, depths, "Each version was searched as a whole, as users search it."
    )


def evaluate_candidates(
    settings: Settings,
    golden: GoldenSet,
    depths: Sequence[int],
    names: Sequence[str | None],
    candidates: Sequence[tuple[str, ContractSettings]],
    limit: int,
) -> Evaluation:
    """Versions and contracts that are not built, all on the same documents, exactly.

    Parameters
    ----------
    candidates
        What to call it, and its contract.
    limit
        Documents, at most; those that are judged always count.
    """
    _check_judged(golden)
    index, qdrant = Index(settings), connect(settings)
    versions = [index.version(name) for name in names]
    # Every model is loaded, and found wanting, before the long work begins.
    encoders = [(name, load_encoder(contract, settings.runtime)) for name, contract in candidates]
    with _progress("reading documents") as watch:
        sample = read_sample(qdrant, versions[0], golden.judged, limit, watch)
    systems = []
    for version in versions:
        vectors = encode_golden(encoder_for(version, settings), golden.scored)
        with _progress(f"reading vectors of {version.name}") as watch:
            matrix = stored_vectors(qdrant, version, sample.documents, watch)
        systems.append(_exact(version.name, golden, matrix, vectors, depths))
    for name, encoder in encoders:
        vectors = encode_golden(encoder, golden.scored)
        with _progress(f"encoding with {name}") as watch:
            matrix = encode_documents(encoder, sample.documents, watch)
        systems.append(_exact(name, golden, matrix, vectors, depths))
    found = len(sample.documents)
    if sample.complete:
        words = f"Exact search over all {found:,} documents of {versions[0].name}."
    else:
        words = (
            f"Exact search over {found:,} of the {sample.total:,} documents of "
            f"{versions[0].name}: all judged ones, and others by chance. Scores are higher than on "
            "the whole index; compare them with each other only. --sample takes more."
        )
    return _evaluation(golden, systems, depths, words, found, sample.total)


def _check_judged(golden: GoldenSet) -> None:
    if not golden.scored:
        raise SettingsError(
            f"{golden.source}: no query has a relevant document, so that nothing can be scored"
        )


def _exact(
    name: str,
    golden: GoldenSet,
    matrix: DocumentMatrix,
    vectors: dict[str, npt.NDArray[np.float32]],
    depths: Sequence[int],
) -> System:
    rankings = {}
    if vectors:
        ranked = matrix.rank(np.stack(list(vectors.values())), max(depths))
        rankings = {query: found.ids for query, found in zip(vectors, ranked, strict=True)}
    return System(name, score(golden.qrels, rankings, depths))


def _evaluation(
    golden: GoldenSet,
    systems: Sequence[System],
    depths: Sequence[int],
    words: str,
    documents: int | None = None,
    total: int | None = None,
) -> Evaluation:
    rows = [row for k in depths for row in side_by_side(systems, k)]
    return Evaluation(str(golden.source), words, len(golden.scored), documents, total, rows)


@contextmanager
def _progress(words: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while the block runs; silent unless it is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
