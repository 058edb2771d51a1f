"""Start what is missing, in order."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from itertools import groupby

from deploy.local.install import servers_dir
from deploy.local.stack.broker import make_topics
from deploy.local.stack.errors import NotReadyError, StackError
from deploy.local.stack.health import answers
from deploy.local.stack.options import Options
from deploy.local.stack.ports import require_free
from deploy.local.stack.processes import start, wait_ready
from deploy.local.stack.records import Record, Records
from deploy.local.stack.service import Service
from deploy.local.stack.services import services
from deploy.local.stack.settings import StackSettings, stack_settings

__all__ = ["up"]

Say = Callable[[str], None]

_PREPARE_SECONDS = 120.0


def up(options: Options, say: Say) -> None:
    """Start the services that do not run, each after those that it needs, and wait for each.

    What has started stays when a later one fails: another `up` goes on from there.

    Raises
    ------
    StackError
        A port is taken, a server is not installed, or a service does not come up.
    """
    given = stack_settings(options)
    records = Records(options.records)
    wanted = services(options, given)
    running = {service.name: _running(records, service.name) for service in wanted}
    missing = [service for service in wanted if running[service.name] is None]
    _check(given, missing)
    width = max(len(service.name) for service in wanted)
    for _, stage in groupby(wanted, key=lambda service: service.stage):
        together = list(stage)
        begun = time.monotonic()
        started = {
            service.name: _start(options, records, service, wanted.index(service))
            for service in together
            if running[service.name] is None
        }
        for service in together:
            record = running[service.name] or records.get(service.name)
            if record is None:
                raise NotReadyError(f"{service.name} has ended, and its record was removed")
            wait_ready(records, record, options.timeout_seconds, started.get(service.name))
            seconds = time.monotonic() - begun
            said = f"ready after {seconds:.1f} s" if service.name in started else "runs already"
            say(f"{service.name:<{width}}  {said:<18}  {record.address}")
            if record.inputs != service.inputs:
                say(
                    f"{'':<{width}}  ! it runs with earlier settings: `make down`, then `make up`, "
                    "gives it these"
                )
        if given.broker_port is not None and any(one.name == "kafka" for one in together):
            for topic in make_topics(given.settings, given.broker_port):
                say(f"{'':<{width}}  topic {topic} was made")


def _running(records: Records, name: str) -> Record | None:
    record = records.get(name)
    if record is None:
        return None
    if records.runs(record):
        return record
    records.remove(name)
    return None


def _check(given: StackSettings, missing: Sequence[Service]) -> None:
    """What would fail is said before anything is started."""
    for service in missing:
        if service.server is None:
            continue
        if not (servers_dir() / service.server / "installed.json").exists():
            raise StackError(
                f"{service.name} is not installed: python deploy/local/install.py {service.server}"
            )
    for service in missing:
        for port in service.ports:
            require_free(service.name, port)
    url = given.settings.qdrant.url
    if not given.own_qdrant and not answers(f"{str(url).rstrip('/')}/readyz"):
        raise NotReadyError(
            f"Qdrant does not answer at {url}, which `qdrant.url` names. Start it; or leave "
            "`qdrant.url` out, and `make up` starts a server to try things out with."
        )


def _start(
    options: Options, records: Records, service: Service, number: int
) -> subprocess.Popen[bytes]:
    record = Record(
        name=service.name,
        command=service.command,
        inputs=service.inputs,
        address=service.address,
        health=service.health,
        log=str(options.log(service.name).resolve()),
        grace_seconds=service.grace_seconds,
        number=number,
    )
    if service.prepare:
        _prepare(service)
    return start(records, record, service.folder, {**os.environ, **service.environment})


def _prepare(service: Service) -> None:
    try:
        done = subprocess.run(
            service.prepare,
            cwd=service.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PREPARE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotReadyError(f"{service.name} could not be prepared: {error}") from None
    if done.returncode != 0:
        raise NotReadyError(f"{service.name} could not be prepared:\n{done.stdout[-4000:]}")
