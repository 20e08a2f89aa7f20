"""01-download_models.py as a person runs it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from rolltune.commands.download import main
from rolltune.weights.catalogue import Source
from rolltune.weights.download import RemoteFile

ROOT = Path(__file__).resolve().parents[2]


class FakeHub:
    asked: ClassVar[list[tuple[str, str]]] = []

    def files(self, source: Source) -> list[RemoteFile]:
        return [RemoteFile(source.file or "model.safetensors", 3)]

    def fetch(self, source: Source, file: RemoteFile, staging: Path) -> Path:
        self.asked.append((source.hub, file.name))
        (staging / file.name).write_bytes(b"abc")
        return staging / file.name


class Interrupted(FakeHub):
    def fetch(self, source: Source, file: RemoteFile, staging: Path) -> Path:
        raise KeyboardInterrupt


@pytest.fixture
def hubs(monkeypatch, tmp_path):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "HF_TOKEN", "HF_HOME", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    FakeHub.asked = []
    return dict.fromkeys(("kaggle", "huggingface", "web"), FakeHub)


def test_the_default_brings_weights_and_tokenizer(hubs, tmp_path, capsys):
    assert main([], hubs) == 0
    assert FakeHub.asked == [("web", "paligemma_tokenizer.model"), ("kaggle", "paligemma-3b-pt-224.bf16.npz")]
    assert (tmp_path / "cache/paligemma-3b-pt-224.bf16.npz").read_bytes() == b"abc"
    said = capsys.readouterr().out
    assert "Ready:" in said and f"--model {tmp_path}/cache/paligemma-3b-pt-224.bf16.npz\n" in said


@pytest.mark.parametrize("setting", [{}, {"ROLLTUNE_CACHE": "/elsewhere"}])
def test_the_script_puts_them_where_the_recipes_look(setting, tmp_path):
    kept = {name: value for name, value in os.environ.items() if name != "ROLLTUNE_CACHE"}
    script = [sys.executable, str(ROOT / "playground/01-download_models.py"), "--list"]
    said = subprocess.check_output(script, cwd=tmp_path, env=kept | setting, text=True)
    assert f"They go to {setting.get('ROLLTUNE_CACHE', ROOT / 'cache')}. " in said


def test_auto_goes_where_credentials_are(hubs, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "x")
    assert main(["paligemma2-3b-448", "--cache", str(tmp_path / "other")], hubs) == 0
    assert FakeHub.asked == [("huggingface", "model.safetensors")]
    assert (tmp_path / "other/paligemma2-3b-pt-448-bfloat16/model.safetensors").exists()


@pytest.mark.parametrize("variable", ["KAGGLE_KEY", "HF_TOKEN", None])
def test_auto_takes_the_hub_that_has_the_model(hubs, monkeypatch, tmp_path, capsys, variable):
    if variable:
        monkeypatch.setenv(variable, "x")
    assert main(["llava-hf/llava-v1.6-mistral-7b-hf"], hubs) == 0
    assert FakeHub.asked == [("huggingface", "model.safetensors")]  # no tokenizer of another model
    said = capsys.readouterr().out
    assert f"--config recipes/animals_llava.py --model {tmp_path}/cache/llava-v1.6-mistral-7b-float16\n" in said


def test_an_interrupt_says_how_to_go_on(hubs, capsys):
    assert main([], {**hubs, "web": Interrupted}) == 130
    assert "goes on where it stopped" in capsys.readouterr().out


def test_list_and_help_teach(hubs, capsys):
    assert main(["--list"], hubs) == 0
    said = capsys.readouterr().out
    assert "paligemma2-28b-pt-896" in said and "phi-3.5-vision-instruct  (MIT)" in said and not FakeHub.asked
    with pytest.raises(SystemExit):
        main(["--help"], hubs)
    assert "rolltune download paligemma2-3b-pt-448" in capsys.readouterr().out
