"""The split command: from any folder, the same for a seed, and nothing written on error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rolltune.commands.shuffle import main
from rolltune.data.sets import find_dataset
from rolltune.data.sources import read_examples
from rolltune.errors import UserError

SCRIPT = Path(__file__).parents[2] / "playground" / "02-shuffle_data.sh"


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "data set"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(20):
        Image.effect_noise((16, 16), 80).save(folder / "images" / f"{number}.png")
        rows.append({"prefix": "ok?", "suffix": "NG" if number % 4 else "OK", "image": f"images/{number}.png"})
    rows[3] = {"conversations": [{"images": ["images/3.png"], "user": "ok?", "assistant": "NG"}]}
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_splits_can_be_read_where_they_lie(dataset, capsys):
    assert main(["-v", "4", "-t", "4", "-n", "set1", "--dataset-folder", str(dataset), "--seed", "7"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    counts = {name: len(read_examples(dataset / "set1" / f"{name}.jsonl")) for name in ("train", "valid", "test")}
    assert counts == {"train": 12, "valid": 4, "test": 4}
    manifest = json.loads((dataset / "set1" / "split.json").read_text())
    assert manifest["splits"]["valid"] == {"rows": 4, "answers": {"NG": 3, "OK": 1}}
    assert manifest["seed"] == 7 and len(manifest["source_sha256"]) == 64
    before = files(dataset / "set1")
    with pytest.raises(UserError, match="--force"):
        main(["-v", "4", "-t", "4", "-n", "set1", "--dataset-folder", str(dataset), "--seed", "7"])
    main(["-v", "4", "-t", "4", "-n", "set1", "--dataset-folder", str(dataset), "--seed", "7", "--force"])
    assert files(dataset / "set1") == before
    main([str(dataset / "set1" / "train.jsonl"), "-v", "2", "-n", "set2", "--dataset-folder", str(dataset)])
    assert len(read_examples(dataset / "set2" / "train.jsonl")) == 10


def test_folds_hold_every_row_once(dataset):
    main(["--folds", "4", "-n", "cv", "--dataset-folder", str(dataset)])
    seen = [row.images for fold in range(1, 5) for row in read_examples(dataset / "cv" / f"fold{fold}" / "valid.jsonl")]
    assert len(seen) == len(set(seen)) == 20


@pytest.mark.parametrize(
    "arguments",
    ["-v 20", "-v 0", "-v x", "-n a/b", "-v 3 --folds 3", "--mod x", "--folds 1"],
)
def test_nothing_is_written_on_error(dataset, arguments):
    before = files(dataset)
    with pytest.raises(UserError):
        main([*arguments.split(), "--dataset-folder", str(dataset)])
    assert files(dataset) == before


def test_every_bad_row_is_told_and_nothing_written(dataset):
    (dataset / "images" / "5.png").write_bytes(b"not a picture")
    (dataset / "images" / "6.png").unlink()
    with pytest.raises(UserError) as caught:
        main(["-v", "4", "--dataset-folder", str(dataset)])
    assert "data.jsonl:6:" in str(caught.value) and "data.jsonl:7:" in str(caught.value)
    assert not (dataset / "set1").exists()


def test_a_newcomer_without_data_is_told_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match=r"data\.jsonl: there is no such file.*rolltune sample-ads dataset"):
        main(["-n", "set1", "--dataset-folder", str(tmp_path)])


def test_a_set_is_looked_for_in_the_playground(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="cd into playground"):
        find_dataset("set1")
    (tmp_path / "dataset").mkdir()
    with pytest.raises(UserError, match=r"02-shuffle_data\.sh -v 10 -n set1 makes it"):
        find_dataset("set1")


def test_a_folder_of_someone_else_is_not_replaced(dataset):
    with pytest.raises(UserError, match="not written by this command"):
        main(["-v", "4", "-n", "images", "--force", "--dataset-folder", str(dataset)])


def test_the_script_runs_from_any_folder(dataset, tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [SCRIPT, "-v", "4", "-n", "set1", "--dataset-folder", dataset]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "seed: " in done.stdout and (dataset / "set1" / "valid.jsonl").exists()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.startswith("error: ") and "--force" in again.stderr
