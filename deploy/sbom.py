"""The bill of materials: what an installation of Plumbline consists of, as CycloneDX 1.6.

python -m deploy.sbom build/plumbline.cdx.json

cyclonedx-bom reads the environment; what serves development alone is then left out, by the
requirements of each package on this platform.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines import __version__

__all__ = ["bill_of_materials", "problems", "required"]

REPOSITORY = Path(__file__).resolve().parents[1]
EXTRAS = ("demo", "postgres")
"""Those that the lock holds."""


def required(name: str, extras: tuple[str, ...] = ()) -> set[str]:
    """Canonical names of the packages that one needs here, itself left out.

    Raises
    ------
    PackageNotFoundError
        The package itself is not installed; one that it needs and that is not here is left out.
    """
    found: set[str] = set()
    waiting = [(name, extras)]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        try:
            lines = distribution(key[0]).requires or []
        except PackageNotFoundError:
            if key[0] == name:
                raise
            continue
        found.add(canonicalize_name(key[0]))
        for line in lines:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": one}) for one in ("", *key[1])):
                waiting.append((requirement.name, tuple(sorted(requirement.extras))))
    return found - {canonicalize_name(name)}


def bill_of_materials() -> dict[str, Any]:
    """Of this environment: Plumbline with its extras, and all that they need at run time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "all.json"
        subprocess.run(  # noqa: S603 - our own tool
            [
                *(sys.executable, "-m", "cyclonedx_py", "environment", sys.executable),
                *("--pyproject", str(REPOSITORY / "pyproject.toml"), "--sv", "1.6"),
                *("--output-reproducible", "--no-validate", "--output-file", str(file)),
            ],
            check=True,
            cwd=REPOSITORY,
        )
        bill: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    wanted = required("plumbline", EXTRAS)
    kept = [one for one in bill["components"] if canonicalize_name(one["name"]) in wanted]
    references = {one["bom-ref"] for one in kept}
    root = bill["metadata"]["component"]
    root["version"] = __version__
    bill["components"] = kept
    bill["dependencies"] = [
        {**edge, "dependsOn": [ref for ref in edge.get("dependsOn", ()) if ref in references]}
        for edge in bill["dependencies"]
        if edge["ref"] in references | {root["bom-ref"]}
    ]
    return bill


def problems(bill: str) -> list[str]:
    """What CycloneDX's own schema has against a bill; nothing is good."""
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill)
    return [] if found is None else [str(found)]


def main() -> int:
    """Writes the file that the command line names."""
    target = Path(sys.argv[1])
    text = json.dumps(bill_of_materials(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    wrong = problems(text)
    if wrong:
        sys.stderr.write("\n".join(wrong) + "\n")
        return 1
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{target}: {len(json.loads(text)['components'])} components\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
