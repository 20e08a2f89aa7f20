"""From examples to what the step takes: encoded rows, and images that are worked out once."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rolltune.base import Model
from rolltune.data.batches import Row, Rows, Shapes, evaluation_batches, prefetch
from rolltune.data.examples import Example
from rolltune.data.images import open_image
from rolltune.inputs import disk, features
from rolltune.inputs.disk import Stored
from rolltune.inputs.features import Key
from rolltune.tracking import progress


def keys_of(example: Example) -> list[Key]:
    return list(zip(example.images, example.frames or (None,) * len(example.images), strict=True))


@dataclasses.dataclass(frozen=True)
class Images:
    """Every picture of the data once: in a table on the device, or as features on the disk, which rows bring.

    Without either, rows bring their pixels.
    """

    places: dict[Key, int]
    table: Any = None
    stored: dict[Key, Stored] | None = None

    @property
    def opened(self) -> bool:
        """Whether no picture has to be opened any more."""
        return self.table is not None or self.stored is not None


def prepare_images(model: Model, examples: Sequence[Example], trains_vision: bool, limit_gib: float) -> Images:
    """Decodes every picture once; with a frozen tower and projector, also runs them through it once.

    Up to `limit_gib` they stay on the device, so that no roll, epoch, prompt or evaluation does either again;
    features of more pictures are kept on the disk, so that no later run does.
    """
    keys = list(dict.fromkeys(key for example in examples for key in keys_of(example)))
    places = {key: number for number, key in enumerate(keys)}
    family, config = model.family, model.config
    size = config.vision.image_size**2 * 3
    if not trains_vision:
        size = config.image_tokens * config.text.width * jnp.dtype(config.dtype).itemsize
    decode = lambda key: family.pixels(config, open_image(*key))
    if not keys or size * len(keys) > limit_gib * 2**30:
        return Images(places, stored=features.on_disk(model, keys, decode) if keys and not trains_vision else None)
    decoded = progress(prefetch(decode, keys), "opening images", len(keys))
    if trains_vision:
        return Images(places, family.Pixels(jnp.asarray(np.stack(list(decoded)))))
    return Images(places, family.Features(jnp.concatenate(list(features.work_out(model, decoded, len(keys))))))


def encoder(model: Model, images: Images, prompt: str, answers: Sequence[str] | None) -> Callable[[Example, list], Row]:
    """Example -> Row: with `answers`, all of them to be scored; without, the example's own to be trained on.

    `prompt`, where it is not empty, takes the place of the example's. Earlier turns of a
    conversation stand before it, a line each: PaliGemma knows no other form of dialogue.
    """
    family, config = model.family, model.config
    in_table, places, files = images.table is not None, images.places, images.stored  # not the table: rows outlive it

    def encode(example: Example, opened: list) -> Row:
        turns = [turn.text for turn in example.turns[:-2]]
        # Where a text says that an image stands, there is nothing to put: PaliGemma's images come before all text.
        asked = "\n".join([*turns, prompt or example.prompt]).replace("<image>", "").strip()
        keys = keys_of(example)
        pixels: Any
        if in_table:
            pixels = np.array([places[key] for key in keys], np.int32)
        elif files is not None:
            one = next(iter(files.values()))
            paths = tuple(files[key].paths[0] for key in keys)
            pixels = dataclasses.replace(one, paths=paths, lengths=one.lengths * len(paths))
        else:
            shape = (config.vision.image_size, config.vision.image_size, 3)
            pixels = np.stack([family.pixels(config, image) for image in opened]) if opened else np.zeros((0, *shape))
        if answers is None:
            return family.encode(config, model.tokenizer, asked, [example.answer], 0, pixels)
        label = answers.index(example.answer) if example.answer in answers else 0
        return family.encode(config, model.tokenizer, asked, answers, label, pixels)

    return encode


def make_rows(
    model: Model, images: Images, examples: Sequence[Example], prompt: str = "", answers: Sequence[str] | None = None
) -> Rows:
    opener = (lambda path, frame: None) if images.opened else open_image
    return Rows(examples, encoder(model, images, prompt, answers), open_image=opener)


def keep_states(
    model: Model,
    base: dict,
    images: Images,
    rows: Rows,
    shapes: Shapes,
    *,
    first_layer: int,
    batch: int,
    limit_gib: float,
) -> tuple[Any, Rows] | None:
    """(States, rows that point into them): what the layers in `text/lower` make of each row, worked out once.

    The rows are kept whole, answers included, since no layer below the first trained one ever changes. Up to
    `limit_gib` they stay on the device; more lie on the disk, and rows bring them. None where the disk has no room.
    """
    config = model.config
    run = jax.jit(lambda base, table, some: model.family.lower_states(config, base, some, table))
    shape, dtype = (max(shapes.tokens), config.text.width), jnp.dtype(config.dtype)
    lengths = {number: len(rows[number].tokens) for number in range(len(rows))}

    def work_out(numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for places, some in evaluation_batches(rows.some(numbers), batch, shapes):
            states = np.asarray(run(base, images.table, some))
            for place, state in zip(places, states, strict=False):  # more states than places: the batch was filled up
                yield numbers[place], state[: lengths[numbers[place]]]

    values: Any = None
    if len(rows) * disk.size_of(shape, dtype) <= limit_gib * 2**30:
        values = np.zeros((len(rows), *shape), dtype)
        for number, state in work_out(list(lengths)):
            values[number, : len(state)] = state
        pixels: Any = {number: np.array([number], np.int32) for number in lengths}
    else:
        made_by = features.made_by(model) | dataclasses.asdict(config) | {"first_layer": first_layer}
        names = _row_names(rows)
        pixels = disk.keep("states", model, made_by, names, lengths, shape, dtype, work_out, "states of lower layers")
        if pixels is None:
            return None
    numbers = {example.id: number for number, example in enumerate(rows.examples)}

    def encode(example: Example, opened: list) -> Row:
        number = numbers[example.id]
        return rows[number]._replace(pixels=pixels[number])

    pointing = Rows(rows.examples, encode, open_image=lambda path, frame: None)
    return model.family.States(None if values is None else jnp.asarray(values)), pointing


def _row_names(rows: Rows) -> dict[int, str]:
    """A name for all that lower layers see of each row: its pictures, its tokens, and who sees whom."""
    pictures = features.content([key for example in rows.examples for key in keys_of(example)])
    names = {}
    for number, example in enumerate(rows.examples):
        row = rows[number]
        seen = hashlib.sha256("\n".join(pictures[key] for key in keys_of(example)).encode())
        for part in (row.tokens, row.positions, row.blocks, row.segments):
            seen.update(part.tobytes())
        names[number] = seen.hexdigest()
    return names
