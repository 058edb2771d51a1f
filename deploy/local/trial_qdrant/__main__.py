"""Serve until ended: `python -m deploy.local.trial_qdrant --path DIRECTORY --port 6333`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings

from deploy.local.trial_qdrant.server import TrialServer


def main() -> int:
    """Serve on loopback; SIGTERM ends it in order."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.trial_qdrant",
        description="A Qdrant to try Plumbline with: for one machine, not for production.",
    )
    parser.add_argument("--port", type=int, default=6333, help="0 for any; it is printed")
    parser.add_argument("--path", required=True, help="directory that keeps the data")
    arguments = parser.parse_args()
    # The engine warns of its size and of what it ignores; both are known here.
    warnings.simplefilter("ignore")
    try:
        # From the environment, as the real server takes it: a command line is for all to read.
        server = TrialServer(
            ("127.0.0.1", arguments.port),
            arguments.path,
            os.environ.get("QDRANT__SERVICE__API_KEY"),
            read_only_api_key=os.environ.get("QDRANT__SERVICE__READ_ONLY_API_KEY"),
        )
    except (OSError, RuntimeError) as error:
        print(f"cannot serve {arguments.path} on port {arguments.port}: {error}", file=sys.stderr)
        return 3
    print(f"serving {arguments.path} on http://127.0.0.1:{server.server_port}", flush=True)
    # `shutdown` waits for the loop that the handler interrupts: it takes a thread of its own.
    signal.signal(
        signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start()
    )
    try:
        server.serve_forever(poll_interval=0.05)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        server.api.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
