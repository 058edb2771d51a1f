"""The Kubernetes manifests: valid, hardened, consistent, and every container of ours starts."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from deploy.alerting.objectives import Objectives
from deploy.kubernetes import GENERATED, generated
from pipelines.core.qdrant import connect
from pipelines.core.settings import Settings, load_settings
from pipelines.core.versions import list_versions
from tests.conftest import require
from tests.support.jobs import COMMAND, ENVIRONMENT, write_config
from tests.support.kafka_security import SecureKafka
from tests.support.kafka_server import INSTALL_HINT as KAFKA_HINT
from tests.support.kafka_server import kafka_available
from tests.support.manifests import (
    FOLDER,
    INSTALL_HINT,
    build,
    kubernetes_available,
    pod_specs,
    problems,
)
from tests.support.pods import HOME, IMAGE, Pod, isolated, status
from tests.support.postgres_server import INSTALL_HINT as POSTGRES_HINT
from tests.support.postgres_server import PostgresServer, postgres_available
from tests.support.processes import (
    REPOSITORY,
    ServerProcess,
    free_port,
    listening,
    wait_until,
)
from tests.support.qdrant_server import QdrantServer
from tests.support.stream import Stream
from tests.support.topics import Topic

OVERLAYS = ("deployment", "minimal", "rollout", "flink")
Objects = list[dict[str, Any]]


@pytest.fixture(scope="module")
def built() -> Callable[[str], Objects]:
    """What kustomize makes of an overlay, or of the base."""
    require(kubernetes_available(), INSTALL_HINT)
    found: dict[str, Objects] = {}

    def of(name: str) -> Objects:
        if name not in found:
            found[name] = build(FOLDER / ("base" if name == "base" else f"overlays/{name}"))
        return copy.deepcopy(found[name])

    return of


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schemas")


@pytest.mark.parametrize("overlay", ["base", *OVERLAYS])
def test_kubeconform_finds_nothing(overlay: str, built: Any, schemas: Path) -> None:
    """Every object, custom resources too, is what its schema says, without a field too many."""
    assert problems(built(overlay), schemas) == []


DAMAGES: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "unknown-field": ("deployment", "Deployment", lambda s: s["template"]["spec"].update(a=1)),
    "wrong-type": ("deployment", "PodDisruptionBudget", lambda s: s.update(selector="all")),
    "pod-monitor": ("deployment", "PodMonitor", lambda s: s.update(endpoints=[])),
    "rule": ("deployment", "PrometheusRule", lambda s: s["groups"][0].update(every="1m")),
    "flink": ("flink", "FlinkDeployment", lambda s: s["taskManager"].update(pods=2)),
    "flink-pod": (
        "flink",
        "FlinkDeployment",
        lambda s: s["taskManager"]["podTemplate"]["spec"].update(container=[]),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_kubeconform_can_object(damage: str, built: Any, schemas: Path) -> None:
    """A typing error anywhere, also in a custom resource, is found."""
    overlay, kind, change = DAMAGES[damage]
    objects = built(overlay)
    change(next(one for one in objects if one["kind"] == kind)["spec"])
    (found,) = problems(objects, schemas)
    assert found.startswith(kind)


def test_what_is_generated_is_committed() -> None:
    """Rules and alerts are those of deploy/prometheus, and every dashboard has its ConfigMap."""
    assert GENERATED.read_text(encoding="utf-8") == generated(Objectives())
    plain = [
        group
        for name in ("plumbline.rules.yml", "plumbline.alerts.yml")
        for group in yaml.safe_load((REPOSITORY / "deploy" / "prometheus" / name).read_text())[
            "groups"
        ]
    ]
    assert yaml.safe_load(GENERATED.read_text())["spec"]["groups"] == plain
    folder = REPOSITORY / "dashboards"
    given = yaml.safe_load((folder / "kustomization.yaml").read_text())["configMapGenerator"]
    named = {file for one in given for file in one["files"]}
    assert named == {f"generated/{one.name}" for one in (folder / "generated").glob("*.json")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_restricted(overlay: str, built: Any) -> None:
    """No container is root, keeps a capability, or writes outside its volumes."""
    pods = list(pod_specs(built(overlay)))
    assert pods
    for name, _, spec in pods:
        if not name.startswith("FlinkDeployment"):
            assert spec["automountServiceAccountToken"] is False, name
            assert spec["securityContext"]["runAsNonRoot"] is True, name
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            where = f"{name}/{container['name']}"
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), where
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), where
            assert "@" in container["image"] or ":" in container["image"], where
            assert not container["image"].endswith(":latest"), where


def test_flinks_own_containers_are_restricted(built: Any) -> None:
    """Flink's main container writes into its image's folders; the rest is as strict as ours."""
    (flink,) = [one for one in built("flink") if one["kind"] == "FlinkDeployment"]
    spec = flink["spec"]["podTemplate"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (main,) = spec["containers"]
    assert main["securityContext"]["allowPrivilegeEscalation"] is False
    assert main["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_lead_somewhere(overlay: str, built: Any) -> None:
    """ConfigMaps, Secrets, ports, selectors: what is named exists; no Secret is written."""
    objects = built(overlay)
    configs = {one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"}
    assert not [one for one in objects if one["kind"] == "Secret"]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    pods = list(pod_specs(objects))
    ports: dict[str, set[int]] = {}
    for name, labels, spec in pods:
        for volume in spec["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configs, name
            for source in volume.get("projected", {}).get("sources", ()):
                assert source["secret"]["name"] == "plumbline"
                for item in source["secret"]["items"]:
                    assert f"--from-file={item['key']}=" in readme, item
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {one["name"] for one in container["volumeMounts"]} <= volumes
            for source in container.get("envFrom", ()):
                assert source["configMapRef"]["name"] in configs
            known = {one["name"]: one["containerPort"] for one in container.get("ports", ())}
            ports.setdefault(labels["app.kubernetes.io/component"], set()).update(known.values())
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                if kind in container:
                    assert container[kind]["httpGet"]["port"] in known, (name, kind)
    for one in objects:
        kind, spec = one["kind"], one.get("spec", {})
        if kind in ("PodDisruptionBudget", "PodMonitor"):
            selected = spec["selector"]["matchLabels"]
        elif kind == "Service":
            selected = spec["selector"]
        else:
            continue
        found = [labels for _, labels, _ in pods if selected.items() <= labels.items()]
        # A rollout's build has a monitor before there is one.
        optional = kind == "PodMonitor" and overlay != "rollout" and "backfill" in selected.values()
        assert found or optional, f"{kind} {one['metadata']['name']} selects no pod"
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    for component, known in ports.items():
        selecting = [
            policy
            for policy in policies
            if policy["podSelector"]["matchLabels"].items()
            <= {
                "app.kubernetes.io/name": "plumbline",
                "app.kubernetes.io/component": component,
            }.items()
        ]
        let_in = {
            port["port"]
            for policy in selecting
            for rule in policy.get("ingress", ())
            for port in rule["ports"]
        }
        assert known <= let_in, component


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_valid_and_every_file_is_mounted(
    overlay: str, built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ConfigMap loads with each container's environment, and names files that the pod has."""
    objects = built(overlay)
    for name, labels, spec in pod_specs(objects):
        fake = dict.fromkeys(("kafka-password", "kafka-ca.crt", "qdrant-api-key"), "secret")
        secrets = {"plumbline": fake | {"database-url": "postgresql+psycopg://a@b/c"}}
        pod = Pod(tmp_path / name.replace(" ", "-"), spec, objects, secrets)
        for container in spec["containers"]:
            with monkeypatch.context() as patched:
                for key, value in pod.environment(container, {}).items():
                    if key.startswith("PLUMBLINE_"):
                        patched.setenv(key, value)
                mounts = pod.mounts(container)
                settings = load_settings(mounts["/etc/plumbline"] / "plumbline.yaml")
            wanted = {str(settings.kafka.sasl_password_file), str(settings.kafka.ssl_cafile)}
            wanted.add(str(settings.qdrant.api_key_file))
            if labels["app.kubernetes.io/component"] == "monitor":
                wanted.add(str(settings.monitor.database_url_file))
            for path in wanted:
                folder, _, file = path.rpartition("/")
                assert (mounts[folder] / file).is_file(), f"{name}: {path}"
            if "plumbline.io/index" in labels:
                assert labels["plumbline.io/index"] == settings.index, name
            served = {settings.metrics.port, settings.monitor.port, settings.rollout.metrics_port}
            for port in container.get("ports", ()):
                assert port["containerPort"] in served


def test_the_image_is_what_the_pods_are_made_for() -> None:
    """User, entry point, working folder and variables are those of the Dockerfile."""
    text = (REPOSITORY / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["plumbline"]' in text
    assert "USER 10001:10001" in text
    assert f"WORKDIR {HOME}" in text
    for name, value in IMAGE.items():
        assert re.search(rf"\b{name}={re.escape(value)}\b", text), name


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[SecureKafka, QdrantServer, PostgresServer]]:
    """Kafka with TLS, SCRAM and ACLs, Qdrant with a key, PostgreSQL: as the settings have them."""
    require(kafka_available(), KAFKA_HINT)
    require(postgres_available(), POSTGRES_HINT)
    with ExitStack() as stack:
        kafka = stack.enter_context(SecureKafka(tmp_path_factory.mktemp("certificates")))
        qdrant = stack.enter_context(QdrantServer(api_key="key-of-the-kingdom"))
        postgres = stack.enter_context(PostgresServer())
        kafka.add_user(
            "plumbline",
            "correct-horse",
            [
                *(("read", "topic", "documents"), ("write", "topic", "documents")),
                *(("describe", "topic", "documents"), ("create", "topic", "documents")),
                *(("describe_configs", "topic", "documents"), ("read", "group", "plumbline.")),
            ],
        )
        kafka.server.create_topic("documents", partitions=2)
        Topic(kafka.server.bootstrap, "documents", 2).produce(
            Stream(20_261_128, 40, sentences=2).take(120)
        )
        yield kafka, qdrant, postgres


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("model"))


class Cluster:
    """Starts containers of an overlay against the test servers; what it starts ends with it."""

    def __init__(self, objects: Objects, services: Any, model: Path) -> None:
        kafka, qdrant, postgres = services
        self._objects, self._stack = objects, ExitStack()
        # A short name: addresses of sockets in it have an end, which those of a pod's /tmp do not
        # come near.
        self._folder = Path(tempfile.mkdtemp(prefix="pods-"))
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._secrets = {
            "plumbline": {
                "kafka-password": "correct-horse",
                "kafka-ca.crt": kafka.authority.certificate.read_text(),
                "qdrant-api-key": "key-of-the-kingdom",
                "database-url": postgres.create_database(),
            }
        }
        self.addresses = {
            "PLUMBLINE_KAFKA__BOOTSTRAP_SERVERS": kafka.address("good"),
            "PLUMBLINE_QDRANT__URL": qdrant.url,
            # The model of the image is not on this machine.
            "PLUMBLINE_CONTRACT__MODEL": str(model),
            "PLUMBLINE_CONTRACT__REVISION": "null",
            "PLUMBLINE_CONTRACT__CHUNK__SIZE": "16",
            "PLUMBLINE_CONTRACT__CHUNK__OVERLAP": "4",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(
        self,
        workload: str,
        container: str,
        *,
        port: str = "",
        arguments: Mapping[str, str] | None = None,
        **variables: str,
    ) -> tuple[ServerProcess, dict[str, Any], str]:
        """The container's process, its manifest, and the address of its port.

        Parameters
        ----------
        port
            Variable that moves its port to a free one.
        arguments
            Ports among the arguments, and free ones in their place.
        """
        (spec,) = [spec for name, _, spec in pod_specs(self._objects) if name == workload]
        folder = self._folder / workload.replace(" ", "-").lower()
        pod = Pod(folder, spec, self._objects, self._secrets)
        free = free_port()
        moved = {port: str(free)} if port else {}
        process = pod.start(
            container, overrides={**self.addresses, **moved, **variables}, arguments=arguments
        )
        self._stack.callback(process.kill)
        (manifest,) = [one for one in spec["containers"] if one["name"] == container]
        return process, manifest, f"http://127.0.0.1:{free}"

    def versions(self) -> list[str]:
        """Names of the index's versions."""
        settings = self._settings()
        return [one.name for one in list_versions(connect(settings), settings.index)]

    def plan_rollout(self, folder: Path, model: Path) -> str:
        """What somebody does by hand: `plumbline rollout plan`; gives the candidate's name."""
        contract = {"model": str(model), "document_prompt": "passage: "}
        contract["chunk"] = {"size": 16, "overlap": 4}
        write_config(folder / "candidate.yaml", contract)
        settings = self._settings()
        config = write_config(folder / "by-hand.yaml", json.loads(settings.public_json()))
        done = subprocess.run(
            [
                *(*COMMAND, "rollout", "plan", "--json", "--config", str(config)),
                *("--contract", str(folder / "candidate.yaml")),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env={**os.environ, **ENVIRONMENT, **settings.secret_environment()},
        )
        return str(json.loads(done.stdout)["candidate"])

    def _settings(self) -> Settings:
        qdrant = {"url": self.addresses["PLUMBLINE_QDRANT__URL"], "api_key": "key-of-the-kingdom"}
        contract = {
            "model": self.addresses["PLUMBLINE_CONTRACT__MODEL"],
            "chunk": {"size": 16, "overlap": 4},
        }
        return Settings(index="docs", qdrant=qdrant, contract=contract)

    def wait_probes(self, process: ServerProcess, manifest: dict[str, Any], address: str) -> None:
        """Each probe of the manifest answers as a kubelet wants it."""
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            if kind in manifest:
                path = manifest[kind]["httpGet"]["path"]
                process.wait_ready(
                    lambda path=path: status(address + path) == 200, 120, what=f"{kind} {path}"
                )


@pytest.mark.timeout(600)
def test_the_containers_start_and_answer_their_probes(
    built: Any, services: Any, tiny: Path, tmp_path: Path
) -> None:
    """Ingest, monitor, candidate and build: from the manifest alone, on servers that ask who comes.

    With a read-only root and without capabilities wherever this machine lets a test do that.
    """
    assert isolated() or os.geteuid() != 0
    with Cluster(built("rollout"), services, tiny) as cluster:
        ingest, manifest, live = cluster.start(
            "Deployment plumbline-ingest", "ingest", port="PLUMBLINE_METRICS__PORT"
        )
        cluster.wait_probes(ingest, manifest, live)
        monitor, manifest, address = cluster.start(
            "Deployment plumbline-monitor", "monitor", port="PLUMBLINE_MONITOR__PORT"
        )
        cluster.wait_probes(monitor, manifest, address)
        assert status(f"{address}/metrics") == status(f"{live}/metrics") == 200
        candidate = cluster.plan_rollout(tmp_path, tiny)
        build_, manifest, address = cluster.start(
            "Job plumbline-rollout-build",
            "build",
            port="PLUMBLINE_ROLLOUT__METRICS_PORT",
            PLUMBLINE_ROLLOUT__LIVE_METRICS_URL=f"{live}/metrics",
        )
        cluster.wait_probes(build_, manifest, address)
        # A kubelet would start it again and again until the build has made its version.
        build_.wait_ready(
            lambda: candidate in cluster.versions(), 180, what="the candidate is there"
        )
        written, manifest, address = cluster.start(
            "Deployment plumbline-candidate",
            "ingest",
            port="PLUMBLINE_METRICS__PORT",
            CANDIDATE=candidate,
        )
        cluster.wait_probes(written, manifest, address)
        wait_until(lambda: not build_.running, 180, what="the build has ended")
        assert build_.returncode == 0, build_.log_tail()
        for process in (ingest, monitor, written):
            process.require_running()
            process.stop(grace_seconds=60)
            assert process.returncode == 0, process.log_tail()


@pytest.mark.timeout(300)
def test_flinks_pods_start_as_far_as_they_get_without_flink(
    built: Any, services: Any, tiny: Path
) -> None:
    """The pool of workers answers its probes; what submits has checked everything but Flink."""
    with Cluster(built("flink"), services, tiny) as cluster:
        pool, manifest, address = cluster.start(
            "FlinkDeployment plumbline-flink",
            "worker-pool",
            port="PLUMBLINE_METRICS__PORT",
            arguments={"50000": str(port := free_port())},
        )
        cluster.wait_probes(pool, manifest, address)
        wait_until(lambda: listening(port), what="task managers find the pool")
        assert status(f"{address}/metrics") == 200
        pool.stop(grace_seconds=30)
        assert pool.returncode == 0, pool.log_tail()
        nobody = f"127.0.0.1:{free_port()}"
        submit, _, _ = cluster.start(
            "Job plumbline-submit",
            "submit",
            PLUMBLINE_FLINK__JOB_ENDPOINT=nobody,
            PLUMBLINE_FLINK__REST_URL=f"http://{nobody}",
            PLUMBLINE_FLINK__START_TIMEOUT_SECONDS="10",
        )
        wait_until(lambda: not submit.running, 180, what="the submission has ended")
        assert submit.returncode == 3, submit.log_tail()
        assert nobody in submit.log_tail()
