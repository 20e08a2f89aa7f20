"""Pictures cut into tiles, and from a picture's size alone which row of its features stands where in the text.

Three ways of cutting, each with a section below: LLaVA-NeXT's any resolution, Phi-3-vision's HD transform and the
canvases of Llama 3.2 Vision. `size` is
always (height, width), after EXIF, of the chosen frame. Tiles are numbered as they lie in the array: the view of the
whole picture is tile 0, the cut ones follow row by row; their feature rows are numbered tile by tile.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32, Num, UInt8
from PIL import Image

Size = tuple[int, int]


def cut(picture: Num[np.ndarray, "h w 3"], side: int) -> Num[np.ndarray, "n side side 3"]:
    """Tiles of a picture whose height and width are multiples of `side`, row by row."""
    h, w, channels = picture.shape
    parts = picture.reshape(h // side, side, w // side, side, channels)
    return parts.swapaxes(1, 2).reshape(-1, side, side, channels)


def _mosaic(rows: int, columns: int, grid: int, first: int) -> Int32[np.ndarray, "rg cg"]:
    """Numbers of the feature rows of rows x columns tiles, laid out as they lie in the picture.

    A tile has grid x grid feature rows; `first` is the number of the first tile's first one.
    """
    numbers = first + np.arange(rows * columns * grid * grid, dtype=np.int32)
    return numbers.reshape(rows, columns, grid, grid).swapaxes(1, 2).reshape(rows * grid, columns * grid)


# LLaVA-NeXT, as haotian-liu/LLaVA's llava/mm_utils.py and transformers since 4.57. (4.45's slow processor pads an odd
# difference one pixel short on the right or below, and its tiles are distorted: nothing that was trained saw those.)


def best_canvas(size: Size, canvases: Sequence[Size]) -> Size:
    """The canvas on which most of the picture's pixels survive, and of these the least wasteful; the first wins."""
    height, width = size

    def merit(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        useful = min(int(width * scale) * int(height * scale), width * height)
        return useful, useful - canvas[0] * canvas[1]

    return max(canvases, key=merit)


def fitted(size: Size, canvas: Size) -> Size:
    """The picture's size when scaled, in its own shape, until it touches the canvas's edges."""
    by_height, by_width = canvas[0] / size[0], canvas[1] / size[1]
    if by_width < by_height:
        return min(math.ceil(size[0] * by_width), canvas[0]), canvas[1]
    return canvas[0], min(math.ceil(size[1] * by_height), canvas[1])


def any_resolution(image: Image.Image, canvases: Sequence[Size], side: int) -> UInt8[np.ndarray, "n side side 3"]:
    """The RGB picture squeezed into a square, then the tiles of its best canvas, black around the picture."""
    size = image.height, image.width
    canvas = best_canvas(size, canvases)
    height, width = fitted(size, canvas)
    top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
    padded = np.zeros((*canvas, 3), np.uint8)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    padded[top : top + height, left : left + width] = np.asarray(scaled)
    whole = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    return np.concatenate([whole[None], cut(padded, side)])


def any_resolution_count(size: Size, canvases: Sequence[Size], side: int) -> int:
    """How many tiles `any_resolution` gives of a picture of that size."""
    height, width = best_canvas(size, canvases)
    return 1 + height // side * (width // side)


def any_resolution_slots(size: Size, canvases: Sequence[Size], side: int, grid: int) -> Int32[np.ndarray, " p"]:
    """The whole view's grid x grid rows; then the canvas's, without those of the black margins, 0 after each line.

    0 is the learned newline, 1 + i the feature row i.
    """
    height, width = (length // side for length in best_canvas(size, canvases))
    canvas = _mosaic(height, width, grid, 1 + grid * grid)
    lines = _unpadded(canvas, size)
    newline = np.zeros((len(lines), 1), np.int32)
    whole = np.arange(1, 1 + grid * grid, dtype=np.int32)
    return np.concatenate([whole, np.concatenate([lines, newline], 1).reshape(-1)])


def _unpadded(canvas: Int32[np.ndarray, "h w"], size: Size) -> Int32[np.ndarray, "a b"]:
    """Without the feature rows that see nothing but margin. Rounded to seven places first, as transformers since 4.47:
    exact ratios would lose a line to the last bit of a product."""
    (height, width), (h, w) = size, canvas.shape
    if width / height > w / h:
        margin = (h - int(round(height * (w / width), 7))) // 2
        return canvas[margin : h - margin]
    margin = (w - int(round(width * (h / height), 7))) // 2
    return canvas[:, margin : w - margin]


# Phi-3-vision, as microsoft/Phi-3.5-vision-instruct's processing_phi3_v.py. A picture that is taller than wide is
# worked on lying on its side and stood up again.


def hd_sizes(size: Size, crops: int, side: int) -> tuple[Size, Size]:
    """The size that the picture is scaled to (up or down), and that of its canvas: at most `crops` tiles."""
    long, short = max(size), min(size)
    ratio = long / short
    columns = 1
    while (columns + 1) * math.ceil((columns + 1) / ratio) <= crops:
        columns += 1
    scaled = max(int(columns * side / ratio), 1)  # the original fails where a line would be thinner than a pixel
    picture, canvas = (scaled, columns * side), (math.ceil(scaled / side) * side, columns * side)
    return (picture, canvas) if size[1] >= size[0] else (picture[::-1], canvas[::-1])


def hd_transform(image: Image.Image, crops: int, side: int) -> Float32[np.ndarray, "n side side 3"]:
    """The small view of the whole canvas, then the canvas's tiles, white around the picture; in 0..255.

    The small view is torch's bicubic interpolation, which may leave 0..255 and is not rounded. The original
    interpolates after normalising, which comes to the same: the weights of a pixel sum to one.
    """
    (height, width), canvas = hd_sizes((image.height, image.width), crops, side)
    top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
    padded = np.full((*canvas, 3), 255, np.uint8)
    padded[top : top + height, left : left + width] = _scaled(image, (height, width))
    small = bicubic(bicubic(padded.astype(np.float32), side, 0), side, 1)
    return np.concatenate([small[None], cut(padded, side).astype(np.float32)])


def _scaled(image: Image.Image, size: Size) -> UInt8[np.ndarray, "h w 3"]:
    """Pillow scales columns first and rounds in between, so a tall picture has to lie on its side for it."""
    if image.width >= image.height:
        return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))
    lying = image.transpose(Image.Transpose.TRANSPOSE)
    return np.asarray(lying.resize(size, Image.Resampling.BILINEAR)).swapaxes(0, 1)


def bicubic(x: Float32[np.ndarray, "..."], length: int, axis: int) -> Float32[np.ndarray, "..."]:
    """One axis brought to `length` by cubic convolution (Keys 1981; a = -0.75), as torch's `interpolate` does.

    Pixels are squares (`align_corners=False`), the edge repeats itself, and four of them count however much smaller
    the result is (no antialiasing).
    """
    a = np.float32(-0.75)
    centre = (np.arange(length, dtype=np.float32) + 0.5) * np.float32(x.shape[axis] / length) - 0.5
    start = np.floor(centre).astype(np.int64)
    t = (centre - start).astype(np.float32)
    near = lambda d: ((a + 2) * d - (a + 3)) * d * d + 1  # within a pixel of the centre
    far = lambda d: ((a * d - 5 * a) * d + 8 * a) * d - 4 * a  # the pixel beyond
    weights = far(t + 1), near(t), near(1 - t), far(2 - t)
    shape = [-1 if number == axis else 1 for number in range(x.ndim)]
    taken = (np.take(x, np.clip(start + step, 0, x.shape[axis] - 1), axis) for step in (-1, 0, 1, 2))
    return sum(part * weight.reshape(shape) for part, weight in zip(taken, weights, strict=True))


def hd_count(size: Size, crops: int, side: int) -> int:
    """How many tiles `hd_transform` gives of a picture of that size."""
    height, width = hd_sizes(size, crops, side)[1]
    return 1 + height // side * (width // side)


def hd_slots(size: Size, crops: int, side: int, grid: int) -> Int32[np.ndarray, " p"]:
    """The canvas's rows, the one separator between the views, the small view's; the other ends every line of both.

    0 is the learned end of a line (`sub_GN`), 1 the one between the views (`glb_GN`), 2 + i the feature row i; a tile
    has grid x grid of them.
    """
    height, width = (length // side for length in hd_sizes(size, crops, side)[1])
    views = _mosaic(height, width, grid, 2 + grid * grid), _mosaic(1, 1, grid, 2)
    canvas, small = (np.concatenate([view, np.zeros((len(view), 1), np.int32)], 1).reshape(-1) for view in views)
    return np.concatenate([canvas, np.ones(1, np.int32), small])


# Llama 3.2 Vision, as Meta's llama-models, models/llama3/multimodal/image_transform.py. A picture's aspect id is the
# place of its canvas among these, from 1; 0 stands for no picture.

GRIDS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))  # in tiles, down and across
CANVAS_TILES = 4


def canvas_of(size: Size, side: int) -> tuple[int, int]:
    """The canvas in tiles (down, across) that a picture of this size is put on, as Llama 3.2 Vision chooses it.

    The one that enlarges the picture least; where all are too small, the one that shrinks it least; of several such,
    the smallest.
    """
    height, width = size
    scales = [min(down * side / height, across * side / width) for down, across in GRIDS]
    enlarging = [scale for scale in scales if scale >= 1]
    chosen = min(enlarging) if enlarging else max(scales)
    fitting = [canvas for canvas, scale in zip(GRIDS, scales, strict=True) if scale == chosen]
    return min(fitting, key=math.prod)


def size_on_canvas(size: Size, canvas: tuple[int, int], side: int) -> tuple[int, int]:
    """The size of the picture on its canvas: it fits, and is enlarged until one side is a tile's, no further."""
    (height, width), (down, across) = size, canvas
    most_height = min(max(height, side), down * side)
    most_width = min(max(width, side), across * side)
    tall, wide = most_height / height, most_width / width
    if wide < tall:
        return min(math.floor(height * wide) or 1, most_height), most_width
    return most_height, min(math.floor(width * tall) or 1, most_width)


def canvas_tiles(image: Image.Image, side: int) -> tuple[UInt8[np.ndarray, "4 side side 3"], int]:
    """The four tiles of an RGB picture on its canvas, and the canvas' aspect id.

    The picture stands in the top left corner of black; tiles go row by row, and those that the canvas lacks are zero.
    """
    size = (image.height, image.width)
    canvas = down, across = canvas_of(size, side)
    height, width = size_on_canvas(size, canvas, side)
    whole = np.zeros((down * side, across * side, 3), np.uint8)
    whole[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    cut_out = np.zeros((CANVAS_TILES, side, side, 3), np.uint8)
    cut_out[: down * across] = cut(whole, side)
    return cut_out, aspect_id(size, side)


def aspect_id(size: Size, side: int) -> int:
    return GRIDS.index(canvas_of(size, side)) + 1


def real_tiles(size: Size, side: int) -> int:
    """How many of its four tiles a picture of this size fills, in part at least."""
    return math.prod(canvas_of(size, side))
