"""The house is as its page draws it: every file has a line there, and no import runs up."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "rolltune"
# The floors, upper ones first. A room may import from its own floor and from those below it.
FLOORS = [
    {"commands", "__main__", "launch"},
    {"jobs"},
    {"memory"},
    {"training"},
    {"inputs"},
    {"base"},
    {"families"},
    {"recipe"},
    {"recipe_file"},
    {"evaluation"},
    {"models", "quantize"},
    {"text", "weights", "adapters", "optim", "data", "gpus"},
    {
        "trees",
        "batch",
        "blockwise",
        "rules",
        "sharding",
        "hosts",
        "device",
        "free_memory",
        "programs",
        "event_files",
        "tracking",
        "atomic",
        "plain_csv",
        "plain_json",
        "errors",
        "page",
        "plots",
        "output",
        "typed",
        "tiny",
    },
]
# `models.layers` and `models.family` are named by what stands beside them: a LoRA, a tree's stacks, a name map's rows.
KNOWN = {("adapters", "models"), ("weights", "models"), ("weights", "quantize"), ("optim", "models")}


def files() -> list[Path]:
    return [path for path in sorted(LIBRARY.rglob("*.py")) if not {"tiny", "recipes"} & set(path.parts)]


def drawn() -> set[str]:
    """The files that the page's tree names, by their paths below rolltune/."""
    page = (ROOT / "docs/architecture.md").read_text()
    tree = page[page.index("    rolltune/\n") :].split("\n\n")[0].splitlines()[1:]
    folders: list[str] = []
    found = set()
    for line in tree:
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip()) - 4) // 2
        folders = [*folders[:depth], name.rstrip("/")]
        if name.endswith(".py"):
            found.add("/".join(folders))
        assert len(line.split(maxsplit=1)) == 2, f"{name} has no line of its own"
    return found


def test_the_page_draws_every_file_and_no_other():
    assert drawn() == {path.relative_to(LIBRARY).as_posix() for path in files() if path.name != "__init__.py"}


def test_the_maps_of_the_readmes_have_every_room():
    rooms = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    rooms |= {"bin", "docker", "docs", "playground", "tests", "benchmarks"}
    for page in ("README.md", "README.ja.md"):
        text = (ROOT / page).read_text()
        assert not (missing := {room for room in rooms if f"  {room}/" not in text}), f"{page}: {missing}"


def test_no_import_runs_up():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for path in files():
        room = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rolltune":
                inside = (node.module or "").split(".")[1:]
                names = [inside[0]] if inside else [alias.name for alias in node.names]
            for name in names:
                if name in floor and floor[name] < floor[room] and (room, name) not in KNOWN:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_data_room_imports_no_jax():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((LIBRARY / "data").rglob("*.py"))
        if path.name != "__init__.py"
    ]
    code = "\n".join([*(f"import {name}" for name in modules), "import sys", "assert 'jax' not in sys.modules"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_families_are_known_by_name_in_their_own_room_only():
    """A comment may name one; code may not."""
    names = ("paligemma", "gemma", "mllama", "llava", "phi3")
    wrong = []
    for room in ("training", "evaluation", "inputs", "data", "jobs", "text", "models"):
        for path in sorted((LIBRARY / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                called = [getattr(node, part, None) for part in ("id", "attr", "name", "module")]
                if any(name in str(one).lower() for one in called if one for name in names):
                    wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}: {called}")
    assert not wrong, "\n".join(wrong)
