"""A PaliGemma small enough to compile in a second, rows and batches for it, shared by the tests of several rooms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rolltune.data.batches import Batch, Row, collate
from rolltune.data.examples import Example, Turn
from rolltune.families import paligemma
from rolltune.models import decoder, vision

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


class Letters:
    """A tokenizer with an id for each of sixty signs; what it does not know is an error."""

    pad, eos, bos = 0, 1, 2
    size = 64
    signs = "\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123 ?."

    def encode(self, text: str) -> list[int]:
        return [3 + self.signs.index(sign) for sign in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.signs[i - 3] for i in ids)


def make_params(config: paligemma.Config = CONFIG, seed: int = 0) -> dict:
    """Random parameters in which no norm is the identity and no bias zero: a forgotten one shows."""
    start = paligemma.init(config, jax.random.key(seed))
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32), start)


def picture(number: int) -> np.ndarray:
    """uint8 [1, 28, 28, 3]."""
    return np.random.default_rng(number).integers(0, 256, (1, 28, 28, 3)).astype(np.uint8)


def make_row(prompt: str, *answers: str, number: int = 0, label: int = 0, pixels: Any = None) -> Row:
    pixels = picture(number) if pixels is None else pixels
    return paligemma.encode(CONFIG, Letters(), prompt, answers, label, pixels)


def make_batch(*rows: Row, tokens: int = 24, targets: int = 8, size: int = 0) -> Batch:
    return collate(rows, tokens, targets, size or len(rows))


def make_example(number: int, prompt: str = "is it?", answer: str = "yes") -> Example:
    turns = (Turn("user", prompt), Turn("assistant", answer))
    return Example(f"row{number}", (Path(f"image{number}.png"),), turns, f"made.jsonl:{number}")
