"""Shell scripts and the Dockerfile pass their linters. Where these are missing it is said; in CI that is a failure."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("bin/*.sh", "docker/*.sh", "docker/launch/*.sbatch", "playground/*.sh", ".ci/run")
    for path in ROOT.glob(pattern)
)
LINTERS = {
    "shellcheck": ["shellcheck", "--external-sources", *SCRIPTS],
    "shfmt": ["shfmt", "--indent", "2", "--case-indent", "--diff", *SCRIPTS],
    "hadolint": ["hadolint", "Dockerfile"],
}


@pytest.mark.parametrize("name", LINTERS)
def test_linter(name):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = shutil.which(name, path=path)
    if program is None and os.environ.get("CI") != "true":
        pytest.skip(f"{name} is not installed (./bin/test.sh installs it)")
    assert program, f"{name} is not installed"
    done = subprocess.run([program, *LINTERS[name][1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_that_people_run_are_executable_and_end_lines_as_bash_needs():
    assert len(SCRIPTS) > 6
    for name in SCRIPTS:
        assert b"\r" not in (ROOT / name).read_bytes(), name
        if "common" not in name and not name.endswith(".sbatch"):
            assert os.access(ROOT / name, os.X_OK), name
    attributes = subprocess.run(
        ["git", "check-attr", "eol", *SCRIPTS, "Dockerfile"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    assert [line for line in attributes if not line.endswith("eol: lf")] == []
