"""Tiles and slots beside what the families' own image processors made of the same pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from rolltune.data import tiles

CANVASES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
NAMES = ("wide", "tall", "small", "sq", "huge")


@pytest.fixture
def pictures(oracle):
    with np.load(oracle("preproc/images.npz")) as file:
        return {name: Image.fromarray(file[name]) for name in NAMES}


@pytest.fixture
def made(oracle):
    return np.load(oracle("preproc/hf_slow_4_45.npz"))


def in_0_to_255(normalized):
    return (normalized.transpose(0, 2, 3, 1) * STD + MEAN) * 255


def test_any_resolution_is_what_the_original_processor_makes(pictures, made):
    for name in NAMES:
        found, expected = tiles.any_resolution(pictures[name], CANVASES, 336), made[f"{name}/llava_next/pixel_values"]
        height, width = size = made[f"{name}/llava_next/image_sizes"][0]
        assert tiles.any_resolution_count(tuple(size), CANVASES, 336) == len(found) == len(expected)
        canvas = tiles.best_canvas((height, width), CANVASES)
        odd = any((a - b) % 2 for a, b in zip(canvas, tiles.fitted((height, width), canvas), strict=True))
        which = slice(1) if odd else slice(None)  # with an odd margin that processor distorted the tiles
        np.testing.assert_allclose(found[which], in_0_to_255(expected[which]), atol=1e-3, err_msg=name)


def test_any_resolution_is_what_transformers_makes_today(pictures):
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is not installed")
    processor = transformers.LlavaNextImageProcessorPil(size={"shortest_edge": 28}, crop_size=28)
    canvases = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
    draw = np.random.default_rng()
    seed = int(draw.integers(1 << 16))
    print("seed", seed)  # shown where the test fails
    draw = np.random.default_rng(seed)
    for _ in range(20):
        height, width = (int(length) for length in draw.integers(4, 120, 2))
        image = Image.fromarray(draw.integers(0, 256, (height, width, 3)).astype(np.uint8))
        expected = processor(image, image_grid_pinpoints=canvases, return_tensors="np").pixel_values[0]
        found = tiles.any_resolution(image, canvases, 28)
        np.testing.assert_allclose(found, in_0_to_255(expected), atol=1e-3, err_msg=f"{height} x {width}")


def test_llava_places_are_as_many_as_its_processor_counts(pictures, shared):
    counted = json.loads(shared("oracle/tokens.json").read_text())
    checked = 0
    for name, entry in counted.items():
        if name.startswith("llava_next | "):
            image = pictures[name.split()[2]]
            slots = tiles.any_resolution_slots((image.height, image.width), CANVASES, 336, 24)
            assert len(slots) == entry["n_image"], name
            checked += 1
    assert checked == 4


def test_llava_slots_read_the_canvas_line_by_line_without_its_margins():
    # 2 x 1 tiles of 2 x 2 rows; base 0..3, upper tile 4..7, lower tile 8..11. No margin, then one of half the width.
    canvases = ((56, 28),)
    assert tiles.any_resolution_slots((56, 28), canvases, 28, 2).tolist() == [
        *(1, 2, 3, 4),
        *(5, 6, 0),
        *(7, 8, 0),
        *(9, 10, 0),
        *(11, 12, 0),
    ]
    square = tiles.any_resolution_slots((28, 28), canvases, 28, 2).tolist()
    assert square == [*(1, 2, 3, 4), *(7, 8, 0), *(9, 10, 0)]


def test_a_line_is_not_lost_to_the_last_bit_of_a_product():
    # 792 / 1408 of 48 lines are 27 exactly, of which floats make a little less: 28 stay, as in transformers.
    assert len(tiles.any_resolution_slots((792, 1408), CANVASES, 336, 24)) == 576 + 28 * 49


@pytest.mark.parametrize("crops", [4, 16])
def test_hd_transform_is_what_the_original_processor_makes(pictures, made, crops):
    for name in NAMES:
        image, prefix = pictures[name], f"{name}/phi3v_{crops}"
        size, canvas = (image.height, image.width), tuple(made[f"{prefix}/image_sizes"][0])
        assert tiles.hd_sizes(size, crops, 336)[1] == canvas
        assert len(tiles.hd_slots(size, crops, 336, 12)) == made[f"{prefix}/num_img_tokens"][0]
        if f"{prefix}/pixel_values" not in made:
            continue
        found, expected = tiles.hd_transform(image, crops, 336), in_0_to_255(made[f"{prefix}/pixel_values"])
        assert tiles.hd_count(size, crops, 336) == len(found)
        np.testing.assert_allclose(found, expected[: len(found)], atol=2e-3, err_msg=name)
        if name == "tall":  # told from its mirror in the diagonal
            assert np.abs(found[1] - found[1].swapaxes(0, 1)).max() > 50


def test_hd_slots_end_every_line_and_part_the_views():
    # A wide picture on two tiles of 2 x 2 rows: small view 0..3, left tile 4..7, right tile 8..11.
    line, between = 0, 1
    assert tiles.hd_slots((28, 56), 2, 28, 2).tolist() == [
        *(6, 7, 10, 11, line),
        *(8, 9, 12, 13, line),
        between,
        *(2, 3, line),
        *(4, 5, line),
    ]


def test_a_picture_a_pixel_thin_has_tiles_and_as_many_slots():
    for size in ((1, 2000), (2000, 1)):
        image = Image.new("RGB", size[::-1])
        assert len(tiles.hd_transform(image, 4, 28)) == tiles.hd_count(size, 4, 28)
        assert len(tiles.any_resolution(image, CANVASES, 336)) == tiles.any_resolution_count(size, CANVASES, 336)
        for slots, count, own, grid in (
            (tiles.hd_slots(size, 4, 28, 2), tiles.hd_count(size, 4, 28), 2, 2),
            (
                tiles.any_resolution_slots(size, CANVASES, 336, 24),
                tiles.any_resolution_count(size, CANVASES, 336),
                1,
                24,
            ),
        ):
            assert slots.min() >= 0 and slots.max() < own + count * grid * grid


def test_canvas_tiles_are_what_the_original_processor_makes(pictures, made):
    for name in NAMES:
        size = (pictures[name].height, pictures[name].width)
        (found, aspect), real = tiles.canvas_tiles(pictures[name], 560), tiles.real_tiles(size, 560)
        assert aspect == tiles.aspect_id(size, 560) == made[f"{name}/mllama/aspect_ratio_ids"].item()
        assert real == made[f"{name}/mllama/num_tiles"].item() and not found[real:].any()
        expected = in_0_to_255(made[f"{name}/mllama/pixel_values"].astype(np.float32))
        np.testing.assert_array_equal(found[:real], np.rint(expected[:real]), err_msg=name)


@pytest.mark.parametrize(
    ("size", "canvas", "scaled"),
    [
        ((1, 9000), (1, 4), (1, 2240)),  # never thinner than a pixel
        ((560, 561), (1, 2), (560, 561)),  # a pixel too wide for one tile
        ((600, 600), (2, 2), (600, 600)),
        ((100, 500), (1, 1), (112, 560)),  # enlarged until one side is a tile's
        ((100, 700), (1, 2), (100, 700)),  # and no further, though the canvas would hold more
        ((4000, 1000), (4, 1), (2240, 560)),
        ((3000, 4000), (2, 2), (840, 1120)),
    ],
)
def test_canvas_of_a_size(size, canvas, scaled):
    assert tiles.canvas_of(size, 560) == canvas
    assert tiles.size_on_canvas(size, canvas, 560) == scaled


def test_canvases_are_those_that_transformers_chooses_today():
    theirs = pytest.importorskip("transformers.models.mllama.image_processing_pil_mllama")
    draw = np.random.default_rng()
    seed = int(draw.integers(1 << 16))
    print("seed", seed)  # shown where the test fails
    draw = np.random.default_rng(seed)
    for _ in range(500):
        height, width = (int(length) for length in draw.choice([*range(1, 300), *range(14, 150, 14)], 2))
        canvas = theirs.get_optimal_tiled_canvas(height, width, 4, 28)
        found = tiles.canvas_of((height, width), 28)
        assert (found[0] * 28, found[1] * 28) == canvas, f"{height} x {width}"
        expected = theirs.get_image_size_fit_to_canvas(height, width, *map(int, canvas), 28)
        assert tiles.size_on_canvas((height, width), found, 28) == expected, f"{height} x {width}"
