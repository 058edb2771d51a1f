"""Kafka with TLS, SCRAM and ACLs: the right settings work, wrong ones say so, no secret shows."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.core.errors import ExitCode
from tests.conftest import require
from tests.support.forked import ForkedProcess
from tests.support.jobs import COMMAND, ENVIRONMENT, IngestProcess, write_config
from tests.support.kafka_security import SCRAM, Grant, SecureKafka
from tests.support.kafka_server import INSTALL_HINT, kafka_available
from tests.support.processes import free_port, wait_until
from tests.support.scenario import Scenario, merged
from tests.support.stream import Stream

PASSWORD = "correct-horse-battery-staple"
WRONG = "incorrect-horse-battery-staple"

RIGHTS: tuple[Grant, ...] = (
    # What docs/security.md tells to grant: topic and group names begin like this.
    ("read", "topic", "docs-"),
    ("describe", "topic", "docs-"),
    ("write", "topic", "docs-"),
    ("create", "topic", "docs-"),
    ("describe_configs", "topic", "docs-"),
    ("read", "group", "plumbline."),
)
"""Of a user that may do all that a job does."""


def without(operation: str, kind: str) -> list[Grant]:
    return [grant for grant in RIGHTS if grant[:2] != (operation, kind)]


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """One broker for the file; users differ in their rights."""
    require(kafka_available(), INSTALL_HINT)
    with SecureKafka(tmp_path_factory.mktemp("certificates")) as made:
        made.add_user("ingest", PASSWORD, RIGHTS)
        made.add_user("topicless", PASSWORD, [g for g in RIGHTS if g[1] != "topic"])
        made.add_user("unread", PASSWORD, without("read", "topic"))
        made.add_user("groupless", PASSWORD, without("read", "group"))
        made.add_user("speechless", PASSWORD, without("write", "topic"))
        made.add_user("barren", PASSWORD, without("create", "topic"))
        made.allow("User:CN=client", RIGHTS)
        yield made


@dataclass
class Case:
    """A scenario whose settings go through a secure listener, and all that its commands print."""

    kafka: SecureKafka
    it: Scenario
    folder: Path
    outputs: list[str] = field(default_factory=list)
    runs: int = 0

    def config(self, *, user: str = "ingest", listener: str = "good", **kafka: Any) -> Path:
        """A settings file; the password comes from the environment or from a file that it names."""
        self.runs += 1
        login = {
            "bootstrap_servers": self.kafka.address(listener),
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": SCRAM,
            "sasl_username": user,
            "ssl_cafile": str(self.kafka.authority.certificate),
        }
        values = merged(self.it.values, {"kafka": {**login, **kafka}})
        values["kafka"] = {key: one for key, one in values["kafka"].items() if one is not None}
        return write_config(self.folder / f"case-{self.runs}.yaml", values)

    def ingest(
        self, config: Path, *arguments: str, password: str | None = PASSWORD, debug: bool = False
    ) -> tuple[int, str]:
        """Exit code and output of the job, until it has caught up."""
        environment = dict(ENVIRONMENT)
        if password is not None:
            environment["PLUMBLINE_KAFKA__SASL_PASSWORD"] = password
        if debug:
            environment["PLUMBLINE_LOG_LEVEL"] = "debug"
        job = ForkedProcess(
            ["ingest", "--config", str(config), "--create", "--until-caught-up", *arguments],
            self.folder / f"job-{self.runs}.log",
            environment=environment,
            mutation="none",
        )
        try:
            wait_until(lambda: not job.running, 90, what="the job has ended")
        finally:
            job.kill()
        self.outputs.append(job.log())
        assert job.returncode is not None
        return job.returncode, job.log()

    def command(self, config: Path, *words: str, password: str = PASSWORD) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command as a user types it."""
        done = subprocess.run(
            [*COMMAND, *words, "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            env={**os.environ, **ENVIRONMENT, "PLUMBLINE_KAFKA__SASL_PASSWORD": password},
        )
        self.outputs += [done.stdout, done.stderr]
        return done.returncode, done.stdout, done.stderr

    def check_silence(self) -> None:
        """No command has printed a secret, nor left one in a file."""
        secrets = [PASSWORD, WRONG]
        secrets += [base64.b64encode(one.encode()).decode() for one in secrets]
        for issued in (self.kafka.client, self.kafka.old_client, self.kafka.foreign_client):
            # The lines of a private key.
            secrets += [line for line in issued.key.read_text().splitlines() if "--" not in line]
        left = [
            path.read_text("utf-8", "replace")
            for path in self.folder.rglob("*")
            if path.is_file() and path.name != "password"
        ]
        assert self.outputs
        for number, text in enumerate([*self.outputs, *left]):
            assert not [one for one in secrets if one in text], f"a secret shows in output {number}"


@pytest.fixture
def case(
    kafka: SecureKafka, store: Any, tmp_path: Path, model: Path, request: pytest.FixtureRequest
) -> Iterator[Case]:
    """A topic with events, and the check that nothing printed a secret."""
    name = f"docs-{abs(hash(request.node.name)) % 10**8}-{os.getpid()}"
    it = Scenario(kafka.server, store.url, tmp_path, name, model=model, partitions=2)
    it.topic.produce(Stream(20_261_127, 30, sentences=2, hostile_share=0.2).take(60))
    made = Case(kafka, it, tmp_path)
    yield made
    made.check_silence()


@pytest.mark.timeout(240)
def test_the_right_settings_work(case: Case) -> None:
    """Every event is accounted for through TLS, SCRAM and ACLs, and the commands read the same."""
    (case.folder / "password").write_text(f"{PASSWORD}\n")
    config = case.config(sasl_password_file=str(case.folder / "password"))
    code, log = case.ingest(config, password=None)
    assert code == ExitCode.OK, log
    assert not case.it.problems()
    by_environment = case.config()
    code, out, _ = case.command(by_environment, "doctor", "--json")
    findings = {one["check"]: one["status"] for one in json.loads(out)["findings"]}
    assert code == ExitCode.OK, out
    assert findings["broker"] == "ok"
    code, out, _ = case.command(by_environment, "dead-letters", "list", "--count", "--json")
    assert code == ExitCode.OK
    assert json.loads(out)["total"] == len(case.it.topic.hostile) > 0
    code, out, _ = case.command(by_environment, "monitor", "once", "--probe", "freshness", "--json")
    assert code == ExitCode.OK, out
    assert "lag" in out


@pytest.mark.timeout(240)
def test_a_client_s_own_certificate_is_a_login_too(case: Case) -> None:
    """`security_protocol: SSL` with a key: the broker knows the job by its certificate."""
    client = case.kafka.client
    code, log = case.ingest(mutual(case, client.certificate, client.key), password=None)
    assert code == ExitCode.OK, log
    assert not case.it.problems()


def mutual(case: Case, certificate: Path | None, key: Path | None) -> Path:
    return case.config(
        listener="mutual",
        security_protocol="SSL",
        sasl_mechanism=None,
        user=None,
        ssl_certfile=certificate and str(certificate),
        ssl_keyfile=key and str(key),
    )


@pytest.mark.timeout(240)
@pytest.mark.parametrize("which", ["none", "expired", "foreign"])
def test_a_client_certificate_that_does_not_do(case: Case, which: str) -> None:
    """The broker's alert comes through as what it is about: the certificate of this side."""
    issued = {"expired": case.kafka.old_client, "foreign": case.kafka.foreign_client}.get(which)
    config = mutual(case, issued and issued.certificate, issued and issued.key)
    code, log = case.ingest(config, password=None)
    assert code == ExitCode.UNAVAILABLE, log
    message = refusal(log)
    assert "certificate of the client's" in message
    assert "kafka.ssl_certfile" in message


@pytest.mark.timeout(240)
def test_tls_and_plain_text_mixed_up(case: Case) -> None:
    """What a broker does that is spoken to the wrong way, it hangs up, is told as what it may be.

    A client without TLS learns nothing from a port with it, and never gets to send its password.
    """
    plain = case.config(bootstrap_servers=case.kafka.server.bootstrap)
    code, log = case.ingest(plain)
    assert code == ExitCode.UNAVAILABLE, log
    assert "does not speak TLS on this port" in refusal(log)
    assert "kafka.security_protocol" in refusal(log)
    code, log = case.ingest(case.config(security_protocol="SASL_PLAINTEXT"))
    assert code == ExitCode.UNAVAILABLE, log
    assert "is SSL or SASL_SSL" in refusal(log)


def refusal(log: str) -> str:
    (message,) = [line for line in log.splitlines() if line.startswith("out of reach: ")]
    return message


@pytest.mark.timeout(240)
def test_other_commands_say_the_same(case: Case) -> None:
    """`doctor`, `dead-letters` and the monitor refuse with the cause, in JSON as in words."""
    config = case.config()
    code, out, _ = case.command(config, "doctor", "--json", password=WRONG)
    answer = json.loads(out)
    assert code == answer["exit_code"] == ExitCode.UNAVAILABLE
    (broker,) = [one for one in answer["findings"] if one["check"] == "broker"]
    assert broker["status"] == "failed"
    assert "kafka.sasl_username" in broker["message"]
    code, _, err = case.command(config, "dead-letters", "list", password=WRONG)
    assert code == ExitCode.UNAVAILABLE
    assert "refused the login" in refusal(err)
    assert case.ingest(config)[0] == ExitCode.OK  # a version to look at
    probe = ("monitor", "once", "--probe", "freshness", "--json")
    code, out, _ = case.command(config, *probe, password=WRONG)
    assert code == ExitCode.UNAVAILABLE, out
    assert "refused the login" in out


@pytest.mark.timeout(240)
def test_a_running_job_shows_no_secret(case: Case) -> None:
    """Its metrics, its log and its settings in the process list hold none."""
    port = free_port()
    config = case.config()
    values = yaml.safe_load(config.read_text()) | {"metrics": {"port": port}}
    write_config(config, values)
    os.environ["PLUMBLINE_KAFKA__SASL_PASSWORD"] = PASSWORD
    try:
        log_path = case.folder / "running.log"
        job = IngestProcess(config, "--create", log_path=log_path, fresh=True)
    finally:
        del os.environ["PLUMBLINE_KAFKA__SASL_PASSWORD"]
    with job:
        case.it.wait_caught_up(job)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            page = answer.read().decode()
        assert "plumbline_consumed_events_total" in page
        case.outputs += [page, Path(f"/proc/{job.pid}/cmdline").read_text()]
        job.terminate()
        assert job.wait() == 0
    case.outputs.append(job.log())


REFUSALS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "wrong-password": ({}, WRONG, ["login", "`kafka.sasl_password`", "kafka.sasl_username"]),
    "unknown-user": ({"user": "nobody"}, PASSWORD, ["login", "kafka.sasl_username"]),
    "other-mechanism": ({"sasl_mechanism": "PLAIN"}, PASSWORD, ["kafka.sasl_mechanism", SCRAM]),
    "expired": ({"listener": "expired"}, PASSWORD, ["certificate", "has expired", "renew"]),
    "foreign-authority": (
        {"listener": "foreign"},
        PASSWORD,
        ["certificate", "authority", "kafka.ssl_cafile"],
    ),
    "another-host": (
        {"listener": "misnamed"},
        PASSWORD,
        ["certificate", "127.0.0.1", "kafka.bootstrap_servers"],
    ),
    "no-topic": ({"user": "topicless"}, PASSWORD, ["topic", "Read", "Describe"]),
    "no-read": ({"user": "unread"}, PASSWORD, ["topic", "Read"]),
    "no-group": ({"user": "groupless"}, PASSWORD, ["group", "plumbline.docs-", "Read"]),
    "no-write": ({"user": "speechless"}, PASSWORD, [".dead-letters", "Write"]),
    "no-create": ({"user": "barren"}, PASSWORD, [".dead-letters", "Create"]),
}
"""Settings, password, and what the message must hold."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_says_what_to_do_and_nothing_is_lost(case: Case, what: str) -> None:
    """Exit code 3 at once, one message that names cause and remedy, nothing committed."""
    settings, password, words = REFUSALS[what]
    code, log = case.ingest(case.config(**settings), password=password, debug=what == "expired")
    assert code == ExitCode.UNAVAILABLE, log
    message = refusal(log)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    assert not case.it.committed()
