"""What the store's errors become: transient, systemic, or about the record."""

from __future__ import annotations

import inspect
import json
import sqlite3
import ssl
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx
import pytest
from pydantic import SecretStr
from qdrant_client import QdrantClient
from qdrant_client.common import client_exceptions
from qdrant_client.http import exceptions

from pipelines.core.errors import (
    IndexMissingError,
    PlumblineError,
    RequestRefusedError,
    ServiceRefusedError,
    ServiceUnavailableError,
    SettingsError,
    StoreConflictError,
    TransientError,
)
from pipelines.core.qdrant import Qdrant, connect, disconnect, translate
from pipelines.core.settings import QdrantSettings, RetrySettings, Settings

WHERE = "http://store:6333"


def answered(status: int, words: str = "no", **headers: str) -> exceptions.UnexpectedResponse:
    """The client's error for a server's answer."""
    content = json.dumps({"status": {"error": words}, "time": 0.0}).encode()
    return exceptions.UnexpectedResponse(status, "Reason", content, httpx.Headers(headers))


class Remote(grpc.RpcError):  # type: ignore[misc]
    """An answer over gRPC."""

    def __init__(self, code: grpc.StatusCode, details: str = "no") -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestRefusedError),
        (401, ServiceRefusedError),
        (403, ServiceRefusedError),
        (404, IndexMissingError),
        (408, TransientError),
        (409, StoreConflictError),
        (413, RequestRefusedError),
        (422, RequestRefusedError),
        (425, TransientError),
        (429, TransientError),
        (500, TransientError),
        (502, TransientError),
        (503, TransientError),
        (504, TransientError),
    ],
)
def test_statuses(status: int, kind: type[PlumblineError]) -> None:
    """Each status is what may pass, what stops the job, or what is about the request."""
    error = translate(answered(status, "the server's words"), WHERE)
    assert kind is type(error)
    assert str(status) in str(error)
    assert "the server's words" in str(error)
    assert WHERE in str(error)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, TransientError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TransientError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TransientError),
        (grpc.StatusCode.INTERNAL, TransientError),
        (grpc.StatusCode.UNKNOWN, TransientError),
        (grpc.StatusCode.UNAUTHENTICATED, ServiceRefusedError),
        (grpc.StatusCode.PERMISSION_DENIED, ServiceRefusedError),
        (grpc.StatusCode.UNIMPLEMENTED, ServiceRefusedError),
        (grpc.StatusCode.NOT_FOUND, IndexMissingError),
        (grpc.StatusCode.ALREADY_EXISTS, StoreConflictError),
        (grpc.StatusCode.INVALID_ARGUMENT, RequestRefusedError),
        (grpc.StatusCode.FAILED_PRECONDITION, RequestRefusedError),
    ],
)
def test_grpc_codes(code: grpc.StatusCode, kind: type[PlumblineError]) -> None:
    """gRPC says the same as REST."""
    error = translate(Remote(code, "the server's words"), WHERE)
    assert kind is type(error)
    assert "the server's words" in str(error)


@pytest.mark.parametrize(
    ("words", "barred"),
    [
        ("Forbidden: Global manage access is required", True),
        ("Forbidden: Write access to collection docs is required", True),
        ("Forbidden: Access to collection docs is required", True),
        ("ExpiredSignature", False),
        ("InvalidSignature", False),
        ("Invalid API key or JWT", False),
        ("Invalid JWT, stateful validation failed", False),
    ],
)
def test_a_key_that_may_not_is_told_from_one_that_is_no_key(words: str, barred: bool) -> None:
    """As Qdrant 1.18.3 answers: an expired token gets 403, as one that only reads does."""
    plain = exceptions.UnexpectedResponse(403, "Forbidden", words.encode(), httpx.Headers({}))
    for error in (plain, answered(403, words), Remote(grpc.StatusCode.PERMISSION_DENIED, words)):
        message = str(translate(error, WHERE))
        assert words in message
        assert ("need one that writes" in message) is barred
        assert ("has run out" in message) is not barred


def test_a_collection_that_exists_is_a_conflict_however_it_is_said() -> None:
    """Servers answer 400, 409 or INVALID_ARGUMENT: creating twice is told from a bad request."""
    words = "Wrong input: Collection `docs` already exists!"
    for error in (
        answered(400, words),
        answered(409, words),
        Remote(grpc.StatusCode.INVALID_ARGUMENT, words),
        ValueError("Collection docs already exists"),
    ):
        assert StoreConflictError is type(translate(error, WHERE))


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (answered(429, **{"Retry-After": "7"}), 7.0),
        (answered(503, **{"Retry-After": "2"}), 2.0),
        (answered(503, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), None),
        (answered(503), None),
        (client_exceptions.ResourceExhaustedResponse("slow down", 9), 9.0),
        (client_exceptions.QdrantException("Retry-After header value is not an integer"), None),
    ],
)
def test_retry_after_is_read(error: Exception, seconds: float | None) -> None:
    """What the server asks for is kept, and a date or nonsense in its place is no crash."""
    translated = translate(error, WHERE)
    assert isinstance(translated, TransientError)
    assert seconds == translated.retry_after_seconds


@pytest.mark.parametrize(
    "source",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("gone"),
        ConnectionResetError("gone"),
    ],
)
def test_no_answer_is_transient(source: Exception) -> None:
    """A server that is down, slow or hangs up is waited for."""
    error = translate(exceptions.ResponseHandlingException(source), WHERE)
    assert TransientError is type(error)


def test_a_refused_certificate_is_not_waited_for() -> None:
    """TLS that does not verify will not verify later."""
    source = ssl.SSLCertVerificationError("certificate verify failed: self-signed certificate")
    error = translate(exceptions.ResponseHandlingException(source), WHERE)
    assert ServiceRefusedError is type(error)
    assert "qdrant.ca_file" in str(error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("Collection docs not found"), IndexMissingError),
        (ValueError("Point id 1.5 is not valid"), RequestRefusedError),
        (sqlite3.OperationalError("database or disk is full"), TransientError),
        (OSError(28, "No space left on device"), TransientError),
    ],
)
def test_the_embedded_engine(error: Exception, kind: type[PlumblineError]) -> None:
    """The engine in the process raises other classes for the same things."""
    assert kind is type(translate(error, "/data"))


def test_our_errors_pass_and_unknown_ones_are_not_hidden() -> None:
    """What is ours stays as it is; a fault of the program is raised, not retried."""
    ours = SettingsError("no")
    assert ours is translate(ours, WHERE)
    with pytest.raises(ZeroDivisionError):
        translate(ZeroDivisionError(), WHERE)


def test_every_class_of_the_client_is_mapped() -> None:
    """A release of qdrant-client that adds an error class fails here, not in a running job."""
    known = {
        exceptions.ApiException,  # base, never raised itself
        exceptions.UnexpectedResponse,
        exceptions.ResponseHandlingException,
        client_exceptions.QdrantException,
        client_exceptions.ResourceExhaustedResponse,
    }
    found = {
        value
        for module in (exceptions, client_exceptions)
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Exception) and value.__module__ == module.__name__
    }
    assert known == found


class Flaky:
    """Stands in for the client: raises what it is given, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def count(self, name: str) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return f"counted {name}"


def store(client: Any, timeout_seconds: float = 5.0) -> Qdrant:
    return Qdrant(
        client,
        WHERE,
        QdrantSettings(url=WHERE, outage_timeout_seconds=timeout_seconds),
        RetrySettings(first_seconds=0.01, max_seconds=0.02),
    )


def test_transient_errors_are_retried() -> None:
    """A call goes through once the server is back, whatever way it failed before."""
    client = Flaky(
        answered(503),
        exceptions.ResponseHandlingException(httpx.ConnectError("refused")),
        Remote(grpc.StatusCode.UNAVAILABLE),
        client_exceptions.ResourceExhaustedResponse("slow down", 0),
    )
    assert store(client).call("count", "docs") == "counted docs"
    assert client.calls == 5


def test_retry_after_is_honoured() -> None:
    """The pause is the one the server asked for, not the shorter one of the settings."""
    client = Flaky(client_exceptions.ResourceExhaustedResponse("slow down", 1))
    started = time.monotonic()
    store(client).call("count", "docs")
    assert 1.0 <= time.monotonic() - started < 3.0


def test_an_outage_ends_in_an_error_that_says_so() -> None:
    """Retries are bounded in time, and then the job learns that the service is out of reach."""
    client = Flaky(*[answered(503, "down for maintenance") for _ in range(10_000)])
    started = time.monotonic()
    with pytest.raises(ServiceUnavailableError, match="down for maintenance") as caught:
        store(client, timeout_seconds=0.2).call("count", "docs")
    assert time.monotonic() - started < 2.0
    assert client.calls > 2
    assert not isinstance(caught.value, ServiceRefusedError)


def test_a_retry_after_beyond_the_timeout_does_not_hold_the_job_for_ever() -> None:
    """A server that asks for an hour is given the settings' time."""
    client = Flaky(*[client_exceptions.ResourceExhaustedResponse("no", 3600) for _ in range(100)])
    started = time.monotonic()
    with pytest.raises(ServiceUnavailableError):
        store(client, timeout_seconds=0.3).call("count", "docs")
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize("status", [400, 401, 404, 409])
def test_a_refusal_is_not_retried(status: int) -> None:
    """Asking again would change nothing."""
    client = Flaky(answered(status))
    with pytest.raises(PlumblineError):
        store(client).call("count", "docs")
    assert client.calls == 1


SECRET = "s3cr3t-key-of-the-store"


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address at which nobody answers."""
    import socket

    with socket.socket() as taken:
        # Bound and not listening: nobody else gets the port, and every connection is refused.
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_the_api_key_shows_nowhere(closed_port: str) -> None:
    """Neither repr nor message nor traceback of a failing call shows the key."""
    settings = Settings(
        qdrant=QdrantSettings(
            url=closed_port, api_key=SecretStr(SECRET), outage_timeout_seconds=0.1
        ),
        retry=RetrySettings(first_seconds=0.01, max_seconds=0.02),
    )
    qdrant = connect(settings)
    try:
        with pytest.raises(ServiceUnavailableError) as caught:
            qdrant.call("get_collections")
        shown = [repr(qdrant), str(qdrant), repr(qdrant.settings), repr(settings)]
        shown.extend(traceback.format_exception(caught.value))
        assert not [text for text in shown if SECRET in text]
    finally:
        disconnect(settings)


@pytest.mark.parametrize("key", [f"{SECRET}\nsecond line", f"{SECRET}-ключ"])
def test_a_key_that_no_header_can_carry(closed_port: str, key: str) -> None:
    """A malformed key stops at once with the setting's name, and without the key."""
    settings = Settings(
        qdrant=QdrantSettings(url=closed_port, api_key=SecretStr(key), outage_timeout_seconds=30.0)
    )
    started = time.monotonic()
    try:
        with pytest.raises(SettingsError, match=r"qdrant\.api_key") as caught:
            connect(settings).call("get_collections")
    finally:
        disconnect(settings)
    assert time.monotonic() - started < 5.0
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_the_key_in_a_file_reaches_the_client(tmp_path: Path) -> None:
    """`api_key_file` is read, without its last newline, and not shown."""
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    settings = Settings(qdrant=QdrantSettings(url=WHERE, api_key_file=file))
    qdrant = connect(settings)
    try:
        client: Any = qdrant._client
        assert client._client._rest_headers["api-key"] == SECRET
        assert SECRET not in repr(qdrant)
    finally:
        disconnect(settings)


class Doors:
    """Clients by their key, of which a server knows one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, known: str) -> None:
        self.known = known
        self.tried: list[str | None] = []

        def client(_: Any, key: str | None) -> Any:
            class Client:
                def count(this, name: str) -> int:  # noqa: N805 - the outer one is `self`
                    self.tried.append(key)
                    if key != self.known:
                        raise answered(401, "Invalid API key or JWT")
                    return 7

                def close(this) -> None:  # noqa: N805
                    """Nothing is open."""

            return Client()

        monkeypatch.setattr("pipelines.core.qdrant._client_of", client)


def test_a_refused_key_is_read_from_its_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it holds another one the call succeeds; the same key again is not tried twice."""
    doors = Doors(monkeypatch, "old")
    file = tmp_path / "key"
    file.write_text("old\n")
    settings = Settings(qdrant=QdrantSettings(url=WHERE, api_key_file=file))
    qdrant = connect(settings)
    try:
        assert qdrant.call("count", "docs") == 7
        doors.known = "new"
        with pytest.raises(ServiceRefusedError, match="Invalid API key"):
            qdrant.call("count", "docs")
        file.write_text("wrong\n")
        with pytest.raises(ServiceRefusedError):
            qdrant.call("count", "docs")
        file.unlink()
        with pytest.raises(ServiceRefusedError):
            qdrant.call("count", "docs")
        file.write_text("new\n")
        assert qdrant.call("count", "docs") == 7
        assert doors.tried == ["old", "old", "old", "wrong", "wrong", "wrong", "new"]
    finally:
        disconnect(settings)


def test_a_key_of_the_environment_cannot_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nowhere to read another one from."""
    doors = Doors(monkeypatch, "new")
    settings = Settings(qdrant=QdrantSettings(url=WHERE, api_key=SecretStr("old")))
    try:
        with pytest.raises(ServiceRefusedError):
            connect(settings).call("count", "docs")
        assert doors.tried == ["old"]
    finally:
        disconnect(settings)


def test_another_key_is_another_client() -> None:
    """A process that was given a better key does not go on with the first."""
    settings = [Settings(qdrant=QdrantSettings(url=WHERE, api_key=SecretStr(k))) for k in "ab"]
    try:
        assert connect(settings[0]) is not connect(settings[1])
    finally:
        disconnect()


def test_an_embedded_store_belongs_to_one(tmp_path: Path) -> None:
    """A second opening of the folder says what holds it and what to do."""
    holder = QdrantClient(path=str(tmp_path))
    settings = Settings(qdrant=QdrantSettings(path=tmp_path))
    try:
        with pytest.raises(ServiceUnavailableError, match=r"in use by another process"):
            connect(settings)
    finally:
        holder.close()


def test_one_client_a_process(tmp_path: Path) -> None:
    """Whoever connects with the same settings shares the one client."""
    settings = Settings(qdrant=QdrantSettings(path=tmp_path))
    first = connect(settings)
    try:
        assert first is connect(settings.model_copy())
    finally:
        disconnect(settings)
    second = connect(settings)
    assert second is not first
    disconnect(settings)
