"""Versions of an index: one collection each, under one contract, and the alias that users ask."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from pipelines.core.canaries import Canaries, CanaryReport, check, compute
from pipelines.core.contract import EmbeddingContract, model_slug
from pipelines.core.errors import (
    ContractMismatchError,
    IndexMissingError,
    StoreConflictError,
)
from pipelines.core.points import DENSE, PAYLOAD_INDEXES
from pipelines.core.position import OrderBy
from pipelines.core.qdrant import Qdrant
from pipelines.core.settings import QdrantSettings, Settings

if TYPE_CHECKING:
    from pipelines.core.encoder import Encoder

__all__ = [
    "Version",
    "check_alias_is_free",
    "check_process",
    "check_unchanged",
    "create_version",
    "find_version",
    "list_versions",
    "live_version_name",
    "open_version",
    "set_alias",
    "version_name",
]

METADATA_KEY = "plumbline"
_METADATA_SCHEMA = 1

_log = structlog.get_logger()


@dataclass(frozen=True)
class Version:
    """One physical collection of an index and what it was written under.

    Parameters
    ----------
    name
        The collection's own name, `<index>--<model-slug>--<fingerprint>`.
    incarnation
        Random, made with the collection: one built anew is another, also under the same name.
    order_by
        What makes an event newer; never changes within a version.
    canaries
        Reference vectors of the fixed texts.
    """

    name: str
    index: str
    contract: EmbeddingContract
    incarnation: str
    order_by: OrderBy
    canaries: Canaries
    created_at: str

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the contract."""
        return self.contract.fingerprint

    @property
    def group_id(self) -> str:
        """Kafka consumer group of the job that writes this version."""
        return f"plumbline.{self.index}.{self.fingerprint}.{self.incarnation}"


def version_name(index: str, contract: EmbeddingContract) -> str:
    """Name of the collection that holds an index under a contract."""
    return f"{index}--{model_slug(contract.model_name)}--{contract.fingerprint}"


def create_version(
    qdrant: Qdrant, settings: Settings, encoder: Encoder, *, make_live: bool = True
) -> Version:
    """The version for this contract: opened when it is there, else created with its canaries.

    The first version of an index also gets the alias. Safe to run twice, also at the same time.

    Parameters
    ----------
    make_live
        False leaves the alias alone, for a version that is to be filled first.

    Raises
    ------
    StoreConflictError
        A collection of this name exists that Plumbline did not write, or one has the index's name.
    """
    contract = encoder.contract
    check_alias_is_free(qdrant, settings.index)
    found = find_version(qdrant, settings.index, contract.fingerprint)
    name = found or version_name(settings.index, contract)
    if found is None:
        metadata = {
            METADATA_KEY: {
                "schema": _METADATA_SCHEMA,
                "index": settings.index,
                "contract": contract.to_json(),
                "fingerprint": contract.fingerprint,
                "incarnation": secrets.token_hex(4),
                "order_by": settings.kafka.order_by.value,
                "canaries": compute(encoder).to_json(),
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        }
        try:
            qdrant.call(
                "create_collection",
                name,
                metadata=metadata,
                **_collection_settings(settings.qdrant, contract),
            )
            _log.info("version_created", version=name, fingerprint=contract.fingerprint)
        except StoreConflictError:
            _log.info("version_exists", version=name)
    # First: somebody else's collection is refused before anything of it is touched.
    version = open_version(qdrant, name)
    # Repeated at every opening: the process may have ended right after the collection was made.
    for field, kind in PAYLOAD_INDEXES.items():
        qdrant.call("create_payload_index", name, field_name=field, field_schema=kind, wait=True)
    if make_live and live_version_name(qdrant, settings.index) is None:
        set_alias(qdrant, settings.index, name)
    return version


def find_version(qdrant: Qdrant, index: str, fingerprint: str) -> str | None:
    """Name of the index's version under this fingerprint, whatever the model was called then."""
    names = sorted(collection.name for collection in qdrant.call("get_collections").collections)
    for name in names:
        if name.startswith(f"{index}--") and name.endswith(f"--{fingerprint}"):
            return str(name)
    return None


def _collection_settings(store: QdrantSettings, contract: EmbeddingContract) -> dict[str, Any]:
    from qdrant_client import models

    distance = {
        "cosine": models.Distance.COSINE,
        "dot": models.Distance.DOT,
        "euclid": models.Distance.EUCLID,
    }[contract.distance]
    arguments: dict[str, Any] = {
        "vectors_config": {
            DENSE: models.VectorParams(
                size=contract.dimension, distance=distance, on_disk=store.on_disk_vectors
            )
        },
        "on_disk_payload": store.on_disk_payload,
        "shard_number": store.shard_number,
        "replication_factor": store.replication_factor,
        "write_consistency_factor": store.write_consistency_factor,
    }
    if store.hnsw is not None:
        arguments["hnsw_config"] = models.HnswConfigDiff(**store.hnsw.model_dump(exclude_none=True))
    quantization = store.quantization
    if quantization is not None:
        if quantization.kind == "scalar":
            arguments["quantization_config"] = models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(
                    type=models.ScalarType.INT8,
                    quantile=quantization.quantile,
                    always_ram=quantization.always_ram,
                )
            )
        elif quantization.kind == "binary":
            arguments["quantization_config"] = models.BinaryQuantization(
                binary=models.BinaryQuantizationConfig(always_ram=quantization.always_ram)
            )
        else:
            arguments["quantization_config"] = models.ProductQuantization(
                product=models.ProductQuantizationConfig(
                    compression=models.CompressionRatio(quantization.compression),
                    always_ram=quantization.always_ram,
                )
            )
    return arguments


def open_version(qdrant: Qdrant, name: str) -> Version:
    """The version of this name (not an alias: the embedded engine gives an alias no metadata).

    Raises
    ------
    IndexMissingError
        There is no such collection.
    StoreConflictError
        It was not written by Plumbline, or by a newer one.
    """
    if not qdrant.call("collection_exists", name):
        raise IndexMissingError(
            f"there is no version {name} in Qdrant at {qdrant.where}. `plumbline index list` "
            "shows what there is, `plumbline index create` makes one."
        )
    info = qdrant.call("get_collection", name)
    kept = (info.config.metadata or {}).get(METADATA_KEY)
    if not isinstance(kept, dict):
        raise StoreConflictError(
            f"the collection {name} was not written by Plumbline: it carries no contract. "
            "Choose another index name."
        )
    if kept.get("schema") != _METADATA_SCHEMA:
        raise StoreConflictError(
            f"the version {name} was written by another release: metadata schema "
            f"{kept.get('schema')!r}, this one reads {_METADATA_SCHEMA}. Upgrade Plumbline."
        )
    contract = EmbeddingContract.from_json(kept["contract"])
    vectors = info.config.params.vectors
    dense = vectors.get(DENSE) if isinstance(vectors, dict) else None
    if dense is None or dense.size != contract.dimension:
        found = "no vector of that name" if dense is None else f"dimension {dense.size}"
        raise StoreConflictError(
            f"the collection {name} does not hold what its contract says: vector {DENSE!r} of "
            f"dimension {contract.dimension}, found {found}. Somebody made it anew by hand."
        )
    if contract.fingerprint != kept["fingerprint"]:
        raise StoreConflictError(
            f"the metadata of {name} contradicts itself: its contract has the fingerprint "
            f"{contract.fingerprint}, kept is {kept['fingerprint']}. It was edited."
        )
    return Version(
        name=name,
        index=kept["index"],
        contract=contract,
        incarnation=kept["incarnation"],
        order_by=OrderBy(kept["order_by"]),
        canaries=Canaries.from_json(kept["canaries"]),
        created_at=kept["created_at"],
    )


def check_unchanged(qdrant: Qdrant, version: Version) -> None:
    """Whether the collection is still the one that was opened; one request.

    Raises
    ------
    IndexMissingError
        It is gone.
    StoreConflictError
        Another one has its name: what was written to the first is not in it.
    """
    info = qdrant.call("get_collection", version.name)
    kept = (info.config.metadata or {}).get(METADATA_KEY)
    found = kept.get("incarnation") if isinstance(kept, dict) else None
    if found != version.incarnation:
        now = "it carries no contract" if found is None else f"now {found}"
        raise StoreConflictError(
            f"{version.name} was dropped and made anew while it was written (incarnation "
            f"{version.incarnation}, {now}). Nothing was committed that is not written. If it was "
            "made by hand, drop it; then restore the version from a snapshot, or start with "
            "`--create` to fill it from the topics."
        )


def check_process(version: Version, encoder: Encoder, order_by: OrderBy | None) -> CanaryReport:
    """Whether this process may write to, or search, the version. Fails closed.

    Parameters
    ----------
    order_by
        The job's order; `None` for a process that only searches.

    Raises
    ------
    ContractMismatchError
        Names every field that differs, with both values.
    CanaryMismatchError
        Same contract, other vectors.
    """
    differences = encoder.contract.differences(version.contract)
    if order_by is not None and order_by is not version.order_by:
        differences["order_by"] = (version.order_by.value, order_by.value)
    if differences:
        raise ContractMismatchError(version.name, differences)
    report = check(version.canaries, encoder)
    if report.level != "ok":
        _log.warning(
            "canary_distance",
            version=version.name,
            document_distance=report.document_distance,
            query_distance=report.query_distance,
        )
    return report


def list_versions(qdrant: Qdrant, index: str | None = None) -> list[Version]:
    """Versions of an index, or of all, sorted by name; other collections are passed over."""
    versions = []
    for collection in qdrant.call("get_collections").collections:
        if "--" not in collection.name:
            continue
        try:
            version = open_version(qdrant, collection.name)
        except (StoreConflictError, IndexMissingError):
            continue
        if index is None or version.index == index:
            versions.append(version)
    return sorted(versions, key=lambda version: version.name)


def live_version_name(qdrant: Qdrant, index: str) -> str | None:
    """Collection the index's alias points at; `None` when there is no such alias."""
    for alias in qdrant.call("get_aliases").aliases:
        if alias.alias_name == index:
            return str(alias.collection_name)
    return None


def set_alias(qdrant: Qdrant, index: str, version: str) -> None:
    """Points the index's alias at a version, in one operation.

    Raises
    ------
    StoreConflictError
        A collection has the index's name, so that no alias can.
    """
    from qdrant_client import models

    check_alias_is_free(qdrant, index)
    operations: list[Any] = []
    if live_version_name(qdrant, index) is not None:
        operations.append(
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=index))
        )
    operations.append(
        models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=version, alias_name=index)
        )
    )
    qdrant.call("update_collection_aliases", change_aliases_operations=operations)
    _log.info("alias_set", index=index, version=version)


def check_alias_is_free(qdrant: Qdrant, index: str) -> None:
    """Passes when the index's name can be an alias; raises `StoreConflictError` otherwise."""
    if qdrant.call("collection_exists", index) and live_version_name(qdrant, index) is None:
        raise StoreConflictError(
            f"a collection named {index} exists, so no alias can have that name. Choose another "
            "index name."
        )
