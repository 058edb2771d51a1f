"""A rollout command as a process of its own, with encoders that cost nothing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import PlumblineError
from pipelines.core.qdrant import connect
from pipelines.core.rollout import Rollout
from pipelines.core.settings import Settings
from pipelines.rollout import switch as switch_module
from pipelines.rollout.retire import abort, retire
from pipelines.rollout.switch import promote, rollback
from tests.support.processes import ServerProcess
from tests.support.switching import two_encoders

__all__ = ["COMMANDS", "RolloutCommand"]

COMMANDS: dict[str, Callable[[Settings, str], Rollout]] = {
    "promote": lambda settings, _: promote(settings, reason="better"),
    "rollback": lambda settings, _: rollback(settings, reason="worse"),
    "retire": lambda settings, version: retire(settings, now=version),
    "abort": lambda settings, _: abort(settings),
}
_READY = "imported"


class RolloutCommand(ServerProcess):
    """Such a process; `ready` waits until it has imported everything and begins.

    Parameters
    ----------
    values
        Settings.
    version
        That `retire` names.
    fault
        Point at which it is killed.
    """

    def __init__(
        self,
        command: str,
        values: dict[str, Any],
        version: str,
        log: Path,
        *,
        fault: str = "",
    ) -> None:
        super().__init__(
            [
                sys.executable,
                "-m",
                __name__,
                command,
                f"--settings={json.dumps(values)}",
                f"--version={version}",
            ],
            log,
            environment={"PLUMBLINE_TEST_FAULT": fault},
        )

    def ready(self, timeout_seconds: float = 120.0) -> None:
        """Imports are done, and the command begins."""
        self.wait_ready(lambda: _READY in self.log(), timeout_seconds)

    def end(self, timeout_seconds: float = 120.0) -> int:
        """Its exit status, negative for a signal."""
        return self._process.wait(timeout_seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, and prints the state that it ends in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("--settings", required=True, help="JSON")
    parser.add_argument("--version", required=True)
    given = parser.parse_args(arguments)
    encoders: dict[str, Any] = dict(two_encoders())
    switch_module.encoder_for = lambda version, _: encoders[version.fingerprint]
    settings = Settings(**json.loads(given.settings))
    connect(settings)  # imports the client, which takes longer than the command itself
    print(_READY, flush=True)
    try:
        print(COMMANDS[given.command](settings, given.version).state, flush=True)
    except PlumblineError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
