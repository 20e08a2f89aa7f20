"""Pictures as the families' towers take them: cut into tiles. NumPy and Pillow; a size is (height, width)."""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# The canvases of Llama 3.2 Vision, in tiles (down, across); a picture's aspect id is its canvas' place here, from 1.
# 0 stands for no picture.
CANVASES = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
CANVAS_TILES = 4


def canvas_of(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The canvas in tiles (down, across) that a picture of this size is put on, as Llama 3.2 Vision chooses it.

    The one that enlarges the picture least; where all are too small, the one that shrinks it least; of several such,
    the smallest. Reference: `get_best_fit` of Meta's llama-models, image_transform.py.
    """
    height, width = size
    scales = [min(down * side / height, across * side / width) for down, across in CANVASES]
    enlarging = [scale for scale in scales if scale >= 1]
    chosen = min(enlarging) if enlarging else max(scales)
    fitting = [canvas for canvas, scale in zip(CANVASES, scales, strict=True) if scale == chosen]
    return min(fitting, key=math.prod)


def size_on_canvas(size: tuple[int, int], canvas: tuple[int, int], side: int) -> tuple[int, int]:
    """The size of the picture on its canvas: it fits, and is enlarged until one side is a tile's, no further."""
    (height, width), (down, across) = size, canvas
    most_height = min(max(height, side), down * side)
    most_width = min(max(width, side), across * side)
    tall, wide = most_height / height, most_width / width
    if wide < tall:
        return min(math.floor(height * wide) or 1, most_height), most_width
    return most_height, min(math.floor(width * tall) or 1, most_width)


def canvas_tiles(image: Image.Image, side: int) -> tuple[UInt8[np.ndarray, "4 h w 3"], int]:
    """The four tiles of an RGB picture on its canvas, and the canvas' aspect id.

    The picture stands in the top left corner of black; tiles go row by row, and those that the canvas lacks are zero.
    """
    size = (image.height, image.width)
    canvas = down, across = canvas_of(size, side)
    height, width = size_on_canvas(size, canvas, side)
    whole = np.zeros((down * side, across * side, 3), np.uint8)
    whole[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    tiles = np.zeros((CANVAS_TILES, side, side, 3), np.uint8)
    cut = whole.reshape(down, side, across, side, 3).swapaxes(1, 2)
    tiles[: down * across] = cut.reshape(-1, side, side, 3)
    return tiles, aspect_id(size, side)


def aspect_id(size: tuple[int, int], side: int) -> int:
    return CANVASES.index(canvas_of(size, side)) + 1


def real_tiles(size: tuple[int, int], side: int) -> int:
    """How many of its four tiles a picture of this size fills, in part at least."""
    return math.prod(canvas_of(size, side))
