"""Real documents that every machine has: the docstrings of its own Python standard library."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sysconfig
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.core.errors import PlumblineError

__all__ = ["Document", "standard_library"]

# Tests and programs that come with Python, tables, and what is not Python's own.
_LEFT_OUT = frozenset(
    {
        "dist-packages",
        "distutils",
        "encodings",
        "ensurepip",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
_SHORTEST = 40
"""Characters: docstrings below it say little more than the name."""

_SEED = "plumbline demo"


@dataclass(frozen=True)
class Document:
    """One document as a producer would send it."""

    id: str
    title: str
    text: str = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)


def standard_library(
    limit: int | None = None, *, keep: Collection[str] = (), folder: Path | None = None
) -> list[Document]:
    """Docstrings of public modules, classes, functions and methods, sorted by id.

    The sources are parsed, never imported: nothing runs, and platforms do not matter.

    Parameters
    ----------
    limit
        How many at most; all of them by default. Which ones depends on their ids alone.
    keep
        Ids that are among them however small the limit.
    folder
        Where the sources lie; by default the running Python's own.

    Raises
    ------
    PlumblineError
        This Python comes without sources.
    """
    folder = folder or Path(sysconfig.get_path("stdlib"))
    documents: dict[str, Document] = {}
    for path in sorted(folder.rglob("*.py")):
        for document in _documents(path, folder):
            # Of two definitions, for two platforms say, the first one counts.
            documents.setdefault(document.id, document)
    if not documents:
        raise PlumblineError(
            f"no Python sources in {folder}: the demo's documents are the docstrings of the "
            "standard library. Use a Python that comes with its sources."
        )
    chosen = sorted(documents, key=lambda name: (name not in keep, _rank(name)))[:limit]
    return [documents[name] for name in sorted(chosen)]


def _rank(name: str) -> bytes:
    return hashlib.sha256(f"{_SEED} {name}".encode()).digest()


def _documents(path: Path, folder: Path) -> Iterator[Document]:
    parts = path.relative_to(folder).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    if not parts or any(part.startswith("_") or part in _LEFT_OUT for part in parts):
        return
    module = ".".join(parts)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # a file that is broken on purpose, or not readable: others make up for it
    yield from _walk(tree, module, module, "module")


def _walk(node: ast.AST, name: str, module: str, kind: str) -> Iterator[Document]:
    docstring = _docstring(node)
    if len(docstring) >= _SHORTEST:
        metadata: dict[str, Any] = {"module": module, "kind": kind}
        if not isinstance(node, ast.Module):
            metadata["line"] = getattr(node, "lineno", 0)
        metadata["lines"] = docstring.count("\n") + 1
        yield Document(name, name, docstring, metadata)
    for child in _members(node):
        if child.name.startswith("_"):
            continue
        if isinstance(child, ast.ClassDef):
            inner = "class"
        else:
            inner = "method" if isinstance(node, ast.ClassDef) else "function"
        yield from _walk(child, f"{name}.{child.name}", module, inner)


def _docstring(node: ast.AST) -> str:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
    # Neither can be sent as an event; nor does a docstring mean it.
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        return ""
    return text


def _members(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Definitions in the body of a module or class, also where a condition stands before them."""
    if not isinstance(node, ast.Module | ast.ClassDef):
        return
    pending = list(node.body)
    while pending:
        statement = pending.pop(0)
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
        elif isinstance(statement, ast.If):
            pending[:0] = [*statement.body, *statement.orelse]
        elif isinstance(statement, ast.Try):
            pending[:0] = [
                *statement.body,
                *(inner for handler in statement.handlers for inner in handler.body),
                *statement.orelse,
            ]
