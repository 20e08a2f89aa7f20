"""The split command: from any folder, the same for a seed, and nothing written on error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rolltune.commands import doctor
from rolltune.commands.doctor import main as look
from rolltune.commands.shuffle import main
from rolltune.data.doctor import examine, write_cleaned
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


def test_what_the_doctor_is_told_can_be_told_here(tmp_path, capsys):
    for number in range(8):
        Image.effect_noise((16, 16), 80).save(tmp_path / f"{number}.png")
    cells = [f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *cells]))
    told = ["--columns", "suffix=label,image=file", "--question", "What?", "--dataset-folder", str(tmp_path)]
    assert main([str(tmp_path / "t.csv"), "-v", "2", *told]) == 0
    rows = read_examples(tmp_path / "set1" / "train.jsonl")
    assert {(row.prompt, row.answer, len(row.images)) for row in rows} == {("What?", "cat", 1), ("What?", "dog", 1)}
    (tmp_path / "raw" / "gatto").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"{number}.png").rename(tmp_path / "raw" / "gatto" / f"{number}.png")
    main([str(tmp_path / "raw"), "-v", "1", "-n", "set2", "--names", '{"gatto": "cat"}', *told[4:]])
    assert {row.answer for row in read_examples(tmp_path / "set2" / "train.jsonl")} == {"cat"}
    with pytest.raises(UserError, match="'label' is none of prefix, suffix"):
        main([str(tmp_path / "t.csv"), "--columns", "label=suffix"])


def test_pictures_of_every_kind_of_row_are_found_from_where_the_split_lies(dataset):
    named = [
        {"prefix": "ok?", "suffix": "OK", "image": "images/0.png"},
        {"prefix": "ok?", "suffix": "OK", "images": ["images/1.png", "images/2.png"]},
        {"prefix": "ok?", "suffix": "OK", "img": "images/3.png"},
        {"conversations": [{"images": "images/4.png", "user": "ok?", "assistant": "OK"}]},
        {"conversations": [{"from": "human", "value": "ok?", "image": "images/5.png"}, {"from": "gpt", "value": "OK"}]},
    ]
    for number, part in enumerate(
        [
            {"type": "image", "image": "images/6.png"},
            {"type": "image", "path": "images/7.png"},
            {"type": "image_url", "image_url": {"url": "images/8.png"}},
            {"type": "image_url", "image_url": "images/9.png"},
        ]
    ):
        asked = {"role": "user", "content": [{"type": "text", "text": f"{number}?"}, part]}
        named.append({"messages": [asked, {"role": "assistant", "content": "OK"}]})
        named.append({"prompt": [asked], "completion": [{"role": "assistant", "content": "OK"}]})
    (dataset / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    expected = sorted(row.images for row in read_examples(dataset / "data.jsonl"))
    main(["-v", "2", "--no-near", "--dataset-folder", str(dataset)])
    split = [row for name in ("train", "valid") for row in read_examples(dataset / "set1" / f"{name}.jsonl")]
    assert sorted(row.images for row in split) == expected and len(expected) == len(named)
    # Of a folder the cleaned file lies beside it, and every path changes.
    ((cleaned, _, _),) = write_cleaned(examine({"data": dataset}), {"data": dataset}).values()
    assert cleaned.parent == dataset.parent
    assert {row.images for row in read_examples(cleaned)} == set(expected)


def test_answers_of_one_side_and_of_two_spellings_are_told(dataset, capsys):
    rows = [json.loads(line) for line in (dataset / "data.jsonl").read_text().splitlines()]
    rows[0] |= {"suffix": "odd"}
    rows[1] |= {"suffix": "ng."}
    (dataset / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["-v", "4", "--seed", "1", "--dataset-folder", str(dataset)])
    out = capsys.readouterr().out
    assert "'NG' (14 rows), 'ng.' (1 row) differ only in letter case and a full stop at the end" in out
    assert "'ng.' (1), 'odd' (1): in train alone, so that nothing tells whether it was learnt" in out
    main(["--folds", "4", "-n", "cv", "--seed", "1", "--dataset-folder", str(dataset)])
    lines = [line for line in capsys.readouterr().out.splitlines() if "'odd'" in line]
    assert sum("not in train, and so cannot be learnt, though valid asks for it" in line for line in lines) == 1
    assert all(line.startswith("warning: fold") for line in lines)


@pytest.mark.parametrize(("command", "encoding"), [("doctor", "ascii"), ("shuffle", "cp1252"), ("shuffle", "utf-8")])
def test_a_console_of_any_encoding_is_written_to(command, encoding, dataset):
    rows = [json.loads(line) for line in (dataset / "data.jsonl").read_text().splitlines()]
    rows[0] |= {"suffix": "良い \x1b[31m\u202e", "id": "\ud83d", "prefix": "\ud83d"}
    (dataset / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    page = dataset / "page.html"
    arguments = {
        "doctor": [dataset / "data.jsonl", "--fix", "--html", page],
        "shuffle": ["-v", "4", "--dataset-folder", dataset],
    }[command]
    line = [sys.executable, "-m", "rolltune", command, *arguments]
    done = subprocess.run(line, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    written = done.stdout + done.stderr + (page.read_bytes() if page.exists() else b"")
    assert b"\x1b" not in written and "\u202e".encode() not in written and rb"\x1b[31m\u202e" in written
    shown = "良い" if encoding == "utf-8" else r"\u826f\u3044"
    assert shown.encode() in done.stdout


def test_rows_that_no_row_of_can_be_read_are_not_counted(dataset, capsys):
    (dataset / "data.jsonl").write_text("{oops\n")
    with pytest.raises(UserError, match=r"data\.jsonl:1: not JSON"):
        main(["-v", "4", "--dataset-folder", str(dataset)])
    assert capsys.readouterr().out == ""
    told = []
    with pytest.raises(UserError):
        read_examples(dataset / "data.jsonl", say=told.append)
    assert told == [] and look([str(dataset / "data.jsonl")]) == 1
    out = capsys.readouterr().out
    assert "no row that can be read" in out and "0 rows" not in out and "characters" not in out


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


def test_the_terminal_is_told_nothing_by_an_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answers = ["yes\x1b[2J", "no\u202e", "yes\x1b[2J", "no\u202e"]
    rows = [json.dumps({"prefix": f"q{number}", "suffix": answer}) for number, answer in enumerate(answers)]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    assert main(["data.jsonl", "-v", "2", "--dataset-folder", "dataset"]) == 0
    (tmp_path / "odd\x1b[2J.jsonl").write_text(json.dumps({"prefix": "q", "suffix": "a", "image": "absent.png"}))
    doctor.main(["data.jsonl", "odd\x1b[2J.jsonl"])
    printed = capsys.readouterr().out
    assert "\\x1b[2J" in printed and not {"\x1b", "\u202e"} & set(printed)


def test_a_set_is_looked_for_in_the_playground(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="cd into the folder that has it"):
        find_dataset("set1")
    (tmp_path / "dataset").mkdir()
    with pytest.raises(UserError, match=r"02-shuffle_data\.sh -v 10 -n set1 makes it"):
        find_dataset("set1")


def test_a_set_that_is_not_there_leads_to_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dataset/set1", "dataset/cv/fold1", "dataset/cv/fold2", "dataset/animals"):
        Path(name).mkdir(parents=True)
        (Path(name) / ("data.jsonl" if name.endswith("animals") else "train.jsonl")).touch()
    Path("dataset/data.jsonl").touch()
    for name, advice in (
        ("sett", r"in \./dataset there are: cv/fold1, cv/fold2, set1; "),
        ("cv", "it holds fold1, fold2: name one of these, such as -d ./dataset/cv/fold1"),
        ("dataset/animals", r"02-shuffle_data\.sh \./dataset/animals/data\.jsonl -v 10 -n animals-split splits"),
        ("dataset", "it holds cv/fold1, cv/fold2, set1: name one of these"),
    ):
        with pytest.raises(UserError, match=advice):
            find_dataset(name)


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
