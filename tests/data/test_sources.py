"""Every source gives the same Example, and everything wrong with a file is told at once."""

import json
import os
import sys
from pathlib import Path
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
    # The mark stays where its place means something.
    assert openai.turns == (Turn("system", "Be short."), Turn("user", "Before\n<image>"), Turn("assistant", "yes"))
    assert (openai.prompt, openai.answer) == ("Before\n<image>", "yes")


def test_llava_json_list(folder):
    path = folder / "data.json"
    path.write_text(json.dumps([LLAVA, 3]))
    scan = scan_source(path)
    assert scan.examples[0].answer == "red"
    assert "row 2" in str(scan.findings[0]) and "a number" in str(scan.findings[0])


TEXT = {"prefix": "q", "suffix": "yes"}
ASKED = {"role": "user", "content": "q"}


def nested(depth):
    return [nested(depth - 1)] if depth else 1


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
    ({**GOOD, "more": nested(100)}, "nested more than 20 deep"),
    ({**GOOD, "image": 5}, "got a number"),
    ({"prefix": "q", "suffix": "yes", "images": 5}, "got a number"),
    ({"prefix": "q", "suffix": "yes", "images": {"a": 1}}, "got an object"),
    ({"conversations": [{"images": 5, "user": "q", "assistant": "a"}]}, '"images" is a number'),
    ({"conversations": [{"images": {"a": A}, "user": "q", "assistant": "a"}]}, '"images" is an object'),
    ({"messages": [ASKED, {"role": "assistant", "content": []}]}, "holds no text"),
    ({"messages": [ASKED, {"role": "assistant", "content": [{"type": "text", "text": " "}]}]}, "holds no text"),
    ({"messages": [ASKED, {"role": "assistant", "content": "\u200b"}]}, "is empty"),
    ({"messages": [ASKED, {"role": "assistant", "content": [{"type": "image", "image": A}]}]}, "holds no text"),
    ({"prompt": [ASKED], "completion": [{"role": "assistant", "content": []}]}, "holds no text"),
    ({"instruction": "q", "output": ""}, '"output" is empty'),
    ({"query": "q", "response": "a", "history": [["q", ""]]}, "the answer of round 1 is empty"),
    ({"query": "q", "response": "a", "history": "x"}, "is a list of rounds, got text"),
    ({**GOOD, "group": ""}, '"group" is empty text'),
    ({**GOOD, "group": True}, '"group" is text or a number, got true/false'),
    ({**GOOD, "video": " "}, '"video" is empty text'),
    ({**GOOD, "objects": {"bbox": [[1, 2, 3, 4]]}}, '"objects" is not read'),
    ({**GOOD, "videos": ["a.mp4"]}, '"videos" is not read'),
    ({**TEXT, "picture": A}, f"'picture' names the picture '{A}', but is not read"),
    ({**TEXT, "meta": {"files": [A]}}, f"'meta' names the picture '{A}'"),
    ({**GOOD, "second": B}, f"'second' names the picture '{B}'"),
    ({"messages": [{**ASKED, "photo": A}, {"role": "assistant", "content": "a"}]}, "'photo of turn 1' names"),
    ({**TEXT, "image": "data:image/png;base64," + "iVBORw0KGgo" * 100_000}, "is the picture itself as text"),
    ({**TEXT, "image": "/9j/4AAQSkZJRg" * 1000}, "is the picture itself as text"),
    ({**TEXT, "image": "A dog on a lawn. " * 1000}, "is no path: it is text of 17000 characters"),
    ({**TEXT, "image_url": "https://x.org/a.png"}, "web address"),
    ({**GOOD, "image": "images/A.PNG"}, "there is 'images/a.png': letter case and outer spaces count"),
    ({**GOOD, "image": " images/a.png"}, "there is 'images/a.png'"),
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
    assert max(map(len, lines)) < 600  # a picture as text is shown by its beginning


def test_rows_of_other_toolkits(folder):
    user, assistant = Turn("user", "q"), Turn("assistant", "a")
    for row, turns, images in (
        ({"instruction": "q", "input": "", "output": "a"}, (user, assistant), 0),
        ({"instruction": "q", "input": "more", "output": "a"}, (Turn("user", "q\nmore"), assistant), 0),
        ({"instruction": "q", "output": "a", "system": "s"}, (Turn("system", "s"), user, assistant), 0),
        ({"prompt": "q", "completion": "a", "image": A}, (user, assistant), 1),
        ({"prompt": [ASKED], "completion": [{"role": "assistant", "content": "a"}], "images": [A, B]}, None, 2),
        ({"query": "<image><image>q", "response": "a", "images": [A, B], "system": ""}, (user, assistant), 2),
        ({"query": "q", "response": "a", "history": [["q", "a"]]}, (user, assistant) * 2, 0),
        ({"question": "q", "answer": "a", "image_path": A}, (user, assistant), 1),
        ({"prefix": "q", "suffix": "a", "img": A, "filename": A}, (user, assistant), 1),
        ({"prefix": "q", "suffix": "a", "file_name": A}, (user, assistant), 1),
        ({"prefix": "q", "suffix": "a", "image": A, "original": B, "note": "see a.png"}, (user, assistant), 1),
        ({"conversations": [{"images": A, "user": "q", "assistant": "a"}]}, (user, assistant), 1),
        ({"conversations": [{"from": "human", "value": "q", "image": A}, {"from": "gpt", "value": "a"}]}, None, 1),
        ({"messages": [{"role": "system", "content": ""}, ASKED, {"role": "assistant", "content": "a"}]}, None, 0),
    ):
        (one,) = read_examples(write(folder, row))
        assert one.turns == (turns or (user, assistant)) and len(one.images) == images, row


def test_what_the_system_says_is_a_turn_of_its_own(folder):
    said = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user", "system", "assistant")]
    said[1]["content"] = "<image>\nq"
    (one,) = read_examples(write(folder, {"messages": said, "image": A}))
    texts = [("system", "system\nsystem"), ("user", "q"), ("assistant", "assistant"), ("user", "user")]
    assert one.turns == (*(Turn(*text) for text in texts), Turn("assistant", "assistant"))


def test_a_question_is_asked_where_rows_ask_nothing(folder):
    path = write(folder, {"file_name": A, "text": "a dog"}, GOOD)
    one, two = read_examples(path, question="What?", columns={"suffix": "text"})
    assert (one.prompt, one.answer, len(one.images)) == ("What?", "a dog", 1)
    assert (two.prompt, two.answer) == ("q", "yes")  # a row under our own names stays as it is


@pytest.mark.parametrize("question", [None, "What is it?"])
def test_the_text_of_an_image_folder_is_the_answer_in_each_of_its_forms(folder, question):
    write(folder, {"file_name": A, "text": "a dog"}, name="metadata.jsonl")
    (folder / "metadata.csv").write_text(f"file_name,text\n{A},a dog\n")
    for name in ("metadata.jsonl", "metadata.csv"):
        (one,) = read_examples(folder / name, question=question)
        assert (one.prompt, one.answer, len(one.images)) == (question or "", "a dog", 1), name
    told = {"prefix": "text", "suffix": "label"}  # what is said counts before what is seen
    (folder / "metadata.csv").write_text(f"file_name,text,label\n{A},what?,dog\n")
    assert read_examples(folder / "metadata.csv", columns=told)[0].answer == "dog"


def test_boxes_beside_a_row_are_an_error_where_there_are_any(folder):
    for empty in ({}, [], None, "", {"bbox": [], "categories": []}):
        assert read_examples(write(folder, {**GOOD, "objects": empty}))
    for boxes in ({"bbox": [[1, 2, 3, 4]], "categories": [0]}, [0], {"bbox": [], "area": 0}):
        with pytest.raises(UserError, match='"objects" is not read: boxes are written into the answer'):
            read_examples(write(folder, {**GOOD, "objects": boxes}))


def test_a_caption_in_the_place_of_a_path_is_no_picture_as_text(folder):
    for value, said in (
        ("iVBORw0KGgo" * 3000, "is the picture itself as text"),
        ("iVBORw0KGgo\n" * 300 + "Zg==", "is the picture itself as text"),
        ("a dog runs over a field " * 30, r"\(720 characters\) is no path: it is text of 720 characters"),
    ):
        with pytest.raises(UserError, match=said) as told:
            read_examples(write(folder, {**GOOD, "image": value}))
        assert len(str(told.value)) < 400


def test_a_name_in_another_unicode_form_is_found(folder):
    stored, named = "images/cafe\u0301.png", "images/caf\u00e9.png"
    os.rename(folder / A, folder / stored)
    (one,) = read_examples(write(folder, {**GOOD, "image": named}))
    assert one.images == ((folder / stored).resolve(),)
    (folder / "cafe\u0301").mkdir()
    os.rename(folder / B, folder / "cafe\u0301" / "b.png")
    (one,) = read_examples(write(folder, {**GOOD, "image": "caf\u00e9/b.png"}))
    assert one.images[0].name == "b.png"
    (folder / "names").mkdir()
    os.rename(folder / "cafe\u0301", folder / "names" / "cafe\u0301")
    for name in ("caf\u00e9", "cafe\u0301"):
        assert read_examples(folder / "names", names={name: "bar"})[0].answer == "bar"


def test_not_text_and_no_rows(folder):
    (folder / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no rows"):
        read_examples(folder / "empty.jsonl")
    (folder / "latin.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"prefix": "\xe9", "suffix": "a"}\n')
    with pytest.raises(UserError, match=r"latin\.jsonl:2: not UTF-8: byte 0xe9"):
        read_examples(folder / "latin.jsonl")
    for encoding in ("utf-16", "utf-8-sig"):  # PowerShell's `>`, Notepad
        (folder / "wide.jsonl").write_bytes(json.dumps(GOOD).encode(encoding))
        assert read_examples(folder / "wide.jsonl")[0].answer == "yes"


def test_half_an_emoji_is_nowhere_in_a_row(folder):
    text = '"\\ud83d", "suffix": "ok \\ud83d\\ude00", "id": "\\udc00", "group": "\\uD83D", "\\ud83d": ["\\ud83d"]'
    scan = scan_source(write(folder, f'{{"prefix": {text}}}'))
    (row,) = scan.examples
    assert (row.prompt, row.answer, row.id, row.group) == ("\ufffd", "ok \U0001f600", "\ufffd", "\ufffd")
    assert json.dumps(scan.rows, ensure_ascii=False).encode()
    assert scan.rows[0]["\ufffd"] == ["\ufffd"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names there are bytes")
def test_a_name_that_is_no_text_is_told(tmp_path):
    (tmp_path / "cat").mkdir()
    Image.new("L", (5, 5)).save(tmp_path / "cat" / "ok.png")
    os.rename(tmp_path / "cat" / "ok.png", os.fsencode(tmp_path / "cat") + b"/\xe9.png")
    with pytest.raises(UserError, match=r"cat/\\udce9\.png: the file's name is not UTF-8"):
        read_examples(tmp_path)


def test_a_split_manifest_says_where_images_lie(folder):
    split = folder / "set1"
    split.mkdir()
    path = write(split, {**GOOD, "image": "../images/a.png"}, name="train.jsonl")
    with pytest.raises(UserError, match="outside"):
        read_examples(path)
    (split / "split.json").write_text('{"image_root": ".."}')
    assert read_examples(path)[0].images == ((folder / A).resolve(),)
    assert splits_in(split) == {"train": path}


def test_what_is_not_of_such_data_is_said(tmp_path):
    Image.new("L", (5, 5)).save(tmp_path / "1.png")
    (tmp_path / "rows.jsonl").write_text('{"image": "1.png", "prefix": "", "suffix": "a"}\n')
    for name in ("a", "b"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        Image.new("L", (5, 5)).save(tmp_path / "folders" / name / "1.png")
    said: list[str] = []
    for path in ("rows.jsonl", "folders"):
        for given in ({"names": {"a": "x"}}, {"columns": {"suffix": "suffix"}}, {"question": "is it?"}):
            read_examples(tmp_path / path, say=said.append, **given)
    assert [text.partition("--")[2] for text in said] == [
        "names counts for nothing: they are of class folders, and rows say their answers", "", "",
        "", "columns counts for nothing: folders of pictures have none", "",
    ]  # fmt: skip


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


def test_a_picture_in_a_column_is_read_or_told(folder):
    path = folder / "metadata.csv"
    path.write_text(f"file_name,prefix,suffix\n{A},q,yes\n")
    assert read_examples(folder)[0].images == ((folder / A).resolve(),)
    path.write_text(f"prefix,suffix,photo,note\nq,yes,{A},x\nq,yes,,x\n")
    with pytest.raises(UserError, match=r"metadata\.csv:2: 'photo' names the picture"):
        read_examples(path)
    assert len(read_examples(path, columns={"image": "photo"})[0].images) == 1
    path.write_text(f"prefix,suffix,image,copy\nq,yes,{A},{A}\n")
    assert len(read_examples(path)[0].images) == 1
    path.write_text(f"file_name,suffix\n{A},yes\n")  # here the column is what is asked, and no picture
    (row,) = read_examples(path, columns={"prefix": "file_name"})
    assert row.prompt == A and row.images == ()
    path.write_text(f"prefix,suffix,image,image\nq,yes,{A},{B}\n")
    with pytest.raises(UserError, match="the column 'image' is in the header twice"):
        read_examples(path)


def test_links_out_of_a_folder_of_classes_are_told_and_left_out(tmp_path):
    (tmp_path / "data/cat").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "data/cat/a.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "secret.png")
    (tmp_path / "data/cat/b.png").symlink_to(tmp_path / "secret.png")
    found = scan_source(tmp_path / "data")
    assert [one.images[0].name for one in found.examples] == ["a.png"]
    (told,) = found.findings
    assert told.where.endswith("cat/b.png") and "is a link out of the data folder" in told.message


@pytest.fixture
def tfds(tmp_path, monkeypatch):
    """`tfds(features, rows)`: the package as it would have this set; the splits that were asked for."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def stand_in(features, rows):
        asked = []
        builder = SimpleNamespace(
            info=SimpleNamespace(features=features), as_data_source=lambda split: asked.append(split) or rows
        )
        package = ModuleType("tensorflow_datasets")
        package.builder = lambda name: builder
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", package)
        return asked

    return stand_in


def test_tfds_says_what_is_missing_and_reads_a_data_source(tfds, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"rolltune\[tfds\]"):
        read_examples("tfds:beans")
    features = {"image": object(), "label": SimpleNamespace(int2str=lambda k: ["angular_leaf_spot", "healthy"][k])}
    asked = tfds(features, [{"image": np.full((4, 4, 3), k, np.uint8), "label": k} for k in (0, 1)])
    one, two = read_examples("tfds:beans:train[:2]", question="Ill?")
    assert asked == ["train[:2]"] and (one.answer, two.answer, one.prompt) == ("angular leaf spot", "healthy", "Ill?")
    assert np.array(Image.open(two.images[0]))[0, 0].tolist() == [1, 1, 1]
    written = os.stat(two.images[0]).st_mtime_ns
    again = read_examples("tfds:beans", question="Ill?", names={"healthy": "well"})
    assert asked[1] == "train" and [row.answer for row in again] == ["angular leaf spot", "well"]
    assert again[1].images == two.images and os.stat(two.images[0]).st_mtime_ns == written  # no second one
    for address in ("tfds:", "tfds:beans:"):
        with pytest.raises(UserError, match="expected tfds:NAME"):
            read_examples(address)


def test_questions_and_answers_of_tfds(tfds):
    gray = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    features = {"image": object(), "question": object(), "answers": object(), "caption": object()}
    tfds(features, [
        {"image": gray, "question": b" is it? ", "answers": np.array([b"yes ", b"ja"], object), "caption": "a"},
        {"image": gray, "question": "so?", "answers": ["no"], "caption": b"b"},
        {"image": gray, "question": "so?", "answers": [" "], "caption": np.array("c")},
    ])  # fmt: skip
    found = scan_source("tfds:vqa")
    first, second = found.examples
    assert (first.prompt, first.answer, first.accepted) == ("is it?", "yes", ("yes", "ja"))
    assert (second.prompt, second.answer, second.accepted) == ("so?", "no", ())
    np.testing.assert_array_equal(np.array(Image.open(first.images[0])), gray[..., 0])
    assert [(one.kind, one.where) for one in found.findings] == [("bad row", "tfds:vqa[2]")]
    assert [row.get("answers") for row in found.rows] == [["yes", "ja"], None]
    assert {row["image"] for row in found.rows} == {first.images[0].name} and "prefix from question" in found.note
    asked = scan_source("tfds:vqa", question="what?", columns={"suffix": "caption"})
    assert [(row.prompt, row.answer) for row in asked.examples] == [("what?", "a"), ("what?", "b"), ("what?", "c")]


def test_what_tfds_cannot_give_is_said(tfds):
    tfds({"label": object()}, [])
    assert [one.kind for one in scan_source("tfds:none").findings] == ["empty set"]
    with pytest.raises(UserError, match=r"tfds:none has no feature 'name'; it has label"):
        scan_source("tfds:none", columns={"suffix": "name"})
    tfds({"image": object()}, [])
    with pytest.raises(UserError, match="which feature is the answer"):
        scan_source("tfds:pictures")
    sys.modules["tensorflow_datasets"].builder = lambda name: 1 / 0
    with pytest.raises(UserError, match="tfds:unknown: TFDS cannot open it: division by zero"):
        scan_source("tfds:unknown")


def test_real_sets(shared):
    data = shared("data")
    assert len(read_examples(data / "nlvr1" / "test_multi.jsonl")[0].images) == 3
    assert len({row.group for row in read_examples(data / "video_frames" / "all.jsonl")}) == 5
    rows = read_examples(data / "preferences" / "valid_lmsys_columns.csv")
    assert len(rows) == 189 and {row.answer for row in rows} == {"a", "b", "tie"}
    assert len({row.answer for row in read_examples(data / "plantdoc" / "images256")}) == 27


def test_outer_white_space_is_no_part_of_what_is_said(folder, tmp_path):
    said = [{"role": "system", "content": " be short\n"}, {"role": "user", "content": "\tis  it?\n"},
            {"role": "assistant", "content": " yes \n"}]  # fmt: skip
    turns = [{"from": "human", "value": "<image>\n is  it? "}, {"from": "gpt", "value": "\u3000yes\n"}]
    rows = (
        {"prefix": "\tis  it? \n", "suffix": " yes ", "answers": ["yes ", "ja"]},
        {"messages": said},
        {"conversations": turns, "image": A},
        {"question": "is  it? ", "answer": "yes\r\n"},
    )
    read = read_examples(write(folder, *rows))
    assert {one.answer for one in read} == {"yes"} and {one.prompt for one in read} == {"is  it?"}
    assert read[0].accepted == ("yes", "ja") and read[1].turns[0] == Turn("system", "be short")
    (tmp_path / "table.csv").write_text('prefix,suffix\n" is  it?","yes "\n')
    assert read_examples(tmp_path / "table.csv")[0].turns == (Turn("user", "is  it?"), Turn("assistant", "yes"))
    (tmp_path / "table.tsv").write_text("prefix\tsuffix\nred, or blue?\tred\n")  # of which a comma is a letter
    assert read_examples(tmp_path / "table.tsv")[0].turns == (Turn("user", "red, or blue?"), Turn("assistant", "red"))
    for name in ("yes_", "no"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(tmp_path / "photos" / name / "a.png")
    asked = read_examples(tmp_path / "photos", question=" is  it? ", names={"no": " nein "})
    assert {one.answer for one in asked} == {"yes", "nein"} and {one.prompt for one in asked} == {"is  it?"}


@pytest.mark.parametrize("name", ["state.json", "data-00000-of-00001.arrow"])
def test_a_folder_in_arrow_format_is_told_how_to_write_itself_out(tmp_path, name):
    (tmp_path / "cat").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(UserError, match="in Arrow format, which is not read: write it out first"):
        read_examples(tmp_path)


def test_a_row_is_named_by_its_file_and_folder_from_wherever_it_is_read(folder, monkeypatch):
    write(folder, GOOD)
    monkeypatch.chdir(folder)
    for path in (Path("data.jsonl"), folder / "data.jsonl", Path("../data/data.jsonl")):
        assert read_examples(path)[0].source == "data/data.jsonl:1"


def test_all_that_is_wrong_with_a_question_and_its_answer_is_told(folder):
    path = write(folder, {"image": A}, {"prefix": 5, "suffix": ""})
    with pytest.raises(UserError) as told:
        read_examples(path)
    for line in ('1: "prefix" is missing', '1: "suffix" is missing', '2: "prefix" is a number', '2: "suffix" is empty'):
        assert f"data.jsonl:{line}" in str(told.value)
