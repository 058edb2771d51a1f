"""Hostile records without end: grammars of events, and valid events broken in every way, seeded.

Hypothesis finds a smallest case and takes milliseconds for each; this makes a hundred thousand
records in a few seconds, for tests of what happens by the million.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from pipelines.core.position import MAX_EXACT, OrderBy
from tests.support.hostile import hostile_envelopes, hostile_records
from tests.support.stream import Message

__all__ = ["HostileStream"]

_LITERALS = (
    *(
        r"null",
        r"true",
        r"false",
        r"0",
        r"-0",
        r"1e3",
        r"1E400",
        r"-1",
        r"1.5",
        r"-0.0",
        r"NaN",
        r"Infinity",
        r'""',
        r'"\u0000"',
        r'"\ud800"',
        r'"\/"',
        r"[]",
        r"{}",
        r'"\ud83e\udd9c"',
        r'"__debezium_unavailable_value"',
        r'{"_plumbline":1}',
        r"[[[[[[[[[[[]]]]]]]]]]]",
    ),
    "9" * 40,
    str(2**63),
)
_FIELDS = (
    *[
        "id",
        "text",
        "title",
        "metadata",
        "version",
        "deleted",
        "op",
        "before",
        "after",
        "payload",
        "schema",
        "source",
    ],
    *("_plumbline", "tittle", "Text", ""),
)
_CHARACTERS = (
    'aZ \t"\\{}é\u00df\u200f\u2028\ufeff\U0001f99ce\u0301\u6f22\0\ud800\udfff\x7f\x1b\u202e\uffff'
)
_BYTES = (b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"\\", b"{", b"}")
_HEADERS = ("plumbline-version", "plumbline.topic", "plumbline.offset", "trace", "")


class HostileStream:
    """Records that are valid, nearly valid, or nothing of the kind; the same for the same seed.

    Parameters
    ----------
    documents
        How many ids there are: few, so that broken events fall between good ones of a document.
    text_bytes
        The limit of a text that some exceed.
    large
        Whether records of more than 10,000 bytes may come: bombs of brackets, texts over the
        limit.
    """

    def __init__(
        self,
        seed: int,
        *,
        documents: int = 500,
        order_by: OrderBy = OrderBy.TIMESTAMP,
        text_bytes: int = 1 << 20,
        large: bool = True,
    ) -> None:
        self._random = random.Random(seed)
        self._documents = documents
        self._versioned = order_by is OrderBy.VERSION
        known = [*hostile_records(order_by, text_bytes=text_bytes), *hostile_envelopes()]
        self._small = [one for one in known if len(one.value or b"") < 10_000]
        self._large = [one for one in known if len(one.value or b"") >= 10_000] if large else []
        self._number = 0
        self._kinds: tuple[tuple[Callable[[], Message], int], ...] = (
            (self._valid, 30),
            (self._known, 10),
            (self._fields_changed, 25),
            (self._bytes_changed, 20),
            (self._grammar, 10),
            (self._noise, 5),
        )

    def take(self, count: int) -> Iterator[Message]:
        """The next `count` messages."""
        makers, weights = zip(*self._kinds, strict=True)
        for _ in range(count):
            (make,) = self._random.choices(makers, weights)
            yield make()

    def _id(self) -> str:
        return f"kb/{self._random.randrange(self._documents)}"

    def _body(self) -> dict[str, Any]:
        chance = self._random.random
        self._number += 1
        body: dict[str, Any] = {"id": self._id()}
        if self._versioned:
            body["version"] = self._number
        if chance() < 0.1:
            return body | {"deleted": True}
        body["text"] = " ".join(self._words())
        if chance() < 0.5:
            body["title"] = " ".join(self._words())
        if chance() < 0.5:
            body["metadata"] = {self._word(): self._scalar() for _ in range(3)}
        return body

    def _words(self) -> list[str]:
        return [self._word() for _ in range(self._random.randint(1, 8))]

    def _word(self) -> str:
        return "".join(self._random.choices("aeioubdgklmnprstz", k=self._random.randint(1, 9)))

    def _scalar(self) -> Any:
        pick = self._random.randrange(5)
        if pick == 0:
            return self._random.randint(-(2**63), 2**63 - 1)
        if pick == 1:
            return self._random.uniform(-1e12, 1e12)
        if pick == 2:
            return self._random.random() < 0.5
        return None if pick == 3 else self._word()

    def _valid(self) -> Message:
        body = self._body()
        key = body["id"].encode()
        if "deleted" in body and self._random.random() < 0.5:
            stated = (("plumbline-version", str(body.get("version", 0)).encode()),)
            return Message(key, None, stated if self._versioned else ())
        return Message(key, json.dumps(body, ensure_ascii=self._random.random() < 0.5).encode())

    def _known(self) -> Message:
        rare = self._large and self._random.random() < 0.01
        one = self._random.choice(self._large if rare else self._small)
        return Message(one.key, one.value, one.headers)

    def _fields_changed(self) -> Message:
        """JSON in which members are replaced, repeated, added or lost, as text: keys may double."""
        body = self._body()
        members = [(json.dumps(name), json.dumps(value)) for name, value in body.items()]
        for _ in range(self._random.randint(1, 3)):
            at = self._random.randrange(len(members) + 1)
            pick = self._random.randrange(4)
            if pick == 0 and at < len(members):
                members[at] = (members[at][0], self._literal())
            elif pick == 1 and at < len(members):
                del members[at]
            elif pick == 2 and at < len(members):
                members.insert(at, members[at])
            else:
                members.insert(at, (json.dumps(self._random.choice(_FIELDS)), self._literal()))
        text = "{" + ", ".join(f"{name}: {value}" for name, value in members) + "}"
        return Message(self._key(body["id"]), _lenient(text), self._headers())

    def _bytes_changed(self) -> Message:
        body = self._body()
        value = json.dumps(body, ensure_ascii=False).encode()
        for _ in range(self._random.randint(1, 4)):
            at = self._random.randrange(len(value) + 1)
            cut = self._random.choice((0, 0, 1, 1, 2, 40))
            put = self._random.choice((b"", *_BYTES, self._random.randbytes(2)))
            value = value[:at] + put + value[at + cut :]
        return Message(self._key(body["id"]), value, self._headers())

    def _grammar(self) -> Message:
        """Any JSON at all, up to a dozen levels deep."""
        return Message(self._key(self._id()), _lenient(self._json(0)), self._headers())

    def _json(self, depth: int) -> str:
        pick = self._random.random()
        if depth > 12 or pick < 0.4:
            return self._literal()
        if pick < 0.6:
            return "[" + ", ".join(self._json(depth + 1) for _ in range(2)) + "]"
        names = self._random.choices(_FIELDS, k=self._random.randint(0, 4))
        members = (f"{json.dumps(name)}: {self._json(depth + 1)}" for name in names)
        return "{" + ", ".join(members) + "}"

    def _literal(self) -> str:
        if self._random.random() < 0.5:
            return self._random.choice(_LITERALS)
        letters = self._random.choices(_CHARACTERS, k=self._random.randint(0, 6))
        return json.dumps("".join(letters), ensure_ascii=self._random.random() < 0.5)

    def _noise(self) -> Message:
        value = self._random.randbytes(self._random.randint(0, 60))
        return Message(self._key(self._id()), value, self._headers())

    def _key(self, document_id: str) -> bytes | None:
        pick = self._random.random()
        if pick < 0.85:
            return document_id.encode()
        if pick < 0.95:
            return None
        return self._random.choice((b"", b"\xff", self._random.randbytes(3), b"k" * 1025))

    def _headers(self) -> tuple[tuple[str, bytes], ...]:
        if self._random.random() < 0.8:
            return ()
        value = self._random.choice((b"", b"-1", str(MAX_EXACT).encode(), b"1.5", b"\xff"))
        return ((self._random.choice(_HEADERS), value),)


def _lenient(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
