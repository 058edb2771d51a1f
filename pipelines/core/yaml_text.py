"""YAML as people write it, read so that no text can crash, hang or fill the memory.

The library's own readers recurse without a bound (the C one until the process dies), let a
handful of aliases stand for billions of values, and raise whatever comes for a value that is not
what its form says, such as the date 2001-99-99.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

__all__ = ["YamlError", "compose_yaml", "load_yaml"]

_DEEPEST = 60
"""Levels. The deepest file of ours has six."""
_MOST_VALUES = 1_000_000
"""With each alias counted as what it stands for."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError):
    """A text is not YAML, or none that may be read.

    Parameters
    ----------
    problem
        What is wrong, without a word of the text: an unquoted password looks like a tag.
    line, column
        Where, from 1; `None` when it is nowhere in particular.
    """

    def __init__(self, problem: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line
        self.column = column


class _Loader(_Base):  # type: ignore[misc]  # the library has no types for it
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"a value that looks like {kind} is none", node.start_mark
            ) from None


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of one document, which know their lines; `None` for an empty text.

    Raises
    ------
    YamlError
        It is not YAML, deeper than 60 levels, or longer than a million values.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Base):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _DEEPEST:
                    raise _at(event.start_mark, f"nested deeper than {_DEEPEST} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
        node: yaml.Node | None = yaml.compose(text, Loader=_Base)
    except yaml.YAMLError as error:
        raise _described(error) from None
    if node is not None:
        _measure(node, {})
    return node


def load_yaml(text: str) -> Any:
    """The values of one document; `None` for an empty text.

    Raises
    ------
    YamlError
        As `compose_yaml`, or a value is not what its form or its tag says.
    """
    node = compose_yaml(text)
    if node is None:
        return None
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise _described(error) from None
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Values and levels of a node, itself among them; one that is being measured has none."""
    found = known.get(id(node))
    if found is not None:
        if found == (0, 0):
            raise _at(node.start_mark, "an anchor that holds itself")
        return found
    known[id(node)] = 0, 0
    size = depth = 1
    for child in _children(node):
        values, levels = _measure(child, known)
        size, depth = size + values, max(depth, 1 + levels)
    # An anchor stands before its aliases, so that a long chain of them is met here link by link.
    if depth > _DEEPEST + 1:
        raise _at(node.start_mark, f"nested deeper than {_DEEPEST} levels, aliases written out")
    if size > _MOST_VALUES:
        raise _at(node.start_mark, f"more than {_MOST_VALUES:,} values, aliases written out")
    known[id(node)] = size, depth
    return size, depth


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value


def _at(mark: Any, problem: str) -> YamlError:
    return YamlError(problem, mark.line + 1, mark.column + 1)


def _described(error: yaml.YAMLError) -> YamlError:
    problem = re.sub(r"'[^']{2,}'", "…", getattr(error, "problem", None) or "it is not YAML")
    problem, _, _ = problem.partition(": ")  # What follows a colon quotes the text.
    mark = getattr(error, "problem_mark", None)
    return _at(mark, problem) if mark is not None else YamlError(problem)
