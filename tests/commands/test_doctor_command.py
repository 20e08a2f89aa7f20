"""The numbered scripts find the environment made for them, and the doctor says what is wrong with its flags."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rolltune.commands.doctor import main
from rolltune.commands.reading import add_reading_flags, reading_of
from rolltune.errors import UserError
from rolltune.tiny.feed import TOKENIZER

PLAYGROUND = Path(__file__).parents[2] / "playground"


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for Python is a shell script")
@pytest.mark.parametrize("name", sorted(path.name for path in PLAYGROUND.glob("0*.py")))
def test_the_script_finds_the_environment_that_was_made(name, tmp_path):
    (tmp_path / "playground").mkdir()
    shutil.copy(PLAYGROUND / "start.py", tmp_path / "playground")
    script = shutil.copy(PLAYGROUND / name, tmp_path / "playground")
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}

    def run(**more):
        # Without site packages: a Python that has no rolltune.
        command = [sys.executable, "-S", script, "a b", "--all"]
        return subprocess.run(command, cwd="/", env=environment | more, capture_output=True, text=True)

    assert run().returncode == 1 and "run ../bin/quickstart.sh" in run().stderr
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    assert run().stdout.splitlines() == [str(script), "a b", "--all"]
    assert "run ../bin/quickstart.sh" in run(VIRTUAL_ENV="/other").stderr


def test_what_a_command_is_told_about_its_data(tmp_path):
    parser = argparse.ArgumentParser()
    add_reading_flags(parser)
    assert reading_of(parser.parse_args([])) == {"columns": None, "question": None, "names": None}
    (tmp_path / "names.json").write_bytes('{"ragno": "Spinne"}'.encode("utf-8-sig"))
    told = parser.parse_args(
        ["--columns", "prefix=a, image=b", "--question", "?", "--names", str(tmp_path / "names.json")]
    )
    assert reading_of(told) == {
        "columns": {"prefix": "a", "image": "b"},
        "question": "?",
        "names": {"ragno": "Spinne"},
    }
    for flags, expected in (
        (["--columns", "prefix"], "expected pairs"),
        (["--columns", "label=suffix"], "'label' is none of prefix"),
        (["--names", "{"], "not JSON"),
        (["--names", '{"a": ' * 50_000], "nested"),
        (["--names", '{"a": 5}'], "expected an object of texts"),
        (["--names", '{"a": " "}'], "that are not empty"),
        (["--names", "[1]"], "neither JSON text nor a file"),
    ):
        with pytest.raises(UserError, match=expected):
            reading_of(parser.parse_args(flags))


def test_lengths_are_told_as_what_was_counted(tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text('{"prefix": "q", "suffix": "a"}\n')
    for unit, flags in (("characters", []), ("tokens", ["--tokenizer", str(TOKENIZER)])):
        main([str(tmp_path / "t.jsonl"), *flags])
        assert f"  {unit} of text: 1 up to " in capsys.readouterr().out


def test_a_damaged_tokenizer_is_advice(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"prefix": "q", "suffix": "a"}\n')
    for name in ("tokenizer.json", "tokenizer.model"):
        (tmp_path / name).write_text("{")
        with pytest.raises(UserError, match=rf"--tokenizer .*{name}: not a"):
            main([str(tmp_path / "t.jsonl"), "--tokenizer", str(tmp_path / name)])
