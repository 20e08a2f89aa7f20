"""A Docker engine of the tests' own: started here, on a stand-in base image, and taken down again.

Nothing here touches an engine that the machine already has. With CI=true a machine that cannot do this fails the tests;
elsewhere they are skipped, and say why.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOMEBODY = 12345  # a user without a name in any /etc/passwd
BASE_IMAGE = "localhost/python:3.13-slim"
# Debian's docker.io: the one whose client has BuildKit inside, whatever else stands first on PATH.
DOCKER, DOCKERD = "/usr/bin/docker", "/usr/sbin/dockerd"


@dataclass(frozen=True)
class Engine:
    """A running private engine: the environment in which bin/docker-*.sh and `docker` reach it."""

    folder: Path
    environment: dict[str, str]

    def docker(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        options = {"env": self.environment, "check": True, "capture_output": True, "text": True} | options
        return subprocess.run([DOCKER, *arguments], **options)


def cannot(reason: str) -> None:
    """Skip, saying why, or fail where the container must be tested."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must test the container, but {reason}")
    pytest.skip(f"the container cannot be tested here: {reason}")


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    if sys.platform != "linux" or os.geteuid() != 0:
        cannot("a private Docker engine needs root on Linux")
    for program in (DOCKER, DOCKERD, "mmdebstrap", "setpriv"):
        if not shutil.which(program):
            cannot(f"there is no {program} (Debian: apt install docker.io mmdebstrap util-linux)")
    folder = Path(tempfile.mkdtemp(prefix="rolltune-engine-"))  # short: a socket's path has at most 107 letters
    folder.chmod(0o755)
    daemon = start_engine(folder)
    try:
        # A person's caches are their clone's: the one that tests have is not theirs to write.
        inherited = {name: value for name, value in os.environ.items() if name != "ROLLTUNE_CACHE"}
        yield Engine(folder, inherited | {"DOCKER_HOST": f"unix://{folder}/docker.sock", "ROLLTUNE_DOCKER": DOCKER})
    finally:
        stop_engine(daemon, folder)


def start_engine(folder: Path) -> subprocess.Popen:
    """Start dockerd under `folder` without touching the machine's network, and wait until it answers."""
    log = folder / "dockerd.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [
                *(DOCKERD, "--host", f"unix://{folder}/docker.sock", "--pidfile", f"{folder}/dockerd.pid"),
                *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--storage-driver", "overlay2"),
                *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
                *("--userland-proxy=false", "--cgroup-parent=/rolltune-test"),
            ],
            stdout=output,
            stderr=output,
        )
    for _ in range(150):
        answer = subprocess.run([DOCKER, "-H", f"unix://{folder}/docker.sock", "version"], capture_output=True)
        if answer.returncode == 0:
            (folder / "docker.sock").chmod(0o666)  # the tests run the helpers as an ordinary user
            return daemon
        if daemon.poll() is not None:
            break
        time.sleep(0.2)
    stop_engine(daemon, None)
    cannot(f"dockerd did not start:\n{log.read_text()[-3000:]}")
    raise AssertionError("unreachable")


def stop_engine(daemon: subprocess.Popen, folder: Path | None) -> None:
    """Stop our own dockerd by its process, and remove what it leaves: mounts, control groups, the folder."""
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    if folder is None:
        return
    namespace = folder / "exec/netns/default"
    if namespace.exists():
        subprocess.run(["umount", str(namespace)], check=False)
    remove_groups()
    shutil.rmtree(folder)


def remove_groups() -> None:
    """Remove the engine's control groups, innermost first; the kernel lets go of a finished one after a moment."""
    for attempt in range(20):
        groups = [Path(found) for found, _, _ in os.walk("/sys/fs/cgroup") if "/rolltune-test" in found]
        if not groups:
            return
        for group in sorted(groups, key=lambda path: -len(path.parts)):
            try:
                group.rmdir()
            except OSError:
                if attempt == 19:
                    raise
        time.sleep(0.2)


@dataclass(frozen=True)
class Person:
    """An ordinary user with a clone of the repository, whose folder has a name that shells and engines trip over."""

    engine: Engine
    clone: Path
    home: Path
    uid: int = SOMEBODY
    user: tuple[str, ...] = ("setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups")

    def build(self) -> str:
        """Run bin/docker-build.sh for the CPU and return what it printed."""
        settings = {
            "HOME": str(self.home),
            "ROLLTUNE_BASE_IMAGE": BASE_IMAGE,
            "ROLLTUNE_DOCKER_BUILD_ARGS": "--network=host",
            "ROLLTUNE_CA_BUNDLE": os.environ.get("SSL_CERT_FILE", ""),
        }
        built = subprocess.run(
            [*self.user, str(self.clone / "bin/docker-build.sh"), "cpu"],
            env=self.engine.environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
        )
        assert built.returncode == 0, built.stdout[-6000:]
        return built.stdout

    def run(self, *arguments: str, environment: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess:
        """Run bin/docker-run.sh as that user; the engine has no bridge, so containers get no network."""
        settings = {"HOME": str(self.home), "ROLLTUNE_DOCKER_RUN_ARGS": "--network=none", "ROLLTUNE_QUIET": "1"}
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "cwd": "/"} | options
        return subprocess.run(
            [*self.user, str(self.clone / "bin/docker-run.sh"), *arguments],
            env=self.engine.environment | settings | (environment or {}),
            **options,
        )


@pytest.fixture(scope="session")
def person(engine: Engine) -> Person:
    clone = engine.folder / 'it\'s "a" test, 1:2 ラベル'
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    for name in filter(None, files.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    home = engine.folder / "home"
    home.mkdir()
    for path in (clone, *clone.rglob("*"), home):
        os.chown(path, SOMEBODY, SOMEBODY)
    return Person(engine, clone, home)


@pytest.fixture(scope="session")
def image(engine: Engine, person: Person) -> str:
    """The CPU image, built by bin/docker-build.sh on a stand-in base."""
    base = engine.folder / "base.tar"
    packages = "python3,python3-pip,python3-venv,ca-certificates"
    made = subprocess.run(
        ["mmdebstrap", "--variant=minbase", f"--include={packages}", "trixie", str(base)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        cannot(f"mmdebstrap could not make the base image:\n{made.stderr[-2000:]}")
    engine.docker("import", "--change", "CMD bash", str(base), BASE_IMAGE)
    base.unlink()
    person.build()
    return "rolltune:latest"


@pytest.fixture(scope="session")
def compose(engine: Engine) -> str:
    """Docker Compose 2, which this Debian has not: the program alone, out of the package of the next one."""
    folder = engine.folder / "compose"
    made = subprocess.run(
        ["mmdebstrap", "--variant=extract", "--include=docker-compose", "trixie", str(folder)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        cannot(f"mmdebstrap could not fetch Docker Compose:\n{made.stderr[-2000:]}")
    return str(folder / "usr/libexec/docker/cli-plugins/docker-compose")
