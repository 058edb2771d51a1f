"""Prometheus for tests: one on loopback, from the packages that install.py put there."""

from __future__ import annotations

import json
import math
import shutil
import signal
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support.processes import Server, ServerProcess, free_port, servers_dir, wait_until

__all__ = ["PrometheusError", "PrometheusServer", "Sample", "Scrape"]


class PrometheusError(RuntimeError):
    """Prometheus refused a request; the message is its own."""


@dataclass(frozen=True)
class Scrape:
    """One process that is scraped.

    Parameters
    ----------
    job
        Value of the label `job`; several processes may share it.
    port
        On loopback.
    labels
        Added to every series of the process.
    configuration
        Further keys of the job's scrape configuration: `scheme`, `tls_config`, `basic_auth`.
    """

    job: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Value of the label `instance`."""
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Sample:
    """One series of an answer, with its newest value.

    Parameters
    ----------
    labels
        All of them, the metric's name as `__name__` where the query keeps it.
    value
        May be NaN or infinite.
    points
        Of a range query: (Unix time, value), oldest first.
    """

    labels: Mapping[str, str]
    value: float
    points: tuple[tuple[float, float], ...] = ()


class PrometheusServer(Server):
    """A Prometheus of its own for a test; use it as a context manager.

    Parameters
    ----------
    scrapes
        What it scrapes; `scrape` changes it while it runs.
    rules
        Rule files. They are copied, with every group's own interval left out, so that all of them
        are evaluated as often as `evaluation_seconds` says.
    scrape_seconds, evaluation_seconds
        How often it scrapes, and evaluates rules.
    alertmanagers
        `host:port` of the Alertmanagers that alerts are sent to.
    arguments
        Further ones of the command.
    """

    def __init__(
        self,
        scrapes: Iterable[Scrape] = (),
        rules: Iterable[Path] = (),
        *,
        scrape_seconds: float = 1.0,
        evaluation_seconds: float = 1.0,
        alertmanagers: Iterable[str] = (),
        arguments: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="plumbline-prometheus-"))
        self._scrapes = list(scrapes)
        self._rules = [self._copied(number, path) for number, path in enumerate(rules)]
        self._seconds = (scrape_seconds, evaluation_seconds)
        self._alertmanagers = list(alertmanagers)
        self._arguments = list(arguments)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, timeout_seconds: float = 60.0) -> Self:
        """Starts it and waits until it answers queries."""
        self._write()
        self._process = ServerProcess(
            [
                str(servers_dir() / "prometheus" / "usr" / "bin" / "prometheus"),
                f"--config.file={self._config}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                *self._arguments,
            ],
            self._folder / "prometheus.log",
            # Go takes every processor for its collector; tests share theirs.
            environment={"GOMAXPROCS": "1"},
        )
        self._process.wait_ready(lambda: bool(self._get("/-/ready")), timeout_seconds)
        return self

    def scrape(self, scrapes: Iterable[Scrape]) -> None:
        """Scrapes these and no others from now on; what is stored stays."""
        self._scrapes = list(scrapes)
        self._write()
        self.process._process.send_signal(signal.SIGHUP)
        wanted = sorted((one.job, one.address) for one in self._scrapes)
        wait_until(
            lambda: sorted((job, instance) for job, instance, _ in self.targets()) == wanted,
            what="the targets are those of the new configuration",
        )

    def targets(self) -> list[tuple[str, str, str]]:
        """Job, instance and health (`up`, `down`, `unknown`) of what is scraped."""
        found = self._api("targets", {"state": "active"})["activeTargets"]
        return [(one["labels"]["job"], one["labels"]["instance"], one["health"]) for one in found]

    def wait_up(self, timeout_seconds: float = 60.0) -> None:
        """Waits until every target has been scraped."""
        self.process.wait_ready(
            lambda: all(health == "up" for _, _, health in self.targets()),
            timeout_seconds,
            what="every target is up",
        )

    def query(self, expression: str, *, at: float | None = None) -> list[Sample]:
        """What an instant query gives, now or at a Unix time; a scalar is one sample."""
        more = {} if at is None else {"time": f"{at:.3f}"}
        answer = self._api("query", {"query": expression, **more})
        if answer["resultType"] in ("scalar", "string"):
            return [Sample({}, float(answer["result"][1]))]
        return [Sample(one["metric"], float(one["value"][1])) for one in answer["result"]]

    def query_range(
        self, expression: str, start: float, end: float, step_seconds: float
    ) -> list[Sample]:
        """What a range query gives, Unix times; series without a point are left out."""
        answer = self._api(
            "query_range",
            {
                "query": expression,
                "start": f"{start:.3f}",
                "end": f"{end:.3f}",
                "step": f"{step_seconds:g}",
            },
        )
        found = []
        for one in answer["result"]:
            points = tuple((float(when), float(value)) for when, value in one["values"])
            found.append(Sample(one["metric"], points[-1][1], points))
        return found

    def value(self, expression: str) -> float:
        """The only sample of an instant query; NaN when there is none.

        Raises
        ------
        PrometheusError
            There are several.
        """
        found = self.query(expression)
        if len(found) > 1:
            raise PrometheusError(f"{expression} gives {len(found)} series")
        return found[0].value if found else math.nan

    def label_values(self, label: str, *matchers: str) -> list[str]:
        """Values of a label, over all series or those of the selectors; sorted."""
        return sorted(self._api(f"label/{label}/values", [("match[]", one) for one in matchers]))

    def metric_names(self) -> set[str]:
        """Names of everything it stores."""
        return set(self.label_values("__name__"))

    def rules(self) -> list[dict[str, Any]]:
        """Every rule: `name`, `type` (`recording`, `alerting`), `health`, `lastError`, and more."""
        groups = self._api("rules", {})["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that are pending or firing: `labels`, `annotations`, `state`, `activeAt`."""
        return list(self._api("alerts", {})["alerts"])

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {one["labels"]["alertname"] for one in self.alerts() if one["state"] == "firing"}

    def stop(self) -> None:
        """Ends it in order; what it stores stays for `start`."""
        if self._process is not None:
            self._process.stop()

    def close(self) -> None:
        """Ends it for good."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _config(self) -> Path:
        return self._folder / "prometheus.yml"

    def _copied(self, number: int, path: Path) -> Path:
        content = yaml.safe_load(path.read_text("utf-8"))
        for group in content["groups"]:
            group.pop("interval", None)
        copy = self._folder / f"{number}-{path.name}"
        copy.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        return copy

    def _write(self) -> None:
        scrape_seconds, evaluation_seconds = (f"{1000 * one:.0f}ms" for one in self._seconds)
        jobs: dict[str, list[Scrape]] = {}
        for one in self._scrapes:
            jobs.setdefault(one.job, []).append(one)
        content: dict[str, Any] = {
            "global": {
                "scrape_interval": scrape_seconds,
                "scrape_timeout": scrape_seconds,
                "evaluation_interval": evaluation_seconds,
            },
            "rule_files": [str(path) for path in self._rules],
            "scrape_configs": [
                {
                    "job_name": job,
                    "static_configs": [
                        {"targets": [one.address], "labels": dict(one.labels)} for one in members
                    ],
                    **members[0].configuration,
                }
                for job, members in jobs.items()
            ],
        }
        if self._alertmanagers:
            static = [{"targets": self._alertmanagers}]
            content["alerting"] = {"alertmanagers": [{"static_configs": static}]}
        self._config.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")

    def _api(self, path: str, parameters: Mapping[str, str] | Sequence[tuple[str, str]]) -> Any:
        text = self._get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(text)
        if answer["status"] != "success":
            raise PrometheusError(answer["error"])
        return answer["data"]

    def _get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            body = error.read().decode()
            # The API says what it objects to in the same form as it answers.
            if error.headers.get_content_type() == "application/json":
                return body
            raise PrometheusError(f"{path}: status {error.code}: {body}") from None
