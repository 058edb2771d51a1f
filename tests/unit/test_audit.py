"""The audit of dependencies: exceptions that end, checks that can object, and no silent pass."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.audit import AuditError, Verdict, load_exceptions
from deploy.audit.__main__ import EXCEPTIONS, REPOSITORY, main
from deploy.audit.licences import Licensed, check_licences
from deploy.audit.pins import check_pins, read_lock
from deploy.audit.vulnerabilities import check_vulnerabilities
from deploy.audit.yanked import check_yanked

TODAY = date(2026, 11, 27)
REASON = "The function that it is about is called by nothing here."


def exceptions_file(folder: Path, *values: dict[str, Any]) -> Path:
    path = folder / "exceptions.yaml"
    path.write_text(json.dumps({"exceptions": list(values)}))
    return path


def excuse(what: str = "", check: str = "vulnerabilities", **more: Any) -> dict[str, Any]:
    return {"check": check, "what": what, "reason": REASON, "expires": "2027-01-31"} | more


def none(folder: Path) -> Any:
    return load_exceptions(exceptions_file(folder), TODAY)


def test_the_project_s_own_exceptions_hold() -> None:
    """Each has a reason and a date that has not passed: when one does, this is the reminder."""
    assert len(load_exceptions(EXCEPTIONS, datetime.now(UTC).date())) > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reason": None}, "reason"),
        ({"reason": ""}, "reason"),
        ({"reason": "it is fine"}, "reason"),
        ({"reason": " " * 30}, "says nothing"),
        ({"expires": None}, "expires"),
        ({"expires": "2026-11-26"}, "expired on 2026-11-26"),
        ({"expires": "2028-01-01"}, "a year is the most"),
        ({"expires": "soon"}, "expires"),
        ({"check": "everything"}, "check"),
        ({"what": "*"}, "what"),
        ({"why": "because"}, "why"),
    ],
)
def test_an_exception_without_reason_or_past_its_date_fails(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """Nothing is excused for ever, or without somebody having written down why."""
    path = exceptions_file(tmp_path, excuse(**{"what": "PYSEC-2026-1", **change}))
    with pytest.raises(AuditError, match=words):
        load_exceptions(path, TODAY)
    assert main(["--exceptions", str(path), "--where-reachable"]) == 1


def test_an_exception_holds_on_its_last_day(tmp_path: Path) -> None:
    """The date is the last day, not the first on which it is over."""
    path = exceptions_file(tmp_path, excuse("PYSEC-2026-1", expires="2026-11-27"))
    assert load_exceptions(path, TODAY).excuse("vulnerabilities", "PYSEC-2026-1") is not None


def test_the_lock_is_complete() -> None:
    """Every line is one version of an index, and everything asked for is among them."""
    found = list(check_pins(REPOSITORY / "pyproject.toml", REPOSITORY / "requirements.lock"))
    assert [one.verdict for one in found] == [Verdict.OK], found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("kafka-python==", "kafka-python>="), "'kafka-python' is not pinned"),
        (("kafka-python==3", "kafka-python==2"), "asks for <4,>=3.0.12"),
        (("pydantic==", "renamed=="), "lacks pydantic"),
        (("six==", "six @ git+https://example.org/six "), "not pinned"),
        (("six==1.", "six==1.*,==1."), "'six' is not pinned"),
    ],
)
def test_a_loose_lock_is_found(change: tuple[str, str], words: str, tmp_path: Path) -> None:
    """A range, a repository or a package that is missing makes builds differ."""
    text = (REPOSITORY / "requirements.lock").read_text()
    assert f"\n{change[0]}" in text
    (tmp_path / "requirements.lock").write_text(text.replace(f"\n{change[0]}", f"\n{change[1]}"))
    found = check_pins(REPOSITORY / "pyproject.toml", tmp_path / "requirements.lock")
    assert [one for one in found if one.verdict is Verdict.FAILED and words in one.message]


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        ("MIT", True),
        ("Apache License 2.0", True),
        ("BSD License; MIT License", True),
        ("MPL-2.0 AND MIT", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-2.0-only", False),
        ("GNU Lesser General Public License v2 or later (LGPLv2+)", False),
        ("AGPL-3.0", False),
        ("LicenseRef-NVIDIA-Proprietary", False),
        ("", False),
        ("UNKNOWN", False),
    ],
)
def test_licences(words: str, accepted: bool, tmp_path: Path) -> None:
    """What asks nothing of its users passes; the rest needs somebody's decision."""
    package = Licensed("thing", "1.0", words)
    (found,) = check_licences([package], none(tmp_path))
    assert (found.verdict is Verdict.OK) is accepted, found
    excused = load_exceptions(exceptions_file(tmp_path, excuse("thi*", "licences")), TODAY)
    assert [one.verdict for one in check_licences([package], excused)] == [Verdict.OK]


class Service(BaseHTTPRequestHandler):
    """An OSV API that knows one vulnerability, and a package index with one withdrawn release."""

    answers = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = {"id": "PYSEC-2026-7", "aliases": ["CVE-2026-1234"], "summary": "words"}
        known["modified"] = known["published"] = "2026-01-01T00:00:00Z"
        affected = {"package": {"name": "leaky", "ecosystem": "PyPI"}}
        affected["ranges"] = [
            {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}
        ]
        known["affected"] = [affected]
        leaky = body["package"]["name"] == "leaky"
        self._send(200 if self.answers else 503, json.dumps({"vulns": [known]} if leaky else {}))

    def do_GET(self) -> None:
        wheel = self.path.endswith(".whl")
        if wheel or self.path == "/simple/leaky/":
            content = WHEEL if wheel else PAGE
            self._send(200, content, "application/octet-stream" if wheel else "text/html")
            return
        self._send(404, "")

    def _send(self, status: int, content: str | bytes, kind: str = "application/json") -> None:
        data = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _wheel(folder: Path) -> bytes:
    path = folder / "leaky-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        information = "leaky-1.0.dist-info"
        made.writestr(
            f"{information}/METADATA", "Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n"
        )
        made.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{information}/RECORD", "")
    return path.read_bytes()


WHEEL = b""
PAGE = ""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    global WHEEL, PAGE
    WHEEL = _wheel(tmp_path)
    name, digest = "leaky-1.0-py3-none-any.whl", hashlib.sha256(WHEEL).hexdigest()
    PAGE = f'<a href="/{name}#sha256={digest}" data-yanked="deletes files">{name}</a>'
    Service.answers = True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "small.lock"
    path.write_text("leaky==1.0\nsound==3.1\n")
    return path


def test_a_known_vulnerability_fails_until_it_is_excused(
    service: str, lock: Path, tmp_path: Path
) -> None:
    """It is named with what mends it; an exception may name it by any of its ids."""
    url = f"{service}/v1/query"
    (found,) = check_vulnerabilities(lock, none(tmp_path), service=url)
    assert found.verdict is Verdict.FAILED
    for words in ("leaky 1.0", "PYSEC-2026-7", "CVE-2026-1234", "mended in 2.0"):
        assert words in found.message
    for name in ("PYSEC-2026-7", "CVE-2026-1234"):
        known = load_exceptions(exceptions_file(tmp_path, excuse(name)), TODAY)
        (found,) = check_vulnerabilities(lock, known, service=url)
        assert found.verdict is Verdict.OK
        assert "2 of 2" in found.message
        assert "1 excused" in found.message
    stale = load_exceptions(exceptions_file(tmp_path, excuse("CVE-2020-1")), TODAY)
    list(check_vulnerabilities(lock, stale, service=url))
    assert [one.what for one in stale.unused(["vulnerabilities"])] == ["CVE-2020-1"]


def test_a_service_that_does_not_answer_is_no_clean_bill(
    service: str, lock: Path, tmp_path: Path
) -> None:
    """Out of reach, or answering with an error: the check says that it was not done."""
    Service.answers = False
    for url in (f"{service}/v1/query", "http://127.0.0.1:1/v1/query"):
        (found,) = check_vulnerabilities(lock, none(tmp_path), service=url)
        assert found.verdict is Verdict.NOT_DONE
        assert "did not answer" in found.message


def test_a_withdrawn_release_is_found(service: str, tmp_path: Path) -> None:
    """Its authors said why; an exception may let it pass."""
    lock = tmp_path / "one.lock"
    lock.write_text("leaky==1.0\n")
    options = ["--default-index", f"{service}/simple", "--no-cache"]
    (found,) = check_yanked(lock, none(tmp_path), options=options)
    assert found.verdict is Verdict.FAILED, found
    assert "leaky 1.0" in found.message
    assert "deletes files" in found.message
    known = load_exceptions(exceptions_file(tmp_path, excuse("leaky", "yanked")), TODAY)
    assert [one.verdict for one in check_yanked(lock, known, options=options)] == [Verdict.OK]
    lock.write_text("absent==1.0\n")
    (found,) = check_yanked(lock, none(tmp_path), options=options)
    assert found.verdict is Verdict.NOT_DONE


def test_the_lock_is_read_as_it_is_written(tmp_path: Path) -> None:
    """Markers give a package several pins; comments and hashes are none."""
    path = tmp_path / "a.lock"
    path.write_text(
        "# made by uv\none==1.0 ; python_full_version < '3.12'\none==2.0 ; "
        "python_full_version >= '3.12'\n\ntwo==3 \\\n    --hash=sha256:00\n"
    )
    assert read_lock(path) == {"one": ["1.0", "2.0"], "two": ["3"]}
