#!/usr/local/bin/python3
"""Whether the ingest job or the monitor of this container does its work; the exit code says it.

    healthy            # whichever runs here
    healthy ingest     # its /metrics answers
    healthy monitor    # its /healthz says yes

For the container's health check, without a curl in the image. A page behind a login counts as
there, and a certificate may be of anybody: the question is whether the process is well.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 4.0
# What runs, where its port is set, that port's default, and the page that tells.
PAGES = {
    "monitor": ("PLUMBLINE_MONITOR__PORT", 9109, "/healthz"),
    "ingest": ("PLUMBLINE_METRICS__PORT", 9108, "/metrics"),
}


def page(what: str) -> tuple[str, int | None]:
    """The page's path with its port, and the status it answers with; `None` for no answer."""
    variable, default, path = PAGES[what]
    port = os.environ.get(variable) or default
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for scheme in ("http", "https"):
        try:
            url = f"{scheme}://127.0.0.1:{port}{path}"
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS, context=context) as answer:
                return f":{port}{path}", int(answer.status)
        except urllib.error.HTTPError as error:
            return f":{port}{path}", error.code
        except OSError:
            continue
    return f":{port}{path}", None


def main() -> int:
    """0 when it is well, 1 when not, 2 for a name that is none."""
    wanted = sys.argv[1:] or list(PAGES)
    unknown = [what for what in wanted if what not in PAGES]
    if unknown:
        print(f"{unknown[0]} is not known: valid are {', '.join(PAGES)}")
        return 2
    for what in wanted:
        place, status = page(what)
        if status is not None:
            print(f"{place} answers {status}")
            return 0 if status in (200, 401) else 1
    print("nothing answers")
    return 1


if __name__ == "__main__":
    sys.exit(main())
