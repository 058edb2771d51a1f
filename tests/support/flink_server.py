"""Flink for tests: Beam's job server, and a cluster, from the jars that install.py put there.

The job server with its own `[local]` Flink is all that a test with `LOOPBACK` workers needs::

    with FlinkJobServer() as jobs:
        options = PipelineOptions(jobs.options(parallelism=2))
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.processes import (
    Server,
    ServerProcess,
    free_ports,
    installed,
    listening,
    servers_dir,
    wait_until,
)

__all__ = ["FlinkCluster", "FlinkJobServer", "flink_available"]

INSTALL_HINT = "Flink is not installed: python deploy/local/install.py flink"

# Flink's and Beam's reflection reaches into the JDK; the list is that of Flink's own start scripts.
_OPENED = (
    "java.lang",
    "java.lang.invoke",
    "java.lang.reflect",
    "java.net",
    "java.io",
    "java.nio",
    "java.text",
    "java.time",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
    "java.util.concurrent.locks",
    "sun.net.util",
    "sun.nio.ch",
)
ADD_OPENS = (
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
)

JAVA = ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")


def flink_available() -> bool:
    """Whether the jars and a Java are there."""
    return installed("flink")


def _require() -> None:
    if not flink_available():
        raise RuntimeError(INSTALL_HINT)


class _Server(Server):
    """What both servers share beside that: a directory."""

    def __init__(self, directory: Path | None, prefix: str) -> None:
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix=prefix))
        self.directory.mkdir(parents=True, exist_ok=True)

    def kill(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End it at once and remove its temporary directory."""
        self.kill()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)


class FlinkCluster(_Server):
    """A job manager and task managers on loopback.

    Parameters
    ----------
    task_managers, slots
        How many, and task slots of each.
    config
        Added to Flink's configuration, or in place of what is there
        (`{"state.checkpoints.dir": ...}`).
    hosts
        Names that each task manager resolves as if it stood on a host of its own: the first one
        finds them at 127.0.0.1, the second at 127.0.0.2. A worker pool can so be `pool:50000`
        beside each of them.
    directory
        Kept when given; else a temporary one, removed by `close`.
    """

    def __init__(
        self,
        task_managers: int = 1,
        slots: int = 2,
        *,
        config: Mapping[str, Any] | None = None,
        hosts: Sequence[str] = (),
        directory: Path | None = None,
    ) -> None:
        super().__init__(directory, "plumbline-flink-")
        self.task_managers = task_managers
        self.slots = slots
        self.hosts = tuple(hosts)
        self.config = dict(config or {})
        self._rest_port, self._rpc_port, self._blob_port = free_ports(3)
        self.job_manager: ServerProcess | None = None
        self.workers: list[ServerProcess] = []

    @property
    def rest_address(self) -> str:
        """`host:port` of the REST API, for the job server's `master`."""
        return f"127.0.0.1:{self._rest_port}"

    @property
    def rest_url(self) -> str:
        """Address of the REST API."""
        return f"http://{self.rest_address}"

    def start(self, timeout_seconds: float = 120.0) -> Self:
        """Start them all and wait until every slot is registered."""
        _require()
        self._write_configuration()
        self.job_manager = self._start_manager()
        # At once with the job manager: a task manager tries until that answers.
        self.workers = [self._start_worker(number) for number in range(self.task_managers)]
        wanted = self.task_managers * self.slots

        def registered() -> bool:
            for worker in self.workers:
                worker.require_running()
            return int(self.rest("/overview")["slots-total"]) >= wanted

        self.job_manager.wait_ready(
            registered, timeout_seconds, what=f"{wanted} slots are registered"
        )
        return self

    def kill(self) -> None:
        """End all with SIGKILL."""
        for process in [*self.workers, self.job_manager]:
            if process is not None:
                process.kill()

    def kill_worker(self, number: int) -> None:
        """End one task manager with SIGKILL."""
        self.workers[number].kill()

    def restart_worker(self, number: int, timeout_seconds: float = 60.0) -> None:
        """Start a task manager in place of one that ended, and wait until its slots are there."""
        self.workers[number].kill()
        before = int(self.rest("/overview")["taskmanagers"])
        self.workers[number] = self._start_worker(number)
        # The job manager takes the dead one for alive until its heartbeat times out.
        self.workers[number].wait_ready(
            lambda: (
                "Successful registration at resource manager" in self.workers[number].log()
                or int(self.rest("/overview")["taskmanagers"]) > before
            ),
            timeout_seconds,
        )

    def kill_manager(self) -> None:
        """End the job manager with SIGKILL; without high availability its jobs are lost."""
        if self.job_manager is not None:
            self.job_manager.kill()

    def restart_manager(self, timeout_seconds: float = 60.0) -> None:
        """Start another in its place, and wait until the task managers have found it."""
        self.kill_manager()
        self.job_manager = self._start_manager()
        alive = sum(worker.running for worker in self.workers)
        self.job_manager.wait_ready(
            lambda: int(self.rest("/overview")["taskmanagers"]) >= alive,
            timeout_seconds,
            what=f"{alive} task managers are registered",
        )

    def rest(self, path: str, *, method: str = "GET", body: Any = None) -> Any:
        """Call Flink's REST API (`/jobs/overview`, `/jobs/<id>/savepoints`), JSON both ways."""
        request = urllib.request.Request(
            self.rest_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            content = response.read()
        return json.loads(content) if content else None

    def _write_configuration(self) -> None:
        base = self.directory
        ours = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": self._rpc_port,
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.memory.process.size": "1024m",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": self._rest_port,
            "blob.server.port": self._blob_port,
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": self.slots,
            # The task manager asks for each part when no script has computed them for it.
            "taskmanager.memory.task.heap.size": "256m",
            "taskmanager.memory.task.off-heap.size": "0m",
            "taskmanager.memory.managed.size": "32m",
            "taskmanager.memory.network.min": "32m",
            "taskmanager.memory.network.max": "32m",
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.framework.off-heap.size": "64m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "64m",
            "taskmanager.memory.jvm-overhead.max": "64m",
            "taskmanager.cpu.cores": 1,
            # Tests kill task managers: the default waits 50 s for a dead one.
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 5000,
            "state.checkpoints.dir": f"file://{base}/checkpoints",
            "state.savepoints.dir": f"file://{base}/savepoints",
            "io.tmp.dirs": f"{base}/tmp",
            "web.tmpdir": f"{base}/web",
            "web.upload.dir": f"{base}/upload",
            # Beam brings classes that Flink has too, in other versions.
            "classloader.resolve-order": "parent-first",
        } | self.config
        (base / "conf").mkdir(exist_ok=True)
        # Flat keys with JSON values are YAML.
        (base / "conf" / "config.yaml").write_text(
            "".join(f"{key}: {json.dumps(value)}\n" for key, value in ours.items())
        )
        (base / "conf" / "log4j.properties").write_text(
            "rootLogger.level = INFO\n"
            "rootLogger.appenderRef.console.ref = Console\n"
            "appender.console.name = Console\n"
            "appender.console.type = CONSOLE\n"
            "appender.console.layout.type = PatternLayout\n"
            "appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %-40c{1} - %m%n\n"
        )
        (base / "tmp").mkdir(exist_ok=True)

    def _start_manager(self) -> ServerProcess:
        return self._spawn(
            "job-manager",
            "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
            heap_mb=512,
        )

    def _start_worker(self, number: int) -> ServerProcess:
        java = []
        if self.hosts:
            file = self.directory / "conf" / f"hosts-{number}"
            here = f"127.0.0.1 localhost {socket.gethostname()}\n"
            file.write_text(here + "".join(f"127.0.0.{number + 1} {name}\n" for name in self.hosts))
            java = [f"-Djdk.net.hosts.file={file}"]
        return self._spawn(
            f"task-manager-{number}",
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
            f"-Dtaskmanager.resource-id=worker-{number}-{os.urandom(4).hex()}",
            heap_mb=384,
            java=java,
        )

    def _spawn(
        self, name: str, main: str, *arguments: str, heap_mb: int, java: Sequence[str] = ()
    ) -> ServerProcess:
        command = [
            *JAVA,
            f"-Xmx{heap_mb}m",
            "-XX:MaxMetaspaceSize=256m",
            *java,
            *ADD_OPENS,
            f"-Dlog4j.configurationFile={self.directory}/conf/log4j.properties",
            f"-Djava.io.tmpdir={self.directory}/tmp",
            "-cp",
            f"{servers_dir()}/flink/lib/*",
            main,
            "--configDir",
            f"{self.directory}/conf",
            *arguments,
        ]
        return ServerProcess(
            command, self.directory / f"{name}.log", working_directory=self.directory
        )


class FlinkJobServer(_Server):
    """Beam's job server: takes pipelines and runs them on a Flink of its own or on a cluster.

    Parameters
    ----------
    master
        `"[local]"` for a Flink inside the job server, or a `FlinkCluster.rest_address`. To a
        cluster the job server uploads its classpath, 150 MB, with every job: 15 s each.
    config
        Flink configuration for `[local]` (`{"state.checkpoints.dir": ...}`).
    directory
        For artifacts and logs; kept when given, else a temporary one, removed by `close`.
    heap_mb
        Of the Java process, which runs the jobs too when it is `[local]`.
    """

    def __init__(
        self,
        master: str = "[local]",
        *,
        config: Mapping[str, Any] | None = None,
        directory: Path | None = None,
        heap_mb: int = 768,
    ) -> None:
        super().__init__(directory, "plumbline-flink-jobs-")
        self.master = master
        self.config = dict(config or {})
        self._heap_mb = heap_mb
        self._job_port, self._artifact_port, self._expansion_port = free_ports(3)

    @property
    def endpoint(self) -> str:
        """`host:port` for `--job_endpoint`."""
        return f"127.0.0.1:{self._job_port}"

    @property
    def artifact_endpoint(self) -> str:
        """`host:port` for `--artifact_endpoint`."""
        return f"127.0.0.1:{self._artifact_port}"

    def options(self, *, parallelism: int = 1, **more: Any) -> list[str]:
        """Flags for `PipelineOptions` that run a pipeline here, with `LOOPBACK` workers.

        Parameters
        ----------
        parallelism
            Of the Flink job.
        more
            Other pipeline options: `checkpointing_interval=1000`, `streaming=True`; one set to
            `None` or `False` is left out, also of those given here (`environment_type=...`).
        """
        flags: dict[str, Any] = {
            "runner": "PortableRunner",
            "job_endpoint": self.endpoint,
            "artifact_endpoint": self.artifact_endpoint,
            "environment_type": "LOOPBACK",
            "parallelism": parallelism,
        } | more
        return [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in flags.items()
            if value is not None and value is not False
        ]

    def start(self, timeout_seconds: float = 90.0) -> Self:
        """Start it and wait until it takes jobs."""
        _require()
        arguments = [
            f"--flink-master={self.master}",
            "--job-host=127.0.0.1",
            f"--job-port={self._job_port}",
            f"--artifact-port={self._artifact_port}",
            f"--expansion-port={self._expansion_port}",
            f"--artifacts-dir={self.directory / 'artifacts'}",
        ]
        (self.directory / "tmp").mkdir(exist_ok=True)
        if self.config:
            conf = self.directory / "conf"
            conf.mkdir(exist_ok=True)
            (conf / "flink-conf.yaml").write_text(
                "".join(f"{key}: {value}\n" for key, value in self.config.items())
            )
            arguments.append(f"--flink-conf-dir={conf}")
        command = [
            *JAVA,
            f"-Xmx{self._heap_mb}m",
            *ADD_OPENS,
            f"-Djava.io.tmpdir={self.directory / 'tmp'}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
            "-cp",
            f"{servers_dir()}/flink/job-server/*",
            "org.apache.beam.runners.flink.FlinkJobServerDriver",
            *arguments,
        ]
        self._process = ServerProcess(
            command, self.directory / "job-server.log", working_directory=self.directory
        )
        self._process.wait_ready(
            lambda: listening(self._job_port) and listening(self._artifact_port), timeout_seconds
        )
        return self

    def stop(self) -> None:
        """End it in order; `[local]` jobs end with it."""
        if self._process is not None:
            self._process.stop(grace_seconds=5)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def wait_log(self, text: str, timeout_seconds: float = 60.0) -> None:
        """Wait until the job server's log contains the text."""
        wait_until(
            lambda: text in self.process.log(), timeout_seconds, what=f"{text!r} is in the log"
        )
