"""Makes what a probe is given."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from monitors.probes.base import Deadline, LagReader, ProbeContext, Reference
from monitors.store.records import Memory, NewReference, VersionKey

if TYPE_CHECKING:
    import numpy.typing as npt

    from monitors.encoders import Encoders
    from monitors.store.store import Store
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import Settings
    from pipelines.core.versions import Version

__all__ = ["RunDeadline", "StagedReferences", "make_context", "seeded"]


@dataclass(frozen=True, slots=True)
class RunDeadline(Deadline):
    """A deadline that passes at once when the run is called off."""

    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def remaining(self) -> float:
        """Seconds left; negative when it has passed, or when the run was called off."""
        return -1.0 if self.cancelled.is_set() else self.at - time.monotonic()


class StagedReferences:
    """References as one run sees them: those of the store, and the ones it has just taken.

    What a run takes is written with its result, or not at all.
    """

    def __init__(self, read: Callable[[str], Reference | None], probe: str, now: datetime) -> None:
        self._read = read
        self._probe = probe
        self._now = now
        self.taken: dict[str, NewReference] = {}
        self._known: dict[str, Reference | None] = {}

    def get(self, kind: str) -> Reference | None:
        """The reference in force for a kind of vectors."""
        if kind not in self._known:
            self._known[kind] = self._read(kind)
        return self._known[kind]

    def keep(
        self,
        kind: str,
        vectors: npt.NDArray[np.float32],
        document_ids: Sequence[str],
        reason: str,
    ) -> Reference:
        """Puts a sample in force, once the run is written."""
        name = f"{kind}-{self._now:%Y%m%dT%H%M%S}"
        kept = NewReference(
            kind=kind,
            name=name,
            vectors=np.array(vectors, dtype=np.float32),
            document_ids=tuple(document_ids),
            created_at=self._now,
            created_by=f"probe {self._probe}",
            reason=reason,
        )
        self.taken[kind] = kept
        reference = Reference(
            name=kept.name,
            vectors=kept.vectors,
            document_ids=kept.document_ids,
            created_at=kept.created_at,
            created_by=kept.created_by,
            reason=kept.reason,
        )
        self._known[kind] = reference
        return reference


def seeded(seed: int, probe: str, number: int) -> np.random.Generator:
    """The random numbers of one run: the same for the same seed, probe and number of the run."""
    key = (zlib.crc32(probe.encode()), number)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def make_context(
    *,
    settings: Settings,
    qdrant: Qdrant,
    version: Version,
    encoders: Encoders,
    store: Store,
    probe: str,
    memory: Memory,
    now: datetime,
    deadline: Deadline,
    lag: LagReader | None,
) -> tuple[ProbeContext, StagedReferences]:
    """The context of one run, and the references that the run takes."""
    key = VersionKey.of(version)
    staged = StagedReferences(lambda kind: store.reference(key, kind), probe, now)
    context = ProbeContext(
        settings=settings,
        qdrant=qdrant,
        version=version,
        encoder=lambda: encoders.checked(version),
        unchecked_encoder=lambda: encoders.unchecked(version),
        state=memory.state,
        baseline=memory.baseline,
        reference=staged.get,
        keep_reference=staged.keep,
        now=now,
        deadline=deadline,
        random=seeded(settings.monitor.seed, probe, memory.runs),
        lag=lag,
    )
    return context, staged
