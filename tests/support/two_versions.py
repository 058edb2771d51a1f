"""Live and a candidate of one index on an embedded store, filled with the same events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from monitors.golden.files import read_golden
from monitors.golden.golden_set import GoldenSet
from pipelines.core.points import OURS, point_id
from pipelines.core.rollout import Rollout, RolloutState
from pipelines.core.settings import ContractSettings, Settings
from pipelines.core.versions import Version
from pipelines.rollout.context import RolloutContext
from pipelines.rollout.verify import Check, CheckResult, VerifyContext, VerifyReport, run_checks
from tests.support.corpora import Document
from tests.support.probing import FIRST_TIMESTAMP, Watched
from tests.support.recorded_rollout import recorded_rollout

__all__ = ["INDEX", "TwoVersions", "documents", "golden_folder"]

INDEX = "docs"
_TOPICS = ("harbour", "garden", "railway", "kitchen", "observatory", "market", "school", "theatre")


def documents(count: int, *, words: int = 6) -> list[Document]:
    """Documents that differ from each other; every tenth is ten times as long."""
    return [
        Document(
            f"kb/{number}",
            f"{_TOPICS[number % len(_TOPICS)]} {number}",
            " ".join(
                f"{_TOPICS[(number + step) % len(_TOPICS)]} {number * words + step}"
                for step in range(words * (1 if number % 10 else 10))
            ),
        )
        for number in range(count)
    ]


def golden_folder(path: Path, found: Iterable[tuple[str, str, Sequence[str]]]) -> Path:
    """A golden set of (query id, text, relevant documents), as a folder of BEIR's files."""
    path.mkdir(parents=True, exist_ok=True)
    queries, qrels = [], ["query-id\tcorpus-id\tscore"]
    for query, text, relevant in found:
        queries.append(json.dumps({"_id": query, "text": text}))
        qrels.extend(f"{query}\t{document}\t1" for document in relevant)
    (path / "queries.jsonl").write_text("\n".join(queries), encoding="utf-8")
    (path / "qrels.tsv").write_text("\n".join(qrels), encoding="utf-8")
    return path


class TwoVersions(AbstractContextManager["TwoVersions"]):
    """Two versions that hold the same.

    Parameters
    ----------
    directory
        For the store and a golden set.
    live, candidate
        Contracts, as the settings have them.
    held
        Written to both versions, with the same positions.
    encoders
        In place of those that the contracts name.
    """

    def __init__(
        self,
        directory: Path,
        live: Mapping[str, Any],
        candidate: Mapping[str, Any],
        held: Sequence[Document],
        *,
        encoders: tuple[Any, Any] = (None, None),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.held = held
        self._directory = directory
        self._watched = [
            Watched(
                directory / "store",
                index=INDEX,
                encoder=encoder,
                settings={**(settings or {}), "contract": contract},
            )
            for contract, encoder in zip((live, candidate), encoders, strict=True)
        ]
        self.live, self.candidate = self._watched
        self._candidate_contract = dict(candidate)
        for watched in self._watched:
            watched.write(held, at=FIRST_TIMESTAMP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.live.__exit__()

    @property
    def settings(self) -> Settings:
        """Those of live's job."""
        return self.live.settings

    @property
    def qdrant(self) -> Any:
        """The store."""
        return self.live.qdrant

    def golden(self, count: int | None = None) -> Path:
        """Every short document is the one answer to its own text."""
        return golden_folder(
            self._directory / "golden",
            [
                (f"q{number}", document.rendered, [document.id])
                for number, document in enumerate(self.held[:count])
                if number % 10
            ],
        )

    def golden_set(self, count: int | None = None) -> GoldenSet:
        """The same, read."""
        return read_golden(self.golden(count))

    def context(self, **changes: Any) -> VerifyContext:
        """What checks are given."""
        encoders = {watched.version.name: watched.encoder for watched in self._watched}
        values: dict[str, Any] = {
            "settings": self.settings,
            "qdrant": self.qdrant,
            "live": self.live.version,
            "candidate": self.candidate.version,
            "load": lambda version: encoders[version.name],
            "source": "version",
            "settle_seconds": 0.01,
            "patience_seconds": 5.0,
            **changes,
        }
        return VerifyContext(**values)

    def check(self, check: Check, **changes: Any) -> CheckResult:
        """One check."""
        found = check(self.context(**changes))
        json.dumps(found.to_json(), allow_nan=False)
        return found

    def checks(self, **changes: Any) -> VerifyReport:
        """All of them."""
        report = run_checks(self.context(**changes))
        json.dumps(report.to_json(), allow_nan=False)
        return report

    def rollout(self, state: RolloutState = RolloutState.VERIFYING) -> Rollout:
        """A recorded rollout whose candidate is built."""
        context = RolloutContext.open(self.settings)
        contract = ContractSettings(**self._candidate_contract)
        return recorded_rollout(
            context,
            self.live.version,
            self.candidate.version,
            state=state,
            contract_settings=contract.model_dump(mode="json"),
            build={"source": "version"},
        )

    def stored(self) -> Rollout:
        """The rollout as it is recorded."""
        return RolloutContext.open(self.settings).rollout()

    def id_of(self, document_id: str, chunk: int = 0) -> str:
        """Point id, the same in both versions."""
        return point_id(INDEX, document_id, chunk)

    def change(
        self,
        document_id: str,
        change: Callable[[dict[str, Any]], None],
        *,
        version: Version | None = None,
        chunk: int = 0,
    ) -> None:
        """Edits our part of a stored point by hand: damage that no writer does."""
        name = (version or self.candidate.version).name
        ids = [self.id_of(document_id, chunk)]
        (point,) = self.qdrant.call("retrieve", name, ids=ids, with_payload=True)
        ours = dict(point.payload[OURS])
        change(ours)
        self.qdrant.call("set_payload", name, payload={OURS: ours}, points=ids)

    def drop(self, document_id: str, chunk: int = 0) -> None:
        """Removes a point of the candidate by hand."""
        from qdrant_client import models

        selector = models.PointIdsList(points=[self.id_of(document_id, chunk)])
        self.qdrant.call("delete", self.candidate.version.name, points_selector=selector)
