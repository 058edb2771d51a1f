"""Flink's REST API, spoken to a server that answers as Flink does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipelines.core.errors import ServiceUnavailableError, SystemicError, UnknownNameError
from pipelines.core.settings import RetrySettings, Settings
from pipelines.flink.attached import AttachedJob
from pipelines.flink.operate import jobs_of_index, running_job, version_of
from pipelines.flink.rest import FlinkRest, JobGoneError

NAME = "plumbline-docs--minilm--0123456789ab"
OVERVIEW = [
    {"jid": "old", "name": NAME, "state": "CANCELED", "start-time": 1000},
    {"jid": "new", "name": NAME, "state": "RUNNING", "start-time": 5000},
    {
        "jid": "else",
        "name": "plumbline-docs-two--minilm--0123456789ab",
        "state": "RUNNING",
        "start-time": 1,
    },
    {"jid": "other", "name": "WordCount", "state": "RUNNING", "start-time": 9000},
]
TRACE = (
    "java.lang.RuntimeException: Failed to finish remote bundle\n"
    "\tat org.apache.beam…\n"
    "Caused by: java.util.concurrent.ExecutionException: java.lang.RuntimeException: Error\n"
    '  File "writing.py", line 1, in write\n'
    "pipelines.core.errors.ServiceUnavailableError: Qdrant is out of reach [while …]\n"
)


def job(job_id: str, state: str) -> dict[str, Any]:
    tasks = {"RUNNING": 2 if state == "RUNNING" else 0, "CANCELED": 0 if state == "RUNNING" else 2}
    return {
        "jid": job_id,
        "name": NAME,
        "state": state,
        "start-time": 5000,
        "duration": 2500,
        "vertices": [{"name": "[3]{Read}", "parallelism": 2, "tasks": tasks}],
    }


class Flink:
    """Answers by path; `answers[path]` may be (status, body), or a function that gives either."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"/jobs/overview": {"jobs": OVERVIEW}}
        for job_id, state in (("new", "RUNNING"), ("old", "CANCELED"), ("else", "RUNNING")):
            self.answers[f"/jobs/{job_id}"] = job(job_id, state)
            self.answers[f"/jobs/{job_id}/config"] = {"execution-config": {"job-parallelism": 2}}
            self.answers[f"/jobs/{job_id}/metrics"] = [{"id": "numRestarts", "value": "3"}]
            self.answers[f"/jobs/{job_id}/checkpoints"] = {
                "latest": {
                    "completed": {
                        "latest_ack_timestamp": 6000,
                        "end_to_end_duration": 40,
                        "state_size": 900,
                        "external_path": "<checkpoint-not-externally-addressable>",
                    },
                    "savepoint": None,
                }
            }
            self.answers[f"/jobs/{job_id}/exceptions"] = {
                "exceptionHistory": {"entries": [{"stacktrace": TRACE}]}
            }
        self.asked: list[tuple[str, str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Nothing."""

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                outer.asked.append((self.command, self.path, body))
                found = outer.answers.get(self.path.partition("?")[0])
                found = found() if callable(found) else found
                status, value = found if isinstance(found, tuple) else (200, found)
                if found is None:
                    status, value = 404, {"errors": ["Could not find Flink job (x)"]}
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = answer  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def client(self) -> FlinkRest:
        return FlinkRest(
            f"http://127.0.0.1:{self.server.server_port}/",
            outage_timeout_seconds=0.5,
            retry=RetrySettings(first_seconds=0.01, max_seconds=0.02),
        )


@pytest.fixture
def flink() -> Iterator[Flink]:
    fake = Flink()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def test_jobs_of_an_index_are_those_of_its_versions(flink):
    """Neither the job of an index whose name begins alike, nor anybody else's; the newest first."""
    jobs = jobs_of_index(flink.client(), "docs")
    assert [found.job_id for found in jobs] == ["new", "old"]
    assert {"docs--minilm--0123456789ab"} == {version_of(found) for found in jobs}


def test_restarts_are_asked_for_until_flink_has_gathered_them(flink):
    """The first answer about a new job's metrics is empty; an ended job has none."""
    flink.answers["/jobs/new/metrics"] = iter(
        [[], [{"id": "numRestarts"}], [{"value": "0"}]]
    ).__next__
    assert flink.client().job("new").restarts == 0
    flink.answers["/jobs/old/metrics"] = []
    assert flink.client().job("old").restarts is None
    asked = [path.partition("?")[0] for _, path, _ in flink.asked if "metrics" in path]
    assert asked == ["/jobs/new/metrics"] * 3 + ["/jobs/old/metrics"]


def test_a_job_says_how_it_is(flink):
    """State, uptime, restarts, parallelism, the last checkpoint, and the cause in our own words."""
    found = flink.client().job("new")
    assert (
        found.state,
        found.started,
        found.seconds,
        found.restarts,
        found.parallelism,
    ) == ("RUNNING", 5.0, 2.5, 3, 2)
    assert found.running
    assert (
        found.checkpoint.at,
        found.checkpoint.seconds,
        found.checkpoint.bytes,
        found.checkpoint.path,
    ) == (6.0, 0.04, 900, "")
    assert found.failure.startswith("pipelines.core.errors.ServiceUnavailableError: Qdrant")


def test_a_job_of_which_a_subtask_does_not_run_is_not_running(flink):
    """Flink calls a job RUNNING while its subtasks still wait for a slot or for a worker."""
    waiting = job("new", "RUNNING")
    waiting["vertices"][0]["tasks"] = {"RUNNING": 1, "INITIALIZING": 1}
    flink.answers["/jobs/new"] = waiting
    assert not flink.client().job("new").running


def test_of_several_jobs_one_must_be_named(flink):
    """A stop never hits a job that was not meant."""
    client = flink.client()
    assert running_job(client, "docs", None).job_id == "new"
    flink.answers["/jobs/old"] = job("old", "RUNNING")
    with pytest.raises(UnknownNameError, match="--version"):
        running_job(client, "docs", None)
    with pytest.raises(UnknownNameError, match="no job"):
        running_job(client, "docs", "docs--other--0123456789ab")


def test_a_stop_is_asked_for_once(flink):
    """The request carries an id of its own, so that repeating it makes no second savepoint."""
    flink.answers["/jobs/new/stop"] = {"request-id": "r1"}
    assert flink.client().stop("new", "s3://bucket/savepoints") == "r1"
    method, _, body = flink.asked[-1]
    assert (
        method,
        body["drain"],
        body["targetDirectory"],
    ) == ("POST", False, "s3://bucket/savepoints")
    assert len(body["triggerId"]) == 32


def test_a_savepoint_is_waited_for_or_its_failure_said(flink):
    """Path when it is there, `None` before, the cause when there will be none."""
    path = "/jobs/new/savepoints/r1"
    flink.answers[path] = {"status": {"id": "IN_PROGRESS"}, "operation": None}
    client = flink.client()
    assert client.savepoint("new", "r1") is None
    flink.answers[path] = {"status": {"id": "COMPLETED"}, "operation": {"location": "s3://b/s1"}}
    assert client.savepoint("new", "r1") == "s3://b/s1"
    failure = {"failure-cause": {"stack-trace": "x\nCaused by: java.io.IOException: full\n"}}
    flink.answers[path] = {"status": {"id": "COMPLETED"}, "operation": failure}
    with pytest.raises(SystemicError, match="IOException: full"):
        client.savepoint("new", "r1")


def test_a_job_that_flink_does_not_know_is_gone(flink):
    """A lost job is told from an API that is out of reach."""
    with pytest.raises(JobGoneError):
        flink.client().job("nowhere")


@pytest.mark.parametrize("answer", [(503, {"errors": ["leader election"]}), (500, {"errors": []})])
def test_an_api_in_trouble_is_asked_again_and_then_out_of_reach(flink, answer):
    """Exit code 3 in the end, after several tries."""
    flink.answers["/jobs/overview"] = answer
    with pytest.raises(ServiceUnavailableError):
        flink.client().job_ids(NAME)
    assert len(flink.asked) > 1


def test_nobody_there_is_out_of_reach():
    """A refused connection is a service out of reach, with its address."""
    client = FlinkRest(
        "http://127.0.0.1:9",
        outage_timeout_seconds=0.05,
        retry=RetrySettings(first_seconds=0.01, max_seconds=0.01),
    )
    with pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:9"):
        client.job_ids(NAME)


def attached_to(flink) -> AttachedJob:
    attached = AttachedJob(Settings())
    attached._rest = flink.client()
    return attached


def test_a_job_ends_with_its_command_and_no_other_does(flink):
    """Only what came to be since the command began is cancelled, and not what has ended."""
    flink.answers["/jobs/mine"] = {}
    attached = attached_to(flink)
    attached.begin(NAME)
    mine = {"jid": "mine", "name": NAME, "state": "RUNNING", "start-time": 9999}
    done = {"jid": "done", "name": NAME, "state": "CANCELED", "start-time": 9998}
    flink.answers["/jobs/overview"] = {"jobs": [*OVERVIEW, mine, done]}
    attached.end()
    cancelled = [path for method, path, _ in flink.asked if method == "PATCH"]
    assert cancelled == ["/jobs/mine?mode=cancel"]


def test_without_an_api_a_command_ends_all_the_same(flink):
    """A Flink inside Beam's job server has none: neither begin nor end fail or wait for long."""
    flink.answers["/jobs/overview"] = (503, {"errors": []})
    attached = attached_to(flink)
    attached.begin(NAME)
    asked = len(flink.asked)
    attached.end()
    assert len(flink.asked) == asked
