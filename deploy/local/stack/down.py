"""Stop what was started, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from deploy.local.stack.health import answers
from deploy.local.stack.options import Options
from deploy.local.stack.processes import stop
from deploy.local.stack.records import Records

__all__ = ["down", "status"]


def down(options: Options, say: Callable[[str], None]) -> None:
    """Stop every service of the state folder, the last one started first; data stays."""
    records = Records(options.records)
    started = records.all()
    if not started:
        say(f"nothing runs that {options.state} knows of")
        return
    width = max(len(record.name) for record in started)
    for record in reversed(started):
        say(f"{record.name:<{width}}  {stop(records, record)}")


def status(options: Options, say: Callable[[str], None]) -> bool:
    """Say of every service whether it runs and answers; True when all do, and there are any."""
    records = Records(options.records)
    started = records.all()
    if not started:
        say(f"nothing runs that {options.state} knows of")
        return False
    width = max(len(record.name) for record in started)
    well = True
    for record in started:
        number = "" if record.process is None else f"process {record.process.pid}"
        if not records.runs(record):
            said, well = "has ended", False
        elif not answers(record.health):
            said, well = "does not answer", False
        else:
            said = "answers"
        say(f"{record.name:<{width}}  {said:<16} {number:<16} {record.address}  {record.log}")
    return well
