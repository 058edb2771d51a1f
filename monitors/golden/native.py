"""The golden set's own format: YAML, one query an entry, made to be reviewed.

::

    version: 1
    queries:
      - id: refund-late
        text: "can I return a parcel after thirty days"
        judged:
          kb/42: 2   # the policy itself
          kb/77: 1
          kb/91: 0   # looked at, does not answer it

Ids are text as they stand, with or without quotes: `1`, `no` and `1e5` are themselves. A grade is
a whole number: 0 for not relevant, higher is better. One line a judgement, so that a review shows
each change by itself, and comments say why.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from monitors.golden.golden_set import MAXIMUM_GRADE, GoldenQuery
from monitors.golden.source import Problem, read_text
from pipelines.core.errors import SettingsError
from pipelines.core.yaml_text import YamlError, compose_yaml

__all__ = ["read_native", "write_native"]

_VERSION = "1"
_TOP = ("version", "queries")
_ENTRY = ("id", "text", "judged")
_NULL = "tag:yaml.org,2002:null"
_ESCAPED = re.compile(
    r"[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
"""What YAML does not take as it is, or takes for the end of a line."""

_LONG_KEY = 500
"""YAML wants longer keys, here document ids, marked by `?`; its own limit is 1,024."""


def read_native(path: Path) -> tuple[list[GoldenQuery], list[Problem]]:
    """Queries of a file of ours, and what is wrong with it.

    Raises
    ------
    SettingsError
        The file cannot be read, or is no YAML.
    """
    text = read_text(path)
    try:
        root = compose_yaml(text)
    except YamlError as error:
        raise SettingsError(
            f"{path}:{error.line or 1}: {error.problem}. Put texts with special characters in "
            "quotes."
        ) from None
    reader = _Reader(path)
    return reader.read(root), reader.problems


class _Reader:
    """Walks the nodes, not the values: they know their lines, and ids stay as they were written."""

    def __init__(self, path: Path) -> None:
        self.problems: list[Problem] = []
        self._path = path

    def read(self, root: yaml.Node | None) -> list[GoldenQuery]:
        if not isinstance(root, yaml.MappingNode):
            self._bad(root, "queries", f"expected a mapping with {_names(_TOP)}, got {_kind(root)}")
            return []
        top = self._fields(root, _TOP, "")
        version = top.get("version")
        if version is not None and _scalar(version) != _VERSION:
            self._bad(version, "version", f"this release reads {_VERSION}, got {_shown(version)}")
            return []
        entries = top.get("queries")
        if not isinstance(entries, yaml.SequenceNode) or not entries.value:
            self._bad(
                entries or root,
                "queries",
                f"expected a list of queries, each with {_names(_ENTRY)}, got {_kind(entries)}",
            )
            return []
        found: dict[str, GoldenQuery] = {}
        for number, entry in enumerate(entries.value):
            query = self._query(entry, f"queries[{number}]")
            if query is None:
                continue
            first = found.setdefault(query.id, query)
            if first is not query:
                self._bad(
                    entry,
                    f"queries[{number}].id",
                    f"the query {query.id!r} stands on line {first.line} already",
                    duplicate=True,
                )
        return list(found.values())

    def _query(self, node: yaml.Node, where: str) -> GoldenQuery | None:
        if not isinstance(node, yaml.MappingNode):
            self._bad(node, where, f"expected a mapping with {_names(_ENTRY)}, got {_kind(node)}")
            return None
        before = len(self.problems)
        fields = self._fields(node, _ENTRY, f"{where}.")
        identity = self._text(fields.get("id"), node, f"{where}.id")
        text = self._text(fields.get("text"), node, f"{where}.text")
        judged = self._judged(fields.get("judged"), f"{where}.judged")
        broken = any(problem.kind == "malformed" for problem in self.problems[before:])
        if identity is None or text is None or broken:
            return None
        return GoldenQuery(identity, text, judged, _line(node))

    def _text(self, node: yaml.Node | None, parent: yaml.Node, where: str) -> str | None:
        if node is None:
            self._bad(parent, where, "missing")
            return None
        value = _scalar(node)
        if value is None or not value.strip():
            self._bad(node, where, f"expected text that is not empty, got {_kind(node)}")
            return None
        return value

    def _judged(self, node: yaml.Node | None, where: str) -> dict[str, int]:
        if node is None or node.tag == _NULL:
            return {}
        if not isinstance(node, yaml.MappingNode):
            self._bad(node, where, f"expected document ids with grades, got {_kind(node)}")
            return {}
        judged: dict[str, int] = {}
        for key, value in node.value:
            document = _scalar(key)
            if not document:
                self._bad(key, where, f"expected a document id, got {_kind(key)}")
                continue
            grade = _scalar(value) or ""
            if not re.fullmatch(r"[0-9]{1,3}", grade) or int(grade) > MAXIMUM_GRADE:
                self._bad(
                    value,
                    f"{where}.{document}",
                    f"expected a grade, a whole number from 0 to {MAXIMUM_GRADE}, got "
                    f"{_shown(value)}",
                )
            elif document in judged:
                self._bad(key, f"{where}.{document}", "judged twice", duplicate=True)
            else:
                judged[document] = int(grade)
        return judged

    def _fields(
        self, node: yaml.MappingNode, valid: Sequence[str], prefix: str
    ) -> dict[str, yaml.Node]:
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = _scalar(key)
            if name is None or name not in valid:
                near = difflib.get_close_matches(name or "", valid, n=1)
                hint = f"did you mean {near[0]}?" if near else f"valid are {_names(valid)}"
                self._bad(key, f"{prefix}{_shown(key)}", f"unknown key; {hint}")
            elif name in found:
                self._bad(key, f"{prefix}{name}", "given twice")
            else:
                found[name] = value
        return found

    def _bad(
        self, node: yaml.Node | None, where: str, message: str, *, duplicate: bool = False
    ) -> None:
        kind = "duplicate" if duplicate else "malformed"
        self.problems.append(Problem(kind, self._path, _line(node), where, message))  # type: ignore[arg-type]


def _line(node: yaml.Node | None) -> int:
    return 1 if node is None else node.start_mark.line + 1


def _scalar(node: yaml.Node) -> str | None:
    """The text as it was written; `None` for a list or a mapping."""
    return str(node.value) if isinstance(node, yaml.ScalarNode) else None


def _kind(node: yaml.Node | None) -> str:
    if node is None:
        return "nothing"
    if isinstance(node, yaml.SequenceNode):
        return "a list" if node.value else "an empty list"
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "nothing" if node.tag == _NULL else "empty text" if not node.value.strip() else "text"


def _shown(node: yaml.Node) -> str:
    """What stands in a place of a short name or number; a text by mistake is not shown."""
    value = _scalar(node)
    return repr(value) if value is not None and len(value) <= 20 else _kind(node)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def write_native(queries: Iterable[GoldenQuery], path: Path) -> None:
    """Writes the queries in our format, in their order, judgements by falling grade.

    Raises
    ------
    SettingsError
        The file exists already, or cannot be written.
    """
    lines = ["version: 1", "queries:"]
    for query in queries:
        lines += [f"  - id: {_plain(query.id)}", f"    text: {_quoted(query.text)}"]
        if query.judged:
            lines.append("    judged:")
        for document, grade in sorted(query.judged.items(), key=lambda item: (-item[1], item[0])):
            key = _plain(document)
            lines.append(
                f"      {key}: {grade}"
                if len(key) <= _LONG_KEY
                else f"      ? {key}\n      : {grade}"
            )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except FileExistsError:
        raise SettingsError(f"{path} exists already: name another file") from None
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from None


def _plain(value: str) -> str:
    """An id without quotes where every YAML reader takes it for text."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value) and yaml.safe_load(value) == value:
        return value
    return _quoted(value)


def _quoted(value: str) -> str:
    # JSON's strings are YAML's, but for characters that YAML wants escaped.
    return _ESCAPED.sub(
        lambda match: f"\\U{ord(match[0]):08x}", json.dumps(value, ensure_ascii=False)
    )
