"""Containers of a manifest as processes of this machine: arguments, environment, files, rights.

What a node would do is done here: ConfigMaps and Secrets become files, `emptyDir`s folders, fields
of resources numbers; the root file system is mounted read-only and capabilities are dropped where
this process may do so. What differs is where things lie: paths of mounts are rewritten to folders
of the test, in the environment, the arguments and the files of ConfigMaps.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.processes import ServerProcess

__all__ = ["HOME", "IMAGE", "Pod", "isolated", "status"]

IMAGE = {
    # What the image sets (deploy/docker/Dockerfile), and a test compares.
    "PLUMBLINE_METRICS__HOST": "0.0.0.0",
    "PLUMBLINE_MONITOR__HOST": "0.0.0.0",
    "PLUMBLINE_LOG_FORMAT": "json",
    "PYTHONUNBUFFERED": "1",
}
HOME = "/var/lib/plumbline"

_READ_ONLY = """
set -e
mount --make-rprivate /
for folder in $WRITABLE; do mount --bind "$folder" "$folder"; done
mount -o remount,bind,ro /
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"
"""


def isolated() -> bool:
    """Whether a container here can have a read-only root: it takes a root of one's own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    script = "mount --make-rprivate / && mount -o remount,bind,ro / && ! touch /probe 2>&-"
    return subprocess.run(["unshare", "-m", "sh", "-c", script]).returncode == 0


class Pod:
    """One pod's files, and its containers as processes.

    Parameters
    ----------
    folder
        Where its file system is laid out.
    spec
        Of the pod.
    objects
        The manifest's objects, for its ConfigMaps.
    secrets
        Content of the Secrets, by name and key.
    """

    def __init__(
        self,
        folder: Path,
        spec: Mapping[str, Any],
        objects: list[dict[str, Any]],
        secrets: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.folder = folder
        self._spec = spec
        self._configs = {
            one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"
        }
        self._secrets = secrets
        self._volumes: dict[str, Path] = {}
        self.writable: list[Path] = []
        for volume in spec["volumes"]:
            self._lay_out(volume)

    def _lay_out(self, volume: Mapping[str, Any]) -> None:
        folder = self.folder / volume["name"]
        folder.mkdir(parents=True)
        self._volumes[volume["name"]] = folder
        if "configMap" in volume:
            for name, content in self._configs[volume["configMap"]["name"]].items():
                (folder / name).write_text(content, encoding="utf-8")
        elif "projected" in volume:
            for source in volume["projected"]["sources"]:
                secret = self._secrets[source["secret"]["name"]]
                for item in source["secret"]["items"]:
                    (folder / item["path"]).write_text(secret[item["key"]], encoding="utf-8")
        else:
            assert set(volume) == {"name", "emptyDir"}, volume
            self.writable.append(folder)

    def mounts(self, container: Mapping[str, Any]) -> dict[str, Path]:
        """Path in the container to folder here."""
        return {one["mountPath"]: self._volumes[one["name"]] for one in container["volumeMounts"]}

    def environment(
        self, container: Mapping[str, Any], overrides: Mapping[str, str]
    ) -> dict[str, str]:
        """What the container's process sees, and nothing of this one's but the path."""
        values = dict(IMAGE) | {"PATH": os.environ["PATH"], "HOME": HOME, "TMPDIR": "/tmp"}
        for source in container.get("envFrom", ()):
            values |= self._configs[source["configMapRef"]["name"]]
        for variable in container.get("env", ()):
            if "value" in variable:
                values[variable["name"]] = variable["value"]
                continue
            field = variable["valueFrom"]["resourceFieldRef"]
            kind, _, what = field["resource"].partition(".")
            values[variable["name"]] = str(container["resources"][kind][what])
        return {name: self._here(value, container) for name, value in values.items()} | dict(
            overrides
        )

    def start(
        self, name: str, *, overrides: Mapping[str, str], arguments: Mapping[str, str] | None = None
    ) -> ServerProcess:
        """A container by its name; the image's entry point is `plumbline`.

        Parameters
        ----------
        overrides
            Of the environment: addresses of test servers.
        arguments
            Values in place of others among the arguments.
        """
        (container,) = [one for one in self._spec["containers"] if one["name"] == name]
        for config in self._config_files(container):
            text = config.read_text(encoding="utf-8")
            config.write_text(self._here(text, container), encoding="utf-8")
        environment = self.environment(container, overrides)
        given = [
            re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], word)
            for word in container["args"]
        ]
        given = [(arguments or {}).get(word, word) for word in given]
        program = str(Path(sys.executable).with_name("plumbline"))
        command = [
            *("env", "-i", *(f"{key}={value}" for key, value in environment.items())),
            *(program, *given),
        ]
        if isolated():
            command = ["unshare", "-m", "sh", "-c", _READ_ONLY, "sh", *command]
        return ServerProcess(
            command,
            self.folder.with_name(f"{self.folder.name}-{name}.log"),
            environment={"WRITABLE": " ".join(str(one) for one in self.writable)},
            working_directory=self.mounts(container)[HOME],
        )

    def _config_files(self, container: Mapping[str, Any]) -> list[Path]:
        names = {v["name"] for v in self._spec["volumes"] if "configMap" in v}
        mounted = {one["name"] for one in container["volumeMounts"]}
        return [file for name in names & mounted for file in self._volumes[name].iterdir()]

    def _here(self, text: str, container: Mapping[str, Any]) -> str:
        mounts = self.mounts(container)
        # A whole path or its beginning, and not the end of another one; all at once, since what a
        # path becomes may begin like another one.
        paths = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
        return re.sub(rf"(?<![\w/.])({paths})(?![\w-])", lambda found: str(mounts[found[1]]), text)


def status(url: str) -> int:
    """Of a GET, as a kubelet sends it; 0 when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
