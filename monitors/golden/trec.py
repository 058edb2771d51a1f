"""Golden sets as others keep them: BEIR's folders, and TREC's qrels."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from monitors.golden.golden_set import MAXIMUM_GRADE, GoldenQuery
from monitors.golden.source import Problem, read_text
from pipelines.core.errors import SettingsError

__all__ = ["read_folder"]

_QUERIES = ("queries.jsonl", "queries.tsv")
_QRELS = ("qrels.tsv", "qrels/test.tsv", "qrels.txt", "qrels")
_GRADE = re.compile(r"[+-]?[0-9]{1,3}")


def read_folder(folder: Path) -> tuple[list[GoldenQuery], list[Problem]]:
    """Queries and judgements of a folder, and what is wrong with them.

    `queries.jsonl` has one object a line with `_id` and `text`, `queries.tsv` an id and a text a
    line. Judgements are BEIR's (query, document, grade, parted by tabs, with or without a header)
    or TREC's (query, iteration, document, grade, parted by white space), one a line. Grades below
    0, which some tracks use for spam, count as 0.

    Raises
    ------
    SettingsError
        A file is missing or cannot be read.
    """
    queries_path = _only(folder, _QUERIES, "queries")
    problems: list[Problem] = []
    texts = _read_queries(queries_path, problems)
    judged = _read_qrels(_only(folder, _QRELS, "judgements"), texts, problems)
    queries = [
        GoldenQuery(identity, text, judged.get(identity, {}), line)
        for identity, (text, line) in texts.items()
    ]
    if not queries and not problems:
        problems.append(Problem("malformed", queries_path, 1, "file", "there are no queries"))
    return queries, problems


def _only(folder: Path, names: Sequence[str], what: str) -> Path:
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise SettingsError(f"no {what} in {folder}: expected one of {', '.join(names)}")
    raise SettingsError(
        f"{folder} has {' and '.join(path.name for path in found)}: which are the {what}? Keep "
        "one of them there."
    )


def _read_queries(path: Path, problems: list[Problem]) -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    read = _json_query if path.suffix == ".jsonl" else _tab_query
    # Not `splitlines`, which also cuts at characters that a text may hold.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        identity, text, field, message = read(line)
        if message:
            problems.append(Problem("malformed", path, number, field, message))
        elif identity in found:
            first = found[identity][1]
            message = f"the query {identity!r} stands on line {first} already"
            problems.append(Problem("duplicate", path, number, field, message))
        else:
            found[identity] = (text, number)
    return found


def _json_query(line: str) -> tuple[str, str, str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "", "", "line", "expected a JSON object, got something that is no JSON"
    if not isinstance(row, dict):
        return "", "", "line", f"expected a JSON object, got {type(row).__name__}"
    identity, text = row.get("_id"), row.get("text")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    for field, value in (("_id", identity), ("text", text)):
        if not isinstance(value, str) or not value.strip():
            got = "nothing" if value is None else type(value).__name__
            got = "empty text" if isinstance(value, str) else got
            return "", "", field, f"expected text that is not empty, got {got}"
        if not _is_unicode(str(value)):
            return "", "", field, "expected text, got half of a surrogate pair"
    return str(identity), str(text), "_id", ""


def _is_unicode(text: str) -> bool:
    """False for half of a surrogate pair, which JSON can spell and no store can keep."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tab_query(line: str) -> tuple[str, str, str, str]:
    identity, _, text = line.rstrip("\r").partition("\t")
    if not identity.strip() or not text.strip():
        return "", "", "line", "expected an id and a text, parted by a tab"
    return identity, text, "id", ""


def _read_qrels(
    path: Path, queries: dict[str, tuple[str, int]], problems: list[Problem]
) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = {}
    lines: dict[tuple[str, str], int] = {}

    def bad(line: int, field: str, message: str) -> None:
        problems.append(Problem("malformed", path, line, field, message))

    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        columns = _columns(line.rstrip("\r"))
        if columns is None:
            bad(
                number,
                "line",
                "expected query, document and grade parted by tabs, or TREC's query, iteration, "
                f"document and grade, got {len(line.split())} columns",
            )
            continue
        query, document, grade = columns
        if not _GRADE.fullmatch(grade):
            if number == 1 and not re.search(r"[0-9]", grade):
                continue  # the header
            bad(number, "score", f"expected a grade, a whole number, got {grade[:20]!r}")
        elif int(grade) > MAXIMUM_GRADE:
            bad(number, "score", f"expected a grade up to {MAXIMUM_GRADE}, got {grade}")
        elif query not in queries:
            bad(number, "query-id", f"{query!r} is not among the queries")
        elif (query, document) in lines:
            first = lines[query, document]
            message = f"{document!r} is judged for the query {query!r} on line {first} already"
            problems.append(Problem("duplicate", path, number, "corpus-id", message))
        else:
            lines[query, document] = number
            judged.setdefault(query, {})[document] = max(0, int(grade))
    return judged


def _columns(line: str) -> tuple[str, str, str] | None:
    """Query, document and grade of one line of either kind; `None` when it is neither."""
    by_tab = [cell.strip() for cell in line.split("\t")]
    cells = by_tab if len(by_tab) == 3 else line.split()
    if len(cells) == 4:
        cells = [cells[0], cells[2], cells[3]]
    if len(cells) != 3 or not all(cells) or (len(by_tab) != 3 and len(line.split()) == 3):
        return None
    return cells[0], cells[1], cells[2]
