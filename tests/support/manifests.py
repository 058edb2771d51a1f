"""Kubernetes manifests for tests: built by kustomize, held to schemas by kubeconform."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import REPOSITORY, servers_dir, stamped

__all__ = ["FOLDER", "INSTALL_HINT", "build", "kubernetes_available", "pod_specs", "problems"]

INSTALL_HINT = "kustomize is not installed: python deploy/local/install.py kubernetes"
CUSTOM = (
    "monitoring.coreos.com_podmonitors.yaml",
    "monitoring.coreos.com_prometheusrules.yaml",
    "flinkdeployments.flink.apache.org-v1.yml",
)
"""Definitions of the custom resources that are used here."""

FOLDER = REPOSITORY / "deploy" / "kubernetes"


class _Loader(yaml.CSafeLoader):
    """Takes a lone `=` for the string that it is meant as: an operator of label selectors."""


_Loader.add_constructor("tag:yaml.org,2002:value", _Loader.construct_yaml_str)


def _tools() -> Path:
    return servers_dir() / "kubernetes"


def kubernetes_available() -> bool:
    """Whether install.py has put the tools and schemas there."""
    return stamped("kubernetes")


def build(folder: Path) -> list[dict[str, Any]]:
    """What `kustomize build` gives, one mapping an object; an error is an `AssertionError`."""
    done = subprocess.run(
        [str(_tools() / "bin" / "kustomize"), "build", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower(), done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


def problems(objects: list[dict[str, Any]], folder: Path) -> list[str]:
    """What kubeconform, in strict mode, has against the objects; nothing is good.

    Parameters
    ----------
    folder
        For the schemas of custom resources, which are made from their definitions.
    """
    schemas = folder / "schemas"
    if not schemas.exists():
        _write_custom_schemas(schemas)
    file = folder / "objects.yaml"
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    done = subprocess.run(
        [
            *(str(_tools() / "bin" / "kubeconform"), "-strict", "-output", "json", "-summary"),
            *(
                "-schema-location",
                f"{_tools()}/schemas/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
            ),
            *(
                "-schema-location",
                f"{schemas}/{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json",
            ),
            str(file),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    answer = json.loads(done.stdout)
    summary = answer["summary"]
    found = [
        f"{one['kind']} {one['name']}: {one['status']}: {one['msg']}"
        for one in answer["resources"] or ()
        if one["status"] != "statusValid"
    ]
    if summary["valid"] + len(found) != len(objects) or summary["skipped"]:
        found.append(f"not all {len(objects)} objects were looked at: {summary}")
    return found


def _write_custom_schemas(folder: Path) -> None:
    folder.mkdir()
    for name in CUSTOM:
        text = (_tools() / "crds" / name).read_text(encoding="utf-8")
        for definition in yaml.load_all(text, Loader=_Loader):
            kind = definition["spec"]["names"]["kind"].lower()
            for version in definition["spec"]["versions"]:
                schema = _strict(version["schema"]["openAPIV3Schema"])
                # Every object has these, whatever its definition says of them.
                schema["properties"] |= {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                }
                (folder / f"{kind}_{version['name']}.json").write_text(json.dumps(schema))


def _strict(schema: Any) -> Any:
    """A definition's schema as JSON schema that refuses what it does not name."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: (
            {name: _strict(one) for name, one in value.items()}
            if key == "properties"
            else _strict(value)
        )
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-")
    }
    if schema.get("x-kubernetes-int-or-string"):
        made = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    if "properties" in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def pod_specs(
    objects: list[dict[str, Any]],
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, labels and specification of every pod that the objects lead to."""
    for one in objects:
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] in ("Deployment", "Job"):
            template = one["spec"]["template"]
            yield name, template["metadata"]["labels"], template["spec"]
        elif one["kind"] == "FlinkDeployment":
            template = one["spec"]["taskManager"]["podTemplate"]
            yield name, template["metadata"]["labels"], template["spec"]
