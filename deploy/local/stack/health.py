"""Whether a service answers, by the address that its record names."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from urllib.parse import urlsplit

__all__ = ["answers"]

_TIMEOUT_SECONDS = 3.0


def answers(address: str) -> bool:
    """Whether the service at this address does its work.

    Parameters
    ----------
    address
        `http://…` or `https://…` for a page that must be there; `kafka://host:port` for a broker
        that must take requests.
    """
    return _broker(urlsplit(address).netloc) if address.startswith("kafka:") else _page(address)


def _page(url: str) -> bool:
    # The question is whether it answers, not who it is: a certificate may be of anybody.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS, context=context) as answer:
            return int(answer.status) == 200
    except urllib.error.HTTPError as error:
        # Behind a login: whoever asks for one is up.
        return error.code == 401
    except OSError:
        return False


def _broker(bootstrap: str) -> bool:
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    # The port opens before the broker is unfenced; a request for the cluster tells.
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=1000)
    except (KafkaError, OSError):
        return False
    try:
        return bool(admin.describe_cluster()["brokers"])
    except KafkaError:
        return False
    finally:
        admin.close()
