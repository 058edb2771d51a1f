"""Points put together to documents: texts of chunks joined, vectors checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.adopt.fields import Fields, Piece, Unmapped, map_point
from pipelines.core.decode.checks import check_document
from pipelines.core.errors import BadRecordError
from pipelines.core.points import StoredChunk

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipelines.core.adopt.source import Source
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import LimitSettings

__all__ = ["Adoptable", "Assembler", "Group", "join_chunks"]

_LEAST_OVERLAP = 12
"""Characters that two chunks must share to count as overlapping: a word or two, since texts end
and begin with the same few letters by chance."""

_SEPARATOR = "\n"
"""Between chunks that do not overlap: what stood there is not known."""

_SMALLEST_NORM = 1e-12

_READ_POINTS = 1000

Group = tuple[str, list[int | str]]
"""A document's id and its points, in the order of its chunks."""


@dataclass(frozen=True)
class Adoptable:
    """A document with the vectors that it had.

    Parameters
    ----------
    chunks
        Pieces of the text, the head first; their texts are what was encoded.
    vectors
        Shape (len(chunks), dimension), float32, as they were stored.
    """

    document_id: str
    title: str = field(repr=False)
    text: str = field(repr=False)
    metadata: Mapping[str, Any] = field(repr=False)
    chunks: Sequence[StoredChunk]
    vectors: npt.NDArray[np.float32] = field(repr=False)


def join_chunks(texts: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    r"""One text of which every chunk is a stretch, and the stretches.

    What two neighbours share stands once; where they share nothing a line break stands between.

    Examples
    --------
    >>> join_chunks(["a quick brown fox", "quick brown fox jumps", "and rests"])
    ('a quick brown fox jumps\nand rests', [(0, 17), (2, 23), (24, 33)])
    """
    text = ""
    places: list[tuple[int, int]] = []
    for number, chunk in enumerate(texts):
        start = _overlap(text, chunk)
        if start is None:
            text += _SEPARATOR if number else ""
            start = len(text)
        text += chunk[len(text) - start :]
        places.append((start, start + len(chunk)))
    return text, places


def _overlap(text: str, chunk: str) -> int | None:
    """Where the chunk begins when as much of it as possible is the end of the text."""
    first = chunk[:_LEAST_OVERLAP]
    if len(first) < _LEAST_OVERLAP:
        return None
    start = text.find(first, max(0, len(text) - len(chunk)))
    while start >= 0:
        if chunk.startswith(text[start:]):
            return start
        start = text.find(first, start + 1)
    return None


class Assembler:
    """Reads points and puts documents together; counts what is worth saying.

    Parameters
    ----------
    qdrant, source
        Where the points are.
    fields, limits
        How they are read.
    """

    def __init__(
        self, qdrant: Qdrant, source: Source, fields: Fields, limits: LimitSettings
    ) -> None:
        self._qdrant = qdrant
        self._source = source
        self._fields = fields
        self._limits = limits
        self.dropped_metadata: Counter[str] = Counter()
        """Names whose values differ between the chunks of a document: documents."""

    def assemble(self, groups: Iterable[Group]) -> Iterator[Adoptable | tuple[str, Unmapped]]:
        """Each group's document, or its id and why it cannot be one."""
        waiting: list[Group] = []
        count = 0
        for group in groups:
            waiting.append(group)
            count += len(group[1])
            if count >= _READ_POINTS:
                yield from self._read(waiting)
                waiting, count = [], 0
        yield from self._read(waiting)

    def _read(self, groups: Sequence[Group]) -> Iterator[Adoptable | tuple[str, Unmapped]]:
        ids = [point_id for _, ids in groups for point_id in ids]
        found = {}
        for start in range(0, len(ids), _READ_POINTS):
            for point in self._qdrant.call(
                "retrieve",
                self._source.name,
                ids=ids[start : start + _READ_POINTS],
                with_payload=True,
                with_vectors=[self._source.vector] if self._source.vector else True,
            ):
                found[point.id] = point
        for document_id, members in groups:
            try:
                points = [found[point_id] for point_id in members]
                yield self._document(document_id, points)
            except KeyError:
                yield document_id, Unmapped("vanished", "a point was deleted while it was read")
            except Unmapped as finding:
                yield document_id, finding

    def _document(self, document_id: str, points: Sequence[Any]) -> Adoptable:
        pieces = [
            map_point(point.id, point.payload, self._fields, self._limits) for point in points
        ]
        vectors = [self._vector(point) for point in points]
        title = next((piece.title for piece in pieces if piece.title), "")
        text, places = join_chunks([piece.text for piece in pieces])
        try:
            title, text = check_document(title, text, self._limits)
        except BadRecordError as error:
            raise Unmapped(error.reason.value, error.message) from None
        return Adoptable(
            document_id,
            title,
            text,
            self._metadata(pieces),
            [StoredChunk(number, start, end) for number, (start, end) in enumerate(places)],
            np.stack(vectors),
        )

    def _vector(self, point: Any) -> npt.NDArray[np.float32]:
        given = self._source.vector_of(point.vector)
        if given is None:
            raise Unmapped("no_vector", "the point has no vector")
        vector = np.asarray(given, np.float32)
        if vector.shape != (self._source.dimension,):
            raise Unmapped(
                "invalid_vector",
                f"the vector has shape {vector.shape}, expected ({self._source.dimension},)",
            )
        if not np.isfinite(vector).all():
            raise Unmapped("invalid_vector", "the vector holds NaN or infinity")
        if float(np.linalg.norm(vector.astype(np.float64))) < _SMALLEST_NORM:
            raise Unmapped("zero_vector", "the vector is zero: no search finds the point")
        return vector

    def _metadata(self, pieces: Sequence[Piece]) -> Mapping[str, Any]:
        """What all chunks agree on: metadata is the document's."""
        first = pieces[0].metadata
        if len(pieces) == 1:
            return first
        names = dict.fromkeys(name for piece in pieces for name in piece.metadata)
        missing = object()
        kept = {}
        for name in names:
            values = [piece.metadata.get(name, missing) for piece in pieces]
            if all(type(value) is type(values[0]) and value == values[0] for value in values):
                kept[name] = values[0]
            else:
                self.dropped_metadata[name] += 1
        return kept
