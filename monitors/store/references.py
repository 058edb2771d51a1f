"""References: stored samples of vectors, which of them is in force, and who decided it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import delete, insert, select

from monitors.probes.base import Reference
from monitors.store.records import NewReference, ReferenceEvent, ReferenceSummary, VersionKey
from monitors.store.rows import columns, of_version, text
from monitors.store.tables import reference_events, references_in_force, vector_references
from pipelines.core.errors import StoreConflictError

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["events", "in_force", "keep", "summaries"]

_NAME_LENGTH = 200


def keep(connection: Connection, key: VersionKey, reference: NewReference) -> ReferenceSummary:
    """Stores a reference and puts it in force, with a line in the history.

    Raises
    ------
    StoreConflictError
        The version has one of this kind and name, or the vectors are not what they should be.
    """
    vectors = _checked(reference)
    taken = connection.execute(
        select(vector_references.c.id).where(
            of_version(vector_references, key),
            vector_references.c.kind == reference.kind,
            vector_references.c.name == reference.name,
        )
    ).first()
    if taken is not None:
        raise StoreConflictError(
            f"the version {key.version} has a reference {reference.name!r} of {reference.kind} "
            "already, and references do not change. Choose another name."
        )
    data = vectors.astype("<f4").tobytes()
    digest = hashlib.sha256(data).hexdigest()[:16]
    by, reason = text(reference.created_by)[:_NAME_LENGTH], text(reference.reason)
    rows, dimension = vectors.shape
    reference_id = int(
        connection.execute(
            insert(vector_references)
            .values(
                **columns(key),
                kind=reference.kind,
                name=reference.name,
                rows=rows,
                dimension=dimension,
                vectors=data,
                document_ids=[str(document_id) for document_id in reference.document_ids],
                digest=digest,
                created_at=reference.created_at,
                created_by=by,
                reason=reason,
            )
            .returning(vector_references.c.id)
        ).scalar_one()
    )
    connection.execute(
        delete(references_in_force).where(
            of_version(references_in_force, key), references_in_force.c.kind == reference.kind
        )
    )
    connection.execute(
        insert(references_in_force).values(
            **columns(key),
            kind=reference.kind,
            reference_id=reference_id,
            since=reference.created_at,
        )
    )
    connection.execute(
        insert(reference_events).values(
            **columns(key),
            kind=reference.kind,
            name=reference.name,
            action="set",
            at=reference.created_at,
            by=by,
            reason=reason,
            rows=rows,
            digest=digest,
        )
    )
    return ReferenceSummary(
        id=reference_id,
        kind=reference.kind,
        name=reference.name,
        rows=rows,
        dimension=dimension,
        digest=digest,
        created_at=reference.created_at,
        created_by=by,
        reason=reason,
        in_force=True,
    )


def _checked(reference: NewReference) -> Any:
    vectors = np.asarray(reference.vectors, dtype=np.float32)
    problem = ""
    if vectors.ndim != 2 or 0 in vectors.shape:
        problem = f"vectors of shape {vectors.shape}, expected (n, dimension)"
    elif len(vectors) != len(reference.document_ids):
        problem = f"{len(vectors)} vectors and {len(reference.document_ids)} document ids"
    elif not np.isfinite(vectors).all():
        problem = "NaN or infinity in a vector"
    elif not reference.name or len(reference.name) > _NAME_LENGTH:
        problem = f"a name of {len(reference.name)} characters, 1 to {_NAME_LENGTH} are valid"
    if problem:
        raise StoreConflictError(f"this cannot be a reference of {reference.kind}: {problem}")
    return vectors


def in_force(connection: Connection, key: VersionKey, kind: str) -> Reference | None:
    """The reference in force with its vectors.

    Raises
    ------
    StoreConflictError
        What is stored is damaged.
    """
    row = connection.execute(
        select(vector_references)
        .join(references_in_force, references_in_force.c.reference_id == vector_references.c.id)
        .where(of_version(references_in_force, key), references_in_force.c.kind == kind)
    ).one_or_none()
    if row is None:
        return None
    data = bytes(row.vectors)
    if (
        len(data) != 4 * row.rows * row.dimension
        or hashlib.sha256(data).hexdigest()[:16] != row.digest
    ):
        raise StoreConflictError(
            f"the stored reference {row.name!r} of {key.version} is damaged: its bytes are not "
            "those that were written. Set another one with `plumbline monitor reference set`."
        )
    vectors = np.frombuffer(data, dtype="<f4").reshape(row.rows, row.dimension)
    return Reference(
        name=row.name,
        vectors=vectors.astype(np.float32),
        document_ids=tuple(row.document_ids),
        created_at=row.created_at,
        created_by=row.created_by,
        reason=row.reason,
    )


def summaries(connection: Connection, key: VersionKey) -> list[ReferenceSummary]:
    """Every reference of a version, the newest first."""
    chosen = [
        column for column in vector_references.c if column.name not in ("vectors", "document_ids")
    ]
    rows = connection.execute(
        select(*chosen, references_in_force.c.reference_id.label("current"))
        .outerjoin(
            references_in_force, references_in_force.c.reference_id == vector_references.c.id
        )
        .where(of_version(vector_references, key))
        .order_by(vector_references.c.id.desc())
    )
    return [
        ReferenceSummary(
            id=int(row.id),
            kind=row.kind,
            name=row.name,
            rows=row.rows,
            dimension=row.dimension,
            digest=row.digest,
            created_at=row.created_at,
            created_by=row.created_by,
            reason=row.reason,
            in_force=row.current is not None,
        )
        for row in rows
    ]


def events(connection: Connection, index: str, limit: int) -> list[ReferenceEvent]:
    """The history of an index's references, the newest first."""
    rows = connection.execute(
        select(reference_events)
        .where(reference_events.c.index_name == index)
        .order_by(reference_events.c.id.desc())
        .limit(limit)
    )
    return [
        ReferenceEvent(
            key=VersionKey(row.index_name, row.version, row.incarnation),
            kind=row.kind,
            name=row.name,
            action=row.action,
            at=row.at,
            by=row.by,
            reason=row.reason,
            rows=row.rows,
            digest=row.digest,
        )
        for row in rows
    ]
