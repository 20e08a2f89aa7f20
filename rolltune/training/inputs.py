"""From examples to what the step takes: encoded rows, and a table of images that is worked out once."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rolltune.base import Model
from rolltune.data.batches import Row, Rows, Shapes, evaluation_batches, prefetch
from rolltune.data.examples import Example
from rolltune.data.images import open_image
from rolltune.tracking import progress

Key = tuple[Path, int | None]  # an image file and its frame


def keys_of(example: Example) -> list[Key]:
    return list(zip(example.images, example.frames or (None,) * len(example.images), strict=True))


@dataclasses.dataclass(frozen=True)
class Images:
    """Every picture of the data once. `table` is None where they do not fit: then rows bring their pixels."""

    places: dict[Key, int]
    table: Any


def prepare_images(model: Model, examples: Sequence[Example], trains_vision: bool, limit_gib: float) -> Images:
    """Decodes every picture once; with a frozen tower and projector, also runs them through it once.

    The table stays on the device, so that no roll, epoch, prompt or evaluation does either again.
    """
    keys = list(dict.fromkeys(key for example in examples for key in keys_of(example)))
    places = {key: number for number, key in enumerate(keys)}
    family, config = model.family, model.config
    size = config.vision.image_size**2 * 3
    if not trains_vision:
        size = config.image_tokens * config.text.width * jnp.dtype(config.dtype).itemsize
    if not keys or size * len(keys) > limit_gib * 2**30:
        return Images(places, None)
    decode = lambda key: family.pixels(config, open_image(*key))
    decoded = progress(prefetch(decode, keys), "opening images", len(keys))
    if trains_vision:
        return Images(places, family.Pixels(jnp.asarray(np.stack(list(decoded)))))
    return Images(places, family.Features(_features(model, decoded, len(keys))))


def _features(model: Model, decoded: Any, count: int, batch: int = 8) -> jax.Array:
    """[N, P, D]: a few pictures at a time, in one shape."""
    run = jax.jit(lambda params, pixels: model.family.image_features(model.config, params, pixels[:, None]))
    tower = {name: model.params[name] for name in ("vision", "projector")}
    decoded, found = iter(decoded), []
    for begin in range(0, count, batch):
        some = [next(decoded) for _ in range(min(batch, count - begin))]
        filled = np.stack(some + [some[-1]] * (batch - len(some)))
        found.append(run(tower, filled)[: len(some)])
    return jnp.concatenate(found)


def encoder(model: Model, images: Images, prompt: str, answers: Sequence[str] | None) -> Callable[[Example, list], Row]:
    """Example -> Row: with `answers`, all of them to be scored; without, the example's own to be trained on.

    `prompt`, where it is not empty, takes the place of the example's. Earlier turns of a
    conversation stand before it, a line each: PaliGemma knows no other form of dialogue.
    """
    family, config = model.family, model.config

    def encode(example: Example, opened: list) -> Row:
        turns = [turn.text for turn in example.turns[:-2]]
        # Where a text says that an image stands, there is nothing to put: PaliGemma's images come before all text.
        asked = "\n".join([*turns, prompt or example.prompt]).replace("<image>", "").strip()
        if images.table is None:
            shape = (config.vision.image_size, config.vision.image_size, 3)
            pixels = np.stack([family.pixels(config, image) for image in opened]) if opened else np.zeros((0, *shape))
        else:
            pixels = np.array([images.places[key] for key in keys_of(example)], np.int32)
        if answers is None:
            return family.encode(config, model.tokenizer, asked, [example.answer], 0, pixels)
        label = answers.index(example.answer) if example.answer in answers else 0
        return family.encode(config, model.tokenizer, asked, answers, label, pixels)

    return encode


def make_rows(
    model: Model, images: Images, examples: Sequence[Example], prompt: str = "", answers: Sequence[str] | None = None
) -> Rows:
    opener = open_image if images.table is None else lambda path, frame: None
    return Rows(examples, encoder(model, images, prompt, answers), open_image=opener)


def keep_states(model: Model, base: dict, table: Any, rows: Rows, shapes: Shapes, batch: int) -> tuple[Any, Rows]:
    """(States, rows that point into them): what the layers in `text/lower` make of each row, worked out once.

    The rows are kept whole, answers included, since no layer below the first trained one ever changes.
    """
    run = jax.jit(lambda base, table, some: model.family.lower_states(model.config, base, some, table))
    length = max(shapes.tokens)
    kept = np.zeros((len(rows), length, model.config.text.width), jnp.dtype(model.config.dtype))
    for places, some in evaluation_batches(rows, batch, shapes):
        states = np.asarray(run(base, table, some))[: len(places)]
        kept[places, : states.shape[1]] = states
    numbers = {example.id: number for number, example in enumerate(rows.examples)}

    def encode(example: Example, opened: list) -> Row:
        number = numbers[example.id]
        return rows[number]._replace(pixels=np.array([number], np.int32))

    pointing = Rows(rows.examples, encode, open_image=lambda path, frame: None)
    return model.family.States(jnp.asarray(kept)), pointing
