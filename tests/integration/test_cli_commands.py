"""The commands, one after another, against an embedded broker and an embedded store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.cli import app
from pipelines.core.errors import ExitCode
from pipelines.core.qdrant import disconnect
from pipelines.io.kafka import STOP, close_consumers
from tests.support.brokers import Broker, Message, embedded_broker
from tests.support.own_folder import own_folder
from tests.support.tiny_model import make_tiny_model

TOPIC = "documents"


def run(arguments: list[str]) -> int:
    """One command as its own process would run it: nothing left open by the one before."""
    disconnect()
    STOP.clear()
    return app.run(arguments)


@pytest.fixture
def broker() -> Iterator[Broker]:
    with embedded_broker() as made:
        made.create_topic(TOPIC)
        yield made


@pytest.fixture
def here(tmp_path, monkeypatch, broker) -> Iterator[Path]:
    """A folder with a `plumbline.yaml` for the broker, an embedded store and a tiny model."""
    with own_folder(tmp_path, monkeypatch):
        model = make_tiny_model(tmp_path / "made")
        settings = {
            "kafka": {**broker.kafka, "api_version": [2, 3], "topics": [TOPIC]},
            "qdrant": {"path": "store"},
            "contract": {"model": str(model)},
            "limits": {"text_bytes": 1000},
            "metrics": {"port": 0},
        }
        Path("plumbline.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        yield tmp_path
        disconnect()
        close_consumers()
        STOP.clear()


def event(key: str, **fields) -> Message:
    value = json.dumps({"id": key, **fields}).encode()
    return Message(key.encode(), value, 1_700_000_000_000)


def test_from_an_empty_folder_to_answers(here, broker, capsys):
    """doctor, index, ingest, search and dead-letters work together on one `plumbline.yaml`."""

    def answer(*arguments: str) -> tuple[int, object]:
        code = run([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    broker.send(
        TOPIC,
        [
            *[
                event(f"d{n}", text=f"document {n}", metadata={"even": n % 2 == 0})
                for n in range(20)
            ],
            event("large", text="a" * 2000),
            event("none"),
            Message(b"bad", b"{", 1),
        ],
    )

    code, report = answer("doctor")
    statuses = {finding["check"]: finding["status"] for finding in report["findings"]}
    assert code == ExitCode.OK
    assert statuses["broker"] == statuses["qdrant"] == statuses["model"] == "ok"
    assert statuses["version"] == "skipped"
    assert not Path("store").exists(), "doctor only reads"

    assert run(["ingest", "--until-caught-up"]) == ExitCode.NO
    assert "plumbline index create" in capsys.readouterr().err

    code, created = answer("index", "create")
    assert (code, created["created"], created["live"]) == (ExitCode.OK, True, True)
    assert answer("index", "create")[1]["created"] is False

    code, result = answer("ingest", "--until-caught-up")
    assert code == result["exit_code"] == ExitCode.OK
    assert (result["consumed"], result["outcomes"]["embedded"]) == (23, 20)
    assert result["dead_letters"] == {"missing_text": 1, "not_json": 1, "text_too_large": 1}
    assert result["balanced"]
    assert result["uncommitted"] == {}

    code, shown = answer("index", "show")
    assert (code, shown["documents"], shown["tombstones"]) == (ExitCode.OK, 20, 0)
    assert [row["points"] for row in answer("index", "list")[1]] == [20]
    assert run(["index", "show", "docs--nope--0"]) == ExitCode.NO
    capsys.readouterr()

    code, hits = answer("search", "document 7", "--limit", "3", "--filter", "even=true")
    assert code == ExitCode.OK
    assert len(hits) == 3
    assert all(hit["metadata"] == {"even": True} for hit in hits)
    assert run(["search", "document 7", "-n", "1"]) == ExitCode.OK
    assert "document" in capsys.readouterr().out

    code, counts = answer("dead-letters", "list", "--count")
    assert counts == {
        "total": 3,
        "reasons": {"missing_text": 1, "not_json": 1, "text_too_large": 1},
    }
    code, letters = answer("dead-letters", "list", "--reason", "text_too_large")
    assert [(letter["key"], letter["reason"]) for letter in letters] == [
        ("large", "text_too_large")
    ]
    assert run(["dead-letters", "list"]) == ExitCode.OK
    assert "aaaa" not in capsys.readouterr().out, "a list never shows a document's text"

    assert answer("dead-letters", "replay")[1]["to_send"] == 0
    settings = yaml.safe_load(Path("plumbline.yaml").read_text(encoding="utf-8"))
    settings["limits"] = {"text_bytes": 5000}
    Path("plumbline.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert answer("dead-letters", "replay")[1]["to_send"] == 1
    code, replayed = answer("dead-letters", "replay", "--execute")
    assert (code, replayed["executed"], replayed["sent"]) == (ExitCode.OK, True, 1)
    assert answer("dead-letters", "replay", "--execute")[1]["sent"] == 0

    code, result = answer("ingest", "--until-caught-up")
    assert (result["consumed"], result["outcomes"]["embedded"]) == (1, 1)
    assert answer("index", "show")[1]["documents"] == 21

    code, report = answer("doctor")
    statuses = {finding["check"]: finding["status"] for finding in report["findings"]}
    assert code == ExitCode.OK
    assert (statuses["version"], statuses["canaries"], statuses["job"]) == ("ok", "ok", "ok")


def test_another_contract_is_refused_by_its_fields(here, capsys):
    """A job whose settings differ from the version's names the field, with both values."""
    assert run(["index", "create"]) == ExitCode.OK
    capsys.readouterr()
    os.environ["PLUMBLINE_CONTRACT__MAX_TOKENS"] = "8"
    try:
        assert run(["ingest", "--until-caught-up"]) == ExitCode.NO
        said = capsys.readouterr().err
        assert "max_tokens: the version has" in said
        assert run(["doctor"]) == ExitCode.NO
        assert "max_tokens: the version has" in capsys.readouterr().out
    finally:
        del os.environ["PLUMBLINE_CONTRACT__MAX_TOKENS"]
