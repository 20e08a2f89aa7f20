"""A PaliGemma small enough to compile in a second, with pictures and rows for it; tests of several rooms share it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from rolltune.batch import Batch, Row
from rolltune.data.examples import Example, Turn
from rolltune.data.shapes import joint
from rolltune.families import paligemma
from rolltune.inputs.feeds import TileFeed
from rolltune.inputs.pictures import Pictures, places_of
from rolltune.models import decoder, vision
from rolltune.models.family import Family, Size, Tiles
from rolltune.models.forward import Network
from rolltune.text import encode

CONFIG = paligemma.Config(
    vision.Config(image_size=28, patch=14, width=16, layers=1, heads=2, mlp=24),
    decoder.Config(vocab=64, width=32, layers=3, heads=4, kv_heads=2, head_dim=8, mlp=48),
)
# With all that PaliGemma 2 adds, and a window that is shorter than a row.
CONFIG2 = paligemma.Config(
    CONFIG.vision,
    decoder.Config(
        vocab=64, width=32, layers=4, heads=4, kv_heads=2, head_dim=8, mlp=48,
        post_norms=True, attn_softcap=5.0, final_softcap=3.0, sliding_window=6,
    ),
)  # fmt: skip
NET = Network(paligemma.FAMILY, CONFIG)


class Letters:
    """A tokenizer with an id for each of seventy signs, and for named tokens after them; all else is an error.

    The small PaliGemmas know those below 64 only, which all that is asked of them is made of.
    """

    path = Path("letters")
    pad, eos, bos = 0, 1, 2
    signs = "\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123 ?.456789[]/:"

    def __init__(self, *specials: str):
        self.specials = specials
        self.size = 3 + len(self.signs) + len(specials)

    def encode(self, text: str) -> list[int]:
        return [3 + self.signs.index(sign) for sign in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.signs[i - 3] for i in ids if 3 <= i < 3 + len(self.signs))

    def special(self, name: str) -> int:
        return 3 + len(self.signs) + self.specials.index(name)


def make_params(config: paligemma.Config = CONFIG, seed: int = 0) -> dict:
    """Random parameters in which no norm is the identity and no bias zero: a forgotten one shows."""
    start = paligemma.init(config, jax.random.key(seed))
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32), start)


def draw_picture(number: int, size: Size = (28, 28)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8))


class Drawn(Pictures):
    """Pictures that are drawn where others are opened: their keys are numbers, which say what they show."""

    def open(self, key: Any) -> Tiles:
        return self.family.picture(self.config, draw_picture(key, self.sizes[key]))


def drawn(family: Family, config: Any, sizes: Sequence[Size] = ((28, 28),), count: int = 8) -> Drawn:
    """Pictures 0 to `count` - 1, of these sizes in turn."""
    by_key = {number: sizes[number % len(sizes)] for number in range(count)}
    return Drawn(family, config, by_key, {key: places_of(family, config, size) for key, size in by_key.items()})


PICTURES = drawn(paligemma.FAMILY, CONFIG)
FEED = TileFeed(0, PICTURES)


def encoded(
    pictures: Pictures, tokenizer: Any, prompt: str, answers: Sequence[str], shown: Sequence[int], **more
) -> Row:
    """The row of one question in a family's own text format, or in `template`."""
    seen = [
        encode.Picture(key, places.slots, places.keys, len(places.used))
        for key, places in ((key, pictures.places[key]) for key in shown)
    ]
    template = more.pop("template", pictures.family.template)
    learned = pictures.family.learned_count
    return encode.encode(template, tokenizer, learned, [Turn("user", prompt)], answers, seen, **more)


def make_row(prompt: str, *answers: str, shown: Sequence[int] = (0,), label: int = 0) -> Row:
    """A row with the pictures of these numbers, and one answer or more."""
    return encoded(PICTURES, Letters(), prompt, answers, shown, label=label)


def make_batch(*rows: Row, tokens: int = 24, targets: int = 8, size: int = 0) -> Batch:
    """The rows with their tiles: the tower runs on them."""
    shape = joint(map(FEED.shape, rows))._replace(tokens=tokens, targets=targets)
    return FEED.make(rows, shape, size or len(rows))[0]


def make_example(number: int, prompt: str = "is it?", answer: str = "yes") -> Example:
    turns = (Turn("user", prompt), Turn("assistant", answer))
    return Example(f"row{number}", (Path(f"image{number}.png"),), turns, f"made.jsonl:{number}")
