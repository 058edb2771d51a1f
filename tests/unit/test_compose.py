"""deploy/compose.yaml against the repository: paths, ports, commands, variables, who needs whom."""

from __future__ import annotations

import importlib.resources
import json
import re
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import typer
import yaml

from deploy.alerting.objectives import Objectives
from deploy.docker.scraping import prometheus_text
from pipelines.cli.app import app
from pipelines.core.settings import ENV_PREFIX, Settings, _all_paths, load_settings
from tests.support.dockerfile import read_stages

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = ("compose.yaml", "compose.cuda.yaml")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
CUDA: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if "build" in service}
ARGUMENTS, STAGES = read_stages(DEPLOY / "docker" / "Dockerfile")
IMAGE = next(stage for stage in STAGES if stage.name == "plumbline")
SCHEMA = json.loads(
    (
        importlib.resources.files("check_jsonschema")
        / "builtin_schemas"
        / "vendor"
        / "compose-spec.json"
    ).read_text(encoding="utf-8")
)


def problems(content: Mapping[str, Any]) -> list[str]:
    validator = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the container loads them: its file, and the image's and the service's variables."""
    variables = {**IMAGE.environment, **SERVICES[service].get("environment", {})}
    for name, value in variables.items():
        if name.startswith(ENV_PREFIX) and name != "PLUMBLINE_CONFIG":
            monkeypatch.setenv(name, value)
    mounted = {config["target"]: config["source"] for config in SERVICES[service]["configs"]}
    file = COMPOSE["configs"][mounted[variables["PLUMBLINE_CONFIG"]]]["file"]
    return load_settings(DEPLOY / file)


def published(service: str) -> dict[int, tuple[str, int]]:
    """Port in the container to address and port on the machine."""
    found = {}
    for text in SERVICES[service].get("ports", []):
        address, outside, inside = text.rsplit(":", 2)
        found[int(inside)] = (address, int(outside))
    return found


def mounts(service: str) -> dict[str, str]:
    """Path in the container to what is mounted there: a file of the repository, or a volume."""
    found: dict[str, str] = {}
    for config in SERVICES[service].get("configs", []):
        found[config["target"]] = COMPOSE["configs"][config["source"]]["file"]
    for name in SERVICES[service].get("secrets", []):
        found[f"/run/secrets/{name}"] = COMPOSE["secrets"][name]["file"]
    for volume in SERVICES[service].get("volumes", []):
        source, target, *_ = volume.split(":")
        found[target] = source
    return found


@pytest.mark.parametrize("name", FILES)
def test_it_follows_the_compose_specification(name: str) -> None:
    """Every key and value is one that the specification's schema has."""
    content = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    assert problems(content) == []


def test_the_schema_is_awake() -> None:
    """A key with a typing error is found, at its place."""
    broken = json.loads(json.dumps(COMPOSE))
    broken["services"]["ingest"]["depend_on"] = {}
    assert any("$.services.ingest" in problem for problem in problems(broken))


def test_every_file_that_it_names_is_in_the_repository() -> None:
    """Build contexts, configurations and mounted folders exist where Compose looks for them."""
    named = [config["file"] for config in COMPOSE["configs"].values()]
    for service in SERVICES.values():
        if "build" in service:
            named += [service["build"]["context"], "../" + service["build"]["dockerfile"]]
        named += [v.split(":")[0] for v in service.get("volumes", []) if v.startswith(".")]
    assert named
    missing = [name for name in named if not (DEPLOY / name).exists()]
    assert missing == []
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=DEPLOY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    files = [name for name in named if (DEPLOY / name).is_file()]
    assert {str(Path(name)) for name in files if not name.startswith("..")} <= set(tracked)


def test_every_volume_secret_and_config_is_declared_and_used() -> None:
    """No mount of something that is not there, and nothing declared for nobody."""
    for kind in ("configs", "secrets"):
        used = {
            one if isinstance(one, str) else one["source"]
            for service in SERVICES.values()
            for one in service.get(kind, [])
        }
        assert used == set(COMPOSE[kind])
    volumes = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert volumes == set(COMPOSE["volumes"])


def test_images_are_pinned() -> None:
    """Others' images by digest, or by an exact tag with a word of why."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    for name, service in SERVICES.items():
        image = service["image"]
        if name in OURS:
            assert image == "plumbline:cpu"
        elif not re.fullmatch(r"[\w./-]+:v?[\d.]+@sha256:[0-9a-f]{64}", image):
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+(-\w+)?", image)
            assert re.search(rf"# By tag: .*\n *image: {re.escape(image)}", text)


def test_nothing_is_published_beyond_this_machine() -> None:
    """Every published port is one of loopback, and no two are the same."""
    taken = []
    for name in SERVICES:
        for address, port in published(name).values():
            assert address == "127.0.0.1"
            taken.append(port)
    assert len(taken) == len(set(taken))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_bounds_and_no_rights_it_does_not_need(name: str) -> None:
    """No capabilities, no new privileges, bounded memory, processors and logs."""
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory"} <= set(limits)
    assert service["logging"]["options"]["max-size"]
    for key in ("privileged", "network_mode", "pid", "cap_add", "user", "env_file"):
        assert key not in service
    if name in OURS:
        assert service["read_only"] is True


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_secrets_come_from_files(name: str) -> None:
    """No variable holds one: each names a file among the mounted secrets."""
    for key, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|TOKEN|API_KEY", key):
            assert key.endswith(("__FILE", "_FILE"))
            assert value in mounts(name)
    for text in json.dumps(SERVICES[name].get("command", [])), str(SERVICES[name].get("command")):
        for path in re.findall(r"/run/secrets/\w+", text):
            assert path in mounts(name)


def test_the_secrets_are_made_by_the_script_and_never_committed(tmp_path: Path) -> None:
    """One file each: unguessable, without an end of line, readable in the containers, kept."""
    script = tmp_path / "docker" / "make-secrets.sh"
    script.parent.mkdir()
    script.write_bytes((DEPLOY / "docker" / "make-secrets.sh").read_bytes())
    wanted = {Path(one["file"]) for one in COMPOSE["secrets"].values()}
    made: dict[Path, bytes] = {}
    for _ in range(2):
        subprocess.run(["sh", script], check=True, capture_output=True)
        contents = {path: (tmp_path / path).read_bytes() for path in wanted}
        assert not made or made == contents
        made = contents
    assert all(re.fullmatch(rb"[0-9a-f]{64}", content) for content in made.values())
    assert len(set(made.values())) == len(wanted)
    assert {path.name for path in wanted} == {p.name for p in (tmp_path / "secrets").iterdir()}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    for path in wanted:
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o444
        subprocess.run(["git", "check-ignore", "-q", str(DEPLOY / path)], cwd=ROOT, check=True)


def _runs(command: Any) -> bool:
    """Whether it does something by itself; a mere group of commands does not."""
    return not hasattr(command, "commands") or bool(command.invoke_without_command)


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_commands_are_commands(name: str) -> None:
    """Entry point and arguments parse: command, options and their values."""
    assert IMAGE.command("ENTRYPOINT") == ["plumbline"]
    words = list(SERVICES[name]["command"])
    if words == ["--help"]:
        return
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert _runs(command), f"{name} names a group, or no command: {words}"
    with command.make_context(name, words):
        pass


def test_commands_in_comments_are_commands() -> None:
    """What the file tells people to type exists."""
    root = typer.main.get_command(app)
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    told = re.findall(r"# .*?\bplumbline (rollout|ingest|search|doctor)\b([^#\n]*)", text)
    assert len(told) >= 5
    for name, rest in told:
        command, words = root.commands[name], rest.split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert _runs(command), rest
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_variables_are_settings(name: str) -> None:
    """Every variable of ours is a setting; the rest is the model hub's."""
    known = {f"{ENV_PREFIX}{'__'.join(path).upper()}" for path in _all_paths(Settings)}
    for file in (SERVICES, CUDA["services"]):
        for key in file.get(name, {}).get("environment", {}):
            assert key in known | {"PLUMBLINE_CONFIG", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"}


def test_the_job_finds_kafka_and_its_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is one that the broker advertises to containers, and the topic is made before."""
    settings = settings_of("ingest", monkeypatch)
    environment = SERVICES["kafka"]["environment"]
    inside = f"INTERNAL://{settings.kafka.bootstrap_servers}"
    assert inside in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] == "INTERNAL"
    assert SERVICES["kafka"]["hostname"] == "kafka"
    command = SERVICES["topics"]["command"]
    assert command[command.index("--topic") + 1] in settings.kafka.topics
    assert command[command.index("--bootstrap-server") + 1] == settings.kafka.bootstrap_servers
    assert settings.kafka.bootstrap_servers in SERVICES["kafka"]["healthcheck"]["test"]
    # And from this machine.
    assert published("kafka") == {9092: ("127.0.0.1", 9092)}
    assert "HOST://localhost:9092" in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")
    ports = re.findall(r"://:(\d+)", environment["KAFKA_LISTENERS"])
    assert len(ports) == 3
    assert environment["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"1@kafka:{ports[-1]}"
    assert environment["KAFKA_LOG_DIRS"] in mounts("kafka")


def test_the_broker_and_the_topic_maker_are_one_version() -> None:
    """The version that the tests run."""
    from deploy.local.install import VERSIONS

    assert SERVICES["kafka"]["image"] == SERVICES["topics"]["image"]
    assert SERVICES["kafka"]["image"].startswith(f"apache/kafka:{VERSIONS['kafka']['kafka']}@")


@pytest.mark.parametrize("name", sorted(OURS))
def test_qdrant_is_found_with_its_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL names the service, and the key's file is the secret that Qdrant itself reads."""
    store = settings_of(name, monkeypatch).qdrant
    assert store.url == "http://qdrant:6333"
    assert 6333 in published("qdrant")
    assert str(store.api_key_file) in mounts(name)
    assert str(store.api_key_file) in SERVICES["qdrant"]["command"][0]
    assert mounts(name)[str(store.api_key_file)] == mounts("qdrant")[str(store.api_key_file)]


def test_the_model_of_the_settings_is_the_one_in_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, nothing else could be loaded."""
    stage = next(one for one in STAGES if one.name == "model")
    for name in OURS:
        contract = settings_of(name, monkeypatch).contract
        arguments = SERVICES[name]["build"]["args"]
        assert arguments["MODEL"] == contract.model
        assert arguments["MODEL_REVISION"] == contract.revision
        assert {"MODEL", "MODEL_REVISION"} <= set(stage.arguments)
        assert set(arguments) <= set(stage.arguments) | set(ARGUMENTS)
        assert SERVICES[name]["environment"]["HF_HUB_OFFLINE"] == "1"
    assert CUDA["services"]["ingest"]["build"]["args"] == {"VARIANT": "cuda"}
    assert any(stage.name == "dependencies-cuda" for stage in STAGES)


def test_ports_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published is what the job and the monitor listen on, on every address inside."""
    settings = settings_of("ingest", monkeypatch)
    assert published("ingest") == {settings.metrics.port: ("127.0.0.1", settings.metrics.port)}
    assert published("monitor") == {settings.monitor.port: ("127.0.0.1", settings.monitor.port)}
    assert (settings.metrics.host, settings.monitor.host) == ("0.0.0.0", "0.0.0.0")
    assert settings.rollout.live_metrics_url == f"http://ingest:{settings.metrics.port}/metrics"
    seconds = int(SERVICES["ingest"]["stop_grace_period"].removesuffix("s"))
    assert seconds > settings.ingest.drain_seconds


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_is_written_has_a_volume(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system is read-only: state goes to the service's own volume."""
    settings = settings_of(name, monkeypatch)
    assert mounts(name)[IMAGE.last("WORKDIR")] in COMPOSE["volumes"]
    url = settings.monitor.database_url
    assert url is not None
    assert url.get_secret_value() == f"sqlite:///{IMAGE.last('WORKDIR')}/monitor.db"


def test_health_checks_run_what_the_images_have() -> None:
    """Ours is the script in the image, told what runs there."""
    assert SERVICES["ingest"]["healthcheck"]["test"] == ["CMD", "healthy", "ingest"]
    assert SERVICES["monitor"]["healthcheck"]["test"] == ["CMD", "healthy", "monitor"]
    targets = {copy.target for copy in IMAGE.copies}
    assert "/usr/local/bin/healthy" in targets


def test_who_waits_for_health_waits_for_a_service_that_has_it() -> None:
    """Every condition can come true, and the order has no circle."""
    done: set[str] = set()
    while len(done) < len(SERVICES):
        ready = {
            name
            for name, service in SERVICES.items()
            if name not in done and set(service.get("depends_on", {})) <= done
        }
        assert ready, f"a circle, or an unknown service, among {set(SERVICES) - done}"
        done |= ready
    for service in SERVICES.values():
        for name, need in service.get("depends_on", {}).items():
            if need["condition"] == "service_healthy":
                assert "test" in SERVICES[name]["healthcheck"]
            else:
                assert need["condition"] == "service_completed_successfully"
                assert SERVICES[name]["restart"] == "no"


def test_prometheus_is_given_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configuration is the generated one; rules are mounted where it looks for them."""
    path = DEPLOY / "docker" / "prometheus.yml"
    assert path.read_text(encoding="utf-8") == prometheus_text(), "run `make generate`"
    mounted = mounts("prometheus")
    (flag,) = [w for w in SERVICES["prometheus"]["command"] if w.startswith("--config.file=")]
    config_path = flag.partition("=")[2]
    assert DEPLOY / mounted[config_path] == path
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    folder = Path(config_path).parent
    for name in config["rule_files"]:
        assert (DEPLOY / mounted[str(folder / name)]).is_file()
    assert set(mounted) == {
        config_path,
        *(str(folder / r) for r in config["rule_files"]),
        "/prometheus",
    }


def test_prometheus_scrapes_services_on_their_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every target is a service of this file, on the port that it listens on."""
    settings = settings_of("ingest", monkeypatch)
    config = yaml.safe_load(prometheus_text())
    ports = {
        "ingest": settings.metrics.port,
        "rollout": settings.rollout.metrics_port,
        "monitor": settings.monitor.port,
    }
    jobs = Objectives().scraping.jobs
    names = {jobs.ingest: "ingest", jobs.backfill: "rollout", jobs.monitor: "monitor"}
    assert {job["job_name"] for job in config["scrape_configs"]} == set(names)
    for job in config["scrape_configs"]:
        service = names[job["job_name"]]
        (targets,) = job["static_configs"]
        assert targets["targets"] == [f"{service}:{ports[service]}"]
        assert service in SERVICES
        # The monitor exports the index itself.
        index = {} if service == "monitor" else {"index": settings.index}
        assert targets.get("labels", {}) == index
    ((address,),) = [
        target["static_configs"][0]["targets"] for target in config["alerting"]["alertmanagers"]
    ]
    host, port = address.split(":")
    assert int(port) in published(host)


def test_alertmanager_is_given_what_it_reads() -> None:
    """The generated configuration, at the path of its flag."""
    (flag,) = [w for w in SERVICES["alertmanager"]["command"] if w.startswith("--config.file=")]
    path = DEPLOY / mounts("alertmanager")[flag.partition("=")[2]]
    assert path == DEPLOY / "alertmanager" / "alertmanager.yml"


def test_grafana_finds_its_data_source_and_the_dashboards() -> None:
    """Provisioning lies where Grafana looks, and what it names is mounted or is a service."""
    mounted = mounts("grafana")
    provisioning = DEPLOY / mounted["/etc/grafana/provisioning"]
    source_file = provisioning / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(source_file.read_text(encoding="utf-8"))["datasources"]
    url = urlsplit(source["url"])
    assert source["type"] == "prometheus"
    assert url.port in published(str(url.hostname))
    seconds = Objectives().scraping.scrape_interval
    assert source["jsonData"]["timeInterval"] == f"{seconds:g}s"
    provider_file = provisioning / "dashboards" / "plumbline.yaml"
    (provider,) = yaml.safe_load(provider_file.read_text(encoding="utf-8"))["providers"]
    folder = DEPLOY / mounted[provider["options"]["path"]]
    assert folder.resolve() == ROOT / "dashboards" / "generated"
    found = list(folder.glob("*.json"))
    assert found
    assert all(json.loads(path.read_text(encoding="utf-8"))["title"] for path in found)
    others = [p for p in provisioning.rglob("*.yaml") if p not in (source_file, provider_file)]
    assert others == []


def test_cuda_changes_the_job_alone() -> None:
    """The other file adds to a service of this one, with a GPU reserved for it."""
    assert set(CUDA["services"]) == {"ingest"}
    job = CUDA["services"]["ingest"]
    assert job["image"] == "plumbline:cuda"
    (device,) = job["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert job["environment"] == {"PLUMBLINE_RUNTIME__DEVICE": "cuda"}
