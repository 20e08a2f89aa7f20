"""Opens any image as upright RGB, or says which file cannot be opened and why, within bounded memory and time.

Frame policies choose what an animation stands for:

    middle          the frame in the middle (the default: the first is often blank or a fade-in)
    first, last     that frame
    most-different  the frame least like the first
    n:4             four frames, evenly spaced, as four images
    grid, grid:9    one contact sheet of 4 (9) frames, evenly spaced
    expand          every frame an example of its own; they stay in one split (expand:8: at most 8 of them)
    skip            rows with an animation are left out
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from rolltune.data.examples import Example
from rolltune.data.findings import quoted
from rolltune.data.limits import (
    MAX_BYTES,
    MAX_PIXELS,
    MeteredFile,
    check_animation,
    check_size,
    gif_frames,
    is_gif,
)
from rolltune.data.pixels import rgb
from rolltune.errors import UserError

# Named, because some of Pillow's other readers start programs (EPS) or recognise nearly anything (TGA).
# (MPO comes in through JPEG.)
Image.init()
_WANTED = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "ICO", "ICNS", "PPM")
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)  # AVIF is not in every build
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # TIFF holds pages and MPO other views: their first one is the picture

WHITE = (255, 255, 255)
POLICIES = ("first", "middle", "last", "most-different", "n", "grid", "expand", "skip")
DEFAULT_POLICY = "middle"

_UPRIGHT = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}


@contextmanager
def opened(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The file as a Pillow image, not yet decoded; whatever goes wrong inside the block becomes a UserError.

    Decoders raise anything from OSError to IndexError on a broken file, so every kind is turned
    into the one message that names the file.
    """
    path = Path(path)
    head = b""
    try:
        size = os.stat(path).st_size
        if size == 0:
            raise UserError(f"{path}: the image file is empty (0 bytes)")
        if size > MAX_BYTES:
            raise UserError(f"{path}: {size / 2**20:.0f} MiB is more than the {MAX_BYTES >> 20} MiB an image may have")
        with MeteredFile(path) as file:
            head = file.read(16)
            if is_gif(head):
                gif_frames(path, head + file.read())
                file.unmetered()
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                check_size(path, image.size, max_pixels)
                yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such image file") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: refused as a decompression bomb: {error}") from error
    except Exception as error:
        raise UserError(f"{path}: not a readable image: {_plainly(head, error)}") from error


def _plainly(head: bytes, error: Exception) -> str:
    """What went wrong, for people: Pillow says of an unknown format only that it cannot identify it."""
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "it is HEIC, which Pillow does not read: convert it to JPEG"
    if type(error).__name__ == "UnidentifiedImageError":
        return f"no known image format (it begins with {head[:8]!r})"
    return f"{type(error).__name__}: {error}"


def frame_range(path: Path, image: Image.Image) -> range:
    """The places of the frames of the animation in the file; `range(1)` for a still picture.

    An APNG may begin with a picture for programs that show no animation: it is not a frame.
    """
    count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
    check_animation(path, count, image.size)
    return range(1, count) if count > 1 and getattr(image, "default_image", False) else range(max(count, 1))


def count_frames(path: str | Path) -> int:
    """How many frames the animation has; 1 for a still picture."""
    with opened(path) as image:
        return len(frame_range(Path(path), image))


def frames_of(path: str | Path, wanted: Iterable[int] | None = None) -> Iterator[Image.Image]:
    """The frames `wanted` (all by default; ascending) of an animation, decoded once from front to back, mode as is."""
    path = Path(path)
    with opened(path) as image:
        places = frame_range(path, image)
        for index in range(len(places)) if wanted is None else wanted:
            yield at_frame(path, image, places, index)


def at_frame(path: Path, image: Image.Image, places: range, index: int) -> Image.Image:
    """Goes to the frame and decodes it. A frame can be larger than the file's header says."""
    _check_frame(path, places, index)
    for place in range(image.tell() + 1, places[index] + 1):
        image.seek(place)
        check_size(path, image.size)
    image.load()
    return image


def _check_frame(path: Path, places: range, index: int) -> None:
    if not 0 <= index < len(places):
        raise UserError(f"{path}: there is no frame {index}: it has {len(places)}, counted from 0")


def open_image(
    path: str | Path,
    frame: int | None = None,
    background: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """The picture as upright 8-bit RGB, transparency laid over `background`.

    Of an animation `frame` is taken (counted from 0), the middle one where it is None; -n makes
    a contact sheet of n frames. Raises UserError, naming the file, where it cannot be opened whole.

    16-bit grey counts as 8, 10, 12, 14 or 16 bits deep, the least that holds its largest value (cameras
    and scanners store 12 bits in 16); 32-bit and floating-point grey is stretched from its smallest to
    its largest value. CMYK is converted without colour management, as the
    pipelines did on which the base models were trained.
    """
    path = Path(path)
    with opened(path, max_pixels) as image:
        places = frame_range(path, image)
        if frame is not None and frame < 0:
            return _sheet(path, image, places, -frame, background)
        return upright_rgb(at_frame(path, image, places, len(places) // 2 if frame is None else frame), background)


def _sheet(path: Path, image: Image.Image, places: range, cells: int, background: tuple[int, int, int]) -> Image.Image:
    """A contact sheet of evenly spaced frames, row by row, about as large as one frame (at most 1024)."""
    first, *others = evenly(len(places), cells)
    picture = upright_rgb(at_frame(path, image, places, first), background)
    (width, height), (columns, rows) = _sheet_layout(picture.size, min(cells, len(places)))
    sheet = Image.new("RGB", (width * columns, height * rows), background)
    for cell, index in enumerate((first, *others)):
        picture = picture if cell == 0 else upright_rgb(at_frame(path, image, places, index), background)
        small = picture.resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(small, (cell % columns * width, cell // columns * height))
    return sheet


def _sheet_layout(size: tuple[int, int], cells: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of a cell, and (columns, rows), for a first frame of `size` (width, height)."""
    columns = math.ceil(math.sqrt(cells))
    shrink = min(1.0, 1024 / max(size)) / columns
    width, height = (max(1, round(side * shrink)) for side in size)
    return (width, height), (columns, math.ceil(cells / columns))


def image_size(path: str | Path, frame: int | None = None) -> tuple[int, int]:
    """(height, width) of what `open_image(path, frame)` gives, out of the file's header: no pixel is decoded.

    Raises UserError where the header cannot be read or there is no such frame; a file that is broken further
    down has a size all the same. Icons, and PNG files that say only after their pixels how to turn them, are
    decoded: nothing before tells.
    """
    path = Path(path)
    with opened(path) as image:
        if image.format in ("ICO", "ICNS") or (image.format == "PNG" and _turned_late(path)):
            picture = open_image(path, frame)
            return picture.height, picture.width
        # Pillow would go through a GIF twice as slowly to count its frames.
        gif = gif_frames(path, path.read_bytes()) if image.format == "GIF" else None
        if gif:
            check_animation(path, len(gif), image.size)
        places = frame_range(path, image) if gif is None else range(len(gif))
        cells = -frame if frame is not None and frame < 0 else None
        index = evenly(len(places), cells)[0] if cells else len(places) // 2 if frame is None else frame
        _check_frame(path, places, index)
        width, height = image.size
        if gif:  # up to the frame, each that reaches over the canvas makes it larger
            width, height = (max(sides) for sides in zip(image.size, *gif[: index + 1], strict=True))
            check_size(path, (width, height))
        # A TIFF's own orientation has gone into Pillow's size already, while XMP's has not.
        if _orientation_in_header(image) >= 5 and 0x0112 not in getattr(image, "tag_v2", {}):
            width, height = height, width
        if cells:
            (width, height), (columns, rows) = _sheet_layout((width, height), min(cells, len(places)))
            width, height = width * columns, height * rows
        return height, width


def _turned_late(path: Path) -> bool:
    """Whether a PNG states an EXIF or XMP block after its pixels, where no reading of the header meets it."""
    names = (b"Raw profile type exif", b"XML:com.adobe.xmp", b"exif", b"xmp")
    pixels = False
    with MeteredFile(path) as file:
        place = file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4]), head[4:]
            pixels = pixels or kind == b"IDAT"
            if pixels and kind == b"eXIf":
                return True
            if pixels and kind in (b"tEXt", b"zTXt", b"iTXt") and file.read(80).partition(b"\0")[0] in names:
                return True
            place += length + 12
            file.seek(place)
    return False


def _orientation_in_header(image: Image.Image) -> int:
    # PNG's own method decodes the picture in search of a block that comes after it.
    return _orientation(lambda: Image.Image.getexif(image))


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where the file states none, or one that cannot be read (its pixels still can)."""
    return _orientation(image.getexif)


def _orientation(read_exif: Callable[[], Image.Exif]) -> int:
    try:
        stated = read_exif().get(0x0112, 1)
    except Exception:  # a malformed EXIF block raises nearly anything, and is no reason to refuse the picture
        return 1
    return stated if stated in _UPRIGHT else 1


def upright_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """A decoded Pillow image as upright 8-bit RGB."""
    image.load()
    orientation = orientation_of(image)
    picture = rgb(image, background)
    for turn in _UPRIGHT.get(orientation, ()):
        picture = picture.transpose(turn)
    return picture


@dataclass(frozen=True)
class FramePolicy:
    """A parsed frame policy: its name, and the number after the colon where there is one."""

    name: str
    number: int | None = None


def parse_policy(text: str) -> FramePolicy:
    name, colon, number = text.partition(":")
    wants_number = {"n": True, "grid": None, "expand": None}.get(name, False)  # None: if one likes
    proper = name in POLICIES and (not colon or (number.isdecimal() and int(number) >= 1))
    if not proper or (wants_number is True and not colon) or (wants_number is False and colon):
        raise UserError(
            f"frame policy {quoted(text)}: expected one of first, middle, last, most-different, n:4, grid, grid:9, "
            "expand, expand:8, skip"
        )
    return FramePolicy(name, int(number) if colon else None)


def evenly(count: int, wanted: int) -> tuple[int, ...]:
    """At most `wanted` of `count` places: the middles of equal parts, which favours neither end."""
    if wanted >= count:
        return tuple(range(count))
    return tuple((2 * part + 1) * count // (2 * wanted) for part in range(wanted))


def choose_frames(path: str | Path, policy: FramePolicy) -> tuple[int, ...] | None:
    """The frames that stand for the file, as `open_image` takes them; None for a still picture."""
    count = count_frames(path)
    if count == 1:
        return None
    match policy.name:
        case "first":
            return (0,)
        case "last":
            return (count - 1,)
        case "most-different":
            return (_most_different(path),)
        case "grid":
            return (-min(count, policy.number or 4),)
        case "n" | "expand" | "skip":
            return evenly(count, policy.number or count)
        case _:
            return (count // 2,)


def _most_different(path: str | Path) -> int:
    first, best, place = None, -1.0, 0
    for index, frame in enumerate(frames_of(path)):
        small = np.asarray(upright_rgb(frame).resize((32, 32), Image.Resampling.BOX), np.float32)
        first = small if first is None else first
        difference = float(np.abs(small - first).mean())
        if difference > best:
            best, place = difference, index
    return place


def apply_frame_policy(examples: list[Example], policy: str = DEFAULT_POLICY) -> list[Example]:
    """Examples in which every animated image has its frames chosen; still pictures stay as they are.

    Frames that a row names itself are kept. `expand` makes one example a frame, with the group of
    the row (its own id where it has none), so that no split tears them apart.
    """
    parsed = parse_policy(policy)
    chosen: dict[Path, tuple[int, ...] | None] = {}
    result, problems = [], []
    for example in examples:
        stated = example.frames or (None,) * len(example.images)
        picks: list[tuple[int | None, ...] | None] = []
        for path, frame in zip(example.images, stated, strict=True):
            if frame is None and path not in chosen:
                try:
                    chosen[path] = choose_frames(path, parsed)
                except UserError as error:
                    problems.append(f"  {example.source}: {error}")
                    chosen[path] = None
            picks.append(chosen[path] if frame is None else (frame,))
        open_ones = [place for place, frame in enumerate(stated) if frame is None and picks[place] is not None]
        if parsed.name == "skip" and open_ones:
            continue
        if parsed.name == "expand" and open_ones:
            if len(example.images) > 1:
                problems.append(f"  {example.source}: expand needs one image a row, this one has {len(example.images)}")
                continue
            (every,) = picks
            result += [
                replace(example, id=f"{example.id}#f{frame}", frames=(frame,), group=example.group or example.id)
                for frame in every or ()
            ]
            continue
        pairs = [
            (path, frame) for path, frames in zip(example.images, picks, strict=True) for frame in (frames or (None,))
        ]
        result.append(
            replace(example, images=tuple(path for path, _ in pairs), frames=tuple(frame for _, frame in pairs))
        )
    if problems:
        raise UserError("frames could not be chosen:\n" + "\n".join(problems))
    if examples and not result:
        raise UserError("the frame policy 'skip' leaves no example: every row has an animation")
    return result
