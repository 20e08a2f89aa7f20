"""Converters write what the reader takes, write it again the same, and leave the originals alone."""

import json
from pathlib import Path

import pytest
from PIL import Image

from rolltune.commands.convert import main
from rolltune.data.files import safe_name
from rolltune.data.sources import read_examples
from rolltune.errors import UserError


def state(folder):
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def twice(*arguments):
    """Runs the command two times; the second one must leave every file as it was."""
    out = Path(arguments[[str(one).startswith("--") for one in (*arguments, "--")].index(True) - 1])
    source = Path(arguments[1])
    originals = state(source if source.is_dir() else source.parent)
    assert main([str(one) for one in arguments]) == 0
    first = state(out)
    assert main([str(one) for one in arguments]) == 0
    assert state(out) == first
    assert state(source if source.is_dir() else source.parent) == originals
    return read_examples(out / "data.jsonl", open_images=True) if (out / "data.jsonl").exists() else []


def test_names_are_safe_everywhere():
    assert safe_name("a?k=1&b%20c.JPG") == "a_k=1_b_20c.JPG"
    assert safe_name("con.jpg") == "_con.jpg" and safe_name("..") == "_" and safe_name("a/b.png") == "a_b.png"
    assert len(safe_name("x" * 300 + ".jpg")) < 150 and safe_name("x" * 300 + ".jpg").endswith(".jpg")


def test_class_folders_keep_their_odd_names_in_a_column(tmp_path):
    for name in ("a?1.png", "a&1.png", "a_1.png", "A_1.PNG"):
        (tmp_path / "raw" / "ragno").mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), len(name)).save(tmp_path / "raw" / "ragno" / name, "PNG")
    rows = twice("animals", tmp_path / "raw", tmp_path / "out")
    names = [row.images[0].name for row in rows]
    assert {row.answer for row in rows} == {"spider"} and len({name.casefold() for name in names}) == 4
    written = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text().splitlines()]
    for row in written:
        assert (tmp_path / "out" / row["image"]).read_bytes() == (tmp_path / "raw" / row["original"]).read_bytes()
    with pytest.raises(UserError, match="lie in one another"):
        main(["folder", str(tmp_path / "raw"), str(tmp_path / "raw" / "out")])


def test_docvqa_keeps_all_answers(tmp_path):
    source = tmp_path / "raw"
    (source / "documents").mkdir(parents=True)
    Image.new("L", (9, 9)).save(source / "documents" / "x_1.png")
    entry = {"questionId": 7, "question": "Who?", "image": "documents/x_1.png", "ucsf_document_id": "x"}
    path = source / "train_v1.0.json"
    path.write_text(json.dumps({"data": [{**entry, "answers": ["Ann", "Ann B."]}]}))
    (row,) = twice("docvqa", path, tmp_path / "out")
    assert (row.answer, row.accepted, row.id, row.group) == ("Ann", ("Ann", "Ann B."), "7", "x")
    path.write_text(json.dumps({"data": [entry, {**entry, "answers": ["a"], "image": "documents/no.png"}]}))
    with pytest.raises(UserError, match=r"(?s)2 problems.*data\[0\]: has no answers.*data\[1\].*does not exist"):
        main(["docvqa", str(path), str(tmp_path / "out2")])
    assert not (tmp_path / "out2" / "data.jsonl").exists()


def test_answers_that_are_empty_or_no_texts_are_told(tmp_path):
    entries = [{"question": "Who?", "answers": [" "]}, {"question": "Who?", "answers": "x"}, {"answers": ["a"]}]
    (tmp_path / "raw").mkdir()
    path, out = tmp_path / "raw" / "a.json", tmp_path / "out"
    path.write_text(json.dumps({"data": entries}))
    with pytest.raises(UserError, match=r"(?s)3 problems.*data\[0\]: the answers.*data\[1\].*data\[2\]: has no quest"):
        main(["docvqa", str(path), str(out)])
    for text in ("[" * 100_000, "[]", '{"data": 5}', '{"data": [5]}'):
        path.write_text(text)
        for kind in ("docvqa", "memes", "nlvr"):
            with pytest.raises(UserError, match=r"a\.json"):
                main([kind, str(path), str(out)])


def test_memes(tmp_path):
    source = tmp_path / "raw"
    (source / "img").mkdir(parents=True)
    Image.new("L", (9, 9)).save(source / "img" / "42953.png")
    path = source / "train.jsonl"
    path.write_text(json.dumps({"id": 42953, "img": "img/42953.png", "label": 1, "text": "its their character"}) + "\n")
    (row,) = twice("memes", path, tmp_path / "out")
    assert (row.id, row.answer) == ("42953", "yes") and "its their character" in row.prompt
    (bare,) = twice("memes", path, tmp_path / "out2", "--no-text")
    assert "character" not in bare.prompt


def test_nlvr2_takes_both_photos(tmp_path):
    source = tmp_path / "raw"
    source.mkdir()
    for side in (0, 1):
        Image.new("RGB", (9, 9), (side * 200, 0, 0)).save(source / f"dev-850-0-img{side}.png")
    row = {"identifier": "dev-850-0-0", "sentence": "One is red.", "label": "True"}
    (source / "dev.json").write_text(json.dumps(row) + "\n")
    (made,) = twice("nlvr", source / "dev.json", tmp_path / "out")
    assert (made.answer, made.group, made.id) == ("true", "dev-850-0", "dev-850-0-0") and len(made.images) == 2
    (source / "dev.json").write_text(json.dumps({**row, "identifier": "dev-851-0-0"}) + "\n{}\n")
    with pytest.raises(UserError, match=r"(?s)dev\.json:1: there is no picture.*dev\.json:2: the row lacks identifier"):
        main(["nlvr", str(source / "dev.json"), str(tmp_path / "out2")])


def test_nlvr_boxes_are_those_of_the_real_set(shared, tmp_path):
    """Whole pictures under their published names, cut by us, against the boxes that were cut before."""
    data = shared("data/nlvr1")
    single = [json.loads(line) for line in (data / "dev_single.jsonl").read_text().splitlines()[:5]]
    rows = []
    for row in single:
        name = Path(row["image"]).stem  # dev-1265-0-0: the permutation comes last
        sentence = row["prefix"].partition("? ")[2]
        rows.append(
            {"identifier": name.removeprefix("dev-").rpartition("-")[0], "sentence": sentence, "label": row["suffix"]}
        )
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "dev.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = twice("nlvr", tmp_path / "raw" / "dev.json", tmp_path / "out", "--images", data / "dev" / "whole", "--boxes")
    expected = read_examples(data / "dev_multi.jsonl", open_images=False)[:5]
    for one, other in zip(made, expected, strict=True):
        assert one.turns == other.turns
        for mine, theirs in zip(one.images, other.images, strict=True):
            assert Image.open(mine).convert("RGB").tobytes() == Image.open(theirs).convert("RGB").tobytes()


def test_real_videos(shared, tmp_path):
    pytest.importorskip("av", reason="the video extra is not installed")
    folder = shared("data/video_frames/videos")
    clips = [folder / "v_ApplyEyeMakeup_g01_c01.avi", folder / "v_CricketShot_g04_c01_rgb.gif", folder / "demo.mp4"]
    out = tmp_path / "out"
    labels = ["--labels", '{"demo": "arm wrestling"}', "--frames", "4"]
    assert main(["video", *map(str, clips), str(out), *labels]) == 0
    first = state(out)
    rows = read_examples(out / "data.jsonl")
    assert [row.answer for row in rows] == ["apply eye makeup", "cricket shot", "arm wrestling"]
    assert [row.group for row in rows] == ["v_ApplyEyeMakeup_g01", "v_CricketShot_g04", "demo"]
    assert all(len(row.images) == 4 for row in rows)
    assert main(["video", *map(str, clips), str(out), *labels]) == 0 and state(out) == first
    with pytest.raises(UserError, match=r"(?s)2 problems.*corrupted\.mp4: not a video.*demo\.mp4: there is no saying"):
        broken = folder / "corrupted.mp4"
        main(["video", str(broken), str(clips[2]), str(tmp_path / "no"), "--labels", '{"corrupted": "x"}'])
