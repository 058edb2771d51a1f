"""Dashboards against the types that Grafana publishes for its own frontend.

They are the strictest description of a dashboard that comes as a package: options of each kind of
panel field by field, every word of an enumeration. A compiler holds JSON against them. The package
is a development dependency, pinned by the lock file beside `package.json`, and is fetched by npm
into the cache of the servers.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.processes import servers_dir

__all__ = ["INSTALL_HINT", "npm_available", "objections"]

INSTALL_HINT = "npm and Node.js 18 or later are needed for Grafana's types"

_SOURCE = Path(__file__).with_name("grafana_schema")
_ERROR = re.compile(r"check\.ts\((\d+),\d+\): error TS\d+: (.*)")
_SETTINGS = {
    "compilerOptions": {
        "strict": True,
        "noEmit": True,
        "module": "nodenext",
        "moduleResolution": "nodenext",
        "target": "es2022",
        "skipLibCheck": True,
        "types": [],
    },
    "files": ["check.ts"],
}


def npm_available() -> bool:
    """Whether the package can be fetched and the compiler run."""
    return shutil.which("npm") is not None and shutil.which("node") is not None


def objections(dashboards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the compiler objects to, each with the dashboard and the panel; nothing is good."""
    home = _installed()
    with tempfile.TemporaryDirectory(dir=home, prefix="check-") as temporary:
        folder = Path(temporary)
        shutil.copy(_SOURCE / "types.ts", folder)
        (folder / "tsconfig.json").write_text(json.dumps(_SETTINGS), "utf-8")
        names, lines = [""], ["import type { Panels, Row, Whole } from './types.js';"]
        for name, kind, content in _parts(dashboards):
            names.append(name)
            lines.append(f"export const part{len(lines)}: {kind} = {json.dumps(content)};")
        (folder / "check.ts").write_text("\n".join(lines), "utf-8")
        done = subprocess.run(
            ["node", str(home / "node_modules" / "typescript" / "bin" / "tsc"), "-p", str(folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=folder,
        )
    found = [_ERROR.match(line) for line in done.stdout.splitlines()]
    problems = [f"{names[int(one[1]) - 1]}: {one[2]}" for one in found if one]
    if done.returncode and not problems:
        problems.append(done.stdout + done.stderr)
    return problems


def _parts(
    dashboards: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, type and content of each literal; a panel by itself, so that its kind decides."""
    for uid, dashboard in dashboards.items():
        yield uid, "Whole", {key: one for key, one in dashboard.items() if key != "panels"}
        for panel in dashboard["panels"]:
            inner = panel.get("panels", [])
            for one in (panel, *inner):
                name = f"{uid} / {one['title']}"
                if one["type"] == "row":
                    yield name, "Row", {**one, "panels": []}
                else:
                    yield name, f"Panels[{json.dumps(one['type'])}]", one


def _installed() -> Path:
    """Where the package is, fetched when it is not there in the version of the lock file."""
    home = servers_dir() / "grafana-schema"
    home.mkdir(parents=True, exist_ok=True)
    lock = (_SOURCE / "package-lock.json").read_text("utf-8")
    stamp = home / "installed.json"
    # One fetches, the others wait for it and find its stamp.
    with (home / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text("utf-8") != lock:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(_SOURCE / name, home)
            subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=home,
                check=True,
                timeout=300,
                capture_output=True,
            )
            stamp.write_text(lock, "utf-8")
    return home
