"""Qdrant with an API key: the right one works, another one says so, and none is shown.

The stand-in asks for a key. With PLUMBLINE_TEST_QDRANT_URL and PLUMBLINE_TEST_QDRANT_API_KEY set
the same runs on a real server, with PLUMBLINE_TEST_QDRANT_READ_ONLY_API_KEY for what a key that
only reads may do; with PLUMBLINE_TEST_QDRANT_GRPC_PORT all of it over gRPC too.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.cli.app import run
from pipelines.core.errors import ExitCode, ServiceRefusedError
from pipelines.core.qdrant import connect, disconnect
from pipelines.core.settings import load_settings
from tests.support.jobs import write_config
from tests.support.qdrant_server import REAL_SERVER, QdrantServer
from tests.support.tiny_model import make_tiny_model

KEY, READER, WRONG = "key-of-the-kingdom", "key-of-the-library", "key-of-no-kingdom"


@dataclass(frozen=True)
class Keyed:
    """A server that asks for a key."""

    url: str
    key: str
    read_only: str | None = None
    grpc_port: int | None = None


@pytest.fixture(scope="module")
def keyed() -> Iterator[Keyed]:
    real, key = os.environ.get(REAL_SERVER), os.environ.get("PLUMBLINE_TEST_QDRANT_API_KEY")
    if real and key:
        port = os.environ.get("PLUMBLINE_TEST_QDRANT_GRPC_PORT")
        read_only = os.environ.get("PLUMBLINE_TEST_QDRANT_READ_ONLY_API_KEY")
        yield Keyed(real, key, read_only, int(port) if port else None)
        return
    with QdrantServer(api_key=KEY, read_only_api_key=READER) as server:
        yield Keyed(server.url, KEY, READER)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


# The stand-in speaks REST alone.
PROTOCOLS = ["rest", *(["grpc"] if os.environ.get("PLUMBLINE_TEST_QDRANT_GRPC_PORT") else [])]


@pytest.fixture(params=PROTOCOLS)
def config(keyed: Keyed, model: Path, tmp_path: Path, request, monkeypatch) -> Iterator[Path]:
    """A settings file without a key."""
    qdrant = {"url": keyed.url, "outage_timeout_seconds": 2}
    if request.param == "grpc":
        qdrant |= {"grpc": True, "grpc_port": keyed.grpc_port}
    monkeypatch.chdir(tmp_path)
    index = f"keys-{uuid.uuid4().hex[:8]}"
    values = {"index": index, "qdrant": qdrant, "contract": {"model": str(model)}}
    yield write_config(tmp_path / "plumbline.yaml", values)
    disconnect()


def answer(config: Path, capsys, *words: str) -> tuple[int, str]:
    """Exit code and all output of a command, in which no key stands."""
    code = run([*words, "--config", str(config)])
    shown = "".join(capsys.readouterr())
    disconnect()
    known = (KEY, READER, WRONG, os.environ.get("PLUMBLINE_TEST_QDRANT_API_KEY"))
    read_only = os.environ.get("PLUMBLINE_TEST_QDRANT_READ_ONLY_API_KEY")
    assert not [key for key in (*known, read_only) if key and key in shown]
    return code, shown


def test_the_right_key_from_a_file_and_from_the_environment(
    keyed: Keyed, config: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """An index is made with one and found with the other."""
    (tmp_path / "key").write_text(f"{keyed.key}\n")
    with monkeypatch.context() as patched:
        patched.setenv("PLUMBLINE_QDRANT__API_KEY_FILE", str(tmp_path / "key"))
        code, shown = answer(config, capsys, "index", "create")
        assert code == ExitCode.OK, shown
    monkeypatch.setenv("PLUMBLINE_QDRANT__API_KEY", keyed.key)
    code, shown = answer(config, capsys, "index", "show")
    assert code == ExitCode.OK, shown
    assert "keys-" in shown


@pytest.mark.parametrize("command", [["index", "create"], ["index", "list"], ["search", "words"]])
@pytest.mark.parametrize("key", ["", WRONG], ids=["missing", "wrong"])
def test_a_key_that_does_not_do_says_so_at_once(
    config: Path, command: list[str], key: str, monkeypatch, capsys
) -> None:
    """Exit code 3 with what the server said and where the key is set."""
    monkeypatch.setenv("PLUMBLINE_QDRANT__API_KEY", key)
    code, shown = answer(config, capsys, *command)
    assert code == ExitCode.UNAVAILABLE, shown
    (message,) = [line for line in shown.splitlines() if line.startswith("out of reach: ")]
    assert ("Must provide an API key" if not key else "Invalid API key") in message
    assert "`qdrant.api_key_file`" in message
    assert "PLUMBLINE_QDRANT__API_KEY" in message


def test_a_key_that_is_replaced_in_its_file(
    keyed: Keyed, config: Path, tmp_path: Path, monkeypatch
) -> None:
    """A client that is open takes the next key from there when the old one is refused."""
    (tmp_path / "key").write_text(f"{WRONG}\n")
    monkeypatch.setenv("PLUMBLINE_QDRANT__API_KEY_FILE", str(tmp_path / "key"))
    qdrant = connect(load_settings(config))
    with pytest.raises(ServiceRefusedError):
        qdrant.call("get_collections")
    (tmp_path / "key").write_text(f"{keyed.key}\n")
    assert qdrant.call("get_collections").collections is not None


# A real server may have no such key.
if REAL_SERVER not in os.environ or "PLUMBLINE_TEST_QDRANT_READ_ONLY_API_KEY" in os.environ:

    def test_a_key_that_only_reads(keyed: Keyed, config: Path, monkeypatch, capsys) -> None:
        """It is enough to look and to search; what writes is refused with what it would take."""
        assert keyed.read_only is not None
        monkeypatch.setenv("PLUMBLINE_QDRANT__API_KEY", keyed.key)
        assert answer(config, capsys, "index", "create")[0] == ExitCode.OK
        monkeypatch.setenv("PLUMBLINE_QDRANT__API_KEY", keyed.read_only)
        for command in (["index", "show"], ["search", "words"]):
            code, shown = answer(config, capsys, *command)
            assert code == ExitCode.OK, shown
        code, shown = answer(config, capsys, "monitor", "once", "--probe", "integrity")
        assert code == ExitCode.UNAVAILABLE, shown
        assert "need one that writes" in shown
