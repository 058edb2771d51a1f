"""What users search: an index by its name, whichever version is live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.core.encoder import load_encoder
from pipelines.core.errors import (
    ContractMismatchError,
    IndexMissingError,
    ModelError,
    StoreConflictError,
)
from pipelines.core.live import FollowingState, LiveVersion, Opened
from pipelines.core.points import DENSE, OURS, head_of, point_id
from pipelines.core.qdrant import Qdrant, connect
from pipelines.core.recorded_queries import QueryRecorder
from pipelines.core.settings import ChunkSettings, ContractSettings, Settings
from pipelines.core.versions import (
    Version,
    check_process,
    list_versions,
    live_version_name,
    open_version,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from qdrant_client import models

    from pipelines.core.encoder import Encoder

__all__ = ["Hit", "Index", "contract_for", "encoder_for"]


@dataclass(frozen=True)
class Hit:
    """One answer: a document with its best chunk, or a chunk.

    `score` is the store's: cosine similarity on cosine collections. `text` is the chunk's own,
    `start` and `end` its code points in the document, half-open; empty when the version does not
    store texts.
    """

    document_id: str
    score: float
    chunk: int
    chunks: int
    start: int
    end: int
    title: str = field(repr=False)
    text: str = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)


def contract_for(version: Version, settings: Settings) -> ContractSettings:
    """What this process loads to get the encoder this version was written with.

    The version's own contract says which; the settings' contract is used where it is the same
    but for the model's name (a local path here, a hub name there).

    Raises
    ------
    ContractMismatchError
        What could be loaded has another fingerprint.
    ModelError
        The model cannot be loaded here.
    """
    return _find_encoder(version, settings)[0]


def encoder_for(version: Version, settings: Settings) -> Encoder:
    """The encoder this version was written with, loaded in this process. See `contract_for`."""
    return _find_encoder(version, settings)[1]


def _find_encoder(version: Version, settings: Settings) -> tuple[ContractSettings, Encoder]:
    contract = version.contract
    own = ContractSettings(
        model=contract.model_name,
        revision=contract.model_revision,
        trust_remote_code=(
            contract.model_name
            if settings.contract.trust_remote_code == contract.model_name
            else None
        ),
        document_prompt=contract.document_prompt,
        query_prompt=contract.query_prompt,
        template=contract.template,
        max_tokens=contract.max_tokens,
        normalize=contract.normalize,
        truncate_dim=contract.truncate_dim,
        distance=contract.distance,
        chunk=(
            None
            if contract.chunk is None
            else ChunkSettings(
                size=contract.chunk.size,
                overlap=contract.chunk.overlap,
                format=contract.chunk.format,
            )
        ),
    )
    here = own.model_copy(
        update={
            "model": settings.contract.model,
            "revision": settings.contract.revision,
            "trust_remote_code": settings.contract.trust_remote_code,
        }
    )
    candidates = [here] if here.model == own.model else [own, here]
    problem: Exception | None = None
    for candidate in candidates:
        try:
            encoder = load_encoder(candidate, settings.runtime)
        except ModelError as error:
            problem = problem or error
            continue
        differences = encoder.contract.differences(contract)
        if not differences:
            return candidate, encoder
        problem = ContractMismatchError(version.name, differences)
    assert problem is not None, "at least one candidate was tried"
    raise problem


class Index:
    """Search by name. Encoder and collection always belong together.

    The alias is resolved to a version, and that version is queried by its own name with the
    encoder of its own contract, so that a query never reaches vectors of another model.

    After a switch, searches go on with the version before, which still receives every event,
    until the new one's encoder is loaded in the background and reproduces its canaries: only the
    very first search waits for a model. Safe to share between threads.

    Parameters
    ----------
    settings
        `index`, `qdrant`, `runtime`; `contract` only helps to find the model's files.
    alias_seconds
        How old the answer to "which version is live?" may be.
    record_queries
        Share of the queries whose vectors, never their texts, are kept for the monitor's drift
        probe (`pipelines.core.recorded_queries`), 0 to 1. Off by default.
    """

    def __init__(
        self, settings: Settings, *, alias_seconds: float = 1.0, record_queries: float = 0.0
    ) -> None:
        self._settings = settings
        self._qdrant: Qdrant = connect(settings)
        self._following = LiveVersion(self._ask, self._open, alias_seconds=alias_seconds)
        self._recorder = QueryRecorder(self._qdrant, settings.index, record_queries)

    def version(self, name: str | None = None) -> Version:
        """The version that searches go to, or the named one, with its contract."""
        return self._opened(name).version

    def state(self) -> FollowingState:
        """Which version is live, which one is searched, and why they differ where they do."""
        return self._following.state()

    def search(
        self,
        text: str,
        limit: int = 10,
        *,
        chunks: bool = False,
        where: Mapping[str, Any] | None = None,
        version: str | None = None,
    ) -> list[Hit]:
        """The nearest documents, best first.

        Parameters
        ----------
        text
            The query, without prompt: the contract's is added.
        limit
            How many at most.
        chunks
            Give chunks instead of documents with their best chunk.
        where
            Metadata that hits must have: key to value, or to a list of values.
        version
            Search this version instead of the live one.

        Raises
        ------
        IndexMissingError
            No such index or version.
        ContractMismatchError, CanaryMismatchError, ModelError
            This process cannot encode for that version.
        """
        opened = self._opened(version)
        try:
            return self._query(opened.version, _encode(opened, text), limit, chunks, where)
        except IndexMissingError:
            if version is not None:
                raise
        # The collection was dropped under this search: the version before a switch, retired.
        opened = self._following.after(opened)
        return self._query(opened.version, _encode(opened, text), limit, chunks, where)

    def search_vector(
        self,
        vector: NDArray[Any],
        limit: int = 10,
        *,
        fingerprint: str,
        chunks: bool = False,
        version: str | None = None,
    ) -> list[Hit]:
        """The same for a query that is encoded already.

        Parameters
        ----------
        vector
            Shape (dimension,).
        fingerprint
            Of the contract that it was encoded under, `index.version().fingerprint` at that time.
            After a switch the version before is searched for as long as it is open here.

        Raises
        ------
        ContractMismatchError
            No version under that contract is open here: encode the query anew.
        """
        opened = self._following.under(fingerprint) if version is None else self._opened(version)
        if opened is None or opened.version.fingerprint != fingerprint:
            at = self._opened(version).version
            raise ContractMismatchError(at.name, {"fingerprint": (at.fingerprint, fingerprint)})
        return self._query(opened.version, vector, limit, chunks, None)

    def _query(
        self,
        version: Version,
        vector: NDArray[Any],
        limit: int,
        chunks: bool,
        where: Mapping[str, Any] | None,
    ) -> list[Hit]:
        self._recorder.record(version.fingerprint, vector)
        arguments: dict[str, Any] = {
            "collection_name": version.name,
            "query": vector.tolist(),
            "using": DENSE,
            "limit": limit,
            "query_filter": _filter(where),
            "with_payload": True,
        }
        if chunks or version.contract.chunk is None:
            points = self._qdrant.call("query_points", **arguments).points
        else:
            groups = self._qdrant.call(
                "query_points_groups",
                group_by=f"{OURS}.document_id",
                group_size=1,
                **arguments,
            ).groups
            points = [group.hits[0] for group in groups]
        return self._hits(version, points)

    def _hits(self, version: Version, points: list[Any]) -> list[Hit]:
        heads = {
            point.payload[OURS]["document_id"]: point.payload[OURS]
            for point in points
            if point.payload[OURS]["chunk"] == 0
        }
        missing = {
            point.payload[OURS]["document_id"]
            for point in points
            if point.payload[OURS]["document_id"] not in heads
        }
        if missing:
            ids = [point_id(version.index, document_id, 0) for document_id in sorted(missing)]
            for record in self._qdrant.call(
                "retrieve", version.name, ids=ids, with_payload=[OURS], with_vectors=False
            ):
                ours = record.payload[OURS]
                heads[ours["document_id"]] = ours
        hits = []
        for point in points:
            ours = point.payload[OURS]
            head = heads.get(ours["document_id"])
            stored = head_of({OURS: head}) if head is not None else None
            chunk = head_of(point.payload)
            if head is None or stored is None or chunk is None:
                continue
            if stored.deleted or chunk.position < stored.position:
                continue  # a write is under way: the chunk belongs to what the head has replaced
            text = str(head.get("text", ""))
            hits.append(
                Hit(
                    document_id=ours["document_id"],
                    score=float(point.score),
                    chunk=int(ours["chunk"]),
                    chunks=int(ours["chunks"]),
                    start=int(ours["start"]),
                    end=int(ours["end"]),
                    title=str(head.get("title", "")),
                    text=text[ours["start"] : ours["end"]],
                    metadata={key: value for key, value in point.payload.items() if key != OURS},
                )
            )
        return hits

    def _opened(self, name: str | None) -> Opened:
        return self._following.get() if name is None else self._following.named(name)

    def _ask(self) -> str:
        index = self._settings.index
        name = live_version_name(self._qdrant, index)
        if name is None:
            others = sorted({version.index for version in list_versions(self._qdrant)})
            known = f"there are {', '.join(others)}" if others else "there is none yet"
            raise IndexMissingError(
                f"no index {index!r} in Qdrant at {self._qdrant.where}: {known}. "
                "`plumbline index create` or `plumbline ingest --create` makes one."
            )
        return name

    def _open(self, name: str) -> Opened:
        version = open_version(self._qdrant, name)
        if version.index != self._settings.index:
            raise StoreConflictError(
                f"{name} is a version of the index {version.index!r}, not of "
                f"{self._settings.index!r}"
            )
        encoder = encoder_for(version, self._settings)
        check_process(version, encoder, None)
        return Opened(version, encoder)


def _encode(opened: Opened, text: str) -> NDArray[Any]:
    encoded = opened.encoder.encode_queries([text])
    if 0 in encoded.refused:
        raise ModelError(f"the model gives no vector for this query: {encoded.refused[0]}")
    vector: NDArray[Any] = encoded.vectors[0]
    return vector


def _filter(where: Mapping[str, Any] | None) -> models.Filter | None:
    from qdrant_client import models

    if not where:
        return None
    conditions: list[Any] = []
    for key, value in where.items():
        if isinstance(value, list | tuple | set):
            match: Any = models.MatchAny(any=list(value))
        elif isinstance(value, float):
            conditions.append(
                models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
            )
            continue
        else:
            match = models.MatchValue(value=value)
        conditions.append(models.FieldCondition(key=key, match=match))
    return models.Filter(must=conditions)
