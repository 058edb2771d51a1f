"""Install the servers that tests and a plain machine use, without Docker.

    python deploy/local/install.py kafka flink prometheus

`kafka`: Apache Kafka as jars. `flink`: Flink's cluster and Beam's job server for it as jars.
`postgres`, `prometheus` (with promtool), `alertmanager` (with amtool) and `faketime`: this Debian's
or Ubuntu's own packages, unpacked beside the system, which stays as it is. `toxiproxy`, and
`prism`, Beam's own runner: built from their Go modules. `kubernetes`: kustomize and kubeconform
from their Go modules, and the schemas of Kubernetes, the Prometheus Operator and the Flink
operator.

They go to the cache directory, `.cache/servers` in the repository unless PLUMBLINE_SERVERS_DIR
names another; what is there already in the right version is left alone. Java and Maven, for the
jars, and Go are installed with apt-get when they are missing and this runs as root.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

# The one place that states versions. Beam's job server must be built for this Flink's minor
# version; its own version may differ from the Python SDK's, the portable protocol is stable. slf4j
# stays at 1.7, which both were built on.
VERSIONS: dict[str, dict[str, str]] = {
    "kafka": {"kafka": "4.1.1", "slf4j": "1.7.36"},
    "flink": {"flink": "1.19.3", "beam": "2.62.0", "slf4j": "1.7.36"},
    # The distribution decides; `packages.json` beside the stamp says which they were.
    "postgres": {"postgresql": "of the distribution"},
    "prometheus": {"prometheus": "of the distribution"},
    "alertmanager": {"prometheus-alertmanager": "of the distribution, relocated"},
    "toxiproxy": {"toxiproxy": "2.12.0"},
    "faketime": {"libfaketime": "of the distribution"},
    "prism": {"prism": "2.77.0"},
    # Of the schemas: Kubernetes' release, the package that carries it, and the operators'.
    "kubernetes": {
        "kubeconform": "0.7.0",
        "kustomize": "5.7.1",
        "kubernetes": "1.34.0",
        "kubernetes-validate": "1.37.0",
        "prometheus-operator": "0.85.0",
        "flink-kubernetes-operator": "1.10.0",
    },
}

# Programs that are built from their Go module.
GO_PROGRAMS = {
    "toxiproxy": "github.com/Shopify/toxiproxy/v2/cmd/server",
    "prism": "github.com/apache/beam/sdks/v2/go/cmd/prism",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5",
}

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
STAMP = "installed.json"
PACKAGES = ["openjdk-17-jre-headless", "maven"]
OLDEST_JAVA = 17
ATTEMPTS = 3


class InstallError(Exception):
    """Something a person must put right; the message says what."""


def servers_dir() -> Path:
    """The cache that everything is installed into."""
    return Path(os.environ.get("PLUMBLINE_SERVERS_DIR") or REPOSITORY / ".cache" / "servers")


def run(command: list[str]) -> None:
    """Run a command that reaches the network, again when it fails: mirrors have bad moments."""
    for attempt in range(1, ATTEMPTS + 1):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode == 0:
            return
        print(f"{command[0]} failed (attempt {attempt} of {ATTEMPTS})", file=sys.stderr)
        if attempt < ATTEMPTS:
            time.sleep(2.0**attempt)
    tail = "\n".join(done.stdout.splitlines()[-20:])
    raise InstallError(f"`{' '.join(command)}` failed {ATTEMPTS} times; its last lines:\n{tail}")


def java_major() -> int | None:
    """The major version of the `java` on the path; `None` when there is none."""
    java = shutil.which("java")
    if java is None:
        return None
    done = subprocess.run(
        [java, "-XshowSettings:properties", "-version"], capture_output=True, text=True, check=False
    )
    for line in done.stderr.splitlines():
        name, _, value = line.strip().partition(" = ")
        if name == "java.specification.version":
            return int(value.split(".")[-1])
    return None


def missing_tools() -> list[str]:
    """What is missing of Java and Maven, in words."""
    missing = []
    major = java_major()
    if major is None:
        missing.append("java")
    elif major < OLDEST_JAVA:
        missing.append(f"java {OLDEST_JAVA} or later (this is {major})")
    if shutil.which("mvn") is None:
        missing.append("mvn")
    return missing


def require_tools() -> None:
    """Have Java and Maven, by installing them if need be and possible."""
    missing = missing_tools()
    if not missing:
        return
    wanted = " and ".join(missing)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {' '.join(PACKAGES)}: missing {wanted}")
        run(["apt-get", "update", "-qq"])
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES])
        missing = missing_tools()
    if missing:
        raise InstallError(
            f"missing: {wanted}. Install them, on Debian and Ubuntu with: "
            f"apt-get install -y {' '.join(PACKAGES)}"
        )


def maven_jars(pom: str, target: Path, versions: dict[str, str]) -> None:
    """Copy what a pom needs at run time, with its dependencies, to a directory."""
    run(
        [
            "mvn",
            "-q",
            "-B",
            "-f",
            str(HERE / pom),
            *(f"-D{name}={value}" for name, value in versions.items()),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={target}",
        ]
    )


@contextlib.contextmanager
def pip_python() -> Iterator[str]:
    """An interpreter that has pip: this one, else that of a virtual environment made for it."""
    if importlib.util.find_spec("pip") is not None:
        yield sys.executable
        return
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        yield str(Path(directory) / "bin" / "python")


def install_kafka(target: Path, versions: dict[str, str]) -> None:
    """Put the broker's jars into `target/jars`."""
    require_tools()
    maven_jars(
        "pom-kafka.xml",
        target / "jars",
        {"kafka.version": versions["kafka"], "slf4j.version": versions["slf4j"]},
    )


def install_flink(target: Path, versions: dict[str, str]) -> None:
    """Put Flink's jars into `target/lib`, and those of Beam's job server into `target/job-server`.

    Flink comes from the sdist that PyFlink depends on. It is taken apart here, not installed: its
    package would bring nothing but the jars into an environment.
    """
    require_tools()
    flink = versions["flink"]
    with tempfile.TemporaryDirectory() as directory:
        with pip_python() as python:
            run(
                [
                    python,
                    *("-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory),
                    f"apache-flink-libraries=={flink}",
                ]
            )
        (archive,) = Path(directory).iterdir()
        (target / "lib").mkdir()
        with tarfile.open(archive) as tar:
            for member in tar:
                path = Path(member.name)
                if path.parts[1:3] == ("deps", "lib") and path.suffix == ".jar":
                    source = tar.extractfile(member)
                    assert source is not None
                    with source, (target / "lib" / path.name).open("wb") as jar:
                        shutil.copyfileobj(source, jar)
    maven_jars(
        "pom-beam-flink.xml",
        target / "job-server",
        {
            "beam.version": versions["beam"],
            "beam.flink": flink.rpartition(".")[0],
            "slf4j.version": versions["slf4j"],
        },
    )


def install_packages(target: Path, versions: dict[str, str]) -> None:
    """Unpack packages, and what they need beyond this system's own, into `target`.

    apt works on lists, a cache and a state of its own here, so that nothing of the system changes
    and no rights are needed. The packages' own scripts do not run: no service starts, no user is
    made. Libraries that came along lie in `target/usr/lib/<architecture>`.
    """
    missing = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
    if missing:
        raise InstallError(
            f"missing: {' and '.join(missing)}. These servers come from packages of Debian or "
            f"Ubuntu; on another system install {' and '.join(versions)} its own way."
        )
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        for folder in ("lists/partial", "archives/partial", "state"):
            (work / folder).mkdir(parents=True)
        status = work / "state" / "status"
        status.write_text(status_without(set(versions)))
        options = [
            f"Dir::State={work / 'state'}",
            f"Dir::State::lists={work / 'lists'}",
            f"Dir::State::status={status}",
            f"Dir::Cache={work}",
            f"Dir::Cache::archives={work / 'archives'}",
            # Else, as root, another user would have to read and write there.
            f"APT::Sandbox::User={getpass.getuser()}",
            "APT::Get::List-Cleanup=0",
            "Debug::NoLocking=1",
        ]
        apt = ["apt-get", "-qq", *(part for option in options for part in ("-o", option))]
        run([*apt, "update"])
        run([*apt, "install", "--download-only", "-y", "--no-install-recommends", *versions])
        archives = sorted((work / "archives").glob("*.deb"))
        for archive in archives:
            run(["dpkg", "-x", str(archive), str(target)])
        names = [archive.stem.replace("%3a", ":") for archive in archives]
    (target / "packages.json").write_text(json.dumps(names, indent=1) + "\n")


def status_without(packages: set[str]) -> str:
    """What dpkg says is installed, as if these packages, and others of their source, were not."""
    path = Path("/var/lib/dpkg/status")
    paragraphs = path.read_text(errors="replace").split("\n\n") if path.exists() else []

    def concerns(paragraph: str) -> bool:
        name = next(iter(paragraph.splitlines()), "").removeprefix("Package: ")
        return any(name == package or name.startswith(f"{package}-") for package in packages)

    return "\n\n".join(paragraph for paragraph in paragraphs if not concerns(paragraph))


def install_alertmanager(target: Path, versions: dict[str, str]) -> None:
    """Unpack Alertmanager, with `target/bin/alertmanager` to start it.

    The distributions' build looks for its templates below an absolute path, where nothing is
    installed. That path is put in other words of the same length, which begin at the working
    folder, and the script goes to the right one.
    """
    install_packages(target, versions)
    program = (target / "usr" / "bin" / "prometheus-alertmanager").read_bytes()
    absolute = b"/usr/share/prometheus/alertmanager"
    relative = b"/proc/self/cwd" + b"/" * 8 + b"alertmanager"
    assert len(relative) == len(absolute)
    binaries = target / "bin"
    binaries.mkdir()
    relocated = binaries / "alertmanager.relocated"
    relocated.write_bytes(program.replace(absolute, relative))
    script = binaries / "alertmanager"
    script.write_text(
        "#!/bin/sh\n"
        "# Paths among the arguments are absolute: this goes where the templates are.\n"
        'here="$(CDPATH="" cd -- "$(dirname -- "$0")/.." && pwd)" || exit 1\n'
        'cd "$here/usr/share/prometheus" || exit 1\n'
        'exec "$here/bin/alertmanager.relocated" "$@"\n'
    )
    for file in (relocated, script):
        file.chmod(0o755)


def install_go_programs(target: Path, versions: dict[str, str]) -> None:
    """Build programs from their Go modules into `target/bin`."""
    if shutil.which("go") is None:
        if os.geteuid() == 0 and shutil.which("apt-get"):
            run(["apt-get", "update", "-qq"])
            run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "golang-go"])
        if shutil.which("go") is None:
            raise InstallError("missing: go. Install Go 1.23 or later: https://go.dev/doc/install")
    for name, version in versions.items():
        run(["env", f"GOBIN={target / 'bin'}", "go", "install", f"{GO_PROGRAMS[name]}@v{version}"])


def install_kubernetes(target: Path, versions: dict[str, str]) -> None:
    """Build kustomize and kubeconform, and bring the schemas that manifests are held to.

    `target/schemas` has those of Kubernetes as JSON, `target/crds` those of custom resources as
    their operators publish them. None of them needs a cluster.
    """
    install_go_programs(target, {name: versions[name] for name in ("kubeconform", "kustomize")})
    require_tools()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        package = f"kubernetes-validate=={versions['kubernetes-validate']}"
        with pip_python() as python:
            run([python, "-m", "pip", "download", "--quiet", "--no-deps", "-d", directory, package])
        (wheel,) = work.glob("*.whl")
        inside = (
            f"kubernetes_validate/kubernetes-json-schema/v{versions['kubernetes']}-local-strict/"
        )
        unpack(wheel, inside, target / "schemas", ".json")
        # They name a server as their home and refer to each other from its root: here they lie side
        # by side, and nothing is asked of anybody.
        for schema in (target / "schemas").iterdir():
            text = schema.read_text(encoding="utf-8")
            content = json.loads(text.replace('"/api/_definitions.json#', '"_definitions.json#'))
            content.pop("$id", None)
            schema.write_text(json.dumps(content))
        module = "github.com/prometheus-operator/prometheus-operator"
        # Its own folder stands in for a module cache, which Go writes without write rights.
        cache = [f"GOMODCACHE={work / 'modules'}", "GOFLAGS=-modcacherw"]
        version = versions["prometheus-operator"]
        run(["env", *cache, "go", "mod", "download", f"{module}@v{version}"])
        (target / "crds").mkdir()
        for file in (work / "modules").glob(
            "github.com/*/*/example/prometheus-operator-crd/*.yaml"
        ):
            shutil.copy(file, target / "crds")
        artifact = (
            "org.apache.flink:flink-kubernetes-operator-api:"
            f"{versions['flink-kubernetes-operator']}"
        )
        run(
            [
                *("mvn", "-q", "-B", "-f", str(HERE / "pom-kafka.xml"), "dependency:copy"),
                *(f"-Dartifact={artifact}", f"-DoutputDirectory={directory}"),
                # Of the pom itself, which needs some value.
                *("-Dkafka.version=0", "-Dslf4j.version=0"),
            ]
        )
        (jar,) = work.glob("flink-kubernetes-operator-api-*.jar")
        unpack(jar, "META-INF/fabric8/", target / "crds", "-v1.yml")


def unpack(archive: Path, inside: str, target: Path, suffix: str) -> None:
    """Files of one folder of a zip archive into `target`."""
    target.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive) as opened:
        names = [n for n in opened.namelist() if n.startswith(inside) and n.endswith(suffix)]
        if not names:
            raise InstallError(f"{archive.name} holds no {suffix} in {inside}: another version?")
        for name in names:
            (target / Path(name).name).write_bytes(opened.read(name))


INSTALLERS: dict[str, Callable[[Path, dict[str, str]], None]] = {
    "kafka": install_kafka,
    "flink": install_flink,
    "postgres": install_packages,
    "prometheus": install_packages,
    "alertmanager": install_alertmanager,
    "toxiproxy": install_go_programs,
    "faketime": install_packages,
    "prism": install_go_programs,
    "kubernetes": install_kubernetes,
}


def install(name: str) -> None:
    """Install one server unless the stamp says that these very versions are there."""
    versions = VERSIONS[name]
    target = servers_dir() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    # One installs, the others wait for it and find its stamp.
    with (target.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = ", ".join(f"{part} {version}" for part, version in versions.items())
        stamp = target / STAMP
        if stamp.exists() and json.loads(stamp.read_text()) == versions:
            print(f"{name}: {words} is installed")
            return
        print(f"{name}: installing {words} ...", flush=True)
        started = time.monotonic()
        part = target.with_name(f"{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        INSTALLERS[name](part, versions)
        # The stamp goes in last and the directory takes its name at once: half is never whole.
        (part / STAMP).write_text(json.dumps(versions) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        print(f"{name}: installed in {time.monotonic() - started:.0f} s at {target}")


def main() -> int:
    """Install what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "servers",
        nargs="+",
        choices=sorted(INSTALLERS),
        metavar="server",
        help=" or ".join(sorted(INSTALLERS)),
    )
    try:
        for name in dict.fromkeys(parser.parse_args().servers):
            install(name)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
