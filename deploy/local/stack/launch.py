"""Becomes a service, having written down which process that is.

    python launch.py RECORD FOLDER PROGRAM ARGUMENTS…

The record is on disk before the service runs, so that no end of `make up`, not even SIGKILL, leaves
a process that `make down` knows nothing of.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pipelines.core.process import ProcessIdentity


def main() -> None:
    """Add this process's identity to the draft of the record, put it in place, become the program.

    The program keeps the number and the start time of the process.
    """
    record, folder, *command = sys.argv[1:]
    draft = Path(f"{record}.draft")
    content = json.loads(draft.read_text(encoding="utf-8"))
    content["process"] = ProcessIdentity.current().to_payload()
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(record)
    os.chdir(folder)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main()
