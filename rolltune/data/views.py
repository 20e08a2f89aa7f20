"""Views of a picture: itself, and changed copies of its own size, for learning from few pictures.

A view is the same change for every picture. So those of one row stay together (a video's frames are cropped alike), and
what a frozen tower makes of a view is worked out once, for all rolls and all later runs.

    crop      a part of it, 0.8 to 1 of each side, enlarged to the whole
    flip      every other view is mirrored left to right: not for pictures with text, or where left and right matter
    colour    brightness, contrast and saturation, each by up to a fifth
"""

import hashlib
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

WORDS = ("crop", "flip", "colour")
MOVING = ("crop", "flip")  # after which boxes lie elsewhere
VERSION = 1  # to be raised when the same view comes out with other pixels
LEAST_SIDE = 0.8
MOST_SHIFT = 0.2


class View(NamedTuple):
    """What is changed. Shares of the sides for the crop, factors for the colours."""

    left: float = 0.0
    top: float = 0.0
    side: float = 1.0  # of both sides, so that nothing is squeezed
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    @property
    def name(self) -> str:
        """For a file of what was made of it."""
        return f"view{VERSION}-{hashlib.sha256(repr(tuple(self)).encode()).hexdigest()[:16]}"

    def of(self, image: Image.Image) -> Image.Image:
        """The RGB picture, changed; its size stays, and with it the places that it takes."""
        if self.side < 1:
            left, top = self.left * image.width, self.top * image.height
            box = (left, top, left + self.side * image.width, top + self.side * image.height)
            image = image.resize(image.size, Image.Resampling.BICUBIC, box)
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for change, factor in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            image = change(image).enhance(factor) if factor != 1 else image
        return image


UNTOUCHED = View()


def views(words: Collection[str], count: int) -> list[View]:
    """The untouched picture and `count` - 1 changes of these kinds: the same ones on every platform."""
    return [UNTOUCHED, *(_drawn(words, number) for number in range(1, count))]


def _drawn(words: Collection[str], number: int) -> View:
    side, left, top, *shifts = np.random.Philox(key=np.array([number, 0], np.uint64)).random_raw(6) / 2**64
    view = View(mirrored="flip" in words and number % 2 == 1)
    if "crop" in words:
        kept = LEAST_SIDE + (1 - LEAST_SIDE) * float(side)
        view = view._replace(side=kept, left=(1 - kept) * float(left), top=(1 - kept) * float(top))
    if "colour" in words:
        brightness, contrast, saturation = (1 + MOST_SHIFT * (2 * float(shift) - 1) for shift in shifts)
        view = view._replace(brightness=brightness, contrast=contrast, saturation=saturation)
    return view
