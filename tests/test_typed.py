"""Commands are named as they can be typed where the person is, and the recipes that the texts name are there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rolltune import __main__ as program
from rolltune import recipe
from rolltune.errors import UserError
from rolltune.typed import SCRIPTS, as_typed

ROOT = Path(__file__).resolve().parents[1]


def test_every_script_of_the_playground_and_its_command_is_known():
    scripts = {path.name for path in (ROOT / "playground").glob("[0-9]*")}
    assert set(SCRIPTS.values()) == scripts
    assert set(SCRIPTS) <= set(program.COMMANDS)


def test_scripts_are_named_where_they_lie_and_the_command_elsewhere(tmp_path):
    text = "split (02-shuffle_data.sh -t N), then ./03-do_learn.py -d set1; ../playground/04-validate.py is a path"
    assert as_typed(text, ROOT / "playground") == text
    assert as_typed(text, tmp_path) == (
        "split (rolltune shuffle -t N), then rolltune learn -d set1; ../playground/04-validate.py is a path"
    )


def run(folder: Path, *arguments: str) -> str:
    settings = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "rolltune", *arguments]
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["doctor", "download", "shuffle", "convert"])
def test_help_names_no_script_outside_the_playground(tmp_path, name):
    shown = run(tmp_path, name, "--help")
    assert f"usage: rolltune {name} " in shown and [s for s in SCRIPTS.values() if s in shown] == []
    assert f"usage: {SCRIPTS[name]} " in run(ROOT / "playground", name, "--help")


def test_what_is_printed_next_and_advised_can_be_typed(tmp_path, monkeypatch, capsys):
    assert "next: rolltune shuffle -v 10 -n set1" in run(tmp_path, "sample-ads", "dataset")

    def fail(name, arguments):
        raise UserError("no tokenizer there; ./01-download_models.py fetches it")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "run", fail)
    program.main(["learn"])
    assert capsys.readouterr().err == "error: no tokenizer there; rolltune download fetches it\n"


def test_the_recipes_come_with_the_package(tmp_path, monkeypatch):
    """Where `recipes/` is not in the current folder; setuptools puts what it finds so into the wheel."""
    setuptools = pytest.importorskip("setuptools")
    assert "rolltune.recipes" in setuptools.find_namespace_packages(str(ROOT), include=["rolltune*"])
    monkeypatch.chdir(tmp_path)
    names = sorted(path.name for path in (ROOT / "playground/recipes").glob("*.py"))
    for name in names:
        recipe.load(f"recipes/{name}")
    with pytest.raises(UserError, match=rf"recipes/mine.py: no such recipe; .*: recipes/{names[0]}, recipes/"):
        recipe.load("recipes/mine.py")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / names[0]).write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({'steps': 7})\n"
    )
    assert recipe.load(f"recipes/{names[0]}").steps == 7  # the person's own comes first
