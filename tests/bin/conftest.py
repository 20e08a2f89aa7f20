"""Stand-ins for programs: small scripts in a folder that comes first, or is all there is, on PATH."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Machine:
    """A simulated machine: its programs are those in `programs`, then the real ones unless `bare`."""

    folder: Path
    bare: bool = False

    @property
    def programs(self) -> Path:
        return self.folder / "programs"

    def add(self, name: str, script: str) -> None:
        """Install a stand-in program written in bash."""
        path = self.programs / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, terminal: int | None = None, **environment: str):
        """Run a script of the repository there, from another folder; without a terminal unless it is given one."""
        real = [] if self.bare else [os.environ["PATH"]]
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
        settings = {"PATH": ":".join([str(self.programs), *real]), "HOME": str(self.folder / "home")}
        return subprocess.run(
            ["/bin/bash", str(ROOT / script), *arguments],
            env=kept | settings | environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.PIPE,
            text=True,
        )


def make_machine(folder: Path, bare: bool) -> Machine:
    machine = Machine(folder, bare)
    machine.programs.mkdir()
    (folder / "home").mkdir()
    return machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """This machine, with stand-ins first on PATH."""
    return make_machine(tmp_path, bare=False)


@pytest.fixture
def bare_machine(tmp_path: Path) -> Machine:
    """A machine with the usual small tools and nothing else: no Python, no Docker."""
    machine = make_machine(tmp_path, bare=True)
    for tool in ("dirname", "uname", "awk", "cat", "grep", "tail", "mkdir", "ln", "rm", "id"):
        real = next(path for path in (Path("/usr/bin", tool), Path("/bin", tool)) if path.exists())
        (machine.programs / tool).symlink_to(real)
    return machine
