"""What a picture file may cost: limits that hold before anything is decoded, and a file that counts its readings."""

import io
import math
import os
import re
from pathlib import Path

from rolltune.errors import UserError

MAX_PIXELS = 64_000_000  # 256 MB as RGBA
MAX_SIDE = 100_000  # pixels: decoders work line by line, and a line of one pixel costs as much as one of a thousand
MAX_ANIMATION_PIXELS = 1_000_000_000  # frames times canvas: the work of going through an animation, some seconds
MAX_FRAMES = 10_000
MAX_BYTES = 256 * 2**20
MAX_GIF_BLOCKS = 2_000_000
MAX_GIF_JUNK = 100_000  # bytes between a GIF's blocks, which Pillow reads one by one
# Pillow reads a header in Python, piece by piece. Honest files take a reading in some thousand bytes.
FREE_READS = 100_000
BYTES_A_READ = 250

_GIF_BLOCK = re.compile(rb"[!,;]")


class MeteredFile(io.BufferedReader):
    """A file that refuses to be read in millions of little pieces: text chunks, empty boxes, junk before a marker."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self._path = path
        self._left: float = FREE_READS + os.fstat(self.fileno()).st_size // BYTES_A_READ

    def unmetered(self) -> None:
        """For a GIF, whose blocks of 256 bytes were counted already."""
        self._left = math.inf

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise UserError(f"{self._path}: the file is cut into millions of pieces: save it again")
        return super().read(size)


def check_size(path: Path, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> None:
    """`size` is (width, height)."""
    width, height = size
    if max(size) > MAX_SIDE:
        raise UserError(f"{path}: {width} x {height}: a side has at most {MAX_SIDE} pixels: cut it into pieces")
    if width * height > max_pixels:
        raise UserError(
            f"{path}: {width} x {height} pixels are more than the {max_pixels / 1e6:.0f} million an image may have: "
            "make it smaller"
        )


def check_animation(path: Path, frames: int, size: tuple[int, int]) -> None:
    width, height = size
    if (frames > 1 and frames * width * height > MAX_ANIMATION_PIXELS) or frames > MAX_FRAMES:
        raise UserError(
            f"{path}: {frames} frames of {width} x {height} are more than an animation may have "
            f"({MAX_FRAMES} frames, {MAX_ANIMATION_PIXELS / 1e6:.0f} million pixels in all)"
        )


def is_gif(head: bytes) -> bool:
    return head[:6] in (b"GIF87a", b"GIF89a")


def gif_frames(path: Path, data: bytes) -> list[tuple[int, int]]:
    """(right, bottom) of each frame's place on the canvas, in order; UserError where the walk would be endless.

    Goes from block to block as Pillow does, oddities included, without its cost. A frame that reaches over the
    canvas makes the canvas larger from there on.
    """
    frames: list[tuple[int, int]] = []
    blocks = junk = 0
    place = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)

    def after_block(place: int) -> int:
        return place + 1 + (data[place] if place < len(data) else 0)

    def after_chain(place: int) -> int:
        nonlocal blocks
        while place < len(data) and data[place]:
            place += data[place] + 1
            blocks += 1
            if blocks > MAX_GIF_BLOCKS:
                raise UserError(f"{path}: the GIF is cut into millions of blocks: no program writes that")
        return place + 1

    while found := _GIF_BLOCK.search(data, place, place + MAX_GIF_JUNK):
        junk += found.start() - place
        place = found.start()
        if data[place] == 0x3B or junk > MAX_GIF_JUNK:
            break
        blocks += 1
        if data[place] == 0x2C:
            if place + 10 >= len(data):
                return frames
            left, top, width, height = (
                int.from_bytes(data[at : at + 2], "little") for at in range(place + 1, place + 9, 2)
            )
            frames.append((left + width, top + height))
            if len(frames) > MAX_FRAMES:
                raise UserError(f"{path}: more than {MAX_FRAMES} frames: cut the animation shorter")
            flags = data[place + 9]
            place = after_chain(place + 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
            if place < len(data) and data[place] == 0x3B:
                break
            continue
        first = place + 2
        if data[first - 1 : first] == b"\xfe":
            place = after_chain(first)
            continue
        if data[first - 1 : first + 12] == b"\xff\x0bNETSCAPE2.0" and not frames:
            first = after_block(first)
        place = after_chain(after_block(first))  # after an empty first block Pillow goes on reading, too
    if junk > MAX_GIF_JUNK or (found is None and len(data) - place > MAX_GIF_JUNK):
        raise UserError(f"{path}: the GIF has more than {MAX_GIF_JUNK} bytes of junk between its blocks: save it again")
    return frames
