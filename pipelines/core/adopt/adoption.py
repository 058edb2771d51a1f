"""Looks, verifies, and only then copies: the steps of an adoption."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from pipelines.core.adopt.documents import Adoptable, Assembler, Group
from pipelines.core.adopt.fields import POINT_ID, Fields, Unmapped, map_point, value_at
from pipelines.core.adopt.report import AdoptReport, Listed, Verification
from pipelines.core.adopt.source import Source, check_disk
from pipelines.core.adopt.verify import Verifier
from pipelines.core.control import Control, ControlRecord
from pipelines.core.errors import SettingsError, StoreConflictError
from pipelines.core.lease import Lease
from pipelines.core.plans import Action, Outcome, Plan
from pipelines.core.position import OrderBy, Position
from pipelines.core.records import Event
from pipelines.core.sweep import read_heads
from pipelines.core.versions import (
    Version,
    check_alias_is_free,
    check_process,
    create_version,
    find_version,
    live_version_name,
    open_version,
    set_alias,
    version_name,
)
from pipelines.core.writing import DocumentWriter

if TYPE_CHECKING:
    from pipelines.core.encoder import Encoder
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import Settings

__all__ = ["ADOPTION", "ADOPTION_TOPIC", "adopt", "adoption_position"]

ADOPTION = "adoption"
"""Kind of the control record that says from where a version was filled; its name is the version."""

ADOPTION_TOPIC = "plumbline.adopt"
"""Topic of the positions of adopted documents; no topic of Kafka need have this name."""

_PAGE = 1000
_BATCH = 256
_LEASE_SECONDS = 15.0

_HOPELESS = 0.5
"""Share of the sample above which it is not some documents that are off, but the contract."""

_log = structlog.get_logger()


def adoption_position(document_id: str, order_by: OrderBy) -> Position:
    """Where an adopted document stands: older than any event, the same in every run.

    The offset is a hash of the id, 48 bits, so that a run that is repeated gives each document the
    position it had, whatever has been added to the source since.
    """
    offset = int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:6], "big")
    return Position(ADOPTION_TOPIC, 0, offset, 0, 0 if order_by is OrderBy.VERSION else None)


@dataclass
class _Look:
    """What reading the source has found."""

    groups: dict[str, list[int | str]] = field(default_factory=dict)
    numbers_as_ids: int = 0
    unmapped: dict[str, Listed] = field(default_factory=dict)
    documents: int = 0
    chunks: int = 0
    left_out: set[str] = field(default_factory=set)

    def list(self, reason: str, identity: str, message: str) -> None:
        self.unmapped.setdefault(reason, Listed()).add(identity, message)

    def kept(self) -> Iterator[Group]:
        for document_id, points in self.groups.items():
            if document_id not in self.left_out:
                yield document_id, points


def adopt(
    qdrant: Qdrant,
    settings: Settings,
    encoder: Encoder,
    source: Source,
    fields: Fields,
    *,
    sample: int = 200,
    seed: int = 0,
    skip_unmapped: bool = False,
    dry_run: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> AdoptReport:
    """Makes a version of the index from a collection that Plumbline did not write.

    The source is read, never changed. Documents get positions older than any event, so that the
    first real event of each wins. Killed at any moment, the same call goes on where it was; one
    that has finished does nothing any more. An index without an alias gets it when all is copied;
    otherwise what is live stays live.

    Parameters
    ----------
    settings
        `index`, `limits`, `kafka.order_by`, `qdrant` and `ingest.store_text` count.
    encoder
        Of the declared contract.
    sample
        Documents that are encoded anew and compared; 0 for all.
    seed
        Of the choice.
    skip_unmapped
        Go on without what cannot be mapped; without what does not verify only where every
        document was compared.
    dry_run
        Look and verify only.
    progress
        Called with what is being done, how much of it is done, and how much there is.

    Returns
    -------
    AdoptReport
        `refused` says why nothing was written, if so.

    Raises
    ------
    StoreConflictError
        Dimension or distance differ, the index has a version of this contract that is not of this
        source, the index's name is taken by a collection, or the disk is too small.
    SettingsError
        A field is found in no point.
    LeaseHeldError
        A rollout command or another adoption of this index is under way.
    """
    contract = encoder.contract
    source.check(contract)
    if fields.chunked and contract.chunk is None:
        raise SettingsError(
            "several points make one document, but the contract cuts none: put `chunk: {size: …}` "
            "into its file, which is how later events of these documents are cut"
        )
    check_alias_is_free(qdrant, settings.index)
    run = _Adoption(qdrant, settings, encoder, source, fields, progress or _quiet)
    if dry_run:
        return run.run(sample, seed, skip_unmapped=skip_unmapped, dry_run=True)
    lease = Lease(Control(qdrant), f"rollout:{settings.index}", _LEASE_SECONDS)
    lease.acquire()
    try:
        run.lease = lease
        return run.run(sample, seed, skip_unmapped=skip_unmapped, dry_run=False)
    finally:
        lease.release()


def _quiet(_what: str, _done: int, _of: int) -> None:
    pass


class _Adoption:
    def __init__(
        self,
        qdrant: Qdrant,
        settings: Settings,
        encoder: Encoder,
        source: Source,
        fields: Fields,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._qdrant = qdrant
        self._settings = settings
        self._encoder = encoder
        self._source = source
        self._fields = fields
        self._progress = progress
        self._control = Control(qdrant)
        self._assembler = Assembler(qdrant, source, fields, settings.limits)
        self.lease: Lease | None = None
        contract = encoder.contract
        found = find_version(qdrant, settings.index, contract.fingerprint)
        self._name = found or version_name(settings.index, contract)
        self._exists = found is not None

    def run(self, sample: int, seed: int, *, skip_unmapped: bool, dry_run: bool) -> AdoptReport:
        record = self._record()
        report = AdoptReport(self._source.name, self._settings.index, dry_run, self._name)
        if record is not None and record.fields["state"] == "done":
            live = live_version_name(self._qdrant, self._settings.index) == self._name
            return replace(report, already=True, live=live, points=self._source.points)
        check_disk(self._qdrant, self._source)
        look = self._look()
        verification, off = self._verify(look, sample, seed)
        for document_id in sorted(off):
            look.list("not_verified", document_id, "the stored vector is not the contract's")
        refused = self._refusal(look, verification, skip_unmapped=skip_unmapped)
        look.left_out |= off
        report = replace(
            report,
            refused=refused,
            points=self._source.points,
            documents=look.documents - len(off),
            chunks=look.chunks,
            numbers_as_ids=look.numbers_as_ids,
            unmapped=dict(sorted(look.unmapped.items())),
            dropped_metadata=dict(self._assembler.dropped_metadata.most_common()),
            verification=verification,
        )
        if refused or dry_run:
            return replace(report, version="" if refused else self._name)
        version, record = self._make(record)
        copied, present = self._copy(version, look)
        self._qdrant.sync(version.name)
        if live_version_name(self._qdrant, version.index) is None:
            set_alias(self._qdrant, version.index, version.name)
        self._write(record, version.incarnation, "done")
        _log.info(
            "collection_adopted",
            source=self._source.name,
            version=version.name,
            copied=copied,
            present=present,
            left_out=sum(listed.count for listed in look.unmapped.values()),
        )
        return replace(
            report,
            version=version.name,
            copied=copied,
            present=present,
            unmapped=dict(sorted(look.unmapped.items())),
            live=live_version_name(self._qdrant, version.index) == version.name,
        )

    def _record(self) -> ControlRecord | None:
        """The record of an earlier run, which must have been for the same source and fields."""
        record = self._control.read(ADOPTION, self._name)
        if record is None:
            if self._exists:
                raise StoreConflictError(
                    f"the index {self._settings.index!r} has a version of this contract already, "
                    f"{self._name}, and what it holds is not of an adoption. Adopt under another "
                    "index name (--index)."
                )
            return None
        if self._exists:
            version = open_version(self._qdrant, self._name)
            known = record.fields["incarnation"]
            empty = self._qdrant.call("count", self._name, exact=True).count == 0
            if known != version.incarnation and not (known == "" and empty):
                raise StoreConflictError(
                    f"{self._name} is not the collection that an earlier adoption of "
                    f"{record.fields['source']} made: it was dropped and made anew. Adopt under "
                    "another index name (--index)."
                )
        elif record.fields["incarnation"]:
            # It was dropped since: begin anew, from whatever source.
            return self._control.swap(ADOPTION, self._name, seen=record, fields=self._fields_of())
        same = {
            "source": self._source.name,
            "vector": self._source.vector,
            "fields": self._fields.to_json(),
        }
        if any(record.fields[key] != value for key, value in same.items()):
            raise StoreConflictError(
                f"{self._name} is being filled, or was, from {record.fields['source']} with "
                f"{record.fields['fields']}: repeat the command with these, or adopt under another "
                "index name (--index)"
            )
        return record

    def _fields_of(self, incarnation: str = "", state: str = "copying") -> dict[str, Any]:
        return {
            "index": self._settings.index,
            "source": self._source.name,
            "vector": self._source.vector,
            "fields": self._fields.to_json(),
            "incarnation": incarnation,
            "state": state,
        }

    def _write(self, seen: ControlRecord | None, incarnation: str, state: str) -> ControlRecord:
        written = self._control.swap(
            ADOPTION, self._name, seen=seen, fields=self._fields_of(incarnation, state)
        )
        if written is None:
            raise StoreConflictError(
                f"another process adopts into {self._name} at the same time: run it again"
            )
        return written

    def _look(self) -> _Look:
        """Reads every point once, without vectors, and then every document with them."""
        look = _Look()
        order: dict[str, list[tuple[float | None, int, int | str]]] = {}
        seen_fields: set[str] = set()
        names: dict[str, None] = {}
        offset: Any = None
        count = 0
        while True:
            points, offset = self._qdrant.call(
                "scroll",
                self._source.name,
                limit=_PAGE,
                offset=offset,
                with_payload=True,
                with_vectors=False,
            )
            for point in points:
                self._notice(point.payload or {}, seen_fields, names)
                try:
                    piece = map_point(point.id, point.payload, self._fields, self._settings.limits)
                except Unmapped as finding:
                    look.list(finding.reason, str(point.id), finding.message)
                    continue
                look.numbers_as_ids += piece.converted
                order.setdefault(piece.document_id, []).append((piece.number, count, point.id))
                count += 1
            self._progress("points looked at", min(count, self._source.points), self._source.points)
            if offset is None:
                break
        self._check_fields(seen_fields, names, bool(order or look.unmapped))
        for document_id, members in order.items():
            try:
                look.groups[document_id] = self._ordered(members)
            except Unmapped as finding:
                look.list(finding.reason, document_id, finding.message)
        return look

    def _notice(self, payload: Mapping[str, Any], seen: set[str], names: dict[str, None]) -> None:
        for path in self._paths():
            if path not in seen and value_at(payload, path)[0]:
                seen.add(path)
        for name in list(payload)[: 50 - len(names)]:
            names[name] = None

    def _paths(self) -> list[str]:
        fields = self._fields
        single = (fields.document_id, fields.text, fields.title, fields.chunk)
        paths = [path for path in single if path is not None and path != POINT_ID]
        return [*paths, *(fields.metadata or ())]

    def _check_fields(self, seen: set[str], names: Mapping[str, None], any_points: bool) -> None:
        missing = [path for path in self._paths() if path not in seen]
        if missing and any_points:
            raise SettingsError(
                f"no point of {self._source.name} has `{'`, `'.join(missing)}`; at the top of "
                f"their payloads stand {', '.join(list(names)[:20]) or 'no names at all'}"
            )

    def _ordered(self, members: Sequence[tuple[float | None, int, int | str]]) -> list[int | str]:
        if len(members) == 1:
            return [members[0][2]]
        if not self._fields.chunked:
            raise Unmapped(
                "duplicate_id",
                f"{len(members)} points have this id: which one is the document? Where they are "
                "its chunks, say so with --chunked",
            )
        numbers = [number for number, _, _ in members if number is not None]
        if self._fields.chunk is not None and len(set(numbers)) < len(members):
            raise Unmapped(
                "duplicate_chunk",
                f"two of its {len(members)} points have the same `{self._fields.chunk}`, or none",
            )
        return [
            point for _, _, point in sorted(members, key=lambda member: (member[0] or 0, member[1]))
        ]

    def _verify(self, look: _Look, sample: int, seed: int) -> tuple[Verification, set[str]]:
        """Puts every document together, and encodes those of the sample anew."""
        names = list(look.groups)
        chosen = set(names)
        if 0 < sample < len(names):
            rows = np.random.default_rng(seed).choice(len(names), sample, replace=False)
            chosen = {names[row] for row in rows.tolist()}
        verifier = Verifier(self._encoder)
        for number, found in enumerate(self._assembler.assemble(look.groups.items()), start=1):
            if isinstance(found, Adoptable):
                look.documents += 1
                look.chunks += len(found.chunks)
                if found.document_id in chosen:
                    verifier.add(found)
            else:
                document_id, finding = found
                look.list(finding.reason, document_id, finding.message)
                look.left_out.add(document_id)
            if number % _PAGE == 0 or number == len(names):
                self._progress("documents looked at", number, len(names))
        return verifier.report(look.documents, seed), verifier.off()

    def _refusal(self, look: _Look, found: Verification, *, skip_unmapped: bool) -> str:
        if not look.documents:
            return "there is no document to adopt"
        if found.off > _HOPELESS * found.sampled:
            return (
                f"{found.off} of {found.sampled} documents of the sample are further than "
                f"{found.bound:g} from what the contract gives for their texts (median "
                f"{found.median:.3g}, largest {found.largest:.3g}): the collection was made with "
                "another model, pooling, prompt or template, or from other texts"
            )
        whole = found.sampled >= found.of
        if found.off and not (skip_unmapped and whole):
            return (
                f"{found.off} of {found.sampled} documents of the sample do not verify (furthest "
                f"{found.largest:.3g}, at most {found.bound:g} is allowed), and nobody knows how "
                "many more: --sample 0 with --skip-unmapped compares every document and leaves "
                "out those that are off"
                if not whole
                else f"{found.off} documents do not verify (furthest {found.largest:.3g}, at most "
                f"{found.bound:g} is allowed): --skip-unmapped goes on without them"
            )
        left = sum(listed.count for listed in look.unmapped.values())
        if left and not skip_unmapped:
            return f"{left} cannot be mapped: --skip-unmapped goes on without them"
        return ""

    def _make(self, record: ControlRecord | None) -> tuple[Version, ControlRecord]:
        """The version, with a record of where it comes from that stands before it does."""
        if record is None:
            record = self._write(None, "", "copying")
        version = create_version(self._qdrant, self._settings, self._encoder, make_live=False)
        check_process(version, self._encoder, self._settings.kafka.order_by)
        if record.fields["incarnation"] != version.incarnation:
            record = self._write(record, version.incarnation, "copying")
        return version, record

    def _copy(self, version: Version, look: _Look) -> tuple[int, int]:
        writer = DocumentWriter(
            self._qdrant,
            version.name,
            index=version.index,
            fingerprint=version.fingerprint,
            order_by=version.order_by,
            chunked=version.contract.chunk is not None,
            store_text=self._settings.ingest.store_text,
        )
        total = len(look.groups) - len(look.left_out)
        copied = present = 0
        batch: list[Group] = []
        for number, group in enumerate(look.kept(), start=1):
            batch.append(group)
            if len(batch) < _BATCH and number < total:
                continue
            if self.lease is not None:
                self.lease.check()
            there = read_heads(self._qdrant, version, [document_id for document_id, _ in batch])
            # A head stands after its chunks: where there is one, the document is whole.
            missing = [group for group in batch if group[0] not in there]
            copied += self._write_batch(version, writer, missing, look)
            present += len(batch) - len(missing)
            batch = []
            self._progress("documents copied", number, total)
        return copied, present

    def _write_batch(
        self, version: Version, writer: DocumentWriter, groups: Sequence[Group], look: _Look
    ) -> int:
        plans = []
        for found in self._assembler.assemble(groups):
            if not isinstance(found, Adoptable):
                document_id, finding = found
                look.list(finding.reason, document_id, finding.message)
                continue
            event = Event(
                found.document_id,
                adoption_position(found.document_id, version.order_by),
                title=found.title,
                text=found.text,
                metadata=found.metadata,
            )
            plan = Plan(event, Action.EMBED, created_at=event.position.timestamp)
            plan.chunks = list(found.chunks)
            plan.vectors = found.vectors
            plans.append(plan)
        if not plans:
            return 0
        count = 0
        for written in writer.write(plans):
            if written.refused is not None:
                look.list("refused_by_store", written.event.document_id, written.refused)
            else:
                count += written.outcome is not Outcome.STALE
        return count
