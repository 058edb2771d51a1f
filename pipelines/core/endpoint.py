"""What serves `/metrics`: plain HTTP, or TLS and a login where the settings ask for them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client.exposition import ThreadingWSGIServer

from pipelines.core.errors import SettingsError
from pipelines.core.settings import MetricsSettings, secret

__all__ = ["Endpoint", "Protection"]

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

_SILENT_SECONDS = 10.0
"""How long a client that has connected may say nothing, in its handshake or in its request."""

_log = structlog.get_logger()


class _Certificate:
    """A certificate and its key, read anew when a file of them has changed.

    What renews certificates (cert-manager, an ACME client) replaces the files of a process that
    runs.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._lock = threading.Lock()
        self._seen = self._stamps()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """For the next handshake; the one before when the new files cannot be used (yet)."""
        with self._lock:
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps
                try:
                    self._context = self._load()
                except SettingsError as error:
                    _log.warning("metrics_certificate", message=str(error))
            return self._context

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in self._files:
            try:
                stat = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return tuple(found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate, key = self._files
        try:
            # A callback keeps OpenSSL from asking on the terminal for an encrypted key's password.
            context.load_cert_chain(str(certificate), str(key), password=lambda: "")
        except (OSError, ssl.SSLError, ValueError) as error:
            reason = getattr(error, "strerror", None) or getattr(error, "reason", None)
            raise SettingsError(
                f"metrics.tls_cert_file {certificate} and tls_key_file {key} cannot be used: "
                f"{reason or type(error).__name__}. Valid are a certificate and its own key in "
                "PEM, the key without a password, readable by this user."
            ) from None
        return context


class Protection:
    """How an endpoint is protected, from `metrics.tls_…`, `metrics.username` and its password.

    Parameters
    ----------
    settings
        The section.

    Raises
    ------
    SettingsError
        A certificate, its key or the file with the password cannot be used.
    """

    def __init__(self, settings: MetricsSettings) -> None:
        self._certificate: _Certificate | None = None
        if settings.tls_cert_file is not None and settings.tls_key_file is not None:
            self._certificate = _Certificate(settings.tls_cert_file, settings.tls_key_file)
        self._login: bytes | None = None
        if settings.username is not None:
            password = secret(settings.password, settings.password_file, "metrics.password")
            if not password:
                raise SettingsError(
                    "metrics.password_file is empty: it holds the password of "
                    "`metrics.username`, on one line"
                )
            self._login = _digest(f"{settings.username}:{password}".encode())

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "http" if self._certificate is None else "https"

    @property
    def has_login(self) -> bool:
        """Whether a user name and password are asked for."""
        return self._login is not None

    def wrap(self, connection: socket.socket) -> socket.socket:
        """The connection after its handshake; raises `OSError` when that fails."""
        if self._certificate is None:
            return connection
        connection.settimeout(_SILENT_SECONDS)
        return self._certificate.context().wrap_socket(connection, server_side=True)

    def admits(self, authorization: str) -> bool:
        """Whether a request with this `Authorization` header may see the metrics."""
        if self._login is None:
            return True
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        # Digests are of one length: the time says nothing of the password.
        return hmac.compare_digest(_digest(given), self._login)


def _digest(login: bytes) -> bytes:
    return hashlib.sha256(login).digest()


class _Server(ThreadingWSGIServer):
    """One thread a connection, the handshake included: a silent client holds up nobody."""

    protection: Protection

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            connection: Any = self.protection.wrap(request)
        except OSError:
            return  # does not speak TLS, or does not trust the certificate: its own log says so
        try:
            super().finish_request(connection, client_address)
        finally:
            if connection is not request:
                self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a client that has gone is its own business."""


class _Handler(WSGIRequestHandler):
    timeout = _SILENT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Says nothing: every scrape would be a line."""


class Endpoint:
    """An application behind its protection, on a thread of its own until `close`.

    Parameters
    ----------
    application
        WSGI.
    host, port
        0 picks a free port; see `port`.
    key
        Of the settings that gave the port, for the message: `metrics.port`.
    protection
        Default: plain HTTP, no login.
    open_paths
        Paths that need no login: what a kubelet asks carries none.

    Raises
    ------
    SettingsError
        The port cannot be had.
    """

    def __init__(
        self,
        application: Application,
        host: str,
        port: int,
        *,
        key: str,
        protection: Protection | None = None,
        open_paths: frozenset[str] = frozenset(),
    ) -> None:
        protection = protection or Protection(MetricsSettings())

        def guarded(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if environ.get("PATH_INFO") in open_paths or protection.admits(
                environ.get("HTTP_AUTHORIZATION", "")
            ):
                return application(environ, start_response)
            body = b"a user name and a password are needed (metrics.username)\n"
            start_response(
                "401 Unauthorized",
                [
                    ("Content-Type", "text/plain; charset=utf-8"),
                    ("Content-Length", str(len(body))),
                    ("WWW-Authenticate", 'Basic realm="plumbline", charset="UTF-8"'),
                ],
            )
            return [body]

        try:
            # Of its own, since a class is what `make_server` takes.
            kind = {"address_family": _family(host, port), "protection": protection}
            server = type("Server", (_Server,), kind)
            self._server: Any = make_server(host, port, guarded, server, _Handler)
        except OSError as error:
            raise SettingsError(
                f"{key} {port} on {host} cannot be had: {error.strerror}. Choose another, or 0 "
                "for any free one."
            ) from None
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name=f"plumbline {key}", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Answers no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _family(host: str, port: int) -> socket.AddressFamily:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return found[0][0]
