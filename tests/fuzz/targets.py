"""What is fuzzed: each takes bytes, and raises unless they are read or refused as promised.

A reader may return, or raise the errors of its docstring. Whatever else comes out (another
exception, a message without words, a value that cannot be stored) is a find.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from monitors.golden.files import inspect_golden
from monitors.golden.golden_set import GoldenSet
from monitors.golden.native import write_native
from pipelines.cli.candidates import read_contract
from pipelines.core.canaries import Canaries
from pipelines.core.contract import EmbeddingContract, model_slug
from pipelines.core.dead_letters import HEADER_NAMES, NotADeadLetterError, parse_dead_letter
from pipelines.core.decode import Ignored, decode
from pipelines.core.errors import BadRecordError, SettingsError, StoreConflictError
from pipelines.core.records import Record
from pipelines.core.settings import Settings, load_settings

__all__ = ["TARGETS", "Target"]

Target = Callable[[bytes], None]

_LONGEST_MESSAGE = 20_000
"""Characters. An error is read by a person."""

_KINDS = [
    Settings(
        kafka={
            "bootstrap_servers": "localhost:9092",
            "topics": ["t"],
            "format": form,
            "order_by": order_by,
            "debezium": {"version": "source.lsn"},
        },
        limits={"text_bytes": 20_000},
    )
    for form in ("json", "debezium")
    for order_by in ("timestamp", "version")
]


def fuzz_decode(data: bytes) -> None:
    """A record: its settings by the first byte, its key by the second, and the value.

    From the value's end back, parted by `|`: headers.
    """
    settings = _KINDS[data[0] % len(_KINDS)] if data else _KINDS[0]
    length = data[1] % 32 if len(data) > 1 else 0
    key, rest = data[2 : 2 + length], data[2 + length :]
    value, *headers = rest.split(b"|plumbline|") if b"|plumbline|" in rest else [rest]
    named = tuple(
        (name.decode("latin-1"), held)
        for name, _, held in (header.partition(b"=") for header in headers)
    )
    record = Record("t", 0, 7, 1_000, key or None, value or None, named)
    try:
        event = decode(record, settings)
    except BadRecordError as error:
        _check_message(error, 2_000)
    else:
        if not isinstance(event, Ignored):
            kept = [event.document_id, event.title, event.text, event.metadata]
            assert "\0" not in event.document_id + event.title + event.text
            json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()


def fuzz_dead_letter(data: bytes) -> None:
    """A value and headers as the dead-letter topic holds them, parted by line ends.

    After an odd first byte the last headers bear the names of ours, whatever they hold.
    """
    named, (value, *lines) = data[:1], data[1:].split(b"\n")
    pairs = [(name.decode("latin-1"), held) for name, _, held in (x.partition(b"=") for x in lines)]
    if named and named[0] % 2:
        values = [held for _, held in pairs[-len(HEADER_NAMES) :]]
        values += [b""] * (len(HEADER_NAMES) - len(values))
        pairs[-len(HEADER_NAMES) :] = zip(HEADER_NAMES, values, strict=True)
    try:
        letter = parse_dead_letter(Record("t.dead", 0, 7, 1_000, None, value, tuple(pairs)))
    except NotADeadLetterError as error:
        _check_message(error)
    else:
        letter.to_wire()


def fuzz_contract(data: bytes) -> None:
    """Metadata of a collection, and a candidate's file."""
    try:
        stored = json.loads(data)
    except (ValueError, RecursionError):
        stored = data
    for read in (EmbeddingContract.from_json, Canaries.from_json):
        try:
            found = read(stored)
        except StoreConflictError as error:
            _check_message(error)
        else:
            again = read(json.loads(json.dumps(found.to_json())))
            assert again.to_json() == found.to_json()
    _fuzz_contract_file(data)


def _fuzz_contract_file(data: bytes) -> None:
    try:
        contract = read_contract(_file("contract.yaml", data))
    except SettingsError as error:
        _check_message(error)
    else:
        assert model_slug(contract.model)
        rendered = contract.template.format(title="a title", text="a text")
        assert len(rendered) <= 10 * (len(contract.template) + 20)


def fuzz_settings(data: bytes) -> None:
    """A settings file: settings that survive being written and read, or words."""
    try:
        settings = load_settings(_file("plumbline.yaml", data))
    except SettingsError as error:
        _check_message(error)
    else:
        settings.model_dump_json()


def fuzz_golden(data: bytes) -> None:
    """By the first byte: our YAML, or a folder with queries and judgements parted by a NUL."""
    kind, rest = (data[0] % 3, data[1:]) if data else (0, b"")
    if kind == 0:
        path = _file("golden.yaml", rest)
    else:
        queries, _, qrels = rest.partition(b"\0")
        name = "queries.jsonl" if kind == 1 else "queries.tsv"
        path = _file(f"golden{kind}/{name}", queries).parent
        _file(f"golden{kind}/qrels.tsv", qrels)
    try:
        golden, problems = inspect_golden(path)
    except SettingsError as error:
        _check_message(error)
        return
    for problem in problems:
        assert problem.line >= 1
        assert problem.message
        str(problem).encode()
    assert len(golden.digest) == 16
    _check_round_trip(golden)


def _check_round_trip(golden: GoldenSet) -> None:
    """What `plumbline golden convert` writes says the same."""
    if not golden.queries:
        return
    path = _folder() / "written.yaml"
    path.unlink(missing_ok=True)
    write_native(golden.queries, path)
    again, problems = inspect_golden(path)
    assert not problems, problems
    assert again.digest == golden.digest
    assert [query.text for query in again.queries] == [query.text for query in golden.queries]


TARGETS: Mapping[str, Target] = {
    "decode": fuzz_decode,
    "dead_letter": fuzz_dead_letter,
    "contract": fuzz_contract,
    "settings": fuzz_settings,
    "golden": fuzz_golden,
}
"""By the name that `python -m tests.fuzz` takes."""

_scratch: list[tempfile.TemporaryDirectory[str]] = []


def _folder() -> Path:
    if not _scratch:
        _scratch.append(tempfile.TemporaryDirectory(prefix="plumbline-fuzz-"))
    return Path(_scratch[0].name)


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def _check_message(error: Exception, longest: int = _LONGEST_MESSAGE) -> None:
    """An error has words that a terminal and a log can show, and not a book of them."""
    words = str(error)
    assert 0 < len(words.encode()) <= longest, len(words)
