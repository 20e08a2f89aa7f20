"""Converters write what the reader takes, write it again the same, and leave the originals alone."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

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
    assert safe_name(".jpg") == "jpg" and safe_name("con.tar.gz") == "_con.tar.gz"  # a name alone is no ending
    assert safe_name("con.jpg") == "_con.jpg" and safe_name("..") == "_" and safe_name("a/b.png") == "a_b.png"
    assert safe_name("x" * 200 + ".geojsonl").endswith(".geojsonl")
    assert "." not in safe_name("x" * 200 + ".jsonlines")  # nine letters are no ending
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


def test_splits_of_one_set_lie_side_by_side(tmp_path):
    """Pictures of one name in two splits are two pictures."""
    for name, shade in (("train", 0), ("val", 200)):
        (tmp_path / name).mkdir()
        Image.new("L", (9, 9), shade).save(tmp_path / name / "1.png")
        entry = {"question": "Who?", "image": "1.png", "answers": [name]}
        (tmp_path / name / f"{name}_v1.0.json").write_text(json.dumps({"data": [entry]}))
    for name, split in (("train", "train"), ("val", "valid")):
        source = tmp_path / name / f"{name}_v1.0.json"
        assert main(["docvqa", str(source), str(tmp_path / "out"), "--split", split]) == 0
    splits = {path.stem: path for path in (tmp_path / "out").glob("*.jsonl")}
    assert set(splits) == {"train", "valid"}
    shades = [Image.open(read_examples(path)[0].images[0]).getpixel((0, 0)) for path in sorted(splits.values())]
    assert shades == [0, 200]


def test_plantdoc_pools_its_published_splits(tmp_path):
    for split, leaf, name in (("train", "Apple leaf", "a?1.png"), ("test", "Bell_pepper leaf", "b&2%.png")):
        (tmp_path / "raw" / split / leaf).mkdir(parents=True)
        Image.new("L", (9, 9)).save(tmp_path / "raw" / split / leaf / name)
    rows = twice("plantdoc", tmp_path / "raw", tmp_path / "pooled", "--pool")
    assert [row.answer for row in rows] == ["Apple leaf", "Bell pepper leaf"]
    assert not (tmp_path / "pooled" / "train.jsonl").exists()
    twice("plantdoc", tmp_path / "raw", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.jsonl")} == {"train.jsonl", "test.jsonl"}


def test_animals_have_a_name_map_and_test_pictures_are_told_of(tmp_path, capsys):
    for place in ("train_data/ragno", "train_data/cat", "validation_data/ragno", "test_data"):
        (tmp_path / "raw" / place).mkdir(parents=True)
        Image.new("L", (9, 9)).save(tmp_path / "raw" / place / "1.jpg")
    twice("animals", tmp_path / "raw", tmp_path / "out")
    assert "note: test_data/ was left out" in capsys.readouterr().out
    assert [row.answer for row in read_examples(tmp_path / "out" / "train.jsonl")] == ["cat", "spider"]
    assert [row.answer for row in read_examples(tmp_path / "out" / "valid.jsonl")] == ["spider"]
    twice("folder", tmp_path / "raw", tmp_path / "own", "--names", '{"ragno": "a spider"}')
    assert [row.answer for row in read_examples(tmp_path / "own" / "valid.jsonl")] == ["a spider"]


def test_the_arena_table_is_what_its_classifiers_read(tmp_path):
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / "train.csv"
    header = "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"
    path.write_text(
        header
        + '30192,x,y,"[""p,1"",""p2""]","[""a\\u00e9"",null]","[""b1"",""b2""]",1,0,0\n'
        + '53567,x,y,"[""q""]","[""\\ud83d\\ude00""]","[""r""]",0,0,1\n'
    )
    first, second = twice("arena", path, tmp_path / "out")
    assert first.prompt == "<prompt>: p,1 p2\n\n<response_a>: aé \n\n<response_b>: b1 b2" and first.answer == "a"
    assert second.prompt == "<prompt>: q\n\n<response_a>: 😀\n\n<response_b>: r" and second.answer == "tie"
    assert (first.id, second.id) == ("0", "1")  # the published fold is by place
    kept = [json.loads(line)["arena_id"] for line in (tmp_path / "out" / "data.jsonl").read_text().splitlines()]
    assert kept == ["30192", "53567"]
    path.write_text(header + "1,x,y,[],[],[],1,0,0\n1,x,y\n" + '2,x,y,"[""q""]","[""a""]","[""b""]",1,1,0\n')
    with pytest.raises(UserError, match=r"(?s)3 problems.*csv:2: the three lists.*csv:3: 3 cells.*csv:4: exactly one"):
        main(["arena", str(path), str(tmp_path / "no")])
    path.write_text("id,prompt\n1,x\n")
    with pytest.raises(UserError, match="has no column response_a, response_b, winner_model_a"):
        main(["arena", str(path), str(tmp_path / "no")])


def test_rows_of_the_phi_recipes_keep_turns_splits_and_recordings(tmp_path):
    raw = tmp_path / "raw"
    for split, group in (("train", 21), ("val", 9)):
        names = [f"{split}/Archery/v_Archery_g{group:02}_c04.{frame}.jpg" for frame in range(8)]
        (raw / "images" / split / "Archery").mkdir(parents=True)
        for number, name in enumerate(names):
            Image.new("RGB", (9, 9), (number, 0, group)).save(raw / "images" / name)
        turn = {"images": names, "user": "Classify the video: Archery, Bowling.", "assistant": "Archery"}
        more = {"user": "Sure?", "assistant": "Yes."}
        row = {"id": f"{split}-0000000300", "source": "ucf101", "conversations": [turn, more]}
        (raw / f"ucf101_{split}.jsonl").write_text(json.dumps(row) + "\n")
    twice("phi", raw, tmp_path / "out")
    (row,) = read_examples(tmp_path / "out" / "valid.jsonl", open_images=True)
    assert [turn.text for turn in row.turns][1:] == ["Archery", "Sure?", "Yes."] and len(row.images) == 8
    assert (row.id, row.group) == ("val-0000000300", "v_Archery_g09")
    assert [path.name for path in row.images] == [f"v_Archery_g09_c04.{frame}.jpg" for frame in range(8)]
    twice("phi", raw / "ucf101_val.jsonl", tmp_path / "alone", "--images", raw / "images")
    assert read_examples(tmp_path / "alone" / "valid.jsonl")[0].turns == row.turns
    (raw / "ucf101_val.jsonl").write_text('{"conversations": [{"images": ["no.jpg"]}]}\n{"conversations": 5}\n')
    with pytest.raises(UserError, match=r"(?s)2 problems.*val\.jsonl:1: image 'no.jpg'.*val\.jsonl:2: \"conversations"):
        main(["phi", str(raw), str(tmp_path / "no")])
    assert not (tmp_path / "no" / "train.jsonl").exists()


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


@pytest.fixture
def films(tmp_path, monkeypatch):
    """A folder of videos, and the package that decodes them: each byte is a frame of that brightness, 80 x 40."""
    package = ModuleType("av")

    class Broken(Exception):
        strerror = "cut off"

    class Film(SimpleNamespace):
        __enter__ = lambda self: self
        __exit__ = lambda self, *error: None

    def frame(value):
        image = Image.new("RGB", (80, 40), (value,) * 3)
        return SimpleNamespace(to_image=lambda: image, rotation=90 * (value == 7))

    def decode(values):
        for value in values:
            if value == 255:
                raise Broken
            yield frame(value)

    def opened(path):
        values = Path(path).read_bytes()
        tracks = [SimpleNamespace()] if values != b"sound" else []
        return Film(streams=SimpleNamespace(video=tracks), decode=lambda stream: decode(values))

    package.open, package.error = opened, SimpleNamespace(FFmpegError=Broken)
    monkeypatch.setitem(sys.modules, "av", package)
    (tmp_path / "films/arm_wrestling").mkdir(parents=True)
    return tmp_path / "films"


def test_frames_of_videos(films, tmp_path):
    (films / "arm_wrestling/b.MP4").write_bytes(bytes(range(100, 110)))
    (films / "v_ApplyEyeMakeup_g01_c03.avi").write_bytes(bytes([7, 8]))
    (films / "notes.txt").write_text("no video")
    first, second = twice("video", films, tmp_path / "out", "--frames", "3", "--max-side", "20")
    assert [(row.answer, row.group) for row in (first, second)] == [
        ("arm wrestling", "b"), ("apply eye makeup", "v_ApplyEyeMakeup_g01")
    ]  # fmt: skip
    shown = [[Image.open(path) for path in row.images] for row in (first, second)]
    assert [one.getpixel((0, 0))[0] for one in shown[0]] == [101, 105, 108]
    assert [one.size for one in shown[0] + shown[1]] == [(20, 10)] * 3 + [(10, 20), (20, 10)]
    labels = ["--labels", '{"b": "one", "v_ApplyEyeMakeup_g01_c03.avi": "two"}']
    assert [row.answer for row in twice("video", films, tmp_path / "named", *labels)] == ["one", "two"]


def test_videos_that_give_no_frames_are_all_named(films, tmp_path):
    for name, values in {"a": b"", "b": b"sound", "c": b"\1\2\xff"}.items():
        (films / f"arm_wrestling/{name}.gif").write_bytes(values)
    (films / "d.gif").write_bytes(b"ok")
    said = (
        r"(?s)4 problems.*a\.gif: there are no pictures.*b\.gif: there is no video track.*c\.gif: not a video.*cut off"
    )
    with pytest.raises(UserError, match=said + r".*d\.gif: there is no saying"):
        main(["video", str(films), str(tmp_path / "out")])
    assert not (tmp_path / "out/data.jsonl").exists()
    for source, message in ((films / "no", "no such file or folder"), (tmp_path / "empty", "no videos")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=message):
            main(["video", str(source), str(tmp_path / "out")])


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
