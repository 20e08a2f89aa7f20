"""A picture that a roll has learned from is known again: in another file, saved again, turned; others are not."""

import numpy as np
import pytest
from PIL import Image

from rolltune.data.examples import Example, Turn
from rolltune.data.learned import exactly, learned, learned_text, marks_of


def row(*paths, text="q", group=None, frames=()):
    return Example("1", tuple(paths), (Turn("user", text), Turn("assistant", "a")), "here", group, frames)


def known(first: Example, second: Example) -> bool:
    """Whether who learned from the first row has learned from the second."""
    one, other = marks_of([first, second])
    return learned([other], one)[0]


@pytest.fixture
def photos(tmp_path):
    """Six pictures of soft blobs, each its own."""
    made = []
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(noise).resize((240, 180), Image.Resampling.BICUBIC).save(path)
        made.append(path)
    return made


def test_a_copy_is_known_and_another_picture_is_not(photos, tmp_path):
    marks = frozenset().union(*marks_of([row(path) for path in photos[:3]]))
    copies = []
    for number, path in enumerate(photos):
        picture = Image.open(path)
        picture = picture.transpose(Image.Transpose.ROTATE_90) if number == 1 else picture.resize((160, 120))
        copies.append(tmp_path / f"copy{number}.jpg")
        picture.save(copies[-1], quality=60)
    assert learned(marks_of([row(path) for path in photos]), marks) == [True] * 3 + [False] * 3
    assert learned(marks_of([row(path) for path in copies]), marks) == [True] * 3 + [False] * 3
    # Of two pictures one is not more than half; a mark without looks (an earlier version's, a damaged one) is exact.
    assert learned(marks_of([row(copies[0], photos[4]), row(copies[0], copies[1])]), marks) == [False, True]
    bare = {exactly(mark) for mark in marks} | {mark[:40] for mark in marks}
    assert learned(marks_of([row(photos[0]), row(copies[0])]), bare) == [True, False]


def test_one_colour_is_no_likeness_and_texts_and_groups_are_known(tmp_path):
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png", compress_level=ord(name) % 10)
    marks = marks_of([row(tmp_path / "a.png", group="g"), row(text="What  is it?")])
    asked = [row(tmp_path / "c.png"), row(tmp_path / "c.png", group="g"), row(text="what is IT?"), row(text="why?")]
    assert learned(marks_of(asked), frozenset().union(*marks)) == [False, True, True, False]


def test_a_frame_is_known_by_its_number(photos, tmp_path):
    moving = tmp_path / "moving.gif"
    first, *others = [Image.open(path) for path in photos[:3]]
    first.save(moving, save_all=True, append_images=others)
    assert known(row(moving, frames=(1,)), row(moving, frames=(1,)))
    assert not known(row(moving, frames=(1,)), row(moving, frames=(2,)))
    assert not known(row(moving, frames=(0,)), row(moving))  # which is the middle one


def test_a_row_of_several_pictures_is_known_where_more_than_half_of_them_are(photos):
    a, b, c, *_ = photos
    assert known(row(a, b), row(a, b, c))
    assert not known(row(a), row(a, b))  # such as one that all rows compare with
    assert not known(row(a), row(a, b, c))


def test_how_many_are_known_is_said():
    assert learned_text(0, 9) == "" and learned_text(3, 9).startswith("3 of 9 of these were learned from")


def test_a_mark_is_known_by_its_file_though_its_look_is_damaged_or_not_told():
    mark = "p" + "0" * 16
    for said in ("", "damaged", "another"):
        assert learned([frozenset({mark + said})], [mark + "its look"]) == [True]
    assert learned([frozenset({"p" + "1" * 16})], [mark + "its look"]) == [False]
