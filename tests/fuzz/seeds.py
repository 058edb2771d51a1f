"""Valid inputs to begin with, and the words that the formats are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from pipelines.core.canaries import CANARY_TEXTS, Canaries
from pipelines.core.contract import ChunkContract, EmbeddingContract
from pipelines.core.dead_letters import HEADER_NAMES, DeadLetter
from pipelines.core.decode import Origin
from pipelines.core.settings import Settings
from tests.support.hostile_stream import HostileStream

__all__ = ["seeds", "words"]

_SETTINGS = (
    "index: docs\nkafka:\n  bootstrap_servers: localhost:9092\n  topics: [docs]\n",
    "qdrant:\n  url: http://localhost:6333\n  api_key: a-key\ncontract:\n  chunk: {size: 200}\n",
    "contract:\n  template: '{title}: {text}'\n  document_prompt: 'passage: '\n",
    "limits: {text_bytes: 1000}\nmonitor: &a\n  seed: 2001-01-01\ningest: *a\n",
    "kafka: {pattern: '^docs.*', order_by: version}\nruntime: {device: cpu, threads: 2}\n",
)
_GOLDEN = (
    b"\0version: 1\nqueries:\n  - id: a\n    text: 'how late'\n    judged:\n      kb/42: 2\n",
    b"\0version: 1\nqueries:\n- {id: 1, text: x, judged: {b: 0, ? c : 1}}\n- &q {id: no, text: y}",
    (
        b'\1{"_id": "1", "text": "how late"}\n{"_id": 2, "text": "y"}\0'
        b"query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t0\n"
    ),
    b"\0021\thow late\n2\ty\0001 0 a 2\n2 0 b -1\n",
)
_MARKS = (
    *(r"null", r"true", r"\x00", r"\xff", r"\xef\xbb\xbf", "---", "&a ", "*a", "<<: ", "!!int "),
    *("? ", "- ", "{}", "1e400", "NaN", ".inf", "2001-99-99", "0x", "'", r"\\u0000", r"\\ud800"),
)
"""As libFuzzer's dictionaries spell them."""


def seeds(target: str) -> Iterator[bytes]:
    """Inputs for a target's corpus."""
    yield b""
    yield from _OF[target]()


def words(target: str) -> list[str]:
    """For libFuzzer's dictionary: names of fields, and marks of the format."""
    if target in ("contract", "settings"):
        return [*_MARKS, *sorted(set(_names(Settings)))]
    if target == "golden":
        return [*_MARKS, "version", "queries", "id", "text", "judged", "_id", r"\x09", "Q0"]
    if target == "dead_letter":
        return [*_MARKS, *(f"\\x0a{name}=" for name in HEADER_NAMES)]
    return [*_MARKS, "id", "text", "title", "metadata", "version", "deleted", "payload", "after"]


def _names(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        for kind in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _names(kind)


def _decode() -> Iterator[bytes]:
    for number, message in enumerate(HostileStream(3).take(200)):
        key = (message.key or b"")[:31]
        headers = b"".join(
            b"|plumbline|" + name.encode() + b"=" + (held or b"") for name, held in message.headers
        )
        yield bytes([number % 4, len(key)]) + key + (message.value or b"") + headers


def _dead_letter() -> Iterator[bytes]:
    for value in (b'{"id": "a"', None):
        letter = DeadLetter(
            origin=Origin("docs", 1, 2, 1_700_000_000_000, 0),
            reason="not_json",
            message="it ends too early",
            time=1_700_000_000.5,
            index="docs",
            key=b"a",
            value=value,
            headers=(("trace", b"1"),),
            value_bytes=len(value or b""),
            value_sha256="0" * 64,
            omitted=(),
            stored_at=None,
        )
        wire = letter.to_wire()
        lines = (name.encode() + b"=" + (held or b"") for name, held in wire.headers)
        yield b"\1" + b"\n".join([wire.value or b"", *lines])


def _contract() -> Iterator[bytes]:
    whole: list[Mapping[str, Any]] = [
        EmbeddingContract(
            model_hash="0" * 64,
            dimension=384,
            max_tokens=256,
            distance="cosine",
            normalize=True,
            document_prompt="",
            query_prompt="query: ",
            template="{title} {text}",
            chunk=chunk,
            model_name="a/model",
        ).to_json()
        for chunk in (None, ChunkContract(size=200, overlap=20))
    ]
    vectors = np.eye(2, 4, dtype=np.float32)
    texts = Canaries(vectors, vectors, "").to_json()
    whole.append(texts)
    assert len(CANARY_TEXTS) > 2
    for value in whole:
        yield json.dumps(value).encode()
    yield from (text.encode() for text in _SETTINGS)


def _settings() -> Iterator[bytes]:
    yield from (text.encode() for text in _SETTINGS)
    for path in sorted(Path("deploy").rglob("plumbline*.yaml")):
        yield path.read_bytes()


_OF = {
    "decode": _decode,
    "dead_letter": _dead_letter,
    "contract": _contract,
    "settings": _settings,
    "golden": lambda: iter(_GOLDEN),
}
