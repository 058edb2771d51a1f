"""A job's `/metrics`, read over the network: with a login and TLS where the settings have them."""

from __future__ import annotations

import base64
import ssl
import urllib.error
import urllib.request

import structlog

from pipelines.core.errors import SettingsError
from pipelines.core.settings import MetricsSettings, secret

__all__ = ["MetricsPage"]

_TIMEOUT_SECONDS = 2.0

_log = structlog.get_logger()


class MetricsPage:
    """A job's `/metrics` over the network, with the login and the authority of the settings.

    Parameters
    ----------
    settings
        `metrics.username` and its password are sent where they are set; a certificate is checked
        against `metrics.tls_ca_file` or the system's authorities.
    url
        Where; `None` for the endpoint that these settings themselves describe. There the
        certificate must be the very one of `metrics.tls_cert_file`, whatever names it holds.

    Raises
    ------
    SettingsError
        A file that the settings name cannot be used.
    """

    def __init__(self, settings: MetricsSettings, url: str | None = None) -> None:
        own = url is None
        scheme = "https" if settings.tls_cert_file is not None else "http"
        self.url = url or f"{scheme}://{settings.host}:{settings.port}/metrics"
        self._request = urllib.request.Request(self.url)  # noqa: S310 - the scheme is the settings'
        if settings.username is not None:
            password = secret(settings.password, settings.password_file, "metrics.password")
            login = base64.b64encode(f"{settings.username}:{password}".encode()).decode()
            # Not on to where the answer may redirect to.
            self._request.add_unredirected_header("Authorization", f"Basic {login}")
        self._context = _trust(settings, own=own) if self.url.startswith("https:") else None
        self._said = ""

    def read(self) -> str | None:
        """The page; `None` when there is none, and then a warning says why, once a reason."""
        try:
            with urllib.request.urlopen(  # noqa: S310 - the scheme is the settings'
                self._request, timeout=_TIMEOUT_SECONDS, context=self._context
            ) as answer:
                text: str = answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            fix = "; check metrics.username and its password" if error.code == 401 else ""
            self._warn(f"it answered {error.code}{fix}")
            return None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                self._warn(
                    f"its certificate was not accepted: {reason.verify_message}; check "
                    "metrics.tls_ca_file and the host in rollout.live_metrics_url"
                )
            elif isinstance(reason, ssl.SSLError):
                self._warn(f"no TLS connection came about: {reason.reason or 'no reason given'}")
            # A job that is not there is no news: the lag in Kafka says how live fares.
            return None
        return text

    def _warn(self, why: str) -> None:
        if why != self._said:
            self._said = why
            _log.warning("live_metrics_unreadable", url=self.url, why=why)


def _trust(settings: MetricsSettings, *, own: bool) -> ssl.SSLContext:
    file = settings.tls_cert_file if own else settings.tls_ca_file
    key = "tls_cert_file" if own else "tls_ca_file"
    try:
        context = ssl.create_default_context(cafile=None if file is None else str(file))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"metrics.{key} {file} cannot be used: "
            f"{getattr(error, 'strerror', None) or type(error).__name__}"
        ) from None
    if own:
        # It is made for the name that Prometheus uses, not for a loopback; here it is known.
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
