"""Tiles as the families' own image processors make them."""

import numpy as np
import pytest
from PIL import Image

from rolltune.data import tiles

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("name", ["wide", "tall", "small", "sq", "huge"])
def test_canvas_tiles_equal_the_published_processor(oracle, name):
    picture = Image.fromarray(np.load(oracle("preproc/images.npz"))[name])
    theirs = np.load(oracle("preproc/hf_slow_4_45.npz"))
    made, aspect = tiles.canvas_tiles(picture, 560)
    real = tiles.real_tiles((picture.height, picture.width), 560)
    assert aspect == theirs[f"{name}/mllama/aspect_ratio_ids"] == tiles.aspect_id((picture.height, picture.width), 560)
    assert real == theirs[f"{name}/mllama/num_tiles"] == theirs[f"{name}/mllama/aspect_ratio_mask"].sum()
    assert not made[real:].any()
    wanted = theirs[f"{name}/mllama/pixel_values"].astype(np.float32).transpose(0, 2, 3, 1)
    assert not wanted[real:].any()
    back = (wanted[:real] * np.float32(STD) + np.float32(MEAN)) * 255
    np.testing.assert_array_equal(made[:real], np.rint(back).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "canvas", "fitted"),
    [
        ((1, 9000), (1, 4), (1, 2240)),  # never thinner than a pixel
        ((560, 561), (1, 2), (560, 561)),  # a pixel too wide for one tile
        ((600, 600), (2, 2), (600, 600)),  # not enlarged beyond a tile
        ((100, 500), (1, 1), (112, 560)),  # enlarged until one side is a tile's
        ((100, 700), (1, 2), (100, 700)),  # and no further, though the canvas would hold more
        ((4000, 1000), (4, 1), (2240, 560)),
        ((3000, 4000), (2, 2), (840, 1120)),
    ],
)
def test_canvas_and_size_on_it(size, canvas, fitted):
    assert tiles.canvas_of(size, 560) == canvas
    assert tiles.size_on_canvas(size, canvas, 560) == fitted
