"""What runs: one file a service in the state folder, which says exactly which process it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.local.stack.errors import StackError
from pipelines.core.process import ProcessIdentity

__all__ = ["Record", "Records"]


@dataclass(frozen=True)
class Record:
    """One service that was started.

    Parameters
    ----------
    name
        Of the service.
    command
        Program and arguments.
    inputs
        A hash of the command and of what its configuration said: another one is another service.
    address
        For people.
    health
        For `health.answers`.
    log
        File of its output.
    grace_seconds
        How long it may take to end after SIGTERM.
    number
        Place in the order of starting.
    process
        Which process it is; `None` in the draft.
    """

    name: str
    command: list[str]
    inputs: str
    address: str
    health: str
    log: str
    grace_seconds: float
    number: int
    process: ProcessIdentity | None = None

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """What `to_json` gave, or the launcher has written."""
        values: dict[str, Any] = json.loads(text)
        process = values.pop("process", None)
        return cls(
            **values, process=None if process is None else ProcessIdentity.from_payload(process)
        )


class Records:
    """The records of a state folder.

    Parameters
    ----------
    folder
        Made when one is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._me = ProcessIdentity.current()

    def path(self, name: str) -> Path:
        """Where the service's record is, or would be."""
        return self._folder / f"{name}.json"

    def draft(self, record: Record) -> None:
        """Write what the launcher completes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        Path(f"{self.path(record.name)}.draft").write_text(record.to_json(), encoding="utf-8")

    def all(self) -> list[Record]:
        """Every service that was started and not stopped since, in the order of starting."""
        return sorted(
            (self._read(path) for path in self._folder.glob("*.json")),
            key=lambda record: record.number,
        )

    def get(self, name: str) -> Record | None:
        """The service's record, whether it still runs or not."""
        path = self.path(name)
        return self._read(path) if path.exists() else None

    def remove(self, name: str) -> None:
        """Forget the service."""
        self.path(name).unlink(missing_ok=True)

    def runs(self, record: Record) -> bool:
        """Whether this very process still runs; a process that has been given its number does not.

        Raises
        ------
        StackError
            It was started where this process cannot look: on another machine, or in another
            container.
        """
        process = record.process
        if process is None:
            return False
        if process.host == self._me.host and process.boot_id != self._me.boot_id:
            return False  # The machine has been started anew.
        here = (self._me.host, self._me.boot_id, self._me.pid_namespace)
        if (process.host, process.boot_id, process.pid_namespace) != here:
            raise StackError(
                f"{record.name} was started on {process.host}, in a place that cannot be seen from "
                f"here. Stop it there; if that place is gone, remove {self.path(record.name)}."
            )
        if process.started < 0:
            raise StackError(
                "this system does not say when a process was started, so that nothing could be "
                "stopped safely: `make up` is for Linux."
            )
        return not process.has_ended(seen_by=self._me)

    def _read(self, path: Path) -> Record:
        try:
            return Record.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as error:
            raise StackError(
                f"{path} cannot be read ({type(error).__name__}). It says which process `make up` "
                "has started: find that process and end it, then remove the file."
            ) from None
