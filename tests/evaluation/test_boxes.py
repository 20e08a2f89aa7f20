"""Figures of written boxes against values worked out by hand, and what a model may write instead of one."""

import json

import numpy as np
import pytest
from PIL import Image

from rolltune.data.boxes import Box, in_pixels, in_words, read, written
from rolltune.data.examples import Example, Turn
from rolltune.evaluation import predicted
from rolltune.evaluation.boxes import all_found, are_boxes, average_precision, overlap
from rolltune.evaluation.figures import TITLES, shown_names, worth
from rolltune.evaluation.report_pictures import open_plainly, picture_cards, pictures
from rolltune.evaluation.statistics import interval
from rolltune.evaluation.written import OF_BOXES, Written, measure_written

LEFT_HALF = "<loc0000><loc0000><loc1023><loc0512>"
WHOLE = "<loc0000><loc0000><loc1023><loc1023>"
CAT = f"{LEFT_HALF} cat"


def box_of(text):
    return read(text).boxes[0]


def test_written_boxes_are_read_again_as_they_were():
    boxes = (Box("red car", 0.1, 0.0, 0.85, 0.5), Box("dog", 0.5, 0.52, 1.0, 0.97))
    text = written(boxes)
    assert text == "<loc0102><loc0000><loc0870><loc0512> red car ; <loc0512><loc0532><loc1023><loc0992> dog"
    again = read(text)
    assert not again.broken and written(again.boxes) == text
    for one, other in zip(again.boxes, boxes, strict=True):
        assert one.label == other.label and np.allclose(one[1:], other[1:], atol=0.5 / 1023)
    assert written(()) == "none" and read("none") == read("None.") == read("") == ((), 0)
    assert written([Box("hair", 0.5, 0.2, 0.5, 0.2), Box("rim", -0.1, 1.0, 1.2, 1.0)]) == (
        "<loc0512><loc0205><loc0513><loc0206> hair ; <loc0000><loc1022><loc1023><loc1023> rim"
    )
    assert in_pixels(box_of(CAT), 100, 400) == ("cat", 0, 0, 200.2, 100)
    assert read(f"{WHOLE}{'<seg001>' * 16} cat") == read(f"{WHOLE} cat")  # the mask of `segment` is read over


@pytest.mark.parametrize(
    "text",
    [
        "a cat",
        "<loc0000><loc0000><loc1023> cat",  # three numbers
        f"{LEFT_HALF}<loc0000> cat",  # five
        "<loc0000><loc0000><loc1024><loc0512> cat",  # past the last
        "<loc0512><loc0000><loc0512><loc0512> cat",  # of no height
        "<loc0900><loc0000><loc0100><loc0512> cat",  # the wrong way round
        "<loc000><loc0000><loc1023><loc0512> cat",
        f"{WHOLE} cat {WHOLE}",  # no `;` between them
        f"{WHOLE}<seg001> cat",
        "<loc0000",
        ";;",
    ],
)
def test_broken_boxes_are_counted_and_found_nowhere(text):
    assert read(text) == ((), 1)
    assert overlap(text, [CAT]) == 0 and not all_found(text, [CAT])
    both = f"{CAT} ; {text}" if text != ";;" else f"{CAT} ; a"
    assert read(both) == (read(CAT).boxes, 1)
    assert overlap(both, [CAT]) == 0.5 and not all_found(both, [CAT])


def test_overlaps_by_hand():
    assert overlap(CAT, [CAT]) == 1 and all_found(CAT, [CAT])
    assert overlap(f"{WHOLE} cat", [CAT]) == pytest.approx(512 / 1023)
    assert all_found(f"{WHOLE} Cat.", [CAT])  # 0.5005, and labels are compared as answers are
    assert overlap(f"{LEFT_HALF} dog", [CAT]) == 0
    assert overlap("none", [CAT]) == 0 == overlap(CAT, ["none"]) and overlap("none", ["none"]) == 1
    # The pairs that fit best, not the first ones: two cats in the other order.
    right = "<loc0512><loc0000><loc1023><loc1023> cat"
    assert overlap(f"{right} ; {CAT}", [f"{CAT} ; {right}"]) == 1
    assert overlap(CAT, [right, CAT]) == 1  # any accepted answer
    assert overlap(CAT, [f"{CAT} ; {CAT}"]) == 0.5  # one of two is missing


def test_mean_average_precision_by_hand():
    # Two labels. Of the cats one is found exactly and one box lies nowhere; the dog is missing.
    answers, accepted = [CAT, CAT, "none"], [(CAT,), ("<loc0000><loc0600><loc1023><loc1023> cat",), (f"{WHOLE} dog",)]
    found = average_precision(["a", "b", "c"], answers, accepted)
    # Precision 1 up to a recall of a half: 51 of COCO's 101 points. The dog's is 0.
    assert found == (pytest.approx(51 / 101 / 2), pytest.approx(51 / 101 / 2))
    # An overlap of 512/1023 counts at 0.5 alone, one of ten.
    assert average_precision(["a"], [f"{WHOLE} cat"], [(CAT,)]) == pytest.approx((0.1, 1))
    assert average_precision(["a"], ["none"], [("none",)]) is None
    assert average_precision(["a"], ["nonsense"], [(CAT,)]) == (0, 0)
    assert average_precision(["a"], [f"{CAT} ; {WHOLE} hat"], [(CAT,)]) == pytest.approx((1, 1))  # nobody gave hats
    shuffled = average_precision(["c", "b", "a"], answers[::-1], accepted[::-1])
    assert shuffled == found


def scored(answers, accepted):
    ids = tuple(f"r{place}" for place in range(len(accepted)))
    return Written(ids, tuple((one,) for one in accepted), np.full(len(ids), -1.0), tuple(answers))


def test_figures_of_a_set_of_boxes_rank_and_are_shown():
    rows = scored([CAT, f"{WHOLE} cat", "<loc0001> x"], [CAT, CAT, CAT])
    figures = measure_written(rows)
    assert figures.share == "box-accuracy" and figures.right == 2
    assert figures.figure("iou") == pytest.approx((1 + 512 / 1023) / 3)
    assert worth(figures, "iou") > worth(measure_written(rows._replace(texts=("none",) * 3)), "iou")
    assert figures.majority_rate == 1  # always the commonest box would find all
    assert [line.split(":")[0].strip() for line in figures.lines()] == [
        "log-loss", "mean IoU", "box accuracy", "mAP", "mAP at 0.5",
    ]  # fmt: skip
    assert "1 parts of the answers are no box, and count as wrong" in figures.frequencies()
    assert shown_names([figures]) == ["log-loss", *OF_BOXES]
    assert interval(figures, "iou").low < figures.figure("iou") < interval(figures, "iou").high
    assert interval(figures, "map") is None and interval(figures, "box-accuracy").method == "Wilson"
    assert figures.facts()["broken-boxes"] == 1


def test_other_answers_have_no_figures_of_boxes():
    for accepted in ((("a cat",),), (("none",),), ((CAT,), ("a cat",))):
        assert not are_boxes(accepted)
        figures = measure_written(scored(["x"] * len(accepted), [one[0] for one in accepted]))
        assert figures.share == "exact-match" and figures.figure("iou") is None
        assert figures.undefined[TITLES["iou"]] and shown_names([figures]) == ["log-loss", "exact-match", "anls"]


def test_the_report_draws_given_and_answered_boxes(tmp_path):
    Image.new("RGB", (64, 32), "gray").save(tmp_path / "a.png")
    evil = "<loc0100><loc0100><loc0900><loc0900> cat\u202e\x1b[31m"
    rows = scored([evil], [CAT])
    page = picture_cards(pictures(rows, {"r0": [tmp_path / "a.png"]}, "valid"), most=9, open_image=open_plainly)
    assert '<rect class="given" x="0.0" y="0.0" width="32.0" height="32.0"/>' in page
    assert '<rect class="answered" x="6.3" y="3.1" width="50.0" height="25.0"/>' in page
    assert "given box" in page and "answered box" in page and 'viewBox="0 0 64 32"' in page
    assert "\u202e" not in page and "\x1b" not in page and "\\u202e" in page
    assert 'class="wrong"' in page and "IoU" in page


def test_predictions_have_boxes_in_pixels(tmp_path):
    turned = Image.new("RGB", (30, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown upright it is turned: 60 wide, 30 high
    turned.save(tmp_path / "a.jpg", exif=exif)
    row = Example("a", (tmp_path / "a.jpg",), (Turn("user", "detect cat"), Turn("assistant", CAT)), "rows.jsonl:1")
    answer = f"{CAT} ; <loc0001>"
    (line,) = predicted.predicted([row], [scored([answer], [CAT])], ())
    told = json.loads(json.dumps(predicted.plain(line)))
    assert told["boxes"] == [{"label": "cat", "xmin": 0, "ymin": 0, "xmax": 30.03, "ymax": 30}] and told["broken"] == 1
    assert line.correct is False and "1 of its boxes is broken" in predicted.remarks(line)
    predicted.write(tmp_path / "out.csv", [line])
    assert '""label"": ""cat""' in (tmp_path / "out.csv").read_text()
    (near,) = predicted.predicted([row], [scored([f"{WHOLE} cat"], [CAT])], ())
    assert near.correct is True  # two people draw no box alike


def test_boxes_in_words():
    place = "<loc0000><loc0000><loc0512><loc0512>"
    said = {
        f"{place} cat ; {place} dog ; {place} cat": "2 × cat, dog",
        f"{place} a ; <loc0001> b": "a, 1 broken",
        " ; ".join(f"{place} {label}" for label in "abcdef"): "a, b, c, d, 2 more labels",
        " ; ".join(f"{place} {label}" for label in "abcd"): "a, b, c, d",
        "a cat": "1 broken",
        "none": "nothing",
    }
    assert {text: in_words(read(text)) for text in said} == said
