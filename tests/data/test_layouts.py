"""Sets in the folders of other tools are splits where they are splits, and never classes called train and test."""

import json

import pytest
from PIL import Image

from rolltune.data.doctor import examine, sources_of
from rolltune.data.layouts import split_of, splits_in
from rolltune.data.sets import find_dataset
from rolltune.data.sources import read_examples
from rolltune.errors import UserError


def make(folder, *names):
    """Pictures, and tables of one row about one of the pictures beside them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match path.suffix:
            case ".jpg":
                Image.new("RGB", (9, 9)).save(path)
            case ".csv":
                path.write_text("prefix,suffix,image\nq,yes,1.jpg\n")
            case ".jsonl":
                path.write_text(json.dumps({"prefix": "q", "suffix": "yes", "image": "1.jpg"}) + "\n")
            case _:
                path.write_text("x")
    return folder


PARTS = ("train", "valid", "test")
LAYOUTS = {
    "tables": ([f"{part}.jsonl" for part in PARTS] + ["1.jpg", "train/1.jpg"], "{}.jsonl"),
    "roboflow": ([f"_annotations.{part}.jsonl" for part in PARTS] + ["1.jpg"], "_annotations.{}.jsonl"),
    "annotated": (
        [f"{part}/{name}" for part in PARTS for name in ("annotations.jsonl", "1.jpg")],
        "{}/annotations.jsonl",
    ),
    "huggingface": ([f"{part}/{name}" for part in PARTS for name in ("metadata.csv", "1.jpg")], "{}/metadata.csv"),
    "classes": ([f"{part}/{name}/1.jpg" for part in PARTS for name in ("cat", "dog")], "{}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_other_tools_are_read_as_splits(layout, tmp_path):
    names, place = LAYOUTS[layout]
    expected = {part: tmp_path / place.format(part) for part in PARTS}
    assert splits_in(make(tmp_path, *names)) == expected
    assert list(splits_in(tmp_path)) == list(PARTS)
    assert find_dataset(str(tmp_path)) == expected  # what ./03-do_learn.py -d takes
    report = examine(sources_of([tmp_path]))
    assert list(report.scans) == list(PARTS) and not [one for one in report.findings if one.kind == "bad row"]
    with pytest.raises(UserError, match=r"split already \(train: .*03-do_learn\.py -d"):
        read_examples(tmp_path)


def test_names_of_splits():
    for name in ("val", "Validation", "dev", "valid_set", "_annotations.valid"):
        assert split_of(name) == "valid"
    assert split_of("Training") == "train" and split_of("TEST") == "test"
    for name in ("valid_lmsys_columns", "train.cleaned", "trains", "train_test", "labels", ""):
        assert split_of(name) is None


def test_a_train_among_buses_is_a_class(tmp_path):
    make(tmp_path, "train/steam/1.jpg", "bus/1.jpg", "car/1.jpg")
    assert splits_in(tmp_path) == {} and {row.answer for row in read_examples(tmp_path)} == {"train", "bus", "car"}


def test_two_splits_are_splits_whatever_else_lies_beside_them(tmp_path):
    make(tmp_path, "train/cat/1.jpg", "val/cat/1.jpg", "notes/1.txt", "images/1.jpg")
    assert splits_in(tmp_path) == {"train": tmp_path / "train", "valid": tmp_path / "val"}


def test_a_whole_table_beside_its_splits_is_what_the_folder_stands_for(tmp_path):
    make(tmp_path, "train.jsonl", "valid.jsonl", "1.jpg")
    with pytest.raises(UserError, match="split already"):
        read_examples(tmp_path)
    make(tmp_path, "data.jsonl")
    assert [row.source for row in read_examples(tmp_path)] == [f"{tmp_path.name}/data.jsonl:1"]
    assert list(splits_in(tmp_path)) == ["train", "valid"]


def test_a_class_folder_may_have_a_file_beside_it(tmp_path):
    make(tmp_path, "train/cat/1.jpg", "train/readme.txt", "valid/cat/1.jpg", "valid/.hidden/1.jpg", "test/1.jpg")
    assert splits_in(tmp_path) == {"train": tmp_path / "train", "valid": tmp_path / "valid"}  # test/ holds no class


def test_a_folder_around_a_set_is_no_answer_and_leads_to_the_set(tmp_path):
    """As Roboflow's archives unpack: everything in dataset/."""
    make(tmp_path, "dataset/_annotations.train.jsonl", "dataset/_annotations.valid.jsonl", "dataset/1.jpg")
    with pytest.raises(UserError, match=r"dataset are no answers: they hold rows of their own.*name one of them: .*"):
        read_examples(tmp_path)
    with pytest.raises(UserError, match="it holds dataset: name one of these"):
        find_dataset(str(tmp_path))


def test_folders_without_answers_are_refused_with_words_that_help(tmp_path):
    make(tmp_path / "a", "train/1.jpg", "test/1.jpg")
    with pytest.raises(UserError, match=r"the folders test, train are splits, and hold neither.*write a data\.jsonl"):
        read_examples(tmp_path / "a")
    make(tmp_path / "yolo", "train/images/1.jpg", "train/labels/1.txt", "valid/images/1.jpg", "valid/labels/1.txt")
    with pytest.raises(UserError, match=r"the folders images, labels are parts of another format.*PaliGemma"):
        read_examples(tmp_path / "yolo" / "train")
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match="this is COCO's format"):
        read_examples(tmp_path / "coco.json")
    make(tmp_path / "b", "_/1.jpg", "cat/1.jpg")
    with pytest.raises(UserError, match="the folder '_' leaves an empty answer"):
        read_examples(tmp_path / "b")
    assert {row.answer for row in read_examples(tmp_path / "b", names={"_": "none"})} == {"none", "cat"}


def test_advice_about_a_set_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset").mkdir()
    for name, made in (
        ("set 1", "-n 'set 1' makes it"),
        ("set1", "-n set1 makes it"),
        ("rows.jsonl.", "none"),
        ("-", "none"),
    ):
        with pytest.raises(UserError) as error:
            find_dataset(name)
        assert str(error.value).startswith(f"{name}: no such") and str(error.value).endswith(made)
    (tmp_path / "mit ö").mkdir()
    with pytest.raises(UserError, match="it is empty"):
        find_dataset("mit ö")
    (tmp_path / "mit ö/data.jsonl").touch()
    with pytest.raises(UserError, match=r"\./02-shuffle_data\.sh './mit ö/data\.jsonl' -v 10 -n 'mit ö-split' splits"):
        find_dataset("mit ö")
