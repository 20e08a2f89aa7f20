"""Every source gives the same Example, and everything wrong with a file is told at once."""

import json
import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rolltune.data.examples import Turn
from rolltune.data.sources import read_examples, scan_source, splits_in
from rolltune.errors import UserError


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (8, 6), (200, 10, 10)).save(data / "images" / f"{name}.png")
    return data


def write(folder, *rows, name="data.jsonl"):
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


A, B = "images/a.png", "images/b.png"
GOOD = {"prefix": "q", "suffix": "yes", "image": A}


def test_prefix_suffix_rows(folder):
    told = []
    path = write(folder, {**GOOD, "id": 7, "video": "v1"}, "", {"prefix": "", "suffix": "no", "images": [A, B]})
    one, two = read_examples(path, say=told.append)
    assert (one.id, one.group, one.prompt, one.answer) == ("7", "v1", "q", "yes")
    assert one.source == "data/data.jsonl:1" and two.source == "data/data.jsonl:3"
    assert two.images == ((folder / A).resolve(), (folder / B).resolve()) and two.id == "data.jsonl:3"
    assert "2 rows, 2 images, 2 answers (no, yes), 1 groups" in told[0]


LLAVA = {
    "id": "x",
    "image": A,
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "a dog"},
        {"from": "human", "value": "What colour?"},
        {"from": "gpt", "value": "red"},
    ],
}
PHI = {"conversations": [{"images": [A, B], "user": "<|image_1|>\n<|image_2|>\nSame?", "assistant": "no"}]}
OPENAI = {
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Before"}, {"type": "image", "image": A}]},
        {"role": "assistant", "content": "yes"},
    ]
}


def test_conversations_of_three_kinds(folder):
    llava, phi, openai = read_examples(write(folder, LLAVA, PHI, OPENAI))
    assert [turn.text for turn in llava.turns] == ["What is it?", "a dog", "What colour?", "red"]
    assert phi.turns == (Turn("user", "Same?"), Turn("assistant", "no")) and len(phi.images) == 2
    assert openai.prompt == "Be short.\nBefore\n<image>"  # the mark stays where its place means something


def test_llava_json_list(folder):
    path = folder / "data.json"
    path.write_text(json.dumps([LLAVA, 3]))
    scan = scan_source(path)
    assert scan.examples[0].answer == "red"
    assert "row 2" in str(scan.findings[0]) and "a number" in str(scan.findings[0])


BAD_ROWS = [
    ('{"prefix": "q", "suffix": ', "not JSON"),
    ("[1, 2]", "expected an object"),
    ("[" * 100_000, "nested"),
    ('{"prefix": "q", "suffix": "a", "suffix": "b"}', "given twice"),
    ({"suffix": "yes", "image": A}, '"prefix" is missing'),
    ({"prefix": "q", "suffix": " "}, '"suffix" is empty'),
    ({"prefix": "q", "suffix": 5}, '"suffix" is a number'),
    ({**GOOD, "image": "images/none.png"}, "does not exist"),
    ({**GOOD, "image": "images\\a.png"}, "write /"),
    ({**GOOD, "image": "../secret.png"}, "outside the data folder"),
    ({**GOOD, "image": "images/link.png"}, "outside the data folder"),
    ({**GOOD, "image": "images/a.png\0"}, "zero byte"),
    ({**GOOD, "image": "http://x.org/a.png"}, "web address"),
    ({**GOOD, "image": ""}, "empty text"),
    ({**GOOD, "image": None}, "null"),
    ({**GOOD, "images": [B]}, "both given"),
    ({"prefix": "q", "suffix": "yes", "images": []}, "empty list"),
    ({**GOOD, "id": "twice"}, None),
    ({**GOOD, "id": "twice"}, "used already"),
    ({**LLAVA, "id": "y", "image": [A, B]}, "1 image mark"),
    ({"conversations": LLAVA["conversations"][1:]}, "expected the user's"),
    ({"conversations": LLAVA["conversations"][:3], "image": A}, "ends with the answer"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "'robot'"),
    ({**GOOD, "image": "images/cut.png"}, "not a readable image"),
    ({**GOOD, "answers": ["yes", ""]}, '"answers"'),
]


def test_all_problems_are_told_at_once_with_their_lines(folder):
    Image.new("RGB", (4, 4)).save(folder.parent / "secret.png")
    os.symlink(folder.parent / "secret.png", folder / "images" / "link.png")
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(folder / "images" / "cut.png")
    data = (folder / "images" / "cut.png").read_bytes()
    (folder / "images" / "cut.png").write_bytes(data[: len(data) // 2])
    path = write(folder, *(row for row, _ in BAD_ROWS))
    with pytest.raises(UserError) as caught:
        read_examples(path)
    lines = str(caught.value).splitlines()
    for number, (_, expected) in enumerate(BAD_ROWS, 1):
        told = [line for line in lines if f"data.jsonl:{number}:" in line]
        assert (expected is None) == (not told), (number, told)
        assert expected is None or any(expected in line for line in told), (number, expected, told)
    assert f"{len(BAD_ROWS) - 1} problems" in lines[0]


def test_not_text_and_no_rows(folder):
    (folder / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no rows"):
        read_examples(folder / "empty.jsonl")
    (folder / "latin.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"prefix": "\xe9", "suffix": "a"}\n')
    with pytest.raises(UserError, match=r"latin\.jsonl:2: not UTF-8: byte 0xe9"):
        read_examples(folder / "latin.jsonl")
    (folder / "wide.jsonl").write_bytes(json.dumps(GOOD).encode("utf-16"))
    with pytest.raises(UserError, match="UTF-16"):
        read_examples(folder / "wide.jsonl")


def test_half_an_emoji_does_not_reach_a_tokenizer(folder):
    (row,) = read_examples(write(folder, '{"prefix": "\\ud83d", "suffix": "ok \\ud83d\\ude00"}'))
    assert row.prompt == "\ufffd" and row.answer == "ok \U0001f600"


def test_a_split_manifest_says_where_images_lie(folder):
    split = folder / "set1"
    split.mkdir()
    path = write(split, {**GOOD, "image": "../images/a.png"}, name="train.jsonl")
    with pytest.raises(UserError, match="outside"):
        read_examples(path)
    (split / "split.json").write_text('{"image_root": ".."}')
    assert read_examples(path)[0].images == ((folder / A).resolve(),)
    assert splits_in(split) == {"train": path}


def test_image_folders(tmp_path):
    for name in ("ragno", "hot_dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (5, 5)).save(tmp_path / name / "1.JPG")
    (tmp_path / "ragno" / "notes.txt").write_text("x")
    rows = read_examples(tmp_path, names={"ragno": "spider"}, question="Is it {answers}?")
    assert [(row.id, row.answer, row.prompt) for row in rows] == [
        ("hot_dog/1.JPG", "hot dog", "Is it hot dog or spider?"),
        ("ragno/1.JPG", "spider", "Is it hot dog or spider?"),
    ]
    with pytest.raises(UserError, match="name map"):
        read_examples(tmp_path, names={"cane": "dog"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no picture in it"):
        read_examples(tmp_path)


ARENA = "id,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"


def test_arena_table(tmp_path):
    path = tmp_path / "lmsys.csv"
    path.write_text(
        ARENA
        + '1,"[""p,1"",""p2""]","[""a\\nb"",null]","[""b1"",""b2""]",0,0,1\n'
        + "2,[],[],[],1,0,0\n"
        + '3,"[""__import__(\'os\')""]","[""a""]","[""b""]",1,1,0\n'
    )
    scan = scan_source(path)
    (row,) = scan.examples
    assert row.answer == "tie" and row.id == "1"
    assert (
        "Prompt:\np,1\n\nAnswer A:\na\nb\n\nAnswer B:\nb1\n\nPrompt:\np2\n\nAnswer A:\n\n\nAnswer B:\nb2" in row.prompt
    )
    assert ["lmsys.csv:3" in str(scan.findings[0]), "exactly one winner" in str(scan.findings[1])] == [True, True]


def test_table_with_columns_and_lines_of_quoted_cells(folder):
    path = folder / "t.csv"
    path.write_text('file,label,asked\nimages/a.png,cat,"what\nis it"\nimages/none.png,dog,x\nimages/a.png,dog\n')
    columns = {"prefix": "asked", "suffix": "label", "image": "file"}
    with pytest.raises(UserError) as caught:
        read_examples(path, columns=columns)
    assert "t.csv:4: image 'images/none.png' does not exist" in str(caught.value)
    assert "t.csv:5: 2 cells where the header has 3" in str(caught.value)
    with pytest.raises(UserError, match="'file', 'label', 'asked'"):
        read_examples(path)


def test_tfds_says_what_is_missing_and_reads_a_data_source(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"rolltune\[tfds\]"):
        read_examples("tfds:beans")
    features = {"image": object(), "label": SimpleNamespace(int2str=lambda k: ["angular_leaf_spot", "healthy"][k])}
    rows = [{"image": np.full((4, 4, 3), k, np.uint8), "label": k} for k in (0, 1)]
    asked = []
    builder = SimpleNamespace(
        info=SimpleNamespace(features=features), as_data_source=lambda split: asked.append(split) or rows
    )
    stand_in = ModuleType("tensorflow_datasets")
    stand_in.builder = lambda name: builder
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", stand_in)
    monkeypatch.setenv("HOME", str(tmp_path))
    one, two = read_examples("tfds:beans:train[:2]", question="Ill?")
    assert asked == ["train[:2]"] and (one.answer, two.answer, one.prompt) == ("angular leaf spot", "healthy", "Ill?")
    assert np.array(Image.open(two.images[0]))[0, 0].tolist() == [1, 1, 1]


def test_real_sets(shared):
    data = shared("data")
    assert len(read_examples(data / "nlvr1" / "test_multi.jsonl")[0].images) == 3
    assert len({row.group for row in read_examples(data / "video_frames" / "all.jsonl")}) == 5
    rows = read_examples(data / "preferences" / "valid_lmsys_columns.csv")
    assert len(rows) == 189 and {row.answer for row in rows} == {"a", "b", "tie"}
    assert len({row.answer for row in read_examples(data / "plantdoc" / "images256")}) == 27
