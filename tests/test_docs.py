"""The documentation is true: its console blocks run and print what they show, and its links lead somewhere.

CONTRIBUTING.md ("Documentation") says how blocks are marked.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("playground/**/*.md")])
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A command of a console block and the lines shown under it."""

    command: str
    shown: tuple[str, ...]


def read_block(text: str) -> list[Step]:
    """Split a console block: `$ ` starts a command, `> ` continues it, other lines are what it prints."""
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:], ()))
        elif line.startswith("> ") and steps and not steps[-1].shown:
            steps[-1] = Step(f"{steps[-1].command}\n{line[2:]}", ())
        elif line.strip() and steps:
            steps[-1] = Step(steps[-1].command, (*steps[-1].shown, line))
        elif line.strip():
            raise ValueError(f"a console block starts with a command, '$ ...', not with {line!r}")
    return steps


def blocks(page: Path) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == "console"]


def pasted(page: Path) -> list[str]:
    """The commands of the page's `sh run` blocks, without their comments."""
    found = re.findall(r"^```sh run\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(r" +#.*", "", line) for block in found for line in block.splitlines()]


def figures_aside(line: str) -> str:
    """The line with all numbers alike and blanks joined: figures differ from run to run, words must not."""
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?", "0", line)).strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the repository as a newcomer has it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / "rolltune" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / "rolltune" / name)
    return tmp_path / "rolltune"


@pytest.fixture
def environment(clone: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who ran ./bin/quickstart.sh in the clone: a virtual environment with all packages.

    It borrows the packages of the one that runs the tests, so that ./bin/quickstart.sh finds nothing left to install.
    """
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = Path(
        subprocess.check_output(
            [venv / "bin/python", "-c", "import site; print(site.getsitepackages()[0])"], text=True
        ).strip()
    )
    (site / "clone.pth").write_text(f"{clone}\n{sysconfig.get_path('purelib')}\n")
    parts = [
        f"{clone}\n",
        *(clone.joinpath(name).read_text() for name in ("docker/requirements-cpu.txt", "pyproject.toml")),
    ]
    (venv / "rolltune-installed").write_text("".join(parts))
    program = venv / "bin/rolltune"
    program.write_text(f"#!{venv}/bin/python\nimport sys\nfrom rolltune.__main__ import main\nsys.exit(main())\n")
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CI")}
    paths = {"PATH": f"{venv}/bin:{os.environ['PATH']}", "VIRTUAL_ENV": str(venv), "ROLLTUNE_VENV": str(venv)}
    settings = {"NO_COLOR": "1", "COLUMNS": "120", "JAX_PLATFORMS": "cpu", "ROLLTUNE_CACHE": str(tmp_path / "cache")}
    return kept | paths | settings


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_console_blocks_run_and_print_what_they_show(page, clone, environment):
    for block in blocks(page):
        script = "set -euo pipefail\n"
        for number, step in enumerate(read_block(block)):
            script += f"echo '=== {number}'\n{step.command}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=clone,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{block}\nended with status {done.returncode}:\n{done.stdout[-4000:]}"
        printed = re.split(r"^=== \d+\n", done.stdout, flags=re.MULTILINE)[1:]
        for step, output in zip(read_block(block), printed, strict=True):
            lines = {figures_aside(line) for line in output.splitlines()}
            lost = [line for line in step.shown if line.strip() != "..." and figures_aside(line) not in lines]
            assert lost == [], f"'{step.command}' does not print {lost}; it prints:\n{output[-4000:]}"
    shortened = [re.sub(r"^(\./03-.*)", r"\1 --config.steps=8", line) for line in pasted(page)]
    script = "\n".join(["set -euo pipefail", *shortened]).replace("--rolls 8", "--rolls 2")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=clone / "playground",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{page.name}, pasted after the blocks above:\n{done.stdout[-4000:]}"


def test_both_languages_have_the_same_commands():
    assert pasted(ROOT / "README.md") == pasted(ROOT / "README.ja.md") != []


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue  # elsewhere: not looked up, the tests need no network
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        if not found.exists() or (anchor and found.suffix == ".md" and anchor not in headings(found)):
            broken.append(target)
    assert broken == []


def test_pictures_and_pages_do_not_name_somebodys_folders():
    for page in PAGES:
        found = set(re.findall(r"(?<![\w.])/(?:home|root|Users)/\w+", page.read_text()))
        assert found <= {"/home/rolltune"}, page


def test_a_block_is_read_as_documented():
    assert read_block("$ one \\\n> two\nout 1\n\n$ three\n...\n") == [
        Step("one \\\ntwo", ("out 1",)),
        Step("three", ("...",)),
    ]
    assert figures_aside("loss:   0.3417 step 32/256") == "loss: 0 step 0/0"
    with pytest.raises(ValueError, match="starts with a command"):
        read_block("ls\n")
