"""A picture that a roll has learned from is known again: in another file, saved again, turned; others are not."""

import numpy as np
import pytest
from PIL import Image

from rolltune.data.examples import Example, Turn
from rolltune.data.learned import exactly, learned, marks_of


def row(*paths, text="q", group=None):
    return Example("1", tuple(paths), (Turn("user", text), Turn("assistant", "a")), "here", group=group)


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
    known = frozenset().union(*marks_of([row(path) for path in photos[:3]]))
    copies = []
    for number, path in enumerate(photos):
        picture = Image.open(path)
        picture = picture.transpose(Image.Transpose.ROTATE_90) if number == 1 else picture.resize((160, 120))
        copies.append(tmp_path / f"copy{number}.jpg")
        picture.save(copies[-1], quality=60)
    assert learned(marks_of([row(path) for path in photos]), known) == [True] * 3 + [False] * 3
    assert learned(marks_of([row(path) for path in copies]), known) == [True] * 3 + [False] * 3
    # Of two pictures one is not more than half; a mark without looks (an earlier version's, a damaged one) is exact.
    assert learned(marks_of([row(copies[0], photos[4]), row(copies[0], copies[1])]), known) == [False, True]
    bare = {exactly(mark) for mark in known} | {mark[:40] for mark in known}
    assert learned(marks_of([row(photos[0]), row(copies[0])]), bare) == [True, False]


def test_one_colour_is_no_likeness_and_texts_and_groups_are_known(tmp_path):
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png", compress_level=ord(name) % 10)
    known = marks_of([row(tmp_path / "a.png", group="g"), row(text="What  is it?")])
    asked = [row(tmp_path / "c.png"), row(tmp_path / "c.png", group="g"), row(text="what is IT?"), row(text="why?")]
    assert learned(marks_of(asked), frozenset().union(*known)) == [False, True, True, False]
