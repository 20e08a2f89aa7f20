"""Views keep a picture's size, change what was asked for and no more, and are the same on every platform."""

import numpy as np
import pytest
from PIL import Image
from small_model import draw_picture

from rolltune.data.views import LEAST_SIDE, MOST_SHIFT, UNTOUCHED, WORDS, View, views

CROPPED = View(left=0.118213580569, top=0.021747450077, side=0.860713606861)


def pixels(image):
    return np.asarray(image).astype(int)


def test_the_first_view_is_the_picture_itself():
    picture = draw_picture(0, (20, 30))
    assert views(WORDS, 3)[0] == UNTOUCHED
    np.testing.assert_array_equal(pixels(UNTOUCHED.of(picture)), pixels(picture))


def test_views_are_the_same_everywhere():
    # Written down, so that another platform or NumPy is held to it.
    cropped = views(("crop",), 2)[1]
    assert cropped == pytest.approx(CROPPED) and cropped.name == views(WORDS[:1], 9)[1].name
    made = views(WORDS, 16)
    assert len(set(made)) == len({view.name for view in made}) == 16
    assert [view.mirrored for view in made] == [False, True] * 8


@pytest.mark.parametrize("word", WORDS)
def test_only_what_is_asked_for_is_changed(word):
    for view in views((word,), 12)[1:]:
        cropped = (view.left, view.top, view.side) != (0, 0, 1)
        coloured = (view.brightness, view.contrast, view.saturation) != (1, 1, 1)
        assert (cropped, coloured) == (word == "crop", word == "colour") and (not view.mirrored or word == "flip")


def test_a_crop_stays_inside_and_all_is_mild():
    for view in views(WORDS, 200):
        assert LEAST_SIDE <= view.side <= 1 and view.left >= 0 and view.top >= 0
        assert max(view.left, view.top) + view.side <= 1 + 1e-12
        assert all(abs(factor - 1) <= MOST_SHIFT for factor in (view.brightness, view.contrast, view.saturation))


def test_the_size_stays_and_each_change_does_what_it_is_called():
    picture = draw_picture(1, (21, 30))
    assert all(view.of(picture).size == picture.size for view in views(WORDS, 8))
    np.testing.assert_array_equal(pixels(View(mirrored=True).of(picture)), pixels(picture)[:, ::-1])
    assert pixels(View(brightness=0.8).of(picture)).mean() < 0.85 * pixels(picture).mean()
    assert pixels(View(contrast=0.8).of(picture)).std() < 0.85 * pixels(picture).std()
    grey = pixels(View(saturation=0.0).of(picture))
    assert (grey == grey[..., :1]).all()
    step = np.zeros((20, 20, 3), np.uint8)
    step[:, 10:] = 255
    bright = pixels(View(left=0.5, top=0.0, side=0.5).of(Image.fromarray(step)))
    assert bright[:, 2:].min() == 255  # of the right half, but for the edge that the resizing sees
