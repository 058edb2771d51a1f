"""A record that rightly changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.core.records import Record

__all__ = ["Ignored"]


@dataclass(frozen=True, slots=True)
class Ignored:
    """A record without effect of its own, counted as `unchanged`.

    There is one kind: with `format: debezium` and `order_by: version`, the `null` that Debezium
    sends behind a delete. It carries no version, so it cannot be ordered, and need not be: the
    delete before it did the work.
    """

    document_id: str
    record: Record = field(repr=False, compare=False)
