"""`ReadFromVersion`: the documents of a version, a range of point ids at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.typehints import with_output_types

from pipelines.core.failures import guarded
from pipelines.core.qdrant import Qdrant, connect
from pipelines.core.settings import Settings
from pipelines.core.stored_documents import (
    IdRange,
    StoredDocument,
    read_heads_of,
    stored_document,
)

__all__ = ["DocumentBatch", "ReadFromVersion"]


@dataclass(frozen=True)
class DocumentBatch:
    """Documents of one range.

    Parameters
    ----------
    range_number
        Of the range.
    documents
        Tombstones too; empty only in the last batch.
    last
        Whether the range ends with it. The batches of a range come in order, one after another,
        out of one bundle: there must be no fusion break before whoever counts on that.
    """

    range_number: int
    documents: Sequence[StoredDocument]
    last: bool


def _never() -> bool:
    return False


class ReadFromVersion(beam.PTransform):
    """Batches of documents, from the heads that a version holds when each range is read.

    Writes go on meanwhile: a document is read once, in the state that it has then, and one that
    is added behind the reader is left to whoever reads the topic.

    Parameters
    ----------
    settings
        How to reach the store.
    version
        The collection, by its own name.
    ranges
        Which slices of its ids.
    batch_documents
        Documents of a batch, at most.
    stopped
        Asked before each batch; once it says True nothing more is read, and the range under way
        gets no last batch. Importable: it travels with the pipeline.
    """

    def __init__(
        self,
        settings: Settings,
        version: str,
        ranges: Sequence[IdRange],
        *,
        batch_documents: int,
        stopped: Callable[[], bool] = _never,
    ) -> None:
        super().__init__()
        self._ranges = list(ranges)
        self._reader = _ReadRangeFn(settings, version, batch_documents, stopped)

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[DocumentBatch]:
        """Ranges, spread over the workers, to batches."""
        return (
            begin
            | "Ranges" >> beam.Create(self._ranges)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(self._reader)
        )


@guarded
@with_output_types(DocumentBatch)
class _ReadRangeFn(beam.DoFn):
    """`IdRange` to its batches; the next page is read while the last one is worked on."""

    def __init__(
        self, settings: Settings, version: str, batch_documents: int, stopped: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._version = version
        self._batch_documents = batch_documents
        self._stopped = stopped

    def setup(self) -> None:
        """Connects."""
        self._qdrant: Qdrant = connect(self._settings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plumbline-read")

    def teardown(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=True)

    def process(self, element: IdRange) -> Iterator[DocumentBatch]:
        """One range."""
        if self._stopped():
            return
        pages = read_heads_of(self._qdrant, self._version, element, page=self._batch_documents)
        page = next(pages, None)
        while page is not None:
            documents = [stored_document(record.payload) for record in page]
            following = self._thread.submit(next, pages, None)
            yield DocumentBatch(element.number, documents, last=False)
            page = following.result()
            if self._stopped():
                return
        yield DocumentBatch(element.number, (), last=True)
