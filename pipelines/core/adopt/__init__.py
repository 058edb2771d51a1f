"""A collection that another tool filled becomes a managed version: its vectors are copied.

Nothing is taken on trust. The contract is declared, and a sample of texts encoded under it must
give the vectors that are stored; what cannot be mapped to a document is listed, never dropped in
silence; the source is only read.
"""

from pipelines.core.adopt.adoption import ADOPTION, ADOPTION_TOPIC, adopt, adoption_position
from pipelines.core.adopt.documents import Adoptable, Assembler, join_chunks
from pipelines.core.adopt.fields import POINT_ID, SHAPES, Fields, Piece, Unmapped, map_point
from pipelines.core.adopt.report import AdoptReport, Listed, Verification
from pipelines.core.adopt.source import Source, open_source

__all__ = [
    "ADOPTION",
    "ADOPTION_TOPIC",
    "POINT_ID",
    "SHAPES",
    "AdoptReport",
    "Adoptable",
    "Assembler",
    "Fields",
    "Listed",
    "Piece",
    "Source",
    "Unmapped",
    "Verification",
    "adopt",
    "adoption_position",
    "join_chunks",
    "map_point",
    "open_source",
]
