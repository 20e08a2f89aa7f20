"""What is to be answered: rows that lack their answers, pictures, folders; what cannot be read keeps nobody else."""

import json

import pytest
from PIL import Image

from rolltune.data.asked import read_asked
from rolltune.data.examples import STAND_IN


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "yes/b.png", "no/c.png", ".hidden/d.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "set" / name)
    return tmp_path


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "asked", "answer"),
    [
        ({"image": "a.png"}, "", None),
        ({"image": "a.png", "prefix": "is it?"}, "is it?", None),
        ({"image": "a.png", "prefix": "is it?", "suffix": ""}, "is it?", None),
        ({"image": "a.png", "prefix": "is it?", "suffix": None}, "is it?", None),
        ({"image": "a.png", "suffix": "yes"}, "", "yes"),
        ({"prefix": "is it?", "suffix": "yes"}, "is it?", "yes"),
        ({"question": "is it?"}, "is it?", None),
        ({"instruction": "is it?", "output": "no"}, "is it?", "no"),
        ({"conversations": [{"from": "human", "value": "is it?"}]}, "is it?", None),
        ({"conversations": [{"user": "is it?"}], "image": "a.png"}, "is it?", None),
        ({"messages": [{"role": "user", "content": "is it?"}, {"role": "assistant", "content": "no"}]}, "is it?", "no"),
    ],
)
def test_a_row_of_any_form_may_lack_its_answer(here, row, asked, answer):
    (one,) = read_asked([jsonl(here / "set/data.jsonl", row)]).examples
    assert (one.prompt, one.answered) == (asked, answer is not None)
    assert one.answer == (answer or STAND_IN)


def test_a_table_may_be_a_list_of_pictures(here):
    (here / "set/list.csv").write_text("file_name,note\na.png,x\nyes/b.png,y\n")
    found = read_asked(["set/list.csv"])
    assert [one.images[0].name for one in found.examples] == ["a.png", "b.png"] and not found.problems
    assert not any(one.answered for one in found.examples)


def test_a_folder_is_every_picture_in_it_and_classes_answer_where_all_are_allowed(here):
    found = read_asked(["set"], ("yes", "no"))
    assert [one.source for one in found.examples] == ["set/a.png", "set/no/c.png", "set/yes/b.png"]
    assert not any(one.answered for one in found.examples)  # a.png has no class
    (here / "set/a.png").unlink()
    assert [one.answer for one in read_asked(["set"], ("yes", "no")).examples] == ["no", "yes"]
    assert not any(one.answered for one in read_asked(["set"], ("ja", "nein")).examples)


def test_what_cannot_be_read_is_named_once_and_the_rest_goes_on(here):
    (here / "liar.jpg").write_text("no picture")
    rows = jsonl(here / "rows.jsonl", {"image": "set/a.png"}, {"image": "gone.png"}, {"image": "liar.jpg"}, {"id": 3})
    found = read_asked(["set/a.png", "gone.png", "liar.jpg", rows, "set/yes/b.png"])
    assert [one.images[0].name for one in found.examples] == ["a.png", "a.png", "b.png"]
    said = sorted(str(problem) for problem in found.problems)
    assert len(said) == 5 and not [text for text in said if text.count("gone.png") > 1 or text.count("/liar") > 1]
    for text in (
        "gone.png: there is no such",
        "liar.jpg: not a readable",
        "rows.jsonl:2",
        "rows.jsonl:3",
        "rows.jsonl:4",
    ):
        assert any(text in line for line in said), text
