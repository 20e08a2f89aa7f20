"""Which rows a picture takes is known from its size; rows that no slot means are left out."""

import dataclasses

import numpy as np
import pytest
from small_model import CONFIG, NET, draw_picture

from rolltune.inputs.pictures import keys_of, places_of, read_pictures

FAMILY = dataclasses.replace(
    NET.family,
    learned_count=2,
    # A family that reads all but the first row of a picture, a newline after each two, and its keys from the end.
    slots=lambda config, size: np.array([0, 4, 5, 1, 7, 1], np.int32),
    keys=lambda config, size: np.array([7, 9], np.int32),
)


def test_rows_that_nothing_means_are_left_out_and_the_others_counted_anew():
    places = places_of(FAMILY, CONFIG, (28, 28))
    assert places.used.tolist() == [2, 3, 5, 7]
    assert places.slots.tolist() == [0, 2, 3, 1, 4, 1] and places.keys.tolist() == [4, 5]
    plain = places_of(NET.family, CONFIG, (28, 28))
    assert plain.slots.tolist() == plain.used.tolist() == [0, 1, 2, 3] and not len(plain.keys)


def test_each_picture_is_looked_at_once_and_none_resized(examples, monkeypatch):
    opened = []
    family = dataclasses.replace(NET.family, picture=lambda config, image: opened.append(image))
    pictures = read_pictures(family, CONFIG, examples)
    assert len(pictures.places) == 4 and set(pictures.sizes.values()) == {(20, 30)} and not opened
    assert [len(keys_of(one)) for one in examples] == [1, 2, 0, 1, 1, 1]
    assert keys_of(examples[4])[0][1] == 1 and keys_of(examples[0])[0][1] is None
    assert read_pictures(family, CONFIG, examples[2:3]).places == {}


@pytest.mark.parametrize("turned", [False, True])
def test_the_size_is_height_by_width_after_exif(tmp_path, turned):
    image = draw_picture(0, (20, 30))
    exif = image.getexif()
    exif[0x0112] = 6 if turned else 1
    image.save(tmp_path / "a.jpg", exif=exif)
    example = dataclasses.make_dataclass("Example", ["images", "frames"])((tmp_path / "a.jpg",), ())
    (size,) = read_pictures(NET.family, CONFIG, [example]).sizes.values()
    assert size == ((30, 20) if turned else (20, 30))
