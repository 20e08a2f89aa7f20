"""What an image is known by: its decoded pixels, and perceptual hashes under which copies stay alike."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image

from rolltune.data.images import at_frame, frame_range, open_image, opened, orientation_of, upright_rgb
from rolltune.errors import UserError
from rolltune.tracking import progress

# A copy that was resized, recompressed, turned or mirrored. Both must hold: the hash finds candidates, and the
# small picture decides, because hashes of drawings on one background are often alike by chance. Measured: photos
# shrunk to 128 pixels and saved as JPEG of quality 50 stay within 2 bits and a difference of 10, drawings within 4
# and 28; of the 125,000 pairs of 501 different NLVR drawings these limits take 19 for copies (without the second
# one: 513), of 28,000 pairs of PlantDoc photos none.
MAX_BITS = 6  # of 64
MAX_DIFFERENCE = 20.0  # on 0..255: 95 of 100 places of the small pictures differ by less
FLAT = 4.0  # standard deviation below which a picture has no features to be alike in
MOST_TURNED = 20_000  # images; above, turned and mirrored copies are not looked for (it takes minutes)
SMALL = 16


@dataclass(frozen=True)
class Fingerprint:
    """`hashes` holds 8 perceptual hashes (uint64): as it is, turned by 90, 180, 270 degrees, and these mirrored."""

    path: Path
    format: str
    mode: str
    width: int  # upright
    height: int
    frames: int
    orientation: int  # EXIF, 1 is upright
    pixels: str  # SHA-256 of size and upright RGB pixels
    hashes: np.ndarray
    small: np.ndarray  # uint8 [16, 16, 3]

    @property
    def flat(self) -> bool:
        return float(self.small.std()) < FLAT


Key = tuple[Path, int | None]  # a file and the frame of it that is meant


def fingerprint(path: Path, frame: int | None = None, every_frame: bool = True) -> Fingerprint:
    """Decodes the picture (by default also every other frame, to find what is broken) and takes its fingerprint."""
    with opened(path) as image:
        kind, mode = image.format or "", image.mode
        places = frame_range(path, image)
        shown = len(places) // 2 if frame is None else frame
        for index in range(len(places)) if every_frame or shown < 0 else (shown,):
            at_frame(path, image, places, index)
            if index == shown:
                orientation, picture = orientation_of(image), upright_rgb(image)
    if shown < 0:
        orientation, picture = 1, open_image(path, frame)
    digest = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
    grey = picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    turned = [Image.fromarray(array) for array in _turns(np.asarray(grey))]
    hashes = [int.from_bytes(np.packbits(imagehash.phash(one).hash).tobytes(), "big") for one in turned]
    small = np.asarray(picture.resize((SMALL, SMALL), Image.Resampling.BOX))
    return Fingerprint(
        path, kind, mode, *picture.size, len(places), orientation, digest, np.array(hashes, np.uint64), small
    )


def _turns(array: np.ndarray) -> list[np.ndarray]:
    """The 8 ways to lay a square picture down."""
    return [np.ascontiguousarray(np.rot90(side, turn)) for side in (array, array[:, ::-1]) for turn in range(4)]


def fingerprints(
    keys: Iterable[Key], workers: int | None = None, every_frame: bool = True
) -> dict[Key, Fingerprint | UserError]:
    """The fingerprint of each image, or the error that says why it has none; on a few threads."""

    def one(key: Key) -> Fingerprint | UserError:
        try:
            return fingerprint(*key, every_frame=every_frame)
        except UserError as error:
            return error

    keys = list(dict.fromkeys(keys))
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        made = progress(pool.map(one, keys), "looking at images", len(keys))
        return dict(zip(keys, made, strict=True))


@dataclass(frozen=True)
class Pair:
    """Two images (places in the list asked about) that are the same to the eye."""

    first: int
    second: int
    exact: bool  # the same decoded pixels
    turned: bool  # alike only when turned or mirrored


def alike(prints: Sequence[Fingerprint]) -> list[Pair]:
    """All pairs of images with the same pixels, or near enough; each pair once, first < second."""
    by_pixels: dict[str, int] = {}
    pairs, distinct = [], []
    for place, one in enumerate(prints):
        if one.pixels in by_pixels:
            pairs.append(Pair(by_pixels[one.pixels], place, exact=True, turned=False))
        else:
            by_pixels[one.pixels] = place
            if not one.flat:
                distinct.append(place)
    if len(distinct) > 1:
        pairs += _near(prints, np.array(distinct))
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def _near(prints: Sequence[Fingerprint], places: np.ndarray) -> list[Pair]:
    looks = [Look(prints[place].hashes, prints[place].small) for place in places]
    found: dict[tuple[int, int], bool] = {}
    for first, second, side in near_looks(looks, looks):
        if first < second:
            found.setdefault((first, second), side > 0)
    return [
        Pair(int(places[first]), int(places[second]), exact=False, turned=turned)
        for (first, second), turned in found.items()
    ]


class Look(NamedTuple):
    """What of a fingerprint copies are known by."""

    hashes: np.ndarray
    small: np.ndarray


def near_looks(some: Sequence[Look], others: Sequence[Look]) -> Iterator[tuple[int, int, int]]:
    """(place in `some`, place in `others`, how the other lies, 0..7) of all pictures that are alike."""
    if not some or not others:
        return
    ours = np.stack([look.hashes[0] for look in some])  # [n]
    theirs = np.stack([look.hashes for look in others])  # [m, 8]
    sides = 8 if max(len(some), len(others)) <= MOST_TURNED else 1
    block = max(1, 2**22 // len(others))
    for begin in range(0, len(some), block):
        for side in range(sides):
            close = np.bitwise_count(ours[begin : begin + block, None] ^ theirs[None, :, side]) <= MAX_BITS
            for row, second in np.argwhere(close):
                first = begin + int(row)
                turned = _turns(others[second].small)[side].astype(np.int16)
                difference = np.abs(some[first].small.astype(np.int16) - turned).max(axis=-1)
                if np.percentile(difference, 95) <= MAX_DIFFERENCE:
                    yield first, int(second), side
