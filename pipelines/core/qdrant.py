"""The store: one Qdrant client a process, its errors translated, its outages waited out."""

from __future__ import annotations

import atexit
import os
import re
import sqlite3
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog

from pipelines.core.embedded_groups import query_points_groups
from pipelines.core.embedded_lookup import DocumentLookup
from pipelines.core.embedded_storage import RequestTransaction
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
from pipelines.core.retry import retrying
from pipelines.core.settings import QdrantSettings, RetrySettings, Settings, secret

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["Qdrant", "connect", "disconnect", "translate"]

MINIMUM_RELEASE = (1, 18)
"""Oldest server that this is tested with."""

_TRANSIENT_STATUS = frozenset({408, 425, 429})

_LONGEST_WORDS = 200

_log = structlog.get_logger()


def translate(error: Exception, where: str) -> PlumblineError:
    """Our error for one of qdrant-client's, of either engine and either protocol.

    Parameters
    ----------
    error
        What the client raised.
    where
        The server's address or the embedded store's folder, for the message.

    Returns
    -------
    PlumblineError
        `TransientError` for what may pass, otherwise the error to stop with. The message holds at
        most the server's own words, never a request's content.
    """
    from qdrant_client.common.client_exceptions import (
        QdrantException,
        ResourceExhaustedResponse,
    )
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, PlumblineError):
        return error
    if isinstance(error, UnexpectedResponse):
        return _from_status(
            error.status_code or 0,
            _server_words(error),
            where,
            error.headers.get("retry-after") if error.headers else None,
        )
    if isinstance(error, ResourceExhaustedResponse):
        return TransientError(
            f"Qdrant at {where} asks to slow down", retry_after_seconds=float(error.retry_after_s)
        )
    if isinstance(error, QdrantException):
        # The client could not read the Retry-After of a 429, which may also be a date.
        return TransientError(f"Qdrant at {where} asks to slow down")
    if isinstance(error, ResponseHandlingException):
        source = error.source
        if "certificate" in str(source).lower():
            return ServiceRefusedError(
                f"Qdrant at {where}: the TLS connection failed: {source}. Check `qdrant.url` and "
                "`qdrant.ca_file`."
            )
        return TransientError(f"Qdrant at {where} did not answer: {type(source).__name__}")
    code = getattr(error, "code", None)
    if callable(code):  # grpc.RpcError, without importing grpc for those who do not use it
        return _from_grpc(str(getattr(code(), "name", "UNKNOWN")), error, where)
    if isinstance(error, sqlite3.Error):
        return TransientError(f"the embedded store at {where} cannot be written: {error}")
    if isinstance(error, OSError):
        return TransientError(f"Qdrant at {where}: {error.strerror or type(error).__name__}")
    if isinstance(error, ValueError) and "not found" in str(error):
        return IndexMissingError(f"Qdrant at {where}: {error}")
    if isinstance(error, ValueError) and "already exists" in str(error):
        return StoreConflictError(f"Qdrant at {where}: {error}")
    if isinstance(error, ValueError | KeyError | TypeError):
        return RequestRefusedError(f"Qdrant at {where} refused the request: {type(error).__name__}")
    raise error


def _server_words(error: Any) -> str:
    try:
        status = error.structured()["status"]
        words = status["error"] if isinstance(status, dict) else str(status)
    except (ValueError, KeyError, TypeError):
        words = _plain_words(error) or error.reason_phrase or "no reason given"
    # Where the server quotes the request it may quote a document; field names are short.
    return re.sub(r"([\"'`]).{40,}?\1", r"\1…\1", str(words), flags=re.DOTALL)[:300]


def _plain_words(error: Any) -> str:
    """What a server said in plain text, as Qdrant does of keys; not a proxy's page."""
    content = getattr(error, "content", b"") or b""
    text = content.decode("utf-8", "replace").strip() if isinstance(content, bytes) else ""
    return text if text.isprintable() and "<" not in text and len(text) < _LONGEST_WORDS else ""


def _from_status(status: int, words: str, where: str, retry_after: str | None) -> PlumblineError:
    said = f"Qdrant at {where} answered {status}: {words}"
    if status in _TRANSIENT_STATUS or status >= 500:
        seconds = None
        if retry_after is not None and retry_after.strip().isdecimal():
            seconds = float(retry_after)
        return TransientError(said, retry_after_seconds=seconds)
    if status in (401, 403):
        return _refused(said)
    if status == 404:
        return IndexMissingError(said)
    if status == 409 or "already exists" in words:
        return StoreConflictError(said)
    return RequestRefusedError(said)


def _refused(said: str) -> ServiceRefusedError:
    # By its words: 403 and PERMISSION_DENIED are also what a token gets that has run out, or whose
    # signing key was replaced ("ExpiredSignature", "InvalidSignature").
    if "is required" in said:
        return ServiceRefusedError(
            f"{said}. The key is known and may not do this: a key that only reads is enough to "
            "search; jobs, the monitor and rollouts need one that writes and makes collections "
            "(`qdrant.api_key` or `qdrant.api_key_file`)."
        )
    return ServiceRefusedError(
        f"{said}. Set `qdrant.api_key` (PLUMBLINE_QDRANT__API_KEY) or `qdrant.api_key_file` to a "
        "key that the server knows: one that was revoked, replaced or has run out is refused."
    )


def _from_grpc(code: str, error: Any, where: str) -> PlumblineError:
    details = error.details() if callable(getattr(error, "details", None)) else ""
    said = f"Qdrant at {where} answered {code}: {str(details)[:300]}"
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return _refused(said)
    if code == "UNIMPLEMENTED":
        return ServiceRefusedError(f"{said}. Is it a Qdrant server, and of 1.18 or newer?")
    if code == "NOT_FOUND":
        return IndexMissingError(said)
    if code == "ALREADY_EXISTS" or "already exists" in str(details):
        return StoreConflictError(said)
    if code in ("INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION"):
        return RequestRefusedError(said)
    return TransientError(said)


class Qdrant:
    """A Qdrant client whose calls are translated, retried and, embedded, serialised.

    The embedded engine is not thread-safe (concurrent writers and searchers broke it), so its
    calls share one lock. Every call must be safe to repeat: all of ours are conditional or
    idempotent.

    A key that is refused is read again from `qdrant.api_key_file`: where the file holds another
    one by now, the call is repeated with it, so that a key is replaced without a restart.
    """

    def __init__(
        self,
        client: QdrantClient,
        where: str,
        settings: QdrantSettings,
        retry: RetrySettings,
        key: str | None = None,
    ) -> None:
        self._client = client
        self.where = where
        self.settings = settings
        self._retry = retry
        self._key = key
        self._key_lock = threading.Lock()
        self.local = settings.url is None
        self._lock: AbstractContextManager[Any] = threading.RLock() if self.local else nullcontext()
        self._storages: dict[str, RequestTransaction] = {}
        self._lookup = DocumentLookup(client)

    def __repr__(self) -> str:
        return f"Qdrant({self.where!r})"

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """`QdrantClient.<method>(…)`, repeated while Qdrant does not answer.

        Raises
        ------
        ServiceUnavailableError
            It stayed out of reach for `qdrant.outage_timeout_seconds`.
        ServiceRefusedError, IndexMissingError, StoreConflictError, RequestRefusedError
            It answered, and said no.
        """

        def once() -> Any:
            return self.try_call(method, *args, **kwargs)

        return retrying(
            once,
            timeout_seconds=self.settings.outage_timeout_seconds,
            settings=self._retry,
            what="Qdrant",
        )

    def try_call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """The same without retries: raises `TransientError` when Qdrant does not answer."""
        if not self.local:
            return self._ask(method, args, kwargs)
        try:
            with self._lock, warnings.catch_warnings():
                # It warns of its size and of indexes it does not have; the same code serves both.
                warnings.simplefilter("ignore", UserWarning)
                self._flush()
                try:
                    result = self._embedded(method, args, kwargs)
                finally:
                    self._flush()
                if method == "create_collection":
                    self._tune(args[0] if args else kwargs["collection_name"])
                return result
        except Exception as error:  # translate re-raises what it does not know
            raise translate(error, self.where) from error

    def _ask(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One request to a server, and a second one where the first was refused for an old key."""
        key, client = self._key, self._client
        try:
            try:
                return getattr(client, method)(*args, **kwargs)
            except Exception as error:  # translate re-raises what it does not know
                raise translate(error, self.where) from error
        except ServiceRefusedError:
            if not self._renew_key(key):
                raise
        return self._ask(method, args, kwargs)

    def _renew_key(self, refused: str | None) -> bool:
        """Whether there is another key than the refused one by now; the client then has it."""
        file = self.settings.api_key_file
        if file is None or self.settings.api_key is not None:
            return False
        with self._key_lock:
            if self._key != refused:
                return True  # Another thread was quicker.
            try:
                key = secret(None, file, "qdrant.api_key")
                if key == refused:
                    return False
                # The old client is left to whoever is in a call of it.
                self._client = _client_of(self.settings, key)
            except SettingsError:
                return False  # What was refused says more than a file that is being replaced.
            self._key = key
        _log.info("qdrant_key_renewed", file=str(file))
        return True

    def _embedded(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # The engine walks through the whole collection for a condition and for groups.
        self._lookup.note(method, args, kwargs)
        answer = self._lookup.answer(method, args, kwargs)
        if answer is not NotImplemented:
            return answer
        if method == "query_points_groups":
            return query_points_groups(self._client, *args, **kwargs)
        return getattr(self._client, method)(*args, **kwargs)

    def tune_all(self) -> None:
        """See `_tune`; for the collections that were there when the store was opened."""
        for collection in self.try_call("get_collections").collections:
            self._tune(collection.name)

    def _tune(self, name: str) -> None:
        # The embedded engine commits every point to SQLite on its own, each with its own fsync:
        # 1,000 points/s. A write-ahead log survives the end of the process at any moment; `sync`
        # makes it survive a power cut, once a bundle.
        # The engine has no setting for it; where a later one is built otherwise, nothing is tuned.
        engine = getattr(self._client, "_client", None)
        collection = getattr(engine, "collections", {}).get(name)
        persistence = getattr(collection, "storage", None)
        connection = getattr(persistence, "storage", None)
        if persistence is None or not isinstance(connection, sqlite3.Connection):
            return
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("PRAGMA synchronous=NORMAL")
        persistence.storage = self._storages[name] = RequestTransaction(connection)

    def _flush(self) -> None:
        for storage in self._storages.values():
            storage.flush()

    def check_release(self) -> str:
        """Release of the server, if it knows conditional writes; empty for the embedded engine.

        An older one ignores the condition of a write without a word, and the newest would no
        longer win.

        Raises
        ------
        StoreConflictError
            It is older than 1.18.
        """
        if self.local:
            return ""
        release = str(self.call("info").version)
        numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
        if numbers < MINIMUM_RELEASE:
            raise StoreConflictError(
                f"Qdrant at {self.where} is {release}; conditional writes and collection metadata "
                f"need {'.'.join(map(str, MINIMUM_RELEASE))} or newer. Upgrade the server."
            )
        return release

    def sync(self, name: str) -> None:
        """Makes the collection's writes durable. A server has done so when it answered."""
        if not self.local:
            return
        with self._lock:
            storage = self._storages.get(name)
            if storage is not None:
                try:
                    storage.checkpoint()
                except sqlite3.Error as error:
                    raise translate(error, self.where) from error

    def close(self) -> None:
        """Closes the client; the embedded store is then free for another process."""
        with self._lock:
            self._client.close()


_clients: dict[tuple[object, ...], Qdrant] = {}
_clients_lock = threading.Lock()


def connect(settings: Settings) -> Qdrant:
    """The process's client for the store of these settings, opened at the first call.

    Raises
    ------
    ServiceUnavailableError
        The embedded store is in use by another process, or cannot be opened. A server that does
        not answer shows at the first call instead.
    """
    # An embedded store opens once a process, whatever else the settings say; of a server the
    # settings themselves count, not their JSON: that masks the API key.
    store = settings.qdrant
    key: tuple[object, ...] = (
        (store.path.resolve(), os.getpid())
        if store.path is not None and store.url is None
        else (store, settings.retry, os.getpid())
    )
    with _clients_lock:
        found = _clients.get(key)
        if found is None:
            found = _clients[key] = _open(settings)
        return found


def disconnect(settings: Settings | None = None) -> None:
    """Closes the clients of this process; all of them without settings."""
    with _clients_lock:
        for key, client in list(_clients.items()):
            if settings is None or client.settings == settings.qdrant:
                client.close()
                del _clients[key]


atexit.register(disconnect)


def _open(settings: Settings) -> Qdrant:
    from qdrant_client import QdrantClient

    store = settings.qdrant
    if store.url is None:
        path = store.path
        assert path is not None, "settings give a default"
        try:
            path.mkdir(parents=True, exist_ok=True)
            client = QdrantClient(path=str(path), force_disable_check_same_thread=True)
        except RuntimeError:
            raise ServiceUnavailableError(
                f"the embedded store at {path} is in use by another process: it belongs to one at "
                "a time. Stop that one, or use a Qdrant server (`qdrant.url`)."
            ) from None
        except (OSError, ValueError, sqlite3.Error) as error:
            raise ServiceUnavailableError(
                f"the embedded store at {path} cannot be opened: {error}"
            ) from None
        opened = Qdrant(client, str(path), store, settings.retry)
        opened.tune_all()
        return opened
    key = secret(store.api_key, store.api_key_file, "qdrant.api_key")
    return Qdrant(_client_of(store, key), store.url, store, settings.retry, key)


def _client_of(store: QdrantSettings, key: str | None) -> QdrantClient:
    """A client of the server; raises `SettingsError` for a key that cannot be one."""
    from qdrant_client import QdrantClient

    if key is not None and not (key.isascii() and key.isprintable()):
        # The client would fail with a message, or a traceback, that shows it.
        raise SettingsError(
            "qdrant.api_key (or the file of `qdrant.api_key_file`) holds something that no HTTP "
            "header can carry: one line of printable ASCII is valid"
        )
    extra: dict[str, Any] = {}
    if store.ca_file is not None:
        extra["verify"] = str(store.ca_file)
    with warnings.catch_warnings():
        # The client warns of a key over plain HTTP, which is right for a loopback or a mesh.
        warnings.simplefilter("ignore", UserWarning)
        return QdrantClient(
            url=store.url,
            grpc_port=store.grpc_port,
            prefer_grpc=store.grpc,
            api_key=key,
            timeout=max(1, round(store.timeout_seconds)),
            # `doctor` says it with the fix; here it would be a request in a constructor.
            check_compatibility=False,
            **extra,
        )
