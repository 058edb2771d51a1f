"""What changed, in document ids and in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitors.drift.arrays import Floats
from monitors.drift.base import SampleError
from monitors.drift.clusters import cluster
from monitors.drift.prepare import checked

__all__ = ["ClusterChange", "Exemplar", "Explanation", "explain"]

_EXEMPLARS = 5
_CHANGES = 3
"""Clusters named in each direction, at most."""

_LEAST_CHANGE = 4.0
"""Standard errors that a cluster's share must have moved by to be named: sixteen are looked
at, and they were found on the same rows."""

_LEAST_SHARE = 0.02
"""And by how much of a sample: smaller changes do not help anybody to act."""

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A current document that the reference does not explain.

    Parameters
    ----------
    similarity
        Cosine to the nearest document of the reference.
    typical
        The same of the reference's own documents, their median, to compare with.
    """

    document_id: str
    similarity: float
    typical: float


@dataclass(frozen=True, slots=True)
class ClusterChange:
    """A group of alike documents that grew or shrank.

    Parameters
    ----------
    medoid_id
        The document nearest to the group's centre: of the current sample when it grew, of the
        reference when it shrank.
    before, after
        Its share of the reference and of the current sample, 0 to 1.
    """

    medoid_id: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What changed.

    Parameters
    ----------
    exemplars
        Farthest from the reference first.
    grew, shrank
        Largest change first.
    unexplained
        Share of current documents that are farther from the reference than 99 % of the
        reference's own are from one another.
    words
        One to three sentences with shares and document ids, never texts.
    """

    exemplars: Sequence[Exemplar]
    grew: Sequence[ClusterChange]
    shrank: Sequence[ClusterChange]
    unexplained: float
    words: str


def explain(
    reference_vectors: npt.ArrayLike,
    reference_ids: Sequence[str],
    current_vectors: npt.ArrayLike,
    current_ids: Sequence[str],
    random: np.random.Generator,
) -> Explanation:
    """What the current documents have that the reference does not, and the other way round.

    Parameters
    ----------
    reference_vectors, current_vectors
        Shape (rows, components).
    reference_ids, current_ids
        The document of each row.

    Raises
    ------
    SampleError
        A sample is malformed, or has not one id a row.
    """
    old = _unit(checked(reference_vectors, "reference"))
    new = _unit(checked(current_vectors, "current"))
    for name, rows, ids in (("reference", old, reference_ids), ("current", new, current_ids)):
        if len(rows) != len(ids):
            raise SampleError(f"the {name} sample has {len(rows)} rows and {len(ids)} ids")
    if old.shape[1] != new.shape[1]:
        raise SampleError(
            f"the reference has {old.shape[1]} components and the current sample {new.shape[1]}"
        )
    within = _nearest(old, old, skip_self=True)
    towards = _nearest(new, old, skip_self=False)
    typical = float(np.median(within))
    unexplained = float(np.mean(towards < np.quantile(within, 0.01)))
    exemplars = [
        Exemplar(str(current_ids[row]), float(towards[row]), typical)
        for row in _distinct(np.argsort(towards, kind="stable"), current_ids)
    ]
    grew, shrank = _changes(old, reference_ids, new, current_ids, random)
    return Explanation(
        exemplars, grew, shrank, unexplained, _words(exemplars, grew, shrank, unexplained)
    )


def _changes(
    old: Floats,
    old_ids: Sequence[str],
    new: Floats,
    new_ids: Sequence[str],
    random: np.random.Generator,
) -> tuple[list[ClusterChange], list[ClusterChange]]:
    both = np.concatenate([old, new])
    found = cluster(both, random)
    is_new = np.arange(len(both)) >= len(old)
    grew: list[ClusterChange] = []
    shrank: list[ClusterChange] = []
    for number, centre in enumerate(found.centres):
        members = found.members == number
        before = float(members[~is_new].mean())
        after = float(members[is_new].mean())
        share = float(members.mean())
        error = (share * (1 - share) * (1 / len(old) + 1 / len(new))) ** 0.5
        change = after - before
        if abs(change) < max(_LEAST_SHARE, _LEAST_CHANGE * error):
            continue
        rows = np.flatnonzero(members & (is_new if change > 0 else ~is_new))
        medoid = int(rows[np.argmax(both[rows] @ centre)])
        name = str(new_ids[medoid - len(old)] if change > 0 else old_ids[medoid])
        (grew if change > 0 else shrank).append(ClusterChange(name, before, after))
    for changes in (grew, shrank):
        changes.sort(key=lambda change: -abs(change.after - change.before))
        del changes[_CHANGES:]
    return grew, shrank


def _words(
    exemplars: Sequence[Exemplar],
    grew: Sequence[ClusterChange],
    shrank: Sequence[ClusterChange],
    unexplained: float,
) -> str:
    parts = []
    for verb, changes in (("grew", grew), ("shrank", shrank)):
        if changes:
            named = "; ".join(
                f"from {change.before:.0%} to {change.after:.0%} (around document "
                f"{change.medoid_id})"
                for change in changes
            )
            parts.append(f"Groups of alike documents that {verb}: {named}.")
    if unexplained >= _LEAST_SHARE and exemplars:
        ids = ", ".join(exemplar.document_id for exemplar in exemplars[:3])
        parts.append(
            f"{unexplained:.0%} of the current documents are unlike anything in the reference, "
            f"most of all {ids}."
        )
    if not parts:
        parts.append(
            "No group of documents stands out; if the change is real, it moves all documents "
            "a little, as a changed encoder or a changed preparation of texts would."
        )
    return " ".join(parts)


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.float32(1e-12)), dtype=np.float32)


def _nearest(rows: Floats, others: Floats, *, skip_self: bool) -> npt.NDArray[np.float32]:
    """Largest cosine of each row to any of the others."""
    found = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _BLOCK):
        cosines = rows[start : start + _BLOCK] @ others.T
        if skip_self:
            here = np.arange(len(cosines))
            cosines[here, start + here] = -np.inf
        found[start : start + _BLOCK] = cosines.max(axis=1)
    return found


def _distinct(order: npt.NDArray[np.intp], ids: Sequence[str]) -> list[int]:
    """The first rows in this order that are of different documents."""
    seen: dict[str, int] = {}
    for row in order:
        seen.setdefault(ids[row], int(row))
        if len(seen) == _EXEMPLARS:
            break
    return list(seen.values())
