"""Boxes of other programs become PaliGemma's answers, and these become boxes of other programs."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO
from test_converters import twice

from rolltune.commands.convert import main
from rolltune.data.boxes import read
from rolltune.data.sources import read_examples
from rolltune.errors import UserError
from rolltune.text.tokenizer import load

PARTS = ("images", "annotations", "categories")
CAT = "<loc0256><loc0102><loc0767><loc0512>"  # of 40 x 20 pixels: x 4 to 20, y 5 to 15


def picture(path, size=(40, 20), **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path, **more)


def coco(folder, annotations, images=None, categories=None):
    picture(folder / "a.jpg")
    picture(folder / "b.jpg", (30, 30))
    images = images or [
        {"id": 1, "file_name": "a.jpg", "width": 40, "height": 20},
        {"id": 2, "file_name": "b.jpg", "width": 300, "height": 300},  # drawn on a larger one of the same shape
    ]
    categories = categories or [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 7, "name": "cat", "supercategory": "pets"},
        {"id": 9, "name": "dog", "supercategory": "pets"},
    ]
    path = folder / "_annotations.coco.json"
    path.write_text(json.dumps(dict(zip(PARTS, (images, annotations, categories), strict=True))))
    return path


def box(number, image=1, category=7, bbox=(4, 5, 16, 10), **more):
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(bbox), **more}


def test_coco_and_back(tmp_path):
    annotations = [box(1, category=9, bbox=(0, 0, 50, 20)), box(2), box(3, iscrowd=1), box(4, bbox=(0, 0, 8, 4))]
    source = coco(tmp_path / "raw", annotations)
    rows = twice("coco", source, tmp_path / "out")
    assert [(row.prompt, row.answer) for row in rows] == [
        (
            "detect cat ; dog",
            f"<loc0000><loc0000><loc0205><loc0205> cat ; {CAT} cat ; <loc0000><loc0000><loc1023><loc1023> dog",
        )
    ]  # the picture without boxes and the crowd are left out; what sticks out is cut off
    assert main(["to-coco", str(tmp_path / "out/data.jsonl"), str(tmp_path / "back")]) == 0
    found = COCO(str(tmp_path / "back/annotations.json"))
    (image,) = found.imgs.values()
    assert (tmp_path / "back" / image["file_name"]).resolve() == (tmp_path / "out/images/a.jpg").resolve()
    back = [(found.cats[one["category_id"]]["name"], *map(round, one["bbox"])) for one in found.anns.values()]
    assert back == [("cat", 0, 0, 8, 4), ("cat", 4, 5, 16, 10), ("dog", 0, 0, 40, 20)]
    areas = [round(one["bbox"][2] * one["bbox"][3], 2) for one in found.anns.values()]
    assert [one["area"] for one in found.anns.values()] == areas and found.getAnnIds(areaRng=[150, 200]) == [2]
    assert twice("coco", tmp_path / "raw", tmp_path / "empty", "--empty")[1].answer == "none"


def test_a_row_for_each_label(tmp_path):
    source = coco(tmp_path / "raw", [box(1), box(2, image=2, category=9, bbox=(0, 0, 300, 150))])
    rows = twice("coco", source, tmp_path / "out", "--each", "--names", '{"dog": "hound"}')
    assert [(row.prompt, row.answer) for row in rows] == [
        ("detect cat", f"{CAT} cat"),
        ("detect hound", "<loc0000><loc0000><loc0512><loc1023> hound"),
    ]
    rows = twice("coco", source, tmp_path / "all", "--each", "--empty", "--question", "find {labels}")
    assert [row.answer for row in rows if row.prompt == "find dog"] == [
        "none",
        "<loc0000><loc0000><loc0512><loc1023> dog",
    ]


def test_what_is_wrong_in_coco_is_told_all_at_once(tmp_path):
    wrong = [
        box(1, bbox=(1, 2, 3)),
        box(2, bbox=(100, 100, 5, 5)),
        box(3, bbox=(1, 1, 0, 5)),
        box(4, image=77),
        box(5, category=77),
        box(6, bbox=("x", 1, 2, 3)),
        box(7, bbox=(1, 1, 1, float("inf"))),
    ]
    with pytest.raises(UserError) as caught:
        main(["coco", str(coco(tmp_path / "raw", wrong)), str(tmp_path / "out")])
    text = str(caught.value)
    assert all(f"annotation {number}" in text for number in range(1, 8))
    assert "lies outside its picture of 40 x 20" in text and "has no area" in text and "image 77 is not in" in text
    assert not (tmp_path / "out/data.jsonl").exists()
    for broken in (
        {},
        [],
        {"images": [], "annotations": {}, "categories": []},
        {"images": [1], "annotations": [], "categories": []},
    ):
        (tmp_path / "raw/x.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match="expected COCO's object with the lists"):
            main(["coco", str(tmp_path / "raw/x.json"), str(tmp_path / "out")])
    named = coco(tmp_path / "b", [box(1)], categories=[{"id": 7, "name": "cat ; dog"}])
    with pytest.raises(UserError, match="expected words without ; < and >"):
        main(["coco", str(named), str(tmp_path / "out")])
    twice_there = [{"id": 7, "name": "cat"}, {"id": 7, "name": "dog"}]
    with pytest.raises(UserError, match="the id 7 is of 'cat' and of 'dog'"):
        main(["coco", str(coco(tmp_path / "c", [box(1)], categories=twice_there)), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_what_the_help_shows_can_be_typed_beside_the_file(tmp_path, monkeypatch):
    coco(tmp_path / "val2017", [box(1)]).rename(tmp_path / "instances.json")
    monkeypatch.chdir(tmp_path)
    assert main(["coco", "instances.json", "dataset/coco", "--images", "val2017/"]) == 0
    with pytest.raises(UserError, match="lie in one another"):
        main(["coco", "instances.json", "val2017/out", "--images", "val2017/"])


def test_boxes_of_a_picture_that_stands_otherwise_are_refused(tmp_path):
    source = coco(tmp_path / "raw", [box(1)])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "raw/a.jpg", exif=exif)  # 20 x 40 once it is upright
    with pytest.raises(UserError, match=r"for a picture of 40 x 20, a\.jpg is 20 x 40 \(EXIF turns it"):
        main(["coco", str(source), str(tmp_path / "out")])


VOC = """<annotation><folder>x</folder><filename>old name.bmp</filename><size><width>40</width><height>20</height>
<depth>3</depth></size><object><name>cat</name><difficult>0</difficult><bndbox><xmin>5</xmin><ymin>6</ymin>
<xmax>20</xmax><ymax>15</ymax></bndbox></object></annotation>"""


def test_voc_and_back(tmp_path):
    root = tmp_path / "VOC"
    for name in ("a", "b"):
        picture(root / f"JPEGImages/{name}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / f"Annotations/{name}.xml").write_text(VOC)
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("b 1\n")
    rows = twice("voc", root, tmp_path / "out")
    assert [row.answer for row in rows] == [f"{CAT} cat"] * 2  # pixels are counted from 1
    assert main(["voc", str(root), str(tmp_path / "out"), "--split", "valid"]) == 0
    (row,) = read_examples(tmp_path / "out/valid.jsonl")
    assert row.images[0].name == "b.jpg"
    with pytest.raises(UserError, match="no list of the split test"):
        main(["voc", str(root), str(tmp_path / "out"), "--split", "test"])
    assert main(["to-voc", str(tmp_path / "out/data.jsonl"), str(tmp_path / "back")]) == 0
    (thing,) = ElementTree.parse(tmp_path / "back/Annotations/a.xml").getroot().iter("object")
    edges = [thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    assert edges == ["5", "6", "20", "15"] and thing.findtext("name") == "cat"


def test_hostile_voc(tmp_path):
    picture(tmp_path / "raw/a.jpg")
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbb">]><annotation>&b;</annotation>'
    for text, message, encoding in (
        (bomb, "declares a document type", "utf-8"),
        (bomb, "declares a document type", "utf-16"),
        ("<annotation>", "not XML", "utf-8"),
        (VOC.replace("6", "x"), "numbers", "utf-8"),
    ):
        (tmp_path / "raw/a.xml").write_text(text, encoding)
        with pytest.raises(UserError, match=message):
            main(["voc", str(tmp_path / "raw"), str(tmp_path / "out")])
    (tmp_path / "raw/a.xml").write_text(VOC.replace("old name.bmp", "../../etc/passwd"))
    assert twice("voc", tmp_path / "raw", tmp_path / "out")[0].images[0].name == "a.jpg"
    for size in ("0", "-1", "inf", "nan", "wide", ""):  # no size is stated: the file's own
        (tmp_path / "raw/a.xml").write_text(VOC.replace("<width>40", f"<width>{size}"))
        assert twice("voc", tmp_path / "raw", tmp_path / "out")[0].answer == f"{CAT} cat", size


def test_yolo_boxes_and_outlines(tmp_path):
    root = tmp_path / "yolo"
    for name in ("a", "b", "c"):
        picture(root / f"{'train' if name < 'c' else 'valid'}/images/{name}.jpg")
    (root / "train/labels").mkdir()
    (root / "train/labels/a.txt").write_text("1 0.3 0.5 0.4 0.5\n0 0.1 0.1 0.5 0.1 0.3 0.9\n")
    (root / "data.yaml").write_text("train: train/images\nnc: 2\nnames: ['dog', 'cat']\n")
    (row,) = twice("yolo", root, tmp_path / "out")
    assert (row.prompt, row.answer) == ("detect dog ; cat", f"<loc0102><loc0102><loc0921><loc0512> dog ; {CAT} cat")
    assert main(["yolo", str(root), str(tmp_path / "out"), "--split", "train", "--empty"]) == 0
    assert [row.answer == "none" for row in read_examples(tmp_path / "out/train.jsonl")] == [False, True]
    (root / "data.yaml").rename(tmp_path / "data.yaml")
    for name in ("classes.txt", "obj.names"):
        (root / name).write_text("dog\n\n cat \n")
        assert twice("yolo", root, tmp_path / "plain")[0].answer == row.answer
        (root / name).unlink()
    by_hand = ["--names", '{"0": "dog", "1": "cat"}']
    assert twice("yolo", root, tmp_path / "plain", *by_hand)[0].answer == row.answer
    (tmp_path / "data.yaml").rename(root / "data.yaml")
    (root / "train/labels/a.txt").write_text("5 0.3 0.5 0.4 0.5\n0 0.1 0.1 0.5 0.1 0.3\nx\n")
    with pytest.raises(UserError) as caught:
        main(["yolo", str(root), str(tmp_path / "out")])
    assert all(f"train/labels/a.txt:{line}" in str(caught.value) for line in (1, 2, 3))
    (root / "data.yaml").write_text("a: &a [x, x]\nnames: [*a, *a]\n")
    with pytest.raises(UserError, match="no list of names of the classes"):
        main(["yolo", str(root), str(tmp_path / "out")])


def test_rows_with_objects_are_converted_and_their_refusal_says_so(tmp_path):
    picture(tmp_path / "raw/a.jpg")
    row = {"file_name": "a.jpg", "objects": {"bbox": [[4, 5, 16, 10]], "categories": [1]}}
    source = tmp_path / "raw/metadata.jsonl"
    source.write_text(json.dumps(row))
    with pytest.raises(UserError, match="category 1 has no name"):
        main(["objects", str(source), str(tmp_path / "out")])
    assert twice("objects", source, tmp_path / "out", "--names", '{"1": "cat"}')[0].answer == f"{CAT} cat"
    source.write_text(json.dumps({**row, "prefix": "q", "suffix": "a", "image": "a.jpg"}))
    with pytest.raises(UserError, match=r"\./06-convert_data\.py objects"):
        read_examples(source)
    for wrong in (
        {"bbox": [[1, 2, 3, 4]], "categories": []},
        {"bbox": 3},
        [1],
        {"bbox": [[1, 2]], "categories": ["x"]},
    ):
        source.write_text(json.dumps({**row, "objects": wrong}))
        with pytest.raises(UserError, match=r"metadata\.jsonl:1"):
            main(["objects", str(source), str(tmp_path / "out")])
    source.write_text(json.dumps({**row, "file_name": "../b.jpg"}))
    with pytest.raises(UserError) as caught:
        main(["objects", str(source), str(tmp_path / "out")])
    assert "--images" not in str(caught.value)  # which is no flag of this kind


def test_roboflows_paligemma_export_is_read_as_it_is(tmp_path):
    picture(tmp_path / "dataset/a.jpg")
    row = {"image": "a.jpg", "prefix": "detect cat ; dog", "suffix": f"{CAT} cat ; {CAT} dog"}
    (tmp_path / "dataset/_annotations.train.jsonl").write_text(json.dumps(row))
    (example,) = read_examples(tmp_path / "dataset/_annotations.train.jsonl", open_images=True)
    assert [one.label for one in read(example.answer).boxes] == ["cat", "dog"]


def test_answers_of_a_model_go_back_without_their_broken_boxes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(Path("pictures/a.jpg"))
    lines = [
        {"source": "a", "images": ["pictures/a.jpg"], "answer": f"{CAT} cat\x1b[31m ; <loc0001> dog"},
        {"source": "b", "images": ["pictures/a.jpg"], "answer": "none"},
        {"source": "c", "images": ["pictures/a.jpg"], "answer": "a dog"},
    ]
    Path("answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["to-coco", "answers.jsonl", "back"]) == 0
    with pytest.raises(UserError, match="lie in one another"):
        main(["to-coco", "answers.jsonl", "."])
    held = json.loads(Path("back/annotations.json").read_text())
    assert len(held["images"]) == 1 and [one["score"] for one in held["annotations"]] == [1.0]
    assert COCO("back/annotations.json").loadRes(held["annotations"]).anns  # as results, too
    assert main(["to-voc", "answers.jsonl", "voc"]) == 0
    assert ElementTree.parse("voc/Annotations/a.xml").findtext("object/name") == r"cat\x1b[31m"
    Path("answers.jsonl").write_text(json.dumps({**lines[0], "answer": "a cat"}))
    with pytest.raises(UserError, match="there is no box in it"):
        main(["to-coco", "answers.jsonl", "back"])
    Path("rows.jsonl").write_text(json.dumps({"prefix": "q", "suffix": "a cat", "image": "pictures/a.jpg"}))
    with pytest.raises(UserError, match=r"rows\.jsonl:1.*no row of boxes"):
        main(["to-coco", "rows.jsonl", "back"])


def test_each_place_is_one_token_of_paligemma(shared):
    tokenizer = load(shared("tokenizers/paligemma_derived/tokenizer.model"))
    assert tokenizer.encode("<loc0000><loc0255><loc1023><loc0512>") == [256000, 256255, 257023, 256512]
    text = f"{CAT} cat ; {CAT} red car"
    ids = tokenizer.encode(text)
    assert sum(256000 <= one < 257024 for one in ids) == 8 and tokenizer.decode(ids) == text
