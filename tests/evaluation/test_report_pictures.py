import base64
import io
import re

import numpy as np
import pytest
from made_predictions import counted, texts
from PIL import Image

from rolltune.evaluation.report_pictures import open_plainly, picture_cards, pictures, wrong_first


def found(tmp_path, prediction):
    Image.new("RGB", (640, 320), "red").save(tmp_path / "a.png")
    return pictures(prediction, {id: [tmp_path / "a.png"] for id in prediction.ids}, "valid", {"row0": "is it red?"})


def thumbnails(page):
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"image/jpeg;base64,([^\"]+)", page)]


def test_the_surest_mistakes_come_first(tmp_path):
    prediction = counted(2, 2, 1, 1)  # rows 4 and 5 are wrong
    log_probs = prediction.log_probs.copy()
    log_probs[5] = np.log([0.01, 0.99])
    log_probs[1] = np.log([0.6, 0.4])
    ordered = wrong_first(found(tmp_path, prediction._replace(log_probs=log_probs)))
    assert [picture.id for picture in ordered] == ["row5", "row4", "row1", "row0", "row2", "row3"]
    first = ordered[0]
    assert (first.right, first.given, first.how) == ("yes", "no", "no 99%, yes 1%")


def test_a_card_holds_thumbnail_verdict_and_where_it_is_from(tmp_path):
    page = picture_cards(found(tmp_path, counted(1, 0, 0, 1)), most=9, open_image=open_plainly)
    for part in ("no instead of yes", "no 90%, yes 10%", "yes ✓", "valid: row1", "is it red?"):
        assert part in page
    shown = thumbnails(page)
    assert [image.size for image in shown] == [(320, 160)] * 2
    assert shown[0].getpixel((10, 10))[0] > 200


def test_what_is_left_out_is_counted(tmp_path):
    page = picture_cards(found(tmp_path, counted(3, 0, 0, 3)), most=2, open_image=open_plainly)
    assert page.count("<figure") == 2
    assert "4 more pictures are not shown (1 of them wrong)." in page


@pytest.mark.parametrize("content", [None, b"", b"not a picture", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_broken_picture_is_named_and_costs_nothing_else(tmp_path, content):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    row = counted(1, 0, 0, 0)
    page = picture_cards(pictures(row, {"row0": [path]}, "valid"), most=9, open_image=open_plainly)
    assert "bad.png cannot be shown: " in page
    assert "yes ✓" in page


def test_transparent_turned_and_odd_pictures_are_shown_right(tmp_path):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("CMYK", (8, 8)).save(tmp_path / "cmyk.jpg")
    Image.new("I;16", (8, 8)).save(tmp_path / "deep.png")
    paths = [tmp_path / name for name in ("clear.png", "turned.jpg", "cmyk.jpg", "deep.png", "clear.png")]
    page = picture_cards(pictures(counted(1, 0, 0, 0), {"row0": paths}, "valid"), 9, open_plainly)
    shown = thumbnails(page)
    assert len(shown) == 4 and "(+1 more)" in page
    assert min(shown[0].getpixel((4, 4))) > 250
    assert shown[1].size == (20, 40)


def test_a_row_without_pictures_says_so():
    assert "no picture in this row" in picture_cards(pictures(counted(1, 0, 0, 0), {}, "valid"), 9, open_plainly)


def test_the_least_alike_texts_come_first_beside_what_is_accepted():
    written = texts(
        ["kitten", "mitten", "x", "y", "1"],
        [("kitten",), ("kitten", "cat"), ("kitten",), ("kitten",), tuple("123456")],
        [1, 3, 1, 2, 1],
    )
    ordered = wrong_first(pictures(written, {}, "valid"))
    assert [picture.id for picture in ordered] == ["row3", "row2", "row1", "row0", "row4"]
    page = picture_cards(ordered, 9, open_plainly)
    for part in (
        "&#x27;mitten&#x27; instead of &#x27;kitten&#x27; or &#x27;cat&#x27;",
        "ANLS 0.8333, log-loss of the best accepted answer 3.0",
    ):
        assert part in page
    assert "or 2 more" in ordered[-1].right
    assert pictures(texts(None, [("a",)]), {}, "valid") == []
