"""Endpoints of metrics: open on the loopback by default, TLS and a login where they are set."""

from __future__ import annotations

import base64
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry

from monitors.http import Health, HttpServer
from pipelines.cli.checks import Patient, Status, check_job
from pipelines.core.endpoint import Protection
from pipelines.core.errors import SettingsError
from pipelines.core.metrics_server import serve_metrics
from pipelines.core.settings import MetricsSettings, Settings
from pipelines.io.metrics_page import MetricsPage
from tests.support.certificates import Authority
from tests.support.processes import wait_until

PASSWORD = "walrus-in-the-attic"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def protected(authority: Authority, *hosts: str, **more) -> MetricsSettings:
    issued = authority.issue("metrics", *hosts)
    values = {
        "port": 0,
        "tls_cert_file": issued.certificate,
        "tls_key_file": issued.key,
        "tls_ca_file": authority.certificate,
        "username": "prometheus",
        "password": PASSWORD,
    }
    return MetricsSettings(**{**values, **more})


def get(url: str, authority: Authority | None = None, login: str | None = None) -> tuple[int, str]:
    """Status and body, as a client that trusts the authority sees them."""
    request = urllib.request.Request(url)
    if login is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    trust = None
    if url.startswith("https"):
        trust = ssl.create_default_context(cafile=authority and str(authority.certificate))
    try:
        with urllib.request.urlopen(request, timeout=5, context=trust) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_default_is_plain_and_open() -> None:
    """Nothing has to be set up to scrape a job on this machine."""
    with serve_metrics(MetricsSettings(port=0)) as port:
        status, page = get(f"http://127.0.0.1:{port}/metrics")
        assert status == 200
        assert "# TYPE plumbline_consumed_events_total counter" in page
        assert get(f"http://127.0.0.1:{port}/healthz") == (200, '{"ok": true}\n')
        assert get(f"http://127.0.0.1:{port}/readyz")[0] == 200


def test_only_the_login_opens_it(authority: Authority) -> None:
    """Without the name and the password there is no figure, and the answer holds neither."""
    with serve_metrics(protected(authority)) as port:
        url = f"https://localhost:{port}/metrics"
        assert get(url, authority, f"prometheus:{PASSWORD}")[0] == 200
        for login in (None, "prometheus:", f"root:{PASSWORD}", f"prometheus:{PASSWORD}x", "x"):
            status, page = get(url, authority, login)
            assert status == 401
            assert "plumbline_" not in page
            assert PASSWORD not in page
        assert get(f"https://localhost:{port}/healthz", authority)[0] == 200


@pytest.mark.parametrize(
    "header", ["Basic", "Basic %%%", "Basic é", "Bearer x", f"basic {PASSWORD}"]
)
def test_a_header_that_is_no_login_is_refused(header: str, authority: Authority) -> None:
    """Whatever stands in the header, the answer is no and the endpoint goes on."""
    admits = Protection(protected(authority)).admits
    assert not admits(header)
    login = base64.b64encode(f"prometheus:{PASSWORD}".encode()).decode()
    assert admits(f"Basic {login}")


def test_plain_http_gets_nothing_from_a_tls_endpoint(authority: Authority) -> None:
    """A scrape that forgot the `s` fails instead of reading in the open."""
    with (
        serve_metrics(protected(authority)) as port,
        pytest.raises((OSError, urllib.error.URLError)),
    ):
        get(f"http://127.0.0.1:{port}/metrics")


def test_a_silent_client_holds_up_nobody(authority: Authority) -> None:
    """The handshake is the connection's own thread's business."""
    with (
        serve_metrics(protected(authority)) as port,
        socket.create_connection(("127.0.0.1", port)),
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert get(f"https://localhost:{port}/healthz", authority)[0] == 200


def test_a_renewed_certificate_is_served_without_a_restart(
    authority: Authority, tmp_path: Path
) -> None:
    """What renews certificates replaces files; half of a replacement changes nothing yet."""
    settings = protected(authority)
    assert settings.tls_cert_file is not None
    assert settings.tls_key_file is not None
    (tmp_path / "new").mkdir()
    successor = Authority(tmp_path / "new")
    new = successor.issue("metrics")
    with serve_metrics(settings) as port:
        url = f"https://localhost:{port}/healthz"
        assert get(url, authority)[0] == 200
        with structlog.testing.capture_logs() as logged:
            replace(new.certificate, settings.tls_cert_file)
            assert get(url, authority)[0] == 200, "the key is the old one's: the pair is not valid"
        assert [entry["event"] for entry in logged] == ["metrics_certificate"]
        replace(new.key, settings.tls_key_file)
        wait_until(lambda: get(url, successor)[0] == 200, 10)
        with pytest.raises(urllib.error.URLError):
            get(url, authority)


def replace(source: Path, target: Path) -> None:
    beside = target.with_suffix(".new")
    shutil.copy(source, beside)
    beside.replace(target)


def test_the_monitor_tells_details_only_to_who_has_a_login(authority: Authority) -> None:
    """A kubelet sees whether it is ready; why not is for those who may read the metrics."""
    unready = Health(ok=False, checks={"store": "no store: postgres.internal does not answer"})
    settings = protected(authority)
    server = HttpServer(
        "127.0.0.1", 0, CollectorRegistry(), lambda: unready, lambda: unready, Protection(settings)
    )
    try:
        url = f"https://localhost:{server.port}"
        assert get(f"{url}/readyz", authority) == (503, '{"ok": false, "checks": {}}\n')
        assert "postgres.internal" in get(f"{url}/readyz", authority, f"prometheus:{PASSWORD}")[1]
        assert get(f"{url}/metrics", authority)[0] == 401
        assert get(f"{url}/elsewhere", authority)[0] == 401
    finally:
        server.close()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tls_cert_file": "/nowhere.crt"}, "tls_key_file"),
        ({"username": "me"}, "password"),
        ({"password": PASSWORD}, "username"),
        ({"username": "a:b", "password": PASSWORD}, "colon"),
        ({"username": "me", "password": PASSWORD, "password_file": "/x"}, "not both"),
    ],
)
def test_half_a_protection_is_refused(values, words) -> None:
    """A certificate without its key, or a login without its password, protects nothing."""
    with pytest.raises(ValueError, match=words) as caught:
        MetricsSettings(**values)
    # `_describe` of the settings shows the message alone.
    assert PASSWORD not in "".join(str(one["msg"]) for one in caught.value.errors())


def test_files_that_cannot_be_used_name_the_setting(authority: Authority, tmp_path: Path) -> None:
    """A file that is missing, broken or of another pair stops the start and names its setting."""
    other = authority.issue("other")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
    for change in (
        {"tls_key_file": tmp_path / "missing.key"},
        {"tls_key_file": other.key},
        {"tls_cert_file": broken},
    ):
        with pytest.raises(SettingsError, match=r"metrics\.tls_cert_file .* PEM"):
            Protection(protected(authority, **change))
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for file in (empty, tmp_path / "missing"):
        with pytest.raises(SettingsError, match=r"metrics\.password_file"):
            Protection(protected(authority, password=None, password_file=file))
    with pytest.raises(SettingsError, match=r"metrics\.tls_ca_file"):
        MetricsPage(protected(authority, tls_ca_file=broken), "https://localhost:1/metrics")


def test_a_build_reads_live_s_protected_metrics(authority: Authority, tmp_path: Path) -> None:
    """The backfill's view of live's freshness survives TLS and a login, here and elsewhere."""
    settings = protected(authority, "metrics.example")
    with serve_metrics(settings) as port:
        here = settings.model_copy(update={"port": port})
        page = MetricsPage(here).read()
        assert page is not None, "its own certificate, whatever name it holds"
        assert "plumbline_consumed_events_total" in page
    settings = protected(authority)
    with serve_metrics(settings) as port:
        url = f"https://localhost:{port}/metrics"
        assert MetricsPage(settings, url).read() is not None
        (tmp_path / "foreign").mkdir()
        foreign = Authority(tmp_path / "foreign").certificate
        for change, why in (
            ({"tls_ca_file": foreign}, "certificate was not accepted"),
            ({"username": None, "password": None}, "it answered 401"),
            ({"password": "another"}, "it answered 401"),
        ):
            values = {**settings.model_dump(), "password": PASSWORD, **change}
            reader = MetricsPage(MetricsSettings(**values), url)
            with structlog.testing.capture_logs() as logged:
                assert reader.read() is None
                assert reader.read() is None
            assert [why in str(entry["why"]) for entry in logged] == [True], "said once"
            assert PASSWORD not in str(logged)


def test_nobody_there_is_no_news() -> None:
    """A live job that does not run is for its own alarms; the backfill goes by the lag."""
    with structlog.testing.capture_logs() as logged:
        assert MetricsPage(MetricsSettings(), "http://127.0.0.1:1/metrics").read() is None
    assert logged == []


def test_doctor_reads_the_certificate(authority: Authority) -> None:
    """A key that is not the certificate's is found before a job is started, with exit code 2."""
    right = Settings(metrics=protected(authority))
    (found,) = check_job(Patient(right))
    assert (found.status, "https, a login" in found.message) == (Status.OK, True)
    wrong = Settings(metrics=protected(authority, tls_key_file=authority.issue("other").key))
    (found,) = check_job(Patient(wrong))
    assert found.status is Status.FAILED
    assert found.exit_code == 2
    assert "metrics.tls_cert_file" in found.message
